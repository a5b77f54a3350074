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
from strongroom_server.hsm.wire import Answer, Kind, Operation, Request, Status, WireError
from strongroom_server.hsm.wire_operations import SPEC_NUMBERS

__all__ = ["PendingOperation", "SessionPoolSettings", "WorkerOwner", "WorkerProcess", "spawn"]

_SLOW_SECONDS: Final = 30.0  # RSA 4096 on a slow HSM
START_SECONDS: Final = 30.0  # thousands of keys are read and checked at a start
_MAX_FRAMES: Final = 2  # one at work, one waiting in the socket: no idle turn between
_SLOW_MICROSECONDS: Final = 1000
"""From here on an idle turn between two frames costs less than it would cost to let an
operation, whose turn it is next, wait behind one that was sent ahead."""
_REAP_SECONDS: Final = 3.0
_RSA_SPECS: Final = frozenset(
    number for spec, number in SPEC_NUMBERS.items() if spec.name.startswith("RSA")
)
_FIRST_REAP_SECONDS: Final = 0.002
_LAST_REAP_SECONDS: Final = 0.1


@dataclass(frozen=True, slots=True)
class SessionPoolSettings:
    """What a pool is told. Holds no secret: the PIN stays in its file.

    Attributes:
        module: The vendor's PKCS#11 library.
        token_label: CK_TOKEN_INFO.label of the one token to use.
        pin_file: File with the user PIN; only the workers read it.
        module_parameters: LibraryParameters of C_Initialize, for modules that need them.
        module_environment: Added to the environment of the workers.
        sessions: Worker processes, one session each.
        verify_after_encrypt: Decrypt what was encrypted before answering.
        unwrapped_keys: Keys of wrapped storage that one worker keeps unwrapped.
        recycle_after_unwraps: A worker is replaced after so many unwraps; 0 never.
        max_queued: Operations that may wait for each session; more are OVERLOADED.
        needs_wrap: New keys are to be wrapped: a module that cannot is refused at the start.
    """

    module: Path
    token_label: str
    pin_file: Path
    module_environment: Mapping[str, str] = field(default_factory=dict)
    sessions: int = 2
    verify_after_encrypt: bool = True
    max_queued: int = 1024
    module_parameters: str = ""
    unwrapped_keys: int = 1000
    recycle_after_unwraps: int = 100_000
    needs_wrap: bool = False


class PendingOperation:
    """One operation and whoever waits for it. Owned by the event loop.

    `request.id` is unique in the pool. `bound` operations belong to the worker they
    were sent to and are not tried elsewhere. `kept_since` is when one began to wait for
    the worker that it prefers (`affinity`). `flow` is whose turn it takes and `cost` what
    it is expected to take, in microseconds (`waiting`).
    """

    __slots__ = ("bound", "cost", "flow", "future", "kept_since", "request", "retried")

    def __init__(
        self, request: Request, future: asyncio.Future[Answer], *, bound: bool, flow: str = ""
    ):
        self.request = request
        self.future = future
        self.bound = bound
        self.flow = flow
        self.cost = 0
        self.retried = False
        self.kept_since = 0.0


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

    def on_worn(self, worker: WorkerProcess) -> None:
        """Hear, at most once, that a worker serves well and should be replaced all the same."""
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
        self._worn = False
        self._slow = 0
        self._microseconds = 0.0
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
    def has_room(self) -> bool:
        """Whether it can be sent a batch: it has few, and none that takes long."""
        frames = _MAX_FRAMES if self._microseconds < _SLOW_MICROSECONDS else 1
        return len(self._sent) < frames and not self._slow

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
            self._slow += is_slow(request)
            latest = max(latest, request.deadline)
        self._sent.append((now, latest))
        self._transport.write(wire.pack_requests(packed))

    def silent_since(self) -> tuple[float, float] | None:
        """Return since when it owes an answer and the batch's latest deadline; None if idle."""
        if not self._sent:
            return None
        sent, latest = self._sent[0]
        if self._slow:
            # Silent for good reason. Not measured by the caller's deadline alone: a short
            # one must not cost a worker that is making an RSA key.
            until = max(latest, sent + _SLOW_SECONDS)
            return until, until
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
            module=str(self._settings.module),
            module_parameters=self._settings.module_parameters,
            token_label=self._settings.token_label,
            pin_file=str(self._settings.pin_file),
            verify_after_encrypt=self._settings.verify_after_encrypt,
            unwrapped_keys=self._settings.unwrapped_keys,
            recycle_after_unwraps=self._settings.recycle_after_unwraps,
            needs_wrap=self._settings.needs_wrap,
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
                elif kind == Kind.WORN and not body and not self._worn:
                    self._worn = True
                    self._owner.on_worn(self)
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
                self._slow -= is_slow(operation.request)
                answered.append((operation, answer))
                self._microseconds += (answer.microseconds - self._microseconds) / 8
        if fault:
            self.lose(f"fault: {fault}")  # those answered FAULT are still in flight
        self._owner.on_answers(self, answered)


def is_slow(request: Request) -> bool:
    """Say whether an operation may take seconds: RSA keys are made by trial and error."""
    operation = request.operation
    return operation == Operation.MAKE_TRANSFER_KEY or (
        operation == Operation.CREATE and request.key.spec in _RSA_SPECS
    )


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
