"""Record before reply: every answer, and every refusal, is durable in the trail first."""

from __future__ import annotations

import uuid
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from strongroom.receipts import Receipt
from strongroom_server.domain.keys import AuditMode
from strongroom_server.domain.policy import DEFAULT_DENY
from strongroom_server.errors import (
    AuditUnavailableError,
    HsmUnavailableError,
    InternalError,
    KeyNotFoundError,
    OverloadedError,
    PeerUnauthenticatedError,
    PolicyDeniedError,
    QuotaExceededError,
    Reason,
    StrongroomError,
)
from strongroom_server.mutations import AuditDraft
from strongroom_server.ports import Clock
from strongroom_server.services.caller import Caller
from strongroom_server.shards.topology import Shard

__all__ = ["Recorder", "Trace", "outcome_of"]

T = TypeVar("T")


@dataclass(slots=True)
class Trace:
    """What the record of a call will say; filled in as the call proceeds.

    `is_use` says that the call uses a key, and does not see or change it: the record of
    one that succeeds may be buffered when `mode`, the key's, is so.
    """

    method: str
    key: str | None = None
    key_version: int | None = None
    encryption_context: Mapping[str, str] = field(default_factory=dict)
    policy: str | None = None
    validate_only: bool = False
    details: Mapping[str, str] = field(default_factory=dict)
    mode: AuditMode = AuditMode.REQUIRED
    is_use: bool = False


class Recorder:
    """Runs operations and records their outcome."""

    def __init__(
        self,
        *,
        clock: Clock,
        new_record_id: Callable[[], uuid.UUID],
        on_outcome: Callable[[str, str, str], None],
        hide: Callable[[AuditDraft], AuditDraft] = lambda draft: draft,
    ) -> None:
        """Take time and the maker of record ids (UUID version 7) as arguments.

        Args:
            on_outcome: Hears region, method, and ``OK`` or the reason of the refusal.
            hide: Hashes the identifiers that are not to be in records; none by default.
        """
        self._clock = clock
        self._new_record_id = new_record_id
        self._on_outcome = on_outcome
        self._hide = hide

    def draft(
        self,
        caller: Caller,
        trace: Trace,
        *,
        outcome: str = "OK",
        reason: str | None = None,
        count: int | None = None,
        details: Mapping[str, str] | None = None,
    ) -> AuditDraft:
        """Make the record of `trace` as it is now."""
        draft = AuditDraft(
            record_id=self._new_record_id(),
            time=self._clock.now(),
            principal=caller.principal,
            peer=caller.peer,
            method=trace.method,
            outcome=outcome,
            request_id=caller.request_id,
            key=trace.key,
            key_version=trace.key_version,
            encryption_context=trace.encryption_context,
            reason=reason,
            policy=trace.policy,
            validate_only=trace.validate_only,
            mode=None if trace.mode is AuditMode.REQUIRED else trace.mode.value,
            count=count,
            details=trace.details if details is None else details,
        )
        return self._hide(draft)

    async def run(
        self, shard: Shard, caller: Caller, trace: Trace, work: Callable[[], Awaitable[T]]
    ) -> tuple[T, Receipt]:
        """Do `work`, make its record durable, and only then return its result.

        Raises:
            AuditUnavailableError: The outcome, good or bad, could not be made durable.
            StrongroomError: What `work` raised; it is recorded and has its receipt.
        """
        result = await self.refusing(shard, caller, trace, work)
        return result, await self.answered(shard, caller, trace)

    async def answered(
        self, shard: Shard, caller: Caller, trace: Trace, *, outbox_id: int | None = None
    ) -> Receipt:
        """Make the record of a good outcome durable, or buffer it; return its receipt.

        Args:
            outbox_id: Of the record that was committed with a change, if it was.

        Raises:
            AuditUnavailableError: It could not be made durable by the deadline.
        """
        deadline = caller.deadline
        try:
            if outbox_id is None and trace.is_use and trace.mode is AuditMode.BUFFERED:
                draft = self.draft(caller, trace)
                receipt = await shard.trail.record_buffered(draft, deadline=deadline)
            elif outbox_id is None:
                receipt = await shard.trail.record(self.draft(caller, trace), deadline=deadline)
            else:
                receipt = await shard.trail.record_committed(outbox_id, deadline=deadline)
        except StrongroomError as error:
            self._on_outcome(shard.region, trace.method, error.reason)
            raise
        self._on_outcome(shard.region, trace.method, "OK")
        return receipt

    async def refusing(
        self, shard: Shard, caller: Caller, trace: Trace, work: Callable[[], Awaitable[T]]
    ) -> T:
        """Do `work`; record only if it is refused. For changes, whose record the store has."""
        try:
            shard.trail.ensure_accepting()
            return await work()
        except AuditUnavailableError as error:
            self._on_outcome(shard.region, trace.method, error.reason)
            raise  # there is nowhere to record it
        except (OverloadedError, QuotaExceededError) as error:
            # Counted, and recorded as a count (`refusals`): a record for each call that is
            # too many would be the larger load, and a flood would fill the spool.
            self._on_outcome(shard.region, trace.method, error.reason)
            raise
        except StrongroomError as error:
            await self.record_refusal(shard, caller, trace, error)
            raise
        except Exception as exc:
            # The edge of the services: a fault of ours is recorded and becomes INTERNAL;
            # the RPC layer logs its traceback.
            internal = InternalError()
            await self.record_refusal(shard, caller, trace, internal)
            raise internal from exc

    async def record_refusal(
        self, shard: Shard, caller: Caller, trace: Trace, error: StrongroomError
    ) -> None:
        """Make the record of a refusal durable; the error has its receipt then.

        Raises:
            AuditUnavailableError: It could not be made durable by the deadline.
        """
        outcome, reason = outcome_of(error)
        if isinstance(error, KeyNotFoundError | PolicyDeniedError) and error.policy_id:
            trace.policy = error.policy_id
        elif outcome == "DENIED" and trace.policy is None:
            trace.policy = DEFAULT_DENY
        self._on_outcome(shard.region, trace.method, error.reason)
        draft = self.draft(caller, trace, outcome=outcome, reason=reason)
        error.receipts += (await shard.trail.record(draft, deadline=caller.deadline),)


def outcome_of(error: StrongroomError) -> tuple[str, str]:
    """Return outcome and reason for the record (audit-record-v1.md)."""
    if isinstance(error, KeyNotFoundError) and error.hidden:
        return "DENIED", Reason.POLICY_DENIED
    if isinstance(error, PolicyDeniedError | PeerUnauthenticatedError):
        return "DENIED", error.reason
    if isinstance(error, HsmUnavailableError | InternalError):
        return "FAILED", error.reason
    return "REFUSED", error.reason
