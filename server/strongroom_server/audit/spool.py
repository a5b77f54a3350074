"""The shard's durable queue of audit records (docs/formats/audit-spool-v1.md).

All state is owned by one event loop. A record gets its sequence and its bytes when it is
appended; how it gets to the disk is `commits.py`.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from dataclasses import replace
from pathlib import Path
from typing import Final, Self

import structlog

from strongroom.receipts import Receipt
from strongroom_server.audit.buffering import EarlyAnswers
from strongroom_server.audit.commits import FAILING, Commits, Entry
from strongroom_server.audit.durable import DurableRecords
from strongroom_server.audit.files import NumberFile
from strongroom_server.audit.index import SpoolDamagedError
from strongroom_server.audit.journal import SEGMENT_BYTES, Journal
from strongroom_server.audit.limits import (
    READY_BELOW_PRESSURE,
    RESERVE_BYTES,
    SpoolLimits,
    SpoolStatus,
)
from strongroom_server.audit.record import RecordInvalidError, encode_record
from strongroom_server.audit.recovery import DURABLE, OpenedSpool, open_spool
from strongroom_server.audit.segment import FRAME_OVERHEAD
from strongroom_server.errors import AuditUnavailableError, InternalError, StartRefusedError
from strongroom_server.mutations import AuditDraft
from strongroom_server.ports import Clock

__all__ = ["Spool"]

_NO_ROOM: Final = "the audit spool is full; is the audit log running?"
_STALLED: Final = "the disk of the audit spool does not answer"
_STOPPING: Final = "the server is stopping"

_log = structlog.get_logger(__name__)


class Spool:
    """One shard's spool; see the module.

    `durable` has the records that consumers read and acknowledge, `early` what is answered
    ahead of the disk. Every method is called on the event loop that opened the spool.
    """

    def __init__(self, opened: OpenedSpool, region: str, *, limits: SpoolLimits, clock: Clock):
        recovered = opened.recovered
        self._loop = asyncio.get_running_loop()
        self._opened = opened
        self._region = region
        self._limits = limits
        self._clock = clock
        self.epoch = recovered.epoch
        self.durable = DurableRecords(opened.directory, region, recovered)
        self.early = EarlyAnswers(opened.directory, limits, marked=recovered.buffered)
        self._commits = Commits(
            opened.journal,
            region,
            recovered,
            durable=self.durable,
            early=self.early,
            refuse=self._refused,
        )
        self._next_sequence = recovered.last_sequence + 1
        #: Highest outbox id that was appended.
        self.appended_outbox_id = recovered.outbox_id
        self._appended_bytes = 0
        self._is_stopping = False
        self._refused_total = 0

    @classmethod
    async def open(
        cls,
        directory: Path,
        region: str,
        *,
        limits: SpoolLimits,
        clock: Clock,
        segment_bytes: int = SEGMENT_BYTES,
    ) -> Self:
        """Open the spool; make a new one when the directory is missing or empty.

        Args:
            directory: Owned by this process from now on.
            region: The shard.
            limits: What it takes, and what may be answered early.
            clock: Gives the epoch of a new spool, and the age of records.
            segment_bytes: A segment that would be longer is followed by a new one.

        Raises:
            StartRefusedError: Another process has it, it is damaged or another region's, or
                the disk fails. The message has the cure.
        """
        epoch = int(clock.now().timestamp() * 1000)
        opened = await asyncio.to_thread(
            open_spool, directory, region, epoch, Journal(directory, segment_bytes=segment_bytes)
        )
        if opened.recovered.cut_bytes:
            _log.warning(
                "audit_spool_tail_cut",
                region=region,
                last_sequence=opened.recovered.last_sequence,
                cut_bytes=opened.recovered.cut_bytes,
            )
        spool = cls(opened, region, limits=limits, clock=clock)
        try:
            await spool.durable.measure()
        except SpoolDamagedError as exc:
            raise StartRefusedError(
                f"{exc}, and it was whole a moment ago; see to the disk"
            ) from exc
        return spool

    def ensure_accepting(self) -> None:
        """Refuse early.

        Raises:
            AuditUnavailableError: The limit leaves no room for a record of any size, or the
                disk fails or hangs.
        """
        problem = self._find_problem()
        if problem is not None:
            raise self._refused(problem)

    def append(
        self, draft: AuditDraft, outbox_id: int = 0, *, of_service: bool = False
    ) -> asyncio.Future[Receipt]:
        """Give the record its place; the future has its receipt when it is durable.

        The record is written whatever becomes of the future; `AuditUnavailableError` on it
        means that the commit failed, and the record will be written later if it can be.

        Args:
            outbox_id: Where the record came from; 0 when not from the outbox.
            of_service: Whether the record is one of the service's own, which may go beyond
                the limit.

        Raises:
            AuditUnavailableError: Not accepted: at the limit, or the disk fails.
            InternalError: The draft has no encoding.
        """
        entry = self._enqueue(draft, outbox_id, reserve=RESERVE_BYTES if of_service else 0)
        return self._commits.wait_for(entry)

    def append_buffered(self, draft: AuditDraft) -> Receipt | asyncio.Future[Receipt]:
        """Give the record of a BUFFERED key its place; return its receipt at once if it may be.

        Otherwise, and always beyond the bounds, as `append`.

        Raises:
            AuditUnavailableError: As `append`.
            InternalError: As `append`.
        """
        entry = self._enqueue(draft, 0, reserve=0)
        if not self.early.allows(
            ahead=entry.receipt.sequence - self.durable.last_sequence,
            waited_seconds=entry.queued_at - self._commits.oldest_queued_at,
        ):
            return self._commits.wait_for(entry)
        self._commits.write_in_time()
        return replace(entry.receipt, is_buffered=True)

    @property
    def pressure(self) -> float:
        """Used share of the nearer limit; 1 when it is reached."""
        return self._limits.pressure(self._used_bytes, self._age_seconds)

    @property
    def is_ready(self) -> bool:
        """Whether to send calls here: it accepts, and less than 80 % of both limits is used."""
        return self._find_problem() is None and self.pressure < READY_BELOW_PRESSURE

    @property
    def durable_outbox_id(self) -> int:
        """Highest outbox id that is durable here."""
        return self._commits.durable_outbox_id

    def status(self) -> SpoolStatus:
        """Return figures for GetSpoolStatus and the metrics."""
        durable = self.durable
        return SpoolStatus(
            epoch=self.epoch,
            last_sequence=durable.last_sequence,
            acknowledged_sequence=durable.acknowledged_sequence,
            spool_bytes=durable.total_bytes,
            unacknowledged_bytes=self._used_bytes,
            limit_bytes=self._limits.limit_bytes,
            limit_seconds=self._limits.limit_seconds,
            oldest_unacknowledged_time=durable.oldest_unacknowledged_time,
            waiting_records=self._next_sequence - 1 - durable.last_sequence,
            is_accepting=self._find_problem() is None,
            commits_total=self._commits.done_total,
            failed_commits_total=self._commits.failed_total,
            refused_total=self._refused_total,
        )

    async def close(self) -> None:
        """Refuse new records, commit those that wait, release the directory."""
        self._is_stopping = True
        await self._commits.close()
        await self.durable.close()
        await self.early.close(all_durable=self._commits.is_empty)
        # Without the mark the next start takes a damaged last commit for a torn one.
        with contextlib.suppress(OSError):
            NumberFile(self._opened.directory / DURABLE).store(self.durable.last_sequence)
        os.close(self._opened.lock)

    def _enqueue(self, draft: AuditDraft, outbox_id: int, *, reserve: int) -> Entry:
        refusal = self._refusal
        if refusal is not None:
            raise self._refused(refusal)
        sequence = self._next_sequence
        try:
            record = encode_record(draft, region=self._region, epoch=self.epoch, sequence=sequence)
        except RecordInvalidError as exc:
            _log.error("audit_record_invalid", region=self._region, problem=str(exc))
            raise InternalError from exc
        frame_bytes = FRAME_OVERHEAD + len(record)
        if self._used_bytes + frame_bytes > self._limits.limit_bytes + reserve:
            raise self._refused(_NO_ROOM)
        self._next_sequence = sequence + 1
        self._appended_bytes += frame_bytes
        self.appended_outbox_id = max(self.appended_outbox_id, outbox_id)
        receipt = Receipt.for_record(
            region=self._region, epoch=self.epoch, sequence=sequence, record=record
        )
        entry = Entry(record, outbox_id, draft.time, self._loop.time(), receipt)
        self._commits.add(entry)
        return entry

    @property
    def _used_bytes(self) -> int:
        durable = self.durable
        queued = self._appended_bytes - durable.added_bytes
        return queued + durable.unacknowledged_bytes

    @property
    def _age_seconds(self) -> float:
        oldest = self.durable.oldest_unacknowledged_time
        return 0.0 if oldest is None else (self._clock.now() - oldest).total_seconds()

    @property
    def _refusal(self) -> str | None:
        if self._is_stopping:
            return _STOPPING
        return FAILING if self._commits.is_failing else None

    def _find_problem(self) -> str | None:
        problem = self._refusal or self._limits.problem(self._used_bytes, self._age_seconds)
        if problem is None and self._commits.is_stalled:
            return _STALLED
        return problem

    def _refused(self, message: str) -> AuditUnavailableError:
        self._refused_total += 1
        return AuditUnavailableError(self._region, message)
