"""When something may be destroyed for ever: two clocks have to agree.

The wall clock alone would do it early: set forward by a year, by a wrong NTP server or a
restored virtual machine, it ends every waiting time at once. So a deletion is due when

1. the wall clock has passed its time, and
2. the shard has been *observed* for as long: a count in its database, which the servers
   move on by what their monotonic clocks say (CLOCK_MONOTONIC does not jump), and which no
   wall clock can move.

Each advance is one step of one server: from the last look at which that server saw the
count as it still is, to now. A step begins after the commit of the one before it and ends
before its own, so several servers never count the same second twice. Time in which no
server ran is not counted, and a step that took too long is cut off: both make a
destruction later, never earlier. A waiting time so ends late by as long as the shard was
down.

A first step may reach back to before the deletion was scheduled, by MAX_STEP_SECONDS at
most; a mark has so much on top.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Final

from strongroom_server.domain.keys import Deletion
from strongroom_server.errors import ArgumentInvalidError

__all__ = [
    "DEFAULT_PENDING_DAYS",
    "LOOK_SECONDS",
    "MAX_PENDING_DAYS",
    "MAX_STEP_SECONDS",
    "MIN_PENDING_DAYS",
    "ObservedTime",
    "is_due",
    "pending_days",
    "schedule",
]

MIN_PENDING_DAYS: Final = 7
MAX_PENDING_DAYS: Final = 30
DEFAULT_PENDING_DAYS: Final = 30
LOOK_SECONDS: Final = 60
MAX_STEP_SECONDS: Final = 2 * LOOK_SECONDS
_DAY_SECONDS: Final = 86_400


def pending_days(asked: int, *, minimum: int) -> int:
    """Return the waiting time in days; 0 asks for the default.

    Args:
        asked: As the caller says.
        minimum: The deployment's, 7 to 30.

    Raises:
        ArgumentInvalidError: It is out of range.
    """
    days = asked or DEFAULT_PENDING_DAYS
    if not minimum <= days <= MAX_PENDING_DAYS:
        raise ArgumentInvalidError.of(
            "pending_days", "pending_days.range", f"{minimum} to {MAX_PENDING_DAYS} days here"
        )
    return days


def schedule(now: datetime, observed_seconds: int, *, days: int) -> Deletion:
    """Return the deletion of something, `days` from now.

    Args:
        now: The wall clock.
        observed_seconds: The shard's count.
        days: Waiting time.
    """
    mark = observed_seconds + days * _DAY_SECONDS + MAX_STEP_SECONDS
    return Deletion(now + timedelta(days=days), mark)


def is_due(deletion: Deletion, now: datetime, observed_seconds: int) -> bool:
    """Say whether the destruction may begin, or go on once it has."""
    if deletion.mark is None:
        return True
    return deletion.time <= now and deletion.mark <= observed_seconds


class ObservedTime:
    """One server's part in a shard's count. Owned by the event loop.

    Each look is `step`, and when that is not 0, the attempt to move the count on, and
    `moved` when it succeeded.
    """

    __slots__ = ("_asked_at", "_seen_at", "_seen_seconds")

    def __init__(self) -> None:
        self._seen_at: float | None = None
        self._seen_seconds = 0
        self._asked_at = 0.0

    def step(self, stored_seconds: int, monotonic: float) -> int:
        """Return by how many whole seconds the count may be moved on; 0 for not at all.

        Args:
            stored_seconds: The count as it is in the database now.
            monotonic: This server's clock, read before that.
        """
        if self._seen_at is None or stored_seconds != self._seen_seconds:
            # The first look; or another server moved it on: up to when we do not know, but
            # it was before now.
            self._seen_seconds = stored_seconds
            self._seen_at = monotonic
            return 0
        self._asked_at = monotonic
        return min(max(int(monotonic - self._seen_at), 0), MAX_STEP_SECONDS)

    def moved(self, seconds: int) -> None:
        """Hear that the count was moved on by what `step` returned."""
        if self._seen_at is not None:
            self._seen_seconds += seconds
            self._seen_at += seconds
            if self._asked_at - self._seen_at >= 1.0:
                self._seen_at = self._asked_at  # the step was cut off

    def idle(self) -> None:
        """Hear that nothing waits: what passes until the next look is nobody's waiting time."""
        self._seen_at = None
