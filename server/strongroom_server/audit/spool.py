"""The shard's durable queue of audit records (docs/formats/audit-spool-v1.md).

All state is owned by one event loop. A record gets its sequence and its bytes when it is
appended; records appended while a commit is under way are the next commit. Only the
commit itself (write, fdatasync) runs in the writer's thread.

When a commit fails, its records stay at the head of the queue with their sequences, and
are written as soon as the disk takes them. Their callers were told that they failed, so
the log may have an operation that nobody got an answer to, never the other way round.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final, Self

import structlog

from strongroom.receipts import Receipt
from strongroom_server.audit.durable import DurableRecords
from strongroom_server.audit.files import NumberFile
from strongroom_server.audit.index import SpoolDamagedError
from strongroom_server.audit.journal import SEGMENT_BYTES, Journal, Placement
from strongroom_server.audit.record import RecordInvalidError, encode_record
from strongroom_server.audit.recovery import DURABLE, OpenedSpool, open_spool
from strongroom_server.audit.segment import (
    FRAME_OVERHEAD,
    MAX_FRAME_BYTES,
    SegmentHeader,
    encode_frame,
    next_chain,
)
from strongroom_server.audit.writer import Outcome, SpoolWriter
from strongroom_server.errors import AuditUnavailableError, InternalError, StartRefusedError
from strongroom_server.mutations import AuditDraft
from strongroom_server.ports import Clock

__all__ = ["READY_BELOW_PRESSURE", "Spool", "SpoolStatus"]

READY_BELOW_PRESSURE: Final = 0.8
RETRY_SECONDS: Final = 1.0
#: A disk that takes longer than this for one commit is as good as none: refuse early.
STALL_SECONDS: Final = 2.0

_FULL: Final = "the audit spool is full; is the audit log running?"
_FAILING: Final = "the audit spool cannot be written"

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class SpoolStatus:
    """How full the spool is and how far the consumer has come."""

    epoch: int
    last_sequence: int
    acknowledged_sequence: int
    spool_bytes: int
    unacknowledged_bytes: int
    limit_bytes: int
    oldest_unacknowledged_time: datetime | None
    is_accepting: bool
    commits_total: int
    failed_commits_total: int
    refused_total: int


@dataclass(slots=True)
class _Entry:
    record: bytes
    outbox_id: int
    time: datetime
    receipt: Receipt
    waiter: asyncio.Future[Receipt]


class Spool:
    """One shard's spool; see the module.

    `durable` has the records that consumers read and acknowledge. Every method is called
    on the event loop that opened the spool.
    """

    def __init__(self, opened: OpenedSpool, region: str, *, limit_bytes: int):
        recovered = opened.recovered
        self._loop = asyncio.get_running_loop()
        self._opened = opened
        self._region = region
        self._limit_bytes = limit_bytes
        self.epoch = recovered.epoch
        self.durable = DurableRecords(opened.directory, region, recovered)
        self._writer = SpoolWriter(opened.journal, f"spool-{region}", self._commit_ended)
        # The place and the chain of the next record to be appended and committed.
        self._next_sequence = recovered.last_sequence + 1
        self._chain = recovered.chain
        #: Highest outbox id that is durable here, and that was appended.
        self.durable_outbox_id = self.appended_outbox_id = recovered.outbox_id
        self._pending: list[_Entry] = []
        self._queued_bytes = 0
        # A commit: scheduled or under way; its records, start and chain value after it.
        self._is_committing = False
        self._committing: list[_Entry] = []
        self._commit_started: float | None = None
        self._commit_chain = self._chain
        self._retry: asyncio.TimerHandle | None = None
        self._drained: asyncio.Future[None] | None = None
        self._refusal: str | None = None
        self._commits_total = self._failed_commits_total = self._refused_total = 0

    @classmethod
    async def open(
        cls,
        directory: Path,
        region: str,
        *,
        limit_bytes: int,
        clock: Clock,
        segment_bytes: int = SEGMENT_BYTES,
    ) -> Self:
        """Open the spool; make a new one when the directory is missing or empty.

        Args:
            directory: Owned by this process from now on.
            region: The shard.
            limit_bytes: Unacknowledged frames that the spool takes; at least 128 KiB.
            clock: Gives the epoch of a new spool.
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
        spool = cls(opened, region, limit_bytes=limit_bytes)
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

    def append(self, draft: AuditDraft, outbox_id: int = 0) -> asyncio.Future[Receipt]:
        """Give the record its place; the future has its receipt when it is durable.

        The record is written whatever becomes of the future; `AuditUnavailableError` on it
        means that the commit failed, and the record will be written later if it can be.

        Raises:
            AuditUnavailableError: Not accepted: at the limit, or the disk fails.
            InternalError: The draft has no encoding.
        """
        if self._refusal is not None:
            raise self._refused(self._refusal)
        sequence = self._next_sequence
        try:
            record = encode_record(draft, region=self._region, epoch=self.epoch, sequence=sequence)
        except RecordInvalidError as exc:
            _log.error("audit_record_invalid", region=self._region, problem=str(exc))
            raise InternalError from exc
        frame_bytes = FRAME_OVERHEAD + len(record)
        if self._used_bytes + frame_bytes > self._limit_bytes:
            raise self._refused(_FULL)
        self._next_sequence = sequence + 1
        self._queued_bytes += frame_bytes
        self.appended_outbox_id = max(self.appended_outbox_id, outbox_id)
        waiter: asyncio.Future[Receipt] = self._loop.create_future()
        receipt = Receipt.for_record(
            region=self._region, epoch=self.epoch, sequence=sequence, record=record
        )
        self._pending.append(_Entry(record, outbox_id, draft.time, receipt, waiter))
        if not self._is_committing:
            # At the end of this turn of the loop, with all that it still appends.
            self._is_committing = True
            self._loop.call_soon(self._commit)
        return waiter

    @property
    def pressure(self) -> float:
        """Used share of the limit, 0 to 1."""
        return self._used_bytes / self._limit_bytes

    @property
    def is_ready(self) -> bool:
        """Whether to send calls here: it accepts, and less than 80 % is used."""
        return self._find_problem() is None and self.pressure < READY_BELOW_PRESSURE

    def status(self) -> SpoolStatus:
        """Return figures for GetSpoolStatus and the metrics."""
        durable = self.durable
        return SpoolStatus(
            epoch=self.epoch,
            last_sequence=durable.last_sequence,
            acknowledged_sequence=durable.acknowledged_sequence,
            spool_bytes=durable.total_bytes,
            unacknowledged_bytes=self._used_bytes,
            limit_bytes=self._limit_bytes,
            oldest_unacknowledged_time=durable.oldest_unacknowledged_time,
            is_accepting=self._find_problem() is None,
            commits_total=self._commits_total,
            failed_commits_total=self._failed_commits_total,
            refused_total=self._refused_total,
        )

    async def close(self) -> None:
        """Refuse new records, commit those that wait, release the directory."""
        was_failing = self._retry is not None
        self._refusal = "the server is stopping"
        if self._retry is not None:
            self._retry.cancel()
        if self._is_committing and not was_failing:
            self._drained = self._loop.create_future()
            await self._drained
        await self._writer.close()
        await self.durable.close()
        # Without the mark the next start takes a damaged last commit for a torn one.
        with contextlib.suppress(OSError):
            NumberFile(self._opened.directory / DURABLE).store(self.durable.last_sequence)
        os.close(self._opened.lock)

    @property
    def _used_bytes(self) -> int:
        return self._queued_bytes + self.durable.unacknowledged_bytes

    def _find_problem(self) -> str | None:
        if self._refusal is not None:
            return self._refusal
        if self._used_bytes + MAX_FRAME_BYTES > self._limit_bytes:
            return _FULL
        started = self._commit_started
        if started is not None and self._loop.time() - started > STALL_SECONDS:
            return "the disk of the audit spool does not answer"
        return None

    def _refused(self, message: str) -> AuditUnavailableError:
        self._refused_total += 1
        return AuditUnavailableError(self._region, message)

    def _commit(self) -> None:
        """Hand everything that waits to the writer."""
        self._retry = None
        durable = self.durable.last_sequence
        header = SegmentHeader(self.epoch, durable + 1, self.durable_outbox_id, self._chain)
        self._committing, self._pending = self._pending, []
        chain, frames = self._chain, []
        for sequence, entry in enumerate(self._committing, durable + 1):
            record = entry.record
            chain = next_chain(chain, record)
            frames.append(encode_frame(sequence, durable, entry.outbox_id, chain, record))
        self._commit_chain = chain
        self._commit_started = self._loop.time()
        self._writer.submit(header, frames)

    def _commit_ended(self, outcome: Outcome) -> None:
        self._commit_started = None
        if isinstance(outcome, OSError):
            self._commit_failed(outcome)
        else:
            self._commit_succeeded(outcome)
        if self._drained is not None and not self._is_committing:
            self._drained.set_result(None)
            self._drained = None

    def _commit_succeeded(self, placement: Placement) -> None:
        entries, self._committing = self._committing, []
        self._chain = self._commit_chain
        self._queued_bytes -= placement.end - placement.offset
        # Before anybody is answered: a receipt is of a record that consumers can read.
        self.durable.add_commit(placement, [entry.record for entry in entries], entries[0].time)
        self._commits_total += 1
        for entry in entries:
            self.durable_outbox_id = max(self.durable_outbox_id, entry.outbox_id)
            if not entry.waiter.done():  # its caller may have gone or met its deadline
                entry.waiter.set_result(entry.receipt)
        if self._refusal == _FAILING:
            self._refusal = None
            _log.info("audit_spool_recovered", region=self._region)
        if self._pending:
            self._commit()
        else:
            self._is_committing = False

    def _commit_failed(self, error: OSError) -> None:
        """Tell every caller that waits, keep the records in their order, try again."""
        self._failed_commits_total += 1
        self._pending = self._committing + self._pending
        self._committing = []
        for entry in self._pending:
            if not entry.waiter.done():
                entry.waiter.set_exception(self._refused(_FAILING))
        if self._refusal is None:
            self._refusal = _FAILING
            _log.error("audit_spool_failed", region=self._region, problem=error.strerror)
        if self._drained is not None:
            self._is_committing = False
        else:
            self._retry = self._loop.call_later(RETRY_SECONDS, self._commit)
