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

import os
import signal
import socket
import stat
import sys
from pathlib import Path
from typing import Final

from strongroom_server.hsm import handshake, wire
from strongroom_server.hsm.conformance import check_module
from strongroom_server.hsm.handshake import Report, StartStatus, WorkerSettings
from strongroom_server.hsm.key_ring import KeyRing
from strongroom_server.hsm.operations import Operations
from strongroom_server.hsm.process_guard import harden
from strongroom_server.hsm.return_codes import (
    HsmFaultError,
    KeyUnsafeError,
    ModuleUnusableError,
    PinRefusedError,
    PolicyRefusedError,
    ReturnCodeError,
    TokenAbsentError,
)
from strongroom_server.hsm.token import TokenSession
from strongroom_server.hsm.wire import Kind

__all__ = ["main", "read_pin"]

_RECEIVE_BYTES: Final = 256 * 1024
_MAX_PIN_BYTES: Final = 255

_START_ERRORS: Final[tuple[tuple[type[Exception], StartStatus], ...]] = (
    (PinRefusedError, StartStatus.PIN_REFUSED),
    (OSError, StartStatus.PIN_FILE_UNUSABLE),
    (TokenAbsentError, StartStatus.TOKEN_ABSENT),
    (ModuleUnusableError, StartStatus.MODULE_UNUSABLE),
    (KeyUnsafeError, StartStatus.KEY_UNSAFE),
    # What every start needs and the module does not let us do.
    (PolicyRefusedError, StartStatus.MODULE_UNUSABLE),
    (HsmFaultError, StartStatus.FAULT),
    (ReturnCodeError, StartStatus.FAULT),
)


def main(arguments: list[str]) -> None:
    """Run until the pool closes the socket; never returns."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    harden()
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
    operations = Operations(key_ring)
    told_worn = False
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
        if key_ring.is_worn and not told_worn:
            told_worn = True
            connection.sendall(wire.pack_frame(Kind.WORN, b""))
        if not is_well:
            return  # without C_Finalize: it may hang on a device that is gone


def _start(settings: WorkerSettings) -> tuple[KeyRing | None, Report]:
    try:
        session = TokenSession.open(
            settings.module,
            settings.token_label,
            read_pin(Path(settings.pin_file)),
            parameters=settings.module_parameters,
        )
        capabilities, probe = check_module(session, needs_wrap=settings.needs_wrap)
        key_ring = KeyRing(
            session,
            capabilities,
            probe,
            verify_after_encrypt=settings.verify_after_encrypt,
            unwrapped_keys=settings.unwrapped_keys,
            recycle_after_unwraps=settings.recycle_after_unwraps,
        )
        key_ring.load_all()
    except tuple(error for error, _ in _START_ERRORS) as exc:
        status = next(status for error, status in _START_ERRORS if isinstance(exc, error))
        return None, Report(status, 0, str(exc))
    return key_ring, Report(StartStatus.READY, key_ring.key_count, str(key_ring.objects.unreadable))


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


if __name__ == "__main__":
    main(sys.argv[1:])
