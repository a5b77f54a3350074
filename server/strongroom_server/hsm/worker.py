"""An HSM worker: one process, one thread, one logged-in session.

``python -m strongroom_server.hsm.worker FD``, where FD is the worker's end of a Unix
stream socket pair. The pool (`worker_process`) owns this process: it ends when its socket
does, or by SIGKILL; SIGINT and SIGTERM, which a terminal or a service manager may send
to the whole group, are ignored so that requests under way can be drained.

What a crash here leaves: operations without an answer, which the pool repeats elsewhere;
at most one new key that nobody uses yet.

Imports little on purpose: it runs again after every fault.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import socket
import stat
import sys
import time
from pathlib import Path
from typing import Final

from strongroom_server.hsm import handshake, wire
from strongroom_server.hsm.conformance import check_module
from strongroom_server.hsm.handshake import Report, StartStatus, WorkerSettings
from strongroom_server.hsm.key_ring import KeyRing
from strongroom_server.hsm.mechanisms import (
    HsmFaultError,
    KeyAbsentError,
    KeyUnsafeError,
    ModuleUnusableError,
    PinRefusedError,
    PolicyRefusedError,
    ReturnCodeError,
    TamperedError,
    TokenAbsentError,
)
from strongroom_server.hsm.token import TokenSession
from strongroom_server.hsm.wire import Answer, Kind, Operation, Request, Status

__all__ = ["main", "read_pin"]

_RECEIVE_BYTES: Final = 256 * 1024
_MAX_PIN_BYTES: Final = 255
_MAX_TEXT_BYTES: Final = 500
_PR_SET_PDEATHSIG: Final = 1  # prctl(2)
_PR_SET_DUMPABLE: Final = 4

_START_ERRORS: Final[tuple[tuple[type[Exception], StartStatus], ...]] = (
    (PinRefusedError, StartStatus.PIN_REFUSED),
    (OSError, StartStatus.PIN_FILE_UNUSABLE),
    (TokenAbsentError, StartStatus.TOKEN_ABSENT),
    (ModuleUnusableError, StartStatus.MODULE_UNUSABLE),
    (KeyUnsafeError, StartStatus.KEY_UNSAFE),
    (HsmFaultError, StartStatus.FAULT),
    (ReturnCodeError, StartStatus.FAULT),
)


def main(arguments: list[str]) -> None:
    """Run until the pool closes the socket; never returns."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    _harden()
    status = 1
    try:
        with socket.socket(fileno=int(arguments[0])) as connection:
            _run(connection)
        status = 0
    except (ConnectionError, wire.WireError, HsmFaultError):
        pass  # the pool is gone, or knows already; nobody is left to tell
    finally:
        # Not sys.exit: modules with OpenSSL inside crash in their exit handlers, and a
        # crash would look like a fault. C_Finalize has been called when it was safe to.
        os._exit(status)


