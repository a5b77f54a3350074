"""Deadlines of many futures, with one timer.

A timer of its own for each record costs more than all else that waiting does. Callers
mostly come with later and later deadlines, so the one timer is set about once in a
deadline's length, and then looks at those who wait.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final, Generic, TypeVar

__all__ = ["Deadlines"]

T = TypeVar("T")

_NEVER: Final = float("inf")


class Deadlines(Generic[T]):
    """Ends futures that are not done by their deadline. Used on the event loop that made it."""

    def __init__(self, too_late: Callable[[], Exception]) -> None:
        """Have an error made for each future that is too late."""
        self._loop = asyncio.get_running_loop()
        self._too_late = too_late
        self._waiting: dict[asyncio.Future[T], float] = {}
        self._due = _NEVER
        self._timer: asyncio.TimerHandle | None = None

    async def wait(self, future: asyncio.Future[T], deadline: float) -> T:
        """Return the future's result.

        Args:
            future: Nobody else waits for it here.
            deadline: On the clock of the event loop, in seconds.

        Raises:
            Exception: What the future has, or the error of one that is too late.
        """
        if deadline < self._due:
            self._set(deadline)
        self._waiting[future] = deadline
        try:
            return await future
        finally:
            del self._waiting[future]

    def _set(self, deadline: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._due = deadline
        self._timer = self._loop.call_at(deadline, self._look)

    def _look(self) -> None:
        self._due, self._timer = _NEVER, None
        now, earliest = self._loop.time(), _NEVER
        for future, deadline in self._waiting.items():
            if future.done():
                continue
            # Loops round their timers: one that came a moment early is on time.
            if deadline <= now + 0.001:
                future.set_exception(self._too_late())
            else:
                earliest = min(earliest, deadline)
        if earliest < _NEVER:
            self._set(earliest)
