"""Keeps the workers of a pool alive: start, watch, replace.

One login with a refused PIN is all there will ever be: workers start one at a time
(the first alone, replacements one after the other), and a refused PIN ends all starting
for the life of this process. Every other failure is tried again, with growing pauses.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from strongroom_server.errors import StartRefusedError
from strongroom_server.hsm.handshake import Report, StartStatus
from strongroom_server.hsm.observer import PoolObserver
from strongroom_server.hsm.wire import NO_KEY, Operation, Request
from strongroom_server.hsm.worker_process import (
    START_SECONDS,
    PendingOperation,
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
_TICK_SECONDS: Final = 0.1
_IDLE_PING_SECONDS: Final = 1.0
_PING_DEADLINE_SECONDS: Final = 1.0
_SILENT_AFTER_DEADLINE_SECONDS: Final = 1.0
_SILENT_SECONDS: Final = 2.5  # with a tick and the kill, replaced within 3 s
_FINISH_SECONDS: Final = 2.0

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
        problem: Why workers are missing; empty when none is.
        stopped: Whether no worker will be started any more.
    """

    sessions: int
    ready: int
    queued: int
    pids: tuple[int, ...]
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
        self._tasks: list[asyncio.Task[None]] = []
        self._alive: set[WorkerProcess] = set()
        self._problem = "the pool has not started"
        self._stopped = False
        self._closing = False
        self._last_ping_id = 0
        self.workers: list[WorkerProcess] = []
        """Those that serve, oldest first. The first one creates keys."""

    @property
    def accepts(self) -> bool:
        """Whether operations can be served."""
        return bool(self.workers) and not self._closing

    def why_not(self) -> str:
        """Say to callers why operations cannot be served."""
        if self._closing:
            return "the server is stopping"
        if self._stopped:
            return "the HSM refused the login; an operator must act"
        return "the HSM does not answer"

    def status(self, *, queued: int) -> PoolStatus:
        """Return the state."""
        complete = len(self.workers) == self._settings.sessions
        return PoolStatus(
            sessions=self._settings.sessions,
            ready=len(self.workers),
            queued=queued,
            pids=tuple(worker.pid for worker in self.workers),
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
        self._tasks.append(asyncio.create_task(self._watch()))
        await asyncio.gather(*(event.wait() for event in settled))

    def stop_accepting(self) -> None:
        """Refuse operations from now on."""
        self._closing = True

    async def close(self) -> None:
        """End all workers and wait until their processes are gone."""
        self._closing = True
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
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
        self._problem = reason
        if worker in self.workers:
            self.workers.remove(worker)
            if not self._closing:
                self._observer.worker_lost(worker.pid, reason)

    async def _keep(self, worker: WorkerProcess | None, settled: asyncio.Event) -> None:
        """Keep one place filled."""
        pause = _FIRST_PAUSE_SECONDS
        try:
            while not self._stopped:
                if worker is None:
                    try:
                        worker = await self._start_worker()
                    except _StartFailedError:
                        pause = min(pause * _PAUSE_GROWTH, _LAST_PAUSE_SECONDS)
                settled.set()
                if worker is not None:
                    since = self._clock.monotonic()
                    await worker.ended
                    await worker.reap(grace_seconds=0)
                    self._alive.discard(worker)
                    worker = None
                    lived = self._clock.monotonic() - since
                    pause = (
                        _FIRST_PAUSE_SECONDS
                        if lived >= _STEADY_SECONDS
                        else min(pause * _PAUSE_GROWTH, _LAST_PAUSE_SECONDS)
                    )
                # Half fixed, half random: places that fell empty together do not knock
                # together.
                await asyncio.sleep(pause * (0.5 + self._jitter() / 2))
        finally:
            settled.set()

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
            worker.last_heard = self._clock.monotonic()
            if not worker.is_lost:
                self.workers.append(worker)
                self._observer.worker_started(worker.pid, worker.last_heard - began)
            return worker

    async def _watch(self) -> None:
        """Kill workers that owe an answer for too long; ask idle ones how they are."""
        before = self._clock.monotonic()
        while True:
            await asyncio.sleep(_TICK_SECONDS)
            now = self._clock.monotonic()
            was_late = now - before > _TICK_SECONDS + 0.5
            before = now
            if was_late:
                continue  # this process stood still: the answers may be in the sockets
            for worker in tuple(self.workers):
                silence = worker.silent_since()
                if silence is None:
                    if now - worker.last_heard >= _IDLE_PING_SECONDS:
                        self._ping(worker, now)
                    continue
                since, deadline = silence
                limit = min(since + _SILENT_SECONDS, deadline + _SILENT_AFTER_DEADLINE_SECONDS)
                if now >= limit:
                    worker.lose("no answer in time")

    def _ping(self, worker: WorkerProcess, now: float) -> None:
        """Ask an idle worker for a sign of life, so that a lost token shows without load."""
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
        future = asyncio.get_running_loop().create_future()
        future.add_done_callback(_forget)
        worker.send([PendingOperation(request, future, bound=True)], now=now)


class _StartFailedError(Exception):
    """A worker's start failed."""

    def __init__(self, report: Report):
        super().__init__(report.text)
        self.report = report


def _forget(future: asyncio.Future[object]) -> None:
    """Retrieve the exception of a ping: the loss of the worker is told by other means."""
    if not future.cancelled():
        future.exception()
