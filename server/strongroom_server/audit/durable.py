"""The durable records: what consumers read and acknowledge.

Owned by the event loop. Files are read, replaced and deleted in an executor, on frozen
values.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from datetime import datetime
from pathlib import Path

from strongroom_server.audit.files import NumberFile
from strongroom_server.audit.index import (
    ReadWindow,
    SegmentIndex,
    SegmentSpan,
    SpoolDamagedError,
    locate_record,
    read_records,
)
from strongroom_server.audit.journal import Placement
from strongroom_server.audit.recent import RecentRecords
from strongroom_server.audit.recovery import ACKNOWLEDGED, Recovered
from strongroom_server.errors import ArgumentInvalidError, AuditUnavailableError

__all__ = ["DurableRecords"]


class DurableRecords:
    """Everything from the oldest segment to the last commit."""

    def __init__(self, directory: Path, region: str, recovered: Recovered):
        self._region = region
        self._mark_file = NumberFile(directory / ACKNOWLEDGED, keeps_spare=True)
        self._index = SegmentIndex(directory, recovered.spans)
        self._recent = RecentRecords()
        self._news = asyncio.Event()
        self._acknowledging = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()
        self.last_sequence = recovered.last_sequence
        self.acknowledged_sequence = recovered.acknowledged
        self.unacknowledged_bytes = 0
        #: Bytes of the frames that became durable since the start.
        self.added_bytes = 0
        self.oldest_unacknowledged_time: datetime | None = None

    @property
    def total_bytes(self) -> int:
        """Bytes of all segments on disk."""
        return self._index.total_bytes

    async def measure(self) -> None:
        """Find out, after recovery, what is unacknowledged and since when.

        Raises:
            SpoolDamagedError: The first unacknowledged record cannot be read.
        """
        window = self._first_window_after(self.acknowledged_sequence)
        if window is not None:
            offset, record = await asyncio.to_thread(locate_record, window)
            self._note_unacknowledged(window, offset, record)

    def add_commit(
        self,
        placement: Placement,
        records: list[bytes],
        first_time: datetime,
    ) -> None:
        """Take over a commit and wake the readers that wait for it."""
        first = self.last_sequence + 1
        self.last_sequence += len(records)
        self._index.add_commit(placement, first, self.last_sequence)
        number_of_bytes = placement.end - placement.offset
        self._recent.add(first, records, number_of_bytes)
        self.unacknowledged_bytes += number_of_bytes
        self.added_bytes += number_of_bytes
        if self.oldest_unacknowledged_time is None:
            self.oldest_unacknowledged_time = first_time
        self._news.set()
        self._news.clear()

    async def wait_for(self, sequence: int) -> None:
        """Return when the record of `sequence` is durable."""
        while self.last_sequence < sequence:
            await self._news.wait()

    async def read(self, from_sequence: int, *, max_records: int, max_bytes: int) -> list[bytes]:
        """Return consecutive durable records from `from_sequence` on.

        At least one when it is durable, however long; else [].

        Raises:
            ArgumentInvalidError: It was acknowledged and deleted.
            AuditUnavailableError: The segment is damaged.
        """
        if from_sequence > self.last_sequence:
            return []
        if from_sequence < max(1, self._index.first_sequence):
            raise ArgumentInvalidError.of(
                "from_sequence",
                "spool.deleted",
                f"acknowledged and deleted; the oldest record is {self._index.first_sequence}",
            )
        records = self._recent.read(from_sequence, max_records, max_bytes)
        if records:
            return records
        span = self._index.span_of(from_sequence)
        if span is None:
            raise self._damaged("the index has a gap")
        window = span.window(from_sequence, max_bytes)
        try:
            return await asyncio.to_thread(read_records, window, max_records, max_bytes)
        except SpoolDamagedError as exc:
            raise self._damaged(str(exc)) from exc

    async def acknowledge(self, sequence: int) -> None:
        """Note durably that everything up to `sequence` is covered by a signed checkpoint.

        Deletes segments that are acknowledged whole. Repeats and older sequences are fine.

        Raises:
            ArgumentInvalidError: `sequence` is beyond the last durable record.
            AuditUnavailableError: It could not be stored; acknowledge again.
        """
        if sequence > self.last_sequence:
            raise ArgumentInvalidError.of(
                "through.sequence", "spool.beyond_end", f"the last record is {self.last_sequence}"
            )
        # A caller that goes away must not leave the disk ahead of the memory.
        task = asyncio.create_task(self._acknowledge(sequence))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        await asyncio.shield(task)

    async def close(self) -> None:
        """Wait for acknowledgements under way."""
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _acknowledge(self, sequence: int) -> None:
        async with self._acknowledging:
            if sequence <= self.acknowledged_sequence:
                return
            window = self._first_window_after(sequence)
            deletable = self._index.deletable_through(sequence)
            try:
                located = await asyncio.to_thread(self._persist, sequence, window, deletable)
            except OSError as exc:
                raise AuditUnavailableError(
                    self._region, f"the acknowledgement could not be stored: {exc.strerror}"
                ) from exc
            except SpoolDamagedError as exc:
                raise self._damaged(str(exc)) from exc
            self.acknowledged_sequence = sequence
            self._index.forget(deletable)
            if window is None or located is None:
                # Commits that became durable meanwhile are all that is left.
                window = self._first_window_after(sequence)
                if window is None:
                    self.unacknowledged_bytes = 0
                    self.oldest_unacknowledged_time = None
                    return
                try:
                    located = await asyncio.to_thread(locate_record, window)
                except SpoolDamagedError as exc:
                    raise self._damaged(str(exc)) from exc
            self._note_unacknowledged(window, *located)

    def _persist(
        self, sequence: int, window: ReadWindow | None, deletable: list[SegmentSpan]
    ) -> tuple[int, bytes] | None:
        located = None if window is None else locate_record(window)
        # Durable before a segment goes: a start finds no gap behind the acknowledged mark.
        self._mark_file.store(sequence)
        for span in deletable:
            # What stays only takes space until the next start.
            with contextlib.suppress(OSError):
                span.path.unlink()
        return located

    def _first_window_after(self, sequence: int) -> ReadWindow | None:
        span = self._index.span_of(sequence + 1)
        return None if span is None else span.window(sequence + 1, 0)

    def _note_unacknowledged(self, window: ReadWindow, offset: int, record: bytes) -> None:
        span = self._index.span_of(window.sequence)
        rest = 0 if span is None else span.end - offset
        self.unacknowledged_bytes = rest + self._index.frame_bytes_after(window.sequence)
        self.oldest_unacknowledged_time = datetime.fromisoformat(json.loads(record)["time"])

    def _damaged(self, what: str) -> AuditUnavailableError:
        return AuditUnavailableError(self._region, f"the audit spool is damaged: {what}")
