"""Gathers the shards' batches and appends them to the log, one append at a time.

Batches that arrive within `batch_seconds` share the fsyncs and the signature of one
checkpoint. A disk that is full or failing is tried again with the same batches until it
works: nothing is acknowledged meanwhile, and the shards keep their records.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final

import structlog

from strongroom_auditlog.errors import ForkRefusedError, LogError
from strongroom_auditlog.log import AuditLog, ShardBatch
from strongroom_auditlog.metrics import ErrorKind, Metrics

__all__ = ["Committer"]

RETRY_SECONDS: Final = 1.0

_Queued = tuple[ShardBatch, asyncio.Future[None]]

_log = structlog.stdlib.get_logger("strongroom.auditlog.committer")


class Committer:
    """The only caller of `AuditLog.append`. Owned by one event loop.

    Appends run in a thread of their own, for they wait for the disk.
    """

    def __init__(
        self,
        log: AuditLog,
        *,
        metrics: Metrics,
        wall_clock: Callable[[], float],
        batch_seconds: float,
        batch_records: int,
    ):
        self._audit_log = log
        self._metrics = metrics
        self._wall_clock = wall_clock
        self._batch_seconds = batch_seconds
        self._batch_records = batch_records
        self._queued: deque[_Queued] = deque()
        self._queued_records = 0
        self._arrived = asyncio.Event()
        self._full = asyncio.Event()
        self._closing = False
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="append")
        self.failing: str | None = None
        """Why the last append failed; None when it did not."""
        metrics.tree_size.set(log.checkpoint.size)

    def submit(self, batch: ShardBatch) -> asyncio.Future[None]:
        """Queue `batch`; batches of a shard are appended in the order of their submission.

        Returns:
            A future that is done when a published checkpoint covers the batch. It fails
            only when the process has to stop.
        """
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._queued.append((batch, done))
        self._queued_records += len(batch.records)
        self._arrived.set()
        if self._queued_records >= self._batch_records:
            self._full.set()
        return done

    async def run(self) -> None:
        """Append until `close` is called and nothing is queued any more.

        Raises:
            ForkRefusedError: The log moved under this process; it must end.
        """
        try:
            while self._queued or not self._closing:
                await self._arrived.wait()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._full.wait(), self._batch_seconds)
                await self._append_pending()
                if self._closing and self.failing is not None:
                    return  # not acknowledged: the shards keep these records
        finally:
            self._executor.shutdown(wait=False)

    def close(self) -> None:
        """Let `run` end after what is queued has been appended."""
        self._closing = True
        self._arrived.set()
        self._full.set()

    async def _append_pending(self) -> None:
        taken = self._take_queued()
        if not taken:
            return
        try:
            checkpoint = await asyncio.get_running_loop().run_in_executor(
                self._executor, self._audit_log.append, [batch for batch, _ in taken]
            )
        except ForkRefusedError as exc:
            self.failing = str(exc)
            for _, done in taken:
                done.cancel()
            raise
        except LogError as exc:
            self.failing = str(exc)
            self._queued.extendleft(reversed(taken))
            for region in {batch.first.region for batch, _ in taken}:
                self._metrics.error(region, ErrorKind.COMMIT)
            _log.error("records cannot be appended, trying again", error=str(exc))
            if not self._closing:
                await asyncio.sleep(RETRY_SECONDS)
            return
        self.failing = None
        self._metrics.tree_size.set(checkpoint.size)
        self._metrics.checkpoint_timestamp.set(self._wall_clock())
        self._settle(taken)

    def _take_queued(self) -> list[_Queued]:
        """Take from the queue what one checkpoint shall cover."""
        taken: list[_Queued] = []
        records = 0
        while self._queued and records < self._batch_records:
            taken.append(self._queued.popleft())
            records += len(taken[-1][0].records)
        return taken

    def _settle(self, taken: list[_Queued]) -> None:
        """Tell those who wait for `taken` that a checkpoint covers it."""
        for batch, done in taken:
            self._queued_records -= len(batch.records)
            self._metrics.ingested[batch.first.region].inc(len(batch.records))
            if not done.done():
                done.set_result(None)
        if not self._closing:
            if not self._queued:
                self._arrived.clear()
            if self._queued_records < self._batch_records:
                self._full.clear()
