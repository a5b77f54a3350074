"""What the log takes from one shard: the next record, never another one.

    batch begins behind what is expected    a gap: records are missing, the shard stops
    batch repeats what was taken            dropped, if it is byte for byte what the log has
    a record names another position         forged: the shard stops
    another epoch                           taken only when later, and from sequence 1 on

Pure but for the log it asks about repeats. A stop is for an operator to look at: going on
would leave a hole in the log, or hide that a shard told two stories.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from strongroom_auditlog.errors import AuditLogError, RecordInvalidError
from strongroom_auditlog.log import ShardBatch
from strongroom_auditlog.metrics import ErrorKind
from strongroom_auditlog.records import MAX_POSITION, Position, parse_position

__all__ = ["Sequencer", "ShardStoppedError", "SpoolStatus"]

MAX_BATCH_RECORDS: Final = 4096  # audit_record.proto, RecordBatch.records


class ShardStoppedError(AuditLogError):
    """The shard's records cannot go on entering the log."""

    def __init__(self, kind: ErrorKind, message: str):
        super().__init__(message)
        self.kind = kind


@dataclass(frozen=True, slots=True)
class SpoolStatus:
    """What a shard says of its spool."""

    epoch: int
    last_sequence: int
    acknowledged_sequence: int


class Sequencer:
    """Follows one shard. Not thread safe."""

    def __init__(self, region: str, known: tuple[int, int] | None):
        """Go on from `known`: (epoch, next sequence), None for a shard without records."""
        self.region = region
        self._known = known

    @property
    def expected(self) -> tuple[int, int]:
        """(epoch, next sequence); epoch 0 when the shard has no records yet."""
        return self._known or (0, 1)

    def check_status(self, status: SpoolStatus) -> bool:
        """Compare the shard's spool with what the log has, before any record is asked for.

        Returns:
            Whether the spool is a new one, with an epoch of its own.

        Raises:
            ShardStoppedError: The two do not fit: one of them was restored from a backup,
                or another log consumes the same spool.
        """
        epoch, following = self.expected
        if status.epoch < epoch:
            raise ShardStoppedError(
                ErrorKind.EPOCH,
                f"the spool is of epoch {status.epoch}, the log is at epoch {epoch}: an older "
                "spool was restored",
            )
        is_new = status.epoch > epoch
        first_wanted = 1 if is_new else following
        if status.acknowledged_sequence >= first_wanted:
            raise ShardStoppedError(
                ErrorKind.GAP,
                f"the shard was told that a log has its records up to "
                f"{status.acknowledged_sequence}, this one needs {first_wanted}: another log "
                "consumes the spool, or this one was restored from a backup",
            )
        if not is_new and status.last_sequence < following - 1:
            raise ShardStoppedError(
                ErrorKind.ROLLED_BACK,
                f"the spool ends at {status.last_sequence}, the log has records up to "
                f"{following - 1}: an older spool was restored, and its next records would "
                "repeat sequence numbers",
            )
        return is_new

    def take(
        self,
        first: Position,
        records: Sequence[bytes],
        *,
        holds: Callable[[Position, bytes], bool],
    ) -> ShardBatch | None:
        """Take a batch as the shard sent it.

        Args:
            first: Where the shard says that the batch begins.
            records: The records' bytes.
            holds: Whether the log has exactly these bytes at a position; asked about
                repeats only.

        Returns:
            What is new of it; None when all of it is repeated.

        Raises:
            ShardStoppedError: The batch may not enter the log; nothing of it was taken.
        """
        if not 1 <= len(records) <= MAX_BATCH_RECORDS:
            raise ShardStoppedError(ErrorKind.MALFORMED, f"a batch of {len(records)} records")
        if first.region != self.region:
            raise ShardStoppedError(
                ErrorKind.FORGED, f"a batch of region {first.region!r} from {self.region}"
            )
        if not (1 <= first.epoch <= MAX_POSITION and 1 <= first.sequence <= MAX_POSITION):
            raise ShardStoppedError(ErrorKind.MALFORMED, f"a batch at {first}")
        epoch, following = self.expected
        if first.epoch < epoch:
            raise ShardStoppedError(
                ErrorKind.EPOCH, f"{first} is of an older epoch than {epoch}, where the log is"
            )
        if first.epoch > epoch:
            following = 1
        if first.sequence > following:
            raise ShardStoppedError(
                ErrorKind.GAP, f"the shard goes on at {first}, the log needs {following}"
            )
        repeated = min(following - first.sequence, len(records))
        for offset, record in enumerate(records):
            position = first._replace(sequence=first.sequence + offset)
            _check_record(position, record)
            if offset < repeated and not holds(position, record):
                raise ShardStoppedError(
                    ErrorKind.CONFLICT, f"another record at {position} than the log has"
                )
        if repeated == len(records):
            return None
        start = first._replace(sequence=following)
        self._known = (first.epoch, first.sequence + len(records))
        return ShardBatch(start, tuple(records[repeated:]))


def _check_record(position: Position, record: bytes) -> None:
    try:
        claimed = parse_position(record)
    except RecordInvalidError as exc:
        raise ShardStoppedError(ErrorKind.MALFORMED, f"{position}: {exc}") from exc
    if claimed != position:
        raise ShardStoppedError(ErrorKind.FORGED, f"the record at {position} says {claimed}")
