"""Times as the store keeps them: whole microseconds since 1970, UTC. Exact both ways."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Final

__all__ = ["from_micros", "to_micros"]

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)


def to_micros(time: datetime) -> int:
    """Convert an aware time.

    Raises:
        ValueError: `time` has no time zone: it could be any of a day's hours.
    """
    if time.tzinfo is None:
        raise ValueError("a time without a time zone cannot be stored")
    return (time - _EPOCH) // _MICROSECOND


def from_micros(micros: int) -> datetime:
    """Convert back; aware, UTC.

    Raises:
        OverflowError: Not between the years 1 and 9999.
    """
    return _EPOCH + micros * _MICROSECOND
