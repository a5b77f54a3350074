"""How much the spool takes, and how full it is (audit-spool-v1.md, Limits)."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Final

from strongroom_server.audit.segment import MAX_FRAME_BYTES

__all__ = ["READY_BELOW_PRESSURE", "RESERVE_BYTES", "SpoolLimits", "SpoolStatus"]

READY_BELOW_PRESSURE: Final = 0.8
#: What the service's records of itself may take beyond the limit: some hundred of them.
RESERVE_BYTES: Final = 2**16

_FULL: Final = "the audit spool is full; is the audit log running?"
_OLD: Final = "the audit spool has a record that is too old; is the audit log running?"


@dataclass(frozen=True, slots=True)
class SpoolLimits:
    """The limits of one spool, and what may be answered ahead of the disk.

    Attributes:
        limit_bytes: Unacknowledged frames; at least 128 KiB.
        limit_seconds: Age of the oldest unacknowledged record, above 0.
        buffered_records: Records behind the last durable one among which a record of a
            BUFFERED key is answered early; 0 for none.
        buffered_seconds: How long any of them may have waited for the disk, above 0.
    """

    limit_bytes: int
    limit_seconds: float
    buffered_records: int
    buffered_seconds: float

    def pressure(self, used_bytes: int, age_seconds: float) -> float:
        """Return the used share of the limit that is nearer: 1 when it is reached."""
        return max(used_bytes / self.limit_bytes, age_seconds / self.limit_seconds)

    def problem(self, used_bytes: int, age_seconds: float) -> str | None:
        """Say which limit leaves no room for another call's record; None when there is room."""
        if used_bytes + MAX_FRAME_BYTES > self.limit_bytes:
            return _FULL
        return _OLD if age_seconds >= self.limit_seconds else None


@dataclass(frozen=True, slots=True)
class SpoolStatus:
    """How full the spool is and how far the consumer has come.

    `waiting_records` are in memory, on their way to the disk.
    """

    epoch: int
    last_sequence: int
    acknowledged_sequence: int
    spool_bytes: int
    unacknowledged_bytes: int
    limit_bytes: int
    limit_seconds: float
    oldest_unacknowledged_time: datetime | None
    waiting_records: int
    is_accepting: bool
    commits_total: int
    failed_commits_total: int
    refused_total: int
