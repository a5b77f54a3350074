"""Keeps the workers of a pool alive: start, watch, replace.

One login with a refused PIN is all there will ever be: workers start one at a time
(the first alone, replacements one after the other), and a refused PIN ends all starting
for the life of this process. Every other failure is tried again, with growing pauses.

A worker that is worn (the leaks of its module have added up) is replaced before it goes:
its successor serves first, then it finishes what it has and ends. One at a time, for each
takes a session more than the pool has.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from strongroom_server.errors import StartRefusedError
from strongroom_server.hsm.breaker import PROBE_SECONDS, Breaker, BreakerState
from strongroom_server.hsm.handshake import Report, StartStatus
from strongroom_server.hsm.observer import PoolObserver
from strongroom_server.hsm.watch import Watch
from strongroom_server.hsm.worker_process import (
    START_SECONDS,
    SessionPoolSettings,
    WorkerOwner,
    WorkerProcess,
    spawn,
)
from strongroom_server.ports import Clock

__all__ = ["PoolStatus", "Workforce"]

_FIRST_PAUSE_SECONDS: Final = 0.2
_LAST_PAUSE_SECONDS: Final = 2.0
_PAUSE_GROWTH: Final = 1.6
_STEADY_SECONDS: Final = 5.0  # a worker that lived so long was no failed attempt
_FINISH_SECONDS: Final = 2.0
_DRAIN_STEP_SECONDS: Final = 0.01
_HOPELESS_SECONDS: Final = 30.0  # to be told to callers while an operator must act

_CURES: Final = {
    StartStatus.PIN_REFUSED: "one login was tried and no other will be; put the right PIN into "
    "pin_file, check that the token is not locked, and start again",
    StartStatus.PIN_FILE_UNUSABLE: "pin_file must hold the PIN on one line, mode 0600",
    StartStatus.TOKEN_ABSENT: "check token_label and module_environment; "
    "`pkcs11-tool --list-slots` shows what the module sees",
    StartStatus.MODULE_UNUSABLE: "check module: it must be the vendor's PKCS#11 library for this "
    "machine, and do AES-GCM",
    StartStatus.KEY_UNSAFE: "somebody made or changed this key by other means; find out who, then "
    "destroy it or restore it from backup",
    StartStatus.FAULT: "the HSM failed; see its own log",
}


@dataclass(frozen=True, slots=True)
class PoolStatus:
    """The state of a pool.

    Attributes:
        sessions: How many workers there should be.
        ready: How many serve.
        queued: Operations that wait for one.
        pids: Process ids of those that serve, the oldest, which creates keys, first.
        breaker: Whether operations are let through.
        problem: Why workers are missing; empty when none is.
        stopped: Whether no worker will be started any more.
    """

    sessions: int
    ready: int
    queued: int
    pids: tuple[int, ...]
    breaker: BreakerState
    problem: str
    stopped: bool


class Workforce:
    """The workers of one pool. Owned by its event loop."""

    def __init__(
        self,
        settings: SessionPoolSettings,
        owner: WorkerOwner,
        clock: Clock,
        observer: PoolObserver,
        jitter: Callable[[], float],
    ):
        self._settings = settings
        self._owner = owner
        self._clock = clock
        self._observer = observer
        self._jitter = jitter
        self._one_start = asyncio.Lock()
        self._one_succession = asyncio.Lock()
        self._tasks: list[asyncio.Task[None]] = []
        self._worn: dict[WorkerProcess, asyncio.Future[str]] = {}
        self._retiring: dict[WorkerProcess, asyncio.Task[None]] = {}
        self._next_start = 0.0
        self._alive: set[WorkerProcess] = set()
        self._problem = "the pool has not started"
        self._stopped = False
        self._closing = False
        self.workers: list[WorkerProcess] = []
        """Those that serve, oldest first. The first one creates keys."""
        self.breaker: Final = Breaker(
            jitter=jitter, on_change=lambda state: observer.breaker(state.value)
        )
        self._watch = Watch(
            clock,
            self.breaker,
            serving=lambda: self.workers,
            retiring=lambda: self._retiring,
        )

    @property
    def accepts(self) -> bool:
        """Whether operations can be served."""
        return bool(self.workers) and self.breaker.is_ready and not self._closing

    def why_not(self) -> str:
        """Say to callers why operations cannot be served."""
        if self._closing:
            return "the server is stopping"
        if self._stopped:
            return "the HSM refused the login; an operator must act"
        return "the HSM does not answer" if not self.workers else "the HSM fails"

    def retry_after_seconds(self) -> float:
        """Say to callers when it is worth coming back, while operations cannot be served."""
        now = self._clock.monotonic()
        if self.workers:
            return self.breaker.retry_after_seconds(now)
        return _HOPELESS_SECONDS if self._stopped else max(self._next_start - now, PROBE_SECONDS)

    def status(self, *, queued: int) -> PoolStatus:
        """Return the state."""
        complete = len(self.workers) >= self._settings.sessions
        return PoolStatus(
            sessions=self._settings.sessions,
            ready=len(self.workers),
            queued=queued,
            pids=tuple(worker.pid for worker in self.workers),
            breaker=self.breaker.state,
            problem="" if complete else self._problem,
            stopped=self._stopped,
        )

    async def start(self) -> None:
        """Start the first worker, then the others; the watch begins.

        Raises:
            StartRefusedError: The first one cannot serve.
        """
        try:
            first = await self._start_worker()
        except _StartFailedError as exc:
            raise StartRefusedError(
                f"token {self._settings.token_label!r}: {exc.report.text}; "
                f"{_CURES.get(exc.report.status, '')}"
            ) from exc
        firsts: list[WorkerProcess | None] = [first]
        firsts += [None] * (self._settings.sessions - 1)
        settled = [asyncio.Event() for _ in firsts]
        self._tasks = [
            asyncio.create_task(self._keep(worker, event))
            for worker, event in zip(firsts, settled, strict=True)
        ]
        self._tasks.append(asyncio.create_task(self._watch.run()))
        await asyncio.gather(*(event.wait() for event in settled))

    def stop_accepting(self) -> None:
        """Refuse operations from now on."""
        self._closing = True

    async def close(self) -> None:
        """End all workers and wait until their processes are gone."""
        self._closing = True
        tasks = [*self._tasks, *self._retiring.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for worker in self._alive:
            worker.finish()
        await asyncio.gather(
            *(worker.reap(grace_seconds=_FINISH_SECONDS) for worker in tuple(self._alive))
        )
        for worker in tuple(self._alive):
            worker.lose("the pool was closed")
        self._alive.clear()

    def on_lost(self, worker: WorkerProcess, reason: str) -> None:
        """Take a lost worker off the list."""
        if worker in self._retiring:
            return  # as it was meant to
        self._problem = reason
        if worker not in self.workers:
            return
        self.workers.remove(worker)
        if self._closing:
            return
        self._observer.worker_lost(worker.pid, reason)
        now = self._clock.monotonic()
        self.breaker.fault(now)
        if not self.workers:
            self.breaker.no_worker(now)

    def recycle(self, worker: WorkerProcess, reason: str) -> None:
        """Replace a worker that serves well but is worn, without losing an operation.

        Until a successor serves it goes on; told twice, it is replaced once.
        """
        worn = self._worn.get(worker)
        if worn is not None and not worn.done():
            worn.set_result(reason)

    async def _keep(self, worker: WorkerProcess | None, settled: asyncio.Event) -> None:
        """Keep one place filled."""
        pause = _FIRST_PAUSE_SECONDS
        try:
            while worker is not None or not self._stopped:
                if worker is None:
                    try:
                        worker = await self._start_worker()
                    except _StartFailedError:
                        pause = min(pause * _PAUSE_GROWTH, _LAST_PAUSE_SECONDS)
                settled.set()
                if worker is not None:
                    since = self._clock.monotonic()
                    worker = await self._successor_of(worker)
                    if worker is not None:
                        continue
                    lived = self._clock.monotonic() - since
                    pause = (
                        _FIRST_PAUSE_SECONDS
                        if lived >= _STEADY_SECONDS
                        else min(pause * _PAUSE_GROWTH, _LAST_PAUSE_SECONDS)
                    )
                # Half fixed, half random: places that fell empty together do not knock
                # together.
                spread = pause * (0.5 + self._jitter() / 2)
                self._next_start = self._clock.monotonic() + spread
                await asyncio.sleep(spread)
        finally:
            settled.set()

    async def _successor_of(self, worker: WorkerProcess) -> WorkerProcess | None:
        """Wait until a worker has ended, or is worn and its successor serves."""
        worn = self._worn[worker] = asyncio.get_running_loop().create_future()
        try:
            await asyncio.wait((worker.ended, worn), return_when=asyncio.FIRST_COMPLETED)
            if worn.done() and not worker.is_lost:
                successor = await self._start_successor(worker)
                if successor is not None:
                    self._retire(worker, worn.result())
                    return successor
            await worker.ended
        finally:
            del self._worn[worker]
        await worker.reap(grace_seconds=0)
        self._alive.discard(worker)
        return None

    async def _start_successor(self, worker: WorkerProcess) -> WorkerProcess | None:
        """Start a successor; None when the worker ended before one serves."""
        pause = _LAST_PAUSE_SECONDS
        async with self._one_succession:
            while not worker.is_lost and not self._stopped:
                try:
                    return await self._start_worker()
                except _StartFailedError:
                    # No room for one session more, perhaps. It goes on as it is.
                    await asyncio.wait((worker.ended,), timeout=pause)
                    pause *= _PAUSE_GROWTH
        return None

    def _retire(self, worker: WorkerProcess, reason: str) -> None:
        """Give a worker nothing more to do; it ends when it has answered."""
        if worker in self.workers:
            self.workers.remove(worker)
            self._observer.worker_retired(worker.pid, reason)
        self._retiring[worker] = asyncio.create_task(self._see_off(worker))

    async def _see_off(self, worker: WorkerProcess) -> None:
        """Wait until a worker has answered everything, and end it. `_watch` sees to it."""
        # Polled: the way of an answer need not pay for an event that is used once.
        while worker.in_flight and not worker.is_lost:  # noqa: ASYNC110 - see above
            await asyncio.sleep(_DRAIN_STEP_SECONDS)
        worker.finish()
        await worker.reap(grace_seconds=_FINISH_SECONDS)
        self._alive.discard(worker)
        del self._retiring[worker]

    async def _start_worker(self) -> WorkerProcess:
        async with self._one_start:
            if self._stopped:
                raise _StartFailedError(Report(StartStatus.PIN_REFUSED, 0, self._problem))
            began = self._clock.monotonic()
            try:
                worker = await spawn(self._settings, self._owner, on_spawned=self._alive.add)
            except OSError as exc:  # no processes or descriptors left: try again later
                self._problem = f"a worker process cannot be started: {exc}"
                raise _StartFailedError(Report(StartStatus.FAULT, 0, self._problem)) from exc
            try:
                report = await asyncio.wait_for(asyncio.shield(worker.report), START_SECONDS)
            except TimeoutError:
                report = Report(StartStatus.FAULT, 0, f"no report in {START_SECONDS:.0f} s")
            if report.status is not StartStatus.READY:
                worker.lose(report.text)
                await worker.reap(grace_seconds=0)
                self._alive.discard(worker)
                self._problem = report.text
                self._observer.worker_lost(worker.pid, report.text)
                if report.status is StartStatus.PIN_REFUSED:
                    self._stopped = True
                    self._observer.alarm("pin_refused", report.text)
                raise _StartFailedError(report)
            if report.text:
                self._observer.alarm("damaged", report.text)
            worker.last_heard = self._clock.monotonic()
            if not worker.is_lost:
                self.workers.append(worker)
                self._observer.worker_started(worker.pid, worker.last_heard - began)
            return worker


class _StartFailedError(Exception):
    """A worker's start failed."""

    def __init__(self, report: Report):
        super().__init__(report.text)
        self.report = report
