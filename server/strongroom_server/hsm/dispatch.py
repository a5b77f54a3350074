"""Sends operations to workers: the queue, the batches, the deadlines, the second try.

    submit → queue ─┬→ worker 1   at most two batches of up to 64 operations each
                    └→ worker 2   …

Operations of one event-loop turn are sent together, and those that arrive while all
workers are busy go with the next batch: under load batches grow, and the cost per
operation falls. The queue belongs to the dispatcher and not to a worker, so that a worker
that hangs holds up only what it has been sent; callers take turns in it (`waiting`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from strongroom_server.errors import HsmUnavailableError, OverloadedError
from strongroom_server.hsm import wire
from strongroom_server.hsm.affinity import share_out
from strongroom_server.hsm.answers import error_for
from strongroom_server.hsm.breaker import BreakerState
from strongroom_server.hsm.observer import PoolObserver
from strongroom_server.hsm.waiting import WaitingOperations
from strongroom_server.hsm.wire import (
    MAX_BATCH,
    NO_KEY,
    Answer,
    Operation,
    Request,
    Status,
    WireKey,
)
from strongroom_server.hsm.worker_process import (
    PendingOperation,
    SessionPoolSettings,
    WorkerProcess,
)
from strongroom_server.hsm.workforce import Workforce
from strongroom_server.ports import Clock
from strongroom_server.services.caller import PRINCIPAL

__all__ = ["Dispatcher", "WorkerLostError"]

_BATCH_SECONDS: Final = 0.002
"""Who comes next waits for one batch at most: with a slow HSM a batch is one operation."""
_RETRY_AFTER_SECONDS: Final = 0.1
_NAMES: Final = {int(operation): operation.name.lower() for operation in Operation}


class WorkerLostError(Exception):
    """The worker that a bound operation was sent to is gone."""


class Dispatcher:
    """Between those who wait for operations and the workers. Owned by the event loop."""

    def __init__(
        self,
        region: str,
        settings: SessionPoolSettings,
        clock: Clock,
        observer: PoolObserver,
        jitter: Callable[[], float],
    ):
        self._region = region
        self._clock = clock
        self._observer = observer
        self._queue = WaitingOperations(settings.max_queued * settings.sessions)
        self._waiting: dict[int, PendingOperation] = {}
        self._flush_is_due = False
        self._last_id = 0
        self._expiry: tuple[float, asyncio.TimerHandle] | None = None
        self._seconds_per_operation = 0.0
        self.workforce: Final = Workforce(settings, self, clock, observer, jitter)

    @property
    def queued(self) -> int:
        """Operations that have not been sent."""
        return len(self._queue)

    @property
    def is_idle(self) -> bool:
        """Whether nobody waits."""
        return not self._waiting

    def unavailable(self) -> HsmUnavailableError:
        """Make the error for "no worker can do this"."""
        return HsmUnavailableError(
            self._region,
            self.workforce.why_not(),
            retry_after_seconds=self.workforce.retry_after_seconds(),
        )

    def too_late(self) -> HsmUnavailableError:
        """Make the error for "not by its deadline"."""
        return HsmUnavailableError(self._region, "the HSM did not answer in time")

    def abandon(self) -> None:
        """Answer everybody who still waits; the workers are gone."""
        for operation in list(self._waiting.values()):
            self._fail(operation, self.unavailable(), category="fault")
        while len(self._queue):
            self._queue.popleft()
        if self._expiry:
            self._expiry[1].cancel()
            self._expiry = None

    def submit(
        self,
        operation: Operation,
        deadline: float,
        *,
        key: WireKey = NO_KEY,
        key2: WireKey = NO_KEY,
        number: int = 0,
        data: bytes = b"",
        aad: bytes = b"",
        aad2: bytes = b"",
    ) -> asyncio.Future[Answer]:
        """Queue an operation for any worker.

        Raises:
            HsmUnavailableError: No worker serves, or the deadline has passed. The future
                gives it for what happens later.
            OverloadedError: Too many wait already, or so many that its deadline would pass.
        """
        wire.check_request(operation, number, data, aad, aad2, key, key2)
        if not self.workforce.accepts:
            raise self.unavailable()
        now = self._clock.monotonic()
        if deadline <= now:
            raise HsmUnavailableError(self._region, "the deadline has passed")
        flow = PRINCIPAL.get()
        wait = self._queue.wait_seconds(flow, len(self.workforce.workers))
        # What would come too late is told so now, and takes nobody's turn. Half of the time
        # is left for what is not foreseen: an operation that expires while it is at work
        # has cost the HSM as much as one that is answered.
        if not self._queue.has_room(flow) or wait > (deadline - now) / 2:
            self._observer.operation(operation.name.lower(), 0.0, "overloaded")
            raise OverloadedError(
                f"region {self._region}: too many operations wait for the HSM",
                retry_after_seconds=max(_RETRY_AFTER_SECONDS, min(wait / 2, 1.0)),
            )
        breaker = self.workforce.breaker
        if not breaker.admit():
            raise self.unavailable()
        pending = self._make(
            Request(self._next_id(), operation, deadline, number, data, aad, aad2, key, key2),
            bound=False,
            flow=flow,
        )
        if breaker.state is not BreakerState.CLOSED:  # it is the probe
            pending.future.add_done_callback(lambda _: breaker.release())
        self._queue.append(pending)
        if not self._flush_is_due:
            self._flush_is_due = True
            # At the end of this turn of the loop, with all that it still brings.
            asyncio.get_running_loop().call_soon(self._flush)
        return pending.future

    def send_bound(
        self,
        worker: WorkerProcess,
        operation: Operation,
        deadline: float,
        *,
        key: WireKey,
        key2: WireKey = NO_KEY,
        number: int = 0,
        data: bytes = b"",
        aad: bytes = b"",
    ) -> asyncio.Future[Answer]:
        """Send an operation to this very worker; WorkerLostError when that is lost."""
        wire.check_request(operation, number, data, aad, b"", key, key2)
        pending = self._make(
            Request(self._next_id(), operation, deadline, number, data, aad, b"", key, key2),
            bound=True,
        )
        worker.send([pending], now=self._clock.monotonic())
        return pending.future

    def _next_id(self) -> int:
        self._last_id = (self._last_id + 1) % 2**31  # the other half is the watch's
        return self._last_id

    def _make(self, request: Request, *, bound: bool, flow: str = "") -> PendingOperation:
        loop = asyncio.get_running_loop()
        pending = PendingOperation(request, loop.create_future(), bound=bound, flow=flow)
        self._waiting[request.id] = pending
        # One timer, for the earliest deadline: callers mostly come with later and later
        # ones, so it is set once per deadline's length and not once per operation.
        if self._expiry is None or request.deadline < self._expiry[0]:
            if self._expiry:
                self._expiry[1].cancel()
            delay = request.deadline - self._clock.monotonic()
            self._expiry = (request.deadline, loop.call_later(delay, self._expire))
        return pending

    def _flush(self) -> None:
        """Share the queue among the workers that have room (`affinity`)."""
        self._flush_is_due = False
        queue = self._queue
        now = self._clock.monotonic()
        limit = MAX_BATCH
        if self._seconds_per_operation:
            limit = max(1, min(MAX_BATCH, int(_BATCH_SECONDS / self._seconds_per_operation)))
        while len(queue):
            batches, given_up = share_out(queue, self.workforce.workers, limit, now)
            for pending in given_up:
                self._waiting.pop(pending.request.id, None)
            for worker, batch in batches.items():
                worker.send(batch, now=now)
            if not batches and not given_up:
                return

    def _expire(self) -> None:
        """Answer those whose deadline has come. What a worker has of them it still answers."""
        now = self._clock.monotonic()
        self._expiry = None
        earliest = float("inf")
        for pending in list(self._waiting.values()):
            if pending.future.done():
                continue
            if pending.request.deadline > now:
                earliest = min(earliest, pending.request.deadline)
                continue
            self._fail(
                pending,
                self.too_late(),
                category="deadline",
            )
        if earliest < float("inf"):
            loop = asyncio.get_running_loop()
            self._expiry = (earliest, loop.call_later(earliest - now, self._expire))

    # worker_process.WorkerOwner

    def on_answers(
        self, worker: WorkerProcess, answered: list[tuple[PendingOperation, Answer]]
    ) -> None:
        """Hand answers to those who wait."""
        del worker
        spent = 0
        for pending, answer in answered:
            self._waiting.pop(pending.request.id, None)
            spent += answer.microseconds
            if answer.status != Status.EXPIRED and pending.request.operation != Operation.PING:
                self._queue.took(pending.request, answer.microseconds)
                # Whatever it said of the ciphertext or the key: the HSM itself has answered.
                self.workforce.breaker.success()
            if pending.future.done():
                continue  # cancelled, or answered at its deadline
            error, category = error_for(
                self._region, pending.request.operation, answer, self._observer.alarm
            )
            self._observer.operation(
                _NAMES[pending.request.operation], answer.microseconds / 1e6, category
            )
            if error is None:
                pending.future.set_result(answer)
            else:
                pending.future.set_exception(error)
        if answered:
            recent = spent / len(answered) / 1e6
            self._seconds_per_operation += (recent - self._seconds_per_operation) / 4
        if len(self._queue):
            self._flush()

    def on_worn(self, worker: WorkerProcess) -> None:
        """Have it replaced while it serves on."""
        self.workforce.recycle(worker, "worn: it has unwrapped enough keys")

    def on_lost(
        self, worker: WorkerProcess, reason: str, unanswered: list[PendingOperation]
    ) -> None:
        """Try what it left on another worker, once; with no other, say so at once."""
        self.workforce.on_lost(worker, reason)
        now = self._clock.monotonic()
        again = []
        for pending in unanswered:
            if pending.future.done():
                self._waiting.pop(pending.request.id, None)
            elif pending.bound:
                self._fail(pending, WorkerLostError(), category="fault")
            elif pending.retried or pending.request.deadline <= now:
                self._fail(pending, self.unavailable(), category="fault")
            else:
                pending.retried = True
                again.append(pending)
        self._queue.extendleft(reversed(again))
        if not self.workforce.workers or not self.workforce.breaker.is_ready:
            while len(self._queue):
                self._fail(self._queue.popleft(), self.unavailable(), category="fault")
        else:
            self._flush()

    def _fail(self, pending: PendingOperation, error: Exception, *, category: str) -> None:
        self._waiting.pop(pending.request.id, None)
        if not pending.future.done():
            self._observer.operation(_NAMES[pending.request.operation], 0.0, category)
            pending.future.set_exception(error)
