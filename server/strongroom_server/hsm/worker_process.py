"""One HSM worker process, from the pool's side: spawn, talk, notice its end, kill.

A worker is lost when its socket closes, when it breaks the protocol, when it answers
FAULT, or when the pool kills it because it does not answer. Whichever comes first, the
pool hears of it once, with everything that was left without an answer.
"""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Protocol, cast

from strongroom_server.hsm import handshake, wire
from strongroom_server.hsm.handshake import Report, StartStatus, WorkerSettings
from strongroom_server.hsm.wire import Answer, Kind, Request, Status, WireError

__all__ = ["PendingOperation", "SessionPoolSettings", "WorkerOwner", "WorkerProcess", "spawn"]

START_SECONDS: Final = 30.0  # thousands of keys are read and checked at a start
_REAP_SECONDS: Final = 3.0
_FIRST_REAP_SECONDS: Final = 0.002
_LAST_REAP_SECONDS: Final = 0.1


@dataclass(frozen=True, slots=True)
class SessionPoolSettings:
    """What a pool is told. Holds no secret: the PIN stays in its file.

    Attributes:
        module: The vendor's PKCS#11 library.
        token_label: CK_TOKEN_INFO.label of the one token to use.
        pin_file: File with the user PIN; only the workers read it.
        module_environment: Added to the environment of the workers.
        sessions: Worker processes, one session each.
        verify_after_encrypt: Decrypt what was encrypted before answering.
        max_queued: Operations that may wait for each session; more are OVERLOADED.
    """

    module: Path
    token_label: str
    pin_file: Path
    module_environment: Mapping[str, str] = field(default_factory=dict)
    sessions: int = 2
    verify_after_encrypt: bool = True
    max_queued: int = 1024


class PendingOperation:
    """One operation and whoever waits for it. Owned by the event loop.

    `request.id` is unique in the pool. `bound` operations belong to the worker they
    were sent to and are not tried elsewhere.
    """

    __slots__ = ("bound", "future", "request", "retried")

    def __init__(self, request: Request, future: asyncio.Future[Answer], *, bound: bool):
        self.request = request
        self.future = future
        self.bound = bound
        self.retried = False


class WorkerOwner(Protocol):
    """Who hears from a worker."""

    def on_answers(
        self, worker: WorkerProcess, answered: list[tuple[PendingOperation, Answer]]
    ) -> None:
        """Take answers, none of them FAULT; room for more requests may have come up."""
        ...

    def on_lost(
        self, worker: WorkerProcess, reason: str, unanswered: list[PendingOperation]
    ) -> None:
        """Hear, once, that a worker is gone, and what it has not answered."""
        ...


