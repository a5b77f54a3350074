"""Records on their way to the disk: in order, in groups, tried again until they are there.

Records that arrive while a commit is under way are the next one. Only the commit itself
(write, fdatasync) runs in the writer's thread; all state is owned by the event loop.

When a commit fails, its records stay at the head of the queue with their sequences, and
are written as soon as the disk takes them. Their callers were told that they failed, so
the log may have an operation that nobody got an answer to, never the other way round.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Final

import structlog

from strongroom.receipts import Receipt
from strongroom_server.audit.buffering import EarlyAnswers
from strongroom_server.audit.durable import DurableRecords
from strongroom_server.audit.journal import Journal, Placement
from strongroom_server.audit.recovery import Recovered
from strongroom_server.audit.segment import SegmentHeader, encode_frame, next_chain
from strongroom_server.audit.writer import Outcome, SpoolWriter
from strongroom_server.errors import AuditUnavailableError

__all__ = ["FAILING", "Commits", "Entry"]

RETRY_SECONDS: Final = 1.0
#: A disk that takes longer than this for one commit is as good as none: refuse early.
STALL_SECONDS: Final = 2.0

FAILING: Final = "the audit spool cannot be written"

_log = structlog.get_logger(__name__)


@dataclass(slots=True)
class Entry:
    """A record with its place, and who waits for it.

    `queued_at` is on the loop's clock; `waiter` is None when nobody waits.
    """

    record: bytes
    outbox_id: int
    time: datetime
    queued_at: float
    receipt: Receipt
    waiter: asyncio.Future[Receipt] | None = None


class Commits:
    """The queue of one spool. Used on the event loop that made it."""

    def __init__(
        self,
        journal: Journal,
        region: str,
        recovered: Recovered,
        *,
        durable: DurableRecords,
        early: EarlyAnswers,
        refuse: Callable[[str], AuditUnavailableError],
    ):
        """Start the writer.

        Args:
            refuse: Makes, and counts, the error of a caller whose record could not be made
                durable.
        """
        self._loop = asyncio.get_running_loop()
        self._region = region
        self._epoch = recovered.epoch
        self._durable = durable
        self._early = early
        self._refuse = refuse
        self._writer = SpoolWriter(journal, f"spool-{region}", self._ended)
        self._chain = self._chain_after = recovered.chain
        self._pending: list[Entry] = []
        # A commit: scheduled or under way; its records and its start.
        self._is_committing = False
        self._committing: list[Entry] = []
        self._started: float | None = None
        self._retry: asyncio.TimerHandle | None = None
        # When records that nobody waits for are written, if nothing else comes.
        self._lazy: asyncio.TimerHandle | None = None
        self._drained: asyncio.Future[None] | None = None
        self.is_failing = False
        self.done_total = self.failed_total = 0
        #: Highest outbox id that is durable.
        self.durable_outbox_id = recovered.outbox_id

    @property
    def is_stalled(self) -> bool:
        """Whether the disk does not answer."""
        return self._started is not None and self._loop.time() - self._started > STALL_SECONDS

    @property
    def is_empty(self) -> bool:
        """Whether everything that was added is durable."""
        return not self._pending and not self._committing

    @property
    def oldest_queued_at(self) -> float:
        """When the oldest record was added that is not durable; there must be one."""
        return (self._committing or self._pending)[0].queued_at

    def add(self, entry: Entry) -> None:
        """Put a record at the end of the queue; say next how soon it is to be written."""
        self._pending.append(entry)

    def wait_for(self, entry: Entry) -> asyncio.Future[Receipt]:
        """Write the record at once; the future has its receipt when it is durable."""
        waiter = entry.waiter = self._loop.create_future()
        self._begin()
        return waiter

    def write_in_time(self) -> None:
        """Write what is in the queue within the bounds of early answers."""
        if self._is_committing:
            return
        if self._early.is_due(len(self._pending)):
            self._begin()
        elif self._lazy is None:
            due_at = self._pending[0].queued_at + self._early.delay_seconds
            self._lazy = self._loop.call_at(due_at, self._begin)

    async def close(self) -> None:
        """Commit what waits, unless the disk fails; end the writer."""
        was_failing = self._retry is not None
        if self._retry is not None:
            self._retry.cancel()
        elif self._pending:
            self._begin()
        if self._is_committing and not was_failing:
            self._drained = self._loop.create_future()
            await self._drained
        await self._writer.close()

    def _begin(self) -> None:
        """Commit at the end of this turn of the loop, with all that it still appends."""
        if not self._is_committing:
            self._is_committing = True
            self._loop.call_soon(self._commit)

    def _commit(self) -> None:
        """Hand everything that waits to the writer."""
        self._retry = None
        if self._lazy is not None:
            self._lazy.cancel()
            self._lazy = None
        durable = self._durable.last_sequence
        header = SegmentHeader(self._epoch, durable + 1, self.durable_outbox_id, self._chain)
        self._committing, self._pending = self._pending, []
        chain, frames = self._chain, []
        for sequence, entry in enumerate(self._committing, durable + 1):
            record = entry.record
            chain = next_chain(chain, record)
            frames.append(encode_frame(sequence, durable, entry.outbox_id, chain, record))
        self._chain_after = chain
        self._started = self._loop.time()
        self._writer.submit(header, frames)

    def _ended(self, outcome: Outcome) -> None:
        self._started = None
        if isinstance(outcome, OSError):
            self._failed(outcome)
        else:
            self._succeeded(outcome)
        if self._drained is not None and not self._is_committing:
            self._drained.set_result(None)
            self._drained = None

    def _succeeded(self, placement: Placement) -> None:
        entries, self._committing = self._committing, []
        self._chain = self._chain_after
        # Before anybody is answered: a receipt is of a record that consumers can read.
        self._durable.add_commit(placement, [entry.record for entry in entries], entries[0].time)
        self.done_total += 1
        for entry in entries:
            self.durable_outbox_id = max(self.durable_outbox_id, entry.outbox_id)
            waiter = entry.waiter
            if waiter is not None and not waiter.done():  # its caller may have gone
                waiter.set_result(entry.receipt)
        if self.is_failing:
            self.is_failing = False
            _log.info("audit_spool_recovered", region=self._region)
        if self._pending and (self._drained is not None or self._has_waiters()):
            self._commit()
            return
        self._is_committing = False
        if self._pending:
            self.write_in_time()

    def _has_waiters(self) -> bool:
        return any(entry.waiter is not None for entry in self._pending)

    def _failed(self, error: OSError) -> None:
        """Tell every caller that waits, keep the records in their order, try again."""
        self.failed_total += 1
        self._pending = self._committing + self._pending
        self._committing = []
        for entry in self._pending:
            if entry.waiter is not None and not entry.waiter.done():
                entry.waiter.set_exception(self._refuse(FAILING))
        if not self.is_failing:
            self.is_failing = True
            _log.error("audit_spool_failed", region=self._region, problem=error.strerror)
        if self._drained is not None:
            self._is_committing = False
        else:
            self._retry = self._loop.call_later(RETRY_SECONDS, self._commit)
