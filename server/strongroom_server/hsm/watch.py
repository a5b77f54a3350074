"""Watches the workers of a pool: kills those that owe an answer, asks the idle how they are.

It asks for the circuit breaker as well: when its back-off is over, one worker is asked for
a sign of life before any caller's operation goes through (`breaker`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Final

from strongroom_server.hsm.breaker import Breaker, BreakerState
from strongroom_server.hsm.wire import NO_KEY, Answer, Operation, Request
from strongroom_server.hsm.worker_process import PendingOperation, WorkerProcess
from strongroom_server.ports import Clock

__all__ = ["Watch"]

_TICK_SECONDS: Final = 0.1
_IDLE_PING_SECONDS: Final = 1.0
_PING_DEADLINE_SECONDS: Final = 1.0
_BLAME_SECONDS: Final = 0.5
"""Below this, a worker that is beyond a deadline was given too short a one."""
_SILENT_AFTER_DEADLINE_SECONDS: Final = 1.0
_SILENT_SECONDS: Final = 2.5  # with a tick and the kill, replaced within 3 s


class Watch:
    """Looks at every worker ten times a second. Owned by the pool's event loop."""

    def __init__(
        self,
        clock: Clock,
        breaker: Breaker,
        *,
        serving: Callable[[], Iterable[WorkerProcess]],
        retiring: Callable[[], Iterable[WorkerProcess]],
    ):
        """Take the workers.

        Args:
            clock: Its `monotonic` is that of the workers.
            breaker: Hears of operations kept beyond their deadline, and of health checks.
            serving: Those that get operations.
            retiring: Those that only finish what they have.
        """
        self._clock = clock
        self._breaker = breaker
        self._serving = serving
        self._retiring = retiring
        self._last_ping_id = 0
        self._probe: asyncio.Future[Answer] | None = None
        self._blamed: dict[WorkerProcess, float] = {}

    async def run(self) -> None:
        """Watch until cancelled."""
        before = self._clock.monotonic()
        while True:
            await asyncio.sleep(_TICK_SECONDS)
            now = self._clock.monotonic()
            was_late = now - before > _TICK_SECONDS + 0.5
            before = now
            if was_late:
                continue  # this process stood still: the answers may be in the sockets
            for worker in tuple(self._retiring()):
                self._look_at(worker, now)
            for worker in tuple(self._serving()):
                if self._look_at(worker, now) and (now - worker.last_heard >= _IDLE_PING_SECONDS):
                    self._ping(worker, now)
            self._look_at_breaker(now)
            for worker in [blamed for blamed in self._blamed if blamed.is_lost]:
                del self._blamed[worker]

    def _look_at(self, worker: WorkerProcess, now: float) -> bool:
        """Kill a worker that owes an answer for too long; say whether it owes none."""
        silence = worker.silent_since()
        if silence is None:
            self._blamed.pop(worker, None)
            return True
        since, deadline = silence
        if now >= deadline and now - since >= _BLAME_SECONDS and self._blamed.get(worker) != since:
            self._blamed[worker] = since  # once for each silence, not once for each caller
            self._breaker.fault(now)
        if now >= min(since + _SILENT_SECONDS, deadline + _SILENT_AFTER_DEADLINE_SECONDS):
            worker.lose("no answer in time")
        return False

    def _look_at_breaker(self, now: float) -> None:
        """Have a worker checked when the breaker's back-off is over.

        Without a worker nothing is due: the first that comes up is checked.
        """
        if self._breaker.state is not BreakerState.OPEN or self._probe is not None:
            return
        worker = next(iter(self._serving()), None)
        if worker is not None and now >= self._breaker.probe_at:
            self._probe = self._ping(worker, now)
            self._probe.add_done_callback(self._on_probed)

    def _on_probed(self, probe: asyncio.Future[Answer]) -> None:
        self._probe = None
        if probe.cancelled() or probe.exception() is not None:
            self._breaker.health_check_failed(self._clock.monotonic())
        else:
            self._breaker.health_check_passed()

    def _ping(self, worker: WorkerProcess, now: float) -> asyncio.Future[Answer]:
        """Ask a worker for a sign of life, so that a lost token shows without load."""
        self._last_ping_id = (self._last_ping_id + 1) % 2**31
        request = Request(
            2**31 + self._last_ping_id,
            Operation.PING,
            now + _PING_DEADLINE_SECONDS,
            0,
            b"",
            b"",
            b"",
            NO_KEY,
            NO_KEY,
        )
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        future.add_done_callback(_retrieve)
        worker.send([PendingOperation(request, future, bound=True)], now=now)
        return future


def _retrieve(future: asyncio.Future[Answer]) -> None:
    """Retrieve a ping's exception: the loss of the worker is told by other means."""
    if not future.cancelled():
        future.exception()