class WorkerProcess(asyncio.Protocol):
    """A worker that runs. Made by `spawn`; owned by the event loop."""

    def __init__(
        self, process: subprocess.Popen[bytes], settings: SessionPoolSettings, owner: WorkerOwner
    ):
        loop = asyncio.get_running_loop()
        self._process = process
        self._settings = settings
        self._owner = owner
        self._frames = wire.Frames()
        self._transport: asyncio.Transport | None = None
        self._in_flight: dict[int, PendingOperation] = {}
        self._sent: list[tuple[float, float]] = []  # per frame: when, latest deadline
        self._lost = False
        self._finishing = False
        self.report: asyncio.Future[Report] = loop.create_future()
        self.ended: asyncio.Future[str] = loop.create_future()
        self.last_heard = 0.0

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    @property
    def is_lost(self) -> bool:
        """Whether the owner has been told of its end."""
        return self._lost

    @property
    def in_flight(self) -> int:
        """Operations sent and not answered."""
        return len(self._in_flight)

    @property
    def frames_in_flight(self) -> int:
        """Batches sent and not answered."""
        return len(self._sent)

    def send(self, operations: list[PendingOperation], *, now: float) -> None:
        """Send one batch, 1 to 64 operations."""
        if self._transport is None or self._lost:
            raise WireError("the worker is gone")
        latest = 0.0
        packed = []
        for operation in operations:
            request = operation.request
            packed.append(wire.pack_request(request))
            self._in_flight[request.id] = operation
            latest = max(latest, request.deadline)
        self._sent.append((now, latest))
        self._transport.write(wire.pack_requests(packed))

    def silent_since(self) -> tuple[float, float] | None:
        """Return since when it owes an answer and the batch's latest deadline; None if idle."""
        if not self._sent:
            return None
        sent, latest = self._sent[0]
        return max(sent, self.last_heard), latest

    def finish(self) -> None:
        """Let it end by itself: it finalises the module when its socket closes."""
        self._finishing = True
        if self._transport is not None:
            self._transport.close()

    def lose(self, reason: str) -> None:
        """Kill it, unless it may finish, and tell the owner, unless that has been done."""
        if not self._finishing:
            self._process.kill()  # does nothing to a process that was reaped
        if self._transport is not None:
            self._transport.abort()
        if self._lost:
            return
        self._lost = True
        unanswered = list(self._in_flight.values())
        self._in_flight.clear()
        self._sent.clear()
        if not self.report.done():
            self.report.set_result(Report(StartStatus.FAULT, 0, reason))
        if not self.ended.done():
            self.ended.set_result(reason)
        self._owner.on_lost(self, reason, unanswered)

    async def reap(self, *, grace_seconds: float) -> None:
        """Wait until the process is gone; after `grace_seconds` kill it.

        A process in a device driver's uninterruptible sleep survives even SIGKILL: it is
        left behind rather than waited for without end.
        """
        waited = 0.0
        step = _FIRST_REAP_SECONDS
        while self._process.poll() is None:
            if waited >= grace_seconds:
                self._process.kill()
            if waited >= grace_seconds + _REAP_SECONDS:
                return
            await asyncio.sleep(step)
            waited += step
            step = min(2 * step, _LAST_REAP_SECONDS)

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Tell the worker what to do."""
        # A Unix stream, made by `spawn`; event loops do not all derive from the same class.
        self._transport = cast("asyncio.Transport", transport)
        settings = WorkerSettings(
            str(self._settings.module),
            self._settings.token_label,
            str(self._settings.pin_file),
            self._settings.verify_after_encrypt,
        )
        self._transport.write(handshake.pack_settings(settings))

    def data_received(self, data: bytes) -> None:
        """Take bytes; anything malformed is the end of the worker."""
        try:
            for kind, body in self._frames.feed(data):
                if kind == Kind.ANSWERS:
                    self._take_answers(wire.parse_answers(body))
                elif kind == Kind.REPORT and not self.report.done():
                    self.report.set_result(handshake.parse_report(body))
                else:
                    raise WireError("unexpected frame")  # noqa: TRY301 - one handler for all
        except WireError as exc:
            self.lose(f"protocol: {exc}")

    def connection_lost(self, exc: Exception | None) -> None:
        """Notice its end."""
        del exc
        self.lose("the process ended")

    def _take_answers(self, answers: list[Answer]) -> None:
        if self._lost:
            return
        self.last_heard = asyncio.get_running_loop().time()
        if not self._sent:
            raise WireError("answers to nothing")
        self._sent.pop(0)
        answered = []
        fault = ""
        for answer in answers:
            operation = self._in_flight.get(answer.id)
            if operation is None:
                raise WireError("an answer to nothing")
            if answer.status == Status.FAULT:
                fault = fault or answer.first.decode(errors="replace") or "fault"
            else:
                del self._in_flight[answer.id]
                answered.append((operation, answer))
        if fault:
            self.lose(f"fault: {fault}")  # those answered FAULT are still in flight
        self._owner.on_answers(self, answered)


async def spawn(
    settings: SessionPoolSettings,
    owner: WorkerOwner,
    *,
    environment: Mapping[str, str] = os.environ,
    on_spawned: Callable[[WorkerProcess], None],
) -> WorkerProcess:
    """Start a worker and give it its settings; its `report` comes later.

    Spawned, never forked: the parent has threads and gRPC in it. ``-P`` keeps the working
    directory, where others may write, out of the module search path.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with theirs:
            process = subprocess.Popen(  # noqa: ASYNC220, S603 - returns at exec; fixed argv
                [sys.executable, "-P", "-m", "strongroom_server.hsm.worker", str(theirs.fileno())],
                pass_fds=(theirs.fileno(),),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                env={**environment, **settings.module_environment},
            )
        ours.setblocking(False)  # noqa: FBT003 - positional only
        worker = WorkerProcess(process, settings, owner)
        on_spawned(worker)
        await asyncio.get_running_loop().create_unix_connection(lambda: worker, sock=ours)
    except BaseException:
        ours.close()
        raise
    return worker
