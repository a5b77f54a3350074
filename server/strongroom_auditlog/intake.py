"""What a shard delivers, by whatever way: judged, bounded, and handed to the committer.

    Source -> ShardIntake.take -> Sequencer -> Committer -> covered

The shard delivers at least once; the sequencer and the positions in the state make it
exactly once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial
from typing import Final, Protocol

import structlog

from strongroom.tlog.errors import VerificationError
from strongroom_auditlog.committer import Committer
from strongroom_auditlog.errors import AuditLogError
from strongroom_auditlog.log import AuditLog
from strongroom_auditlog.metrics import ErrorKind, Metrics
from strongroom_auditlog.records import Position
from strongroom_auditlog.sequencer import Sequencer, ShardStoppedError, SpoolStatus

__all__ = ["ShardIntake", "Source", "SourceLostError"]

MAX_RECORDS_IN_FLIGHT: Final = 32_768  # then nothing more is read: the shard is held back
MAX_BYTES_IN_FLIGHT: Final = 64 * 2**20  # the same, for large records
MAX_RECORDS_INLINE: Final = 512

_log = structlog.stdlib.get_logger("strongroom.auditlog.ingest")


class SourceLostError(AuditLogError):
    """A session with a shard ended; another one may do better. Nothing is lost by it."""


class Source(Protocol):
    """A way to the records of one shard. Used by one task of one event loop."""

    async def run_session(self, intake: ShardIntake) -> None:
        """Connect, deliver to `intake` and tell the shard what is covered, until it ends.

        Records may come twice, and an acknowledgement may get lost: the next session
        sends what is covered by then. Nothing is acknowledged that `intake.covered` does
        not say.

        Raises:
            SourceLostError: The connection cannot be made, or broke.
            ShardStoppedError: The shard's records must not go on entering the log.
            VerificationError: The log's own files are damaged.
        """
        ...


class ShardIntake:
    """The records of one shard on their way into the log. Owned by one event loop."""

    def __init__(self, region: str, *, log: AuditLog, committer: Committer, metrics: Metrics):
        self.region = region
        self._audit_log = log
        self._committer = committer
        self._metrics = metrics
        known = log.next_position(region)
        self._sequencer = Sequencer(region, known)
        self.covered = known and Position(region, known[0], known[1] - 1)
        """Position of the last record that a published checkpoint covers."""
        self._in_flight = 0  # records given to the committer and not covered yet
        self._bytes_in_flight = 0
        self._progress = asyncio.Event()  # something was covered, or repeated
        self._logger = _log.bind(region=region)

    @property
    def expected(self) -> tuple[int, int]:
        """(epoch, next sequence); epoch 0 when the log has nothing of the shard."""
        return self._sequencer.expected

    def count(self, kind: ErrorKind) -> None:
        """Count an error that does not stop the shard."""
        self._metrics.error(self.region, kind)

    def check_status(self, status: SpoolStatus) -> None:
        """Compare the shard's spool with what the log has.

        Raises:
            ShardStoppedError: One of the two was restored, or another log consumes the spool.
        """
        known_epoch = self.expected[0]
        if self._sequencer.check_status(status) and known_epoch:
            self._logger.warning(
                "the shard has a new spool; its records begin anew at sequence 1",
                old_epoch=known_epoch,
                new_epoch=status.epoch,
            )

    async def has_room(self) -> None:
        """Return when more may be read."""
        while (
            self._in_flight > MAX_RECORDS_IN_FLIGHT or self._bytes_in_flight > MAX_BYTES_IN_FLIGHT
        ):
            await self.progress()

    async def progress(self) -> None:
        """Return when something was covered or repeated after the call."""
        self._progress.clear()
        await self._progress.wait()

    async def has(self, first: Position, records: Sequence[bytes]) -> bool:
        """Whether the log has exactly these records, of this epoch or an older one."""
        await self._settled()

        def holds() -> bool:
            return all(
                self._audit_log.holds(first._replace(sequence=first.sequence + offset), record)
                for offset, record in enumerate(records)
            )

        try:
            return await asyncio.to_thread(holds)
        except VerificationError as exc:
            raise self._damaged(exc) from exc

    async def take(self, first: Position, records: Sequence[bytes]) -> asyncio.Future[None] | None:
        """Take a batch into the log.

        Args:
            first: Where the shard says that it begins.
            records: The records' bytes.

        Returns:
            What is done when a published checkpoint covers the batch; None when all of it
            is a repeat of what is covered.

        Raises:
            ShardStoppedError: It may not enter; nothing of it was taken.
        """
        epoch, following = self.expected
        is_repeat = first.epoch == epoch and first.sequence < following
        if is_repeat:
            # Repeats are compared with the log, so what they repeat has to be in it.
            await self._settled()
        take = partial(self._sequencer.take, first, records, holds=self._audit_log.holds)
        try:
            # Repeats are looked up in files, and many records take milliseconds to parse.
            # Nobody else uses the sequencer meanwhile: a session reads in one task.
            is_long = is_repeat or len(records) > MAX_RECORDS_INLINE
            taken = await asyncio.to_thread(take) if is_long else take()
        except VerificationError as exc:
            raise self._damaged(exc) from exc
        if taken is None:
            self._logger.info("records repeated", first=str(first), records=len(records))
            self._progress.set()
            return None
        last = taken.first._replace(sequence=taken.first.sequence + len(taken.records) - 1)
        size_bytes = sum(map(len, taken.records))
        self._in_flight += len(taken.records)
        self._bytes_in_flight += size_bytes
        done = self._committer.submit(taken)

        def cover(future: asyncio.Future[None]) -> None:
            self._in_flight -= len(taken.records)
            self._bytes_in_flight -= size_bytes
            if not future.cancelled() and future.exception() is None:
                self.covered = last
                self._progress.set()

        done.add_done_callback(cover)
        return done

    async def _settled(self) -> None:
        """Return when all that was taken is covered."""
        while self._in_flight:
            await self.progress()

    @staticmethod
    def _damaged(exc: VerificationError) -> ShardStoppedError:
        return ShardStoppedError(
            ErrorKind.CONFLICT, f"a repeat cannot be compared, the log is damaged: {exc}"
        )