def _harden() -> None:
    """Keep PIN, plaintexts and the module's memory out of core dumps and debuggers."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform == "linux":
        prctl = ctypes.CDLL(None, use_errno=True).prctl
        prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
        # A call that hangs in the module never reads the end of its socket.
        prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)


def read_pin(path: Path) -> str:
    """Read a PIN file: the PIN, and at most one newline.

    Raises:
        OSError: It cannot be read, others may read or write it, or it holds no PIN. The
            message names the file and not its content.
    """
    with path.open("rb") as file:
        mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
        if mode & (stat.S_IRWXO | stat.S_IWGRP):
            raise PermissionError(f"{path}: mode {mode:04o} lets others in; use chmod 0600")
        content = file.read(_MAX_PIN_BYTES + 2)
    pin = content.removesuffix(b"\n")
    if not 1 <= len(pin) <= _MAX_PIN_BYTES or b"\n" in pin or b"\0" in pin:
        raise OSError(f"{path}: expected one line with a PIN of 1 to {_MAX_PIN_BYTES} bytes")
    try:
        return pin.decode()
    except UnicodeDecodeError:
        raise OSError(f"{path}: the PIN is not UTF-8") from None  # the cause would show it


def _run(connection: socket.socket) -> None:
    frames = _FrameReader(connection)
    kind, body = frames.read()
    if kind != Kind.SETTINGS:
        raise wire.WireError("expected settings first")
    settings = handshake.parse_settings(body)
    key_ring, report = _start(settings)
    connection.sendall(handshake.pack_report(report))
    if key_ring is None:
        return
    operations = _Operations(key_ring)
    while True:
        try:
            kind, body = frames.read()
        except ConnectionError:
            key_ring.close()
            raise
        if kind != Kind.REQUESTS:
            raise wire.WireError("expected requests")
        answers, is_well = operations.run_batch(wire.parse_requests(body))
        connection.sendall(wire.pack_answers(answers))
        if not is_well:
            return  # without C_Finalize: it may hang on a device that is gone


def _start(settings: WorkerSettings) -> tuple[KeyRing | None, Report]:
    try:
        session = TokenSession.open(
            settings.module, settings.token_label, read_pin(Path(settings.pin_file))
        )
        key_ring = KeyRing(
            session,
            check_module(session),
            verify_after_encrypt=settings.verify_after_encrypt,
        )
        key_ring.load_all()
    except tuple(error for error, _ in _START_ERRORS) as exc:
        status = next(status for error, status in _START_ERRORS if isinstance(exc, error))
        return None, Report(status, 0, str(exc))
    return key_ring, Report(StartStatus.READY, key_ring.key_count, "")


class _FrameReader:
    """Blocking reads of whole frames."""

    def __init__(self, connection: socket.socket):
        self._connection = connection
        self._frames = wire.Frames()
        self._ready: list[tuple[int, bytes]] = []

    def read(self) -> tuple[int, bytes]:
        """Return the next frame.

        Raises:
            ConnectionError: The pool closed the socket.
        """
        while not self._ready:
            data = self._connection.recv(_RECEIVE_BYTES)
            if not data:
                raise ConnectionResetError
            self._ready = self._frames.feed(data)
        return self._ready.pop(0)


class _Operations:
    """Requests to answers."""

    def __init__(self, key_ring: KeyRing):
        self._key_ring = key_ring
        self._by_number = {
            int(Operation.ENCRYPT): self._encrypt,
            int(Operation.DECRYPT): self._decrypt,
            int(Operation.REENCRYPT): self._reencrypt,
            int(Operation.DATA_KEY): self._data_key,
            int(Operation.SEALED_DATA_KEY): self._sealed_data_key,
            int(Operation.RANDOM): self._random,
            int(Operation.CREATE): self._create,
            int(Operation.LOAD): self._load,
            int(Operation.PING): self._ping,
        }

    def run_batch(self, requests: list[Request]) -> tuple[list[bytes], bool]:
        """Run requests in order; return packed answers and whether the session is well.

        After a fault the rest of the batch is answered FAULT untried.
        """
        answers = []
        fault: bytes | None = None
        before = time.monotonic()
        for request in requests:
            first, second = b"", b""
            if fault is not None:
                status, first = Status.FAULT, fault
            elif request.deadline <= before:
                status = Status.EXPIRED  # nobody waits for it any more
            else:
                try:
                    first, second = self._by_number[request.operation](request)
                    status = Status.OK
                except TamperedError:
                    status = Status.TAMPERED
                except KeyAbsentError as exc:
                    status, first = Status.KEY_ABSENT, _text(exc)
                except PolicyRefusedError as exc:
                    status, first = Status.POLICY, _text(exc)
                except HsmFaultError as exc:
                    fault = first = _text(exc)
                    status = Status.FAULT
            after = time.monotonic()
            microseconds = min(int((after - before) * 1e6), 2**32 - 1)
            before = after
            answers.append(
                wire.pack_answer(Answer(request.id, status, microseconds, first, second))
            )
        return answers, fault is None

    def _encrypt(self, request: Request) -> tuple[bytes, bytes]:
        return b"", self._key_ring.encrypt(request.key, request.data, request.aad)

    def _decrypt(self, request: Request) -> tuple[bytes, bytes]:
        return self._key_ring.decrypt(request.key, request.data, request.aad), b""

    def _reencrypt(self, request: Request) -> tuple[bytes, bytes]:
        plaintext = self._key_ring.decrypt(request.key, request.data, request.aad)
        return b"", self._key_ring.encrypt(request.key2, plaintext, request.aad2)

    def _data_key(self, request: Request) -> tuple[bytes, bytes]:
        return self._key_ring.generate_data_key(request.key, request.number, request.aad)

    def _sealed_data_key(self, request: Request) -> tuple[bytes, bytes]:
        _, sealed = self._key_ring.generate_data_key(request.key, request.number, request.aad)
        return b"", sealed

    def _random(self, request: Request) -> tuple[bytes, bytes]:
        return self._key_ring.random(request.number), b""

    def _create(self, request: Request) -> tuple[bytes, bytes]:
        self._key_ring.create(request.key)
        return b"", b""

    def _load(self, request: Request) -> tuple[bytes, bytes]:
        self._key_ring.load(request.key)
        return b"", b""

    def _ping(self, request: Request) -> tuple[bytes, bytes]:
        del request
        self._key_ring.check_health()
        return b"", b""


def _text(exc: Exception) -> bytes:
    return str(exc).encode()[:_MAX_TEXT_BYTES]


if __name__ == "__main__":
    main(sys.argv[1:])
