"""Two clocks that a test moves: the wall clock may jump, the monotonic one may not."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

__all__ = ["VirtualClock"]


class VirtualClock:
    """Implements ports.Clock; nothing moves by itself."""

    def __init__(self, monotonic: float = 1000.0) -> None:
        self._wall = datetime(2026, 1, 1, tzinfo=UTC)
        self._monotonic = monotonic

    def now(self) -> datetime:
        return self._wall

    def monotonic(self) -> float:
        return self._monotonic

    def sleep(self, seconds: float) -> None:
        """Let time pass, for both."""
        self._wall += timedelta(seconds=seconds)
        self._monotonic += seconds

    def jump(self, by: timedelta) -> None:
        """Set the wall clock, back or forth."""
        self._wall += by
