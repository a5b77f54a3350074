"""Which records may be answered before they are on disk (audit-spool-v1.md, Buffered records).

What a crash may lose is bounded, and said: the file `buffered` has the bound from before
the first early answer of a run until the clean end of it. A start that finds it writes a
record of what may be missing, and only then sets it back.
"""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path
from typing import Final

import structlog

from strongroom_server.audit.files import NumberFile
from strongroom_server.audit.limits import SpoolLimits

__all__ = ["BUFFERED", "EarlyAnswers"]

BUFFERED: Final = "buffered"
RETRY_SECONDS: Final = 1.0

_log = structlog.get_logger(__name__)


class EarlyAnswers:
    """The bound on early answers of one spool, and its mark on disk.

    Owned by the event loop; the file is written in an executor.
    """

    def __init__(self, directory: Path, limits: SpoolLimits, *, marked: int):
        """Take the limits, and the number that the mark had when the spool was opened."""
        self._file = NumberFile(directory / BUFFERED)
        self._limits = limits
        self._loop = asyncio.get_running_loop()
        #: How many records the run before may have lost; 0 once that is on record.
        self.lost_records = marked
        self._marked = marked
        self._may_begin = False
        self._task: asyncio.Task[None] | None = None
        self._retry_at = 0.0

    def allows(self, *, ahead: int, waited_seconds: float) -> bool:
        """Say whether a record may be answered now.

        The first of a run is not: it has the mark written, for those that come after.

        Args:
            ahead: Its sequence, less that of the last durable record.
            waited_seconds: How long the oldest record that is not durable has waited.
        """
        limits = self._limits
        if ahead > limits.buffered_records or waited_seconds >= limits.buffered_seconds:
            return False
        if not self._may_begin:
            self._begin()
        return self._may_begin

    def is_due(self, waiting: int) -> bool:
        """Say whether so many waiting records are to be written without waiting for more."""
        return 2 * waiting >= self._limits.buffered_records

    @property
    def delay_seconds(self) -> float:
        """How long a record may wait until its commit begins: half of what it may take."""
        return self._limits.buffered_seconds / 2

    async def note_loss_recorded(self) -> None:
        """Set the mark back: what may be missing is durable in the spool."""
        if self.lost_records:
            await self._store(0)
            self.lost_records = 0

    async def close(self, *, all_durable: bool) -> None:
        """Set the mark back when nothing that was answered is missing on disk."""
        if self._task is not None:
            await asyncio.wait([self._task])
        self._may_begin = False
        if all_durable and not self.lost_records and self._marked:
            # What stays makes the next start say that records may be missing.
            with contextlib.suppress(OSError):
                await self._store(0)

    def _begin(self) -> None:
        idle = self._task is None and self._loop.time() >= self._retry_at
        if idle and not self.lost_records:
            self._task = self._loop.create_task(self._mark(), name="spool-buffered")

    async def _mark(self) -> None:
        try:
            await self._store(self._limits.buffered_records)
            self._may_begin = True
        except OSError as exc:
            # Calls wait for the disk as those of other keys do, which may fail them too.
            _log.warning("audit_buffer_mark_failed", problem=exc.strerror)
            self._retry_at = self._loop.time() + RETRY_SECONDS
        finally:
            self._task = None

    async def _store(self, number: int) -> None:
        await asyncio.to_thread(self._file.store, number)
        self._marked = number
