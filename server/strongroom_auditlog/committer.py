"""Takes the shards' batches into the log, and publishes checkpoints that cover them.

Two loops. One gathers batches for `batch_seconds` and extends the log: they share its
fsyncs. The other signs, asks the witnesses, and publishes what the log has grown to by
then: with witnesses once a second at most, and all that was taken meanwhile shares one
checkpoint. Only then is a batch settled, and may be acknowledged.

A disk that is full or failing, an HSM that does not sign, a quorum that is not reached:
each is tried again until it works. Nothing is acknowledged meanwhile, and the shards keep
their records.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Final, TypeVar

import structlog

from strongroom.tlog.checkpoint import Checkpoint
from strongroom.tlog.errors import VerificationError
from strongroom_auditlog.errors import LogError, LogStoppedError
from strongroom_auditlog.log import AuditLog, ShardBatch
from strongroom_auditlog.metrics import ErrorKind, Metrics
from strongroom_auditlog.proofs import prove_consistency
from strongroom_auditlog.witnesses import Witnesses

__all__ = ["Committer"]

RETRY_SECONDS: Final = 1.0

_Queued = tuple[ShardBatch, asyncio.Future[None]]
_Result = TypeVar("_Result")

_log = structlog.stdlib.get_logger("strongroom.auditlog.committer")


class Committer:
    """The only caller of what changes the log. Owned by one event loop.

    What waits for the disk or the HSM runs in one thread of its own.
    """

    def __init__(
        self,
        log: AuditLog,
        *,
        metrics: Metrics,
        wall_clock: Callable[[], float],
        batch_seconds: float,
        batch_records: int,
        witnesses: Witnesses | None = None,
    ):
        """Take what is needed; without `witnesses` the log's signature is enough."""
        self._audit_log = log
        self._metrics = metrics
        self._wall_clock = wall_clock
        self._batch_seconds = batch_seconds
        self._batch_records = batch_records
        self._witnesses = witnesses
        self._queued: deque[_Queued] = deque()
        self._queued_records = 0
        self._arrived = asyncio.Event()
        self._full = asyncio.Event()
        # Taken into the log and not published: size of the tree that covers it, what it is.
        self._taken: deque[tuple[int, list[_Queued]]] = deque()
        self._grown = asyncio.Event()
        self._closing = False
        self._all_taken = False
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="append")
        self._append_failure: str | None = None
        self._publish_failure: str | None = None
        self.published = asyncio.Event()
        """Set when the first checkpoint of this process is out, with its cosignatures."""
        metrics.tree_size.set(log.checkpoint.size)

    @property
    def failing(self) -> str | None:
        """Why the last attempt to append or to publish failed; None when all is well."""
        failure = self._append_failure or self._publish_failure
        if failure is None and not self.published.is_set():
            return "no checkpoint is published yet"
        return failure

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
        """Append and publish until `close` is called and nothing is left.

        Raises:
            LogStoppedError: The log moved under this process, or its key cannot be used any
                more; the process must end.
        """
        loops = {
            asyncio.create_task(self._append_all(), name="append"),
            asyncio.create_task(self._publish_all(), name="publish"),
        }
        try:
            done, _ = await asyncio.wait(loops, return_when=asyncio.FIRST_EXCEPTION)
            for task in done:
                task.result()
        except LogStoppedError as exc:
            self._publish_failure = str(exc)
            for _, batch in [(0, [*self._queued]), *self._taken]:
                for _, future in batch:
                    future.cancel()
            raise
        finally:
            for task in loops:
                task.cancel()
            await asyncio.gather(*loops, return_exceptions=True)
            self._executor.shutdown(wait=False)

    def close(self) -> None:
        """Let `run` end after what is queued has been appended and published."""
        self._closing = True
        self._arrived.set()
        self._full.set()

    async def _append_all(self) -> None:
        while self._queued or not self._closing:
            await self._arrived.wait()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._full.wait(), self._batch_seconds)
            await self._append_queued()
            if self._closing and self._append_failure is not None:
                break  # not acknowledged: the shards keep these records
        self._all_taken = True
        self._grown.set()

    async def _append_queued(self) -> None:
        batches = self._take_queued()
        if not batches:
            return
        try:
            size = await self._in_thread(
                partial(self._audit_log.extend, [batch for batch, _ in batches])
            )
        except LogStoppedError:
            self._queued.extendleft(reversed(batches))
            raise
        except LogError as exc:
            self._append_failure = str(exc)
            self._queued.extendleft(reversed(batches))
            self._count_failure(batches)
            _log.error("records cannot be appended, trying again", error=str(exc))
            if not self._closing:
                await asyncio.sleep(RETRY_SECONDS)
            return
        self._append_failure = None
        self._taken.append((size, batches))
        self._grown.set()
        self._queued_records -= sum(len(batch.records) for batch, _ in batches)
        if not self._closing:
            if not self._queued:
                self._arrived.clear()
            if self._queued_records < self._batch_records:
                self._full.clear()

    def _take_queued(self) -> list[_Queued]:
        """Take from the queue what one append shall cover."""
        taken: list[_Queued] = []
        records = 0
        while self._queued and records < self._batch_records:
            taken.append(self._queued.popleft())
            records += len(taken[-1][0].records)
        return taken

    async def _publish_all(self) -> None:
        # The first time without anything new: an earlier process may have ended between
        # the state and the checkpoint, or witnesses may have come into the configuration.
        pending = True
        while True:
            if pending:
                pending = not await self._publish_once()
                if pending:
                    if self._all_taken:
                        return  # not acknowledged: the shards keep these records
                    await asyncio.sleep(RETRY_SECONDS)
            elif self._taken:
                pending = True
            elif self._all_taken:
                return
            else:
                self._grown.clear()
                await self._grown.wait()

    async def _publish_once(self) -> bool:
        """Sign and publish the tree as it is; whether that worked."""
        try:
            if self._witnesses is not None:
                # Before the tree is signed: what comes meanwhile is covered as well.
                await self._witnesses.due()
            signed = await self._in_thread(self._audit_log.sign)
            checkpoint = await self._cosign(signed)
            if checkpoint is None:
                return False
            await self._in_thread(partial(self._audit_log.publish, checkpoint))
        except LogStoppedError:
            raise
        except (LogError, VerificationError) as exc:  # the latter: no proof for a witness
            self._publish_failure = str(exc)
            for _, batches in self._taken:
                self._count_failure(batches)
            _log.error("no checkpoint can be published, trying again", error=str(exc))
            return False
        self._publish_failure = None
        self._settle(checkpoint)
        return True

    async def _cosign(self, signed: Checkpoint) -> Checkpoint | None:
        """Return the checkpoint with cosignatures; None when there are too few."""
        if self._witnesses is None:
            return signed
        prove = partial(prove_consistency, self._audit_log.files, signed)
        cosigned = await self._witnesses.cosign(signed, prove=prove)
        if cosigned is None:
            self._publish_failure = self._witnesses.failing
            _log.error(
                "too few witnesses cosign the checkpoint, trying again",
                tree_size=signed.size,
                error=self._witnesses.failing,
            )
        return cosigned

    def _settle(self, checkpoint: Checkpoint) -> None:
        """Tell those who wait that a published checkpoint covers their batches."""
        self._metrics.tree_size.set(checkpoint.size)
        self._metrics.checkpoint_timestamp.set(self._wall_clock())
        self.published.set()
        while self._taken and self._taken[0][0] <= checkpoint.size:
            _, batches = self._taken.popleft()
            for batch, done in batches:
                self._metrics.ingested[batch.first.region].inc(len(batch.records))
                if not done.done():
                    done.set_result(None)

    def _count_failure(self, batches: list[_Queued]) -> None:
        for region in {batch.first.region for batch, _ in batches}:
            self._metrics.error(region, ErrorKind.COMMIT)

    async def _in_thread(self, call: Callable[[], _Result]) -> _Result:
        return await asyncio.get_running_loop().run_in_executor(self._executor, call)
