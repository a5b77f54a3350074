"""The signing key in an HSM token, behind a process of its own.

`strongroom_server.hsm.log_signer` opens the token, finds the key and signs; it is started
by name, for this package knows nothing of PKCS#11 (`strongroom.log_signer_wire` has the
frames). One that hangs or ends is replaced, with growing pauses, while whoever wants a
signature waits for SIGN_SECONDS. One whose login is refused is not replaced:
another try would lock the token.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import structlog
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from strongroom.log_signer_wire import (
    FrameKind,
    OpenRequest,
    SignerWireError,
    pack_frame,
    read_frame,
)
from strongroom_auditlog.errors import LogError, SigningStoppedError, StartRefusedError

__all__ = ["HsmKey", "HsmKeySettings"]

OPEN_SECONDS: Final = 30.0  # a network HSM's module may take its time to connect
ANSWER_SECONDS: Final = 3.0  # a signature takes milliseconds; then the process hangs
SIGN_SECONDS: Final = 10.0
MIN_PAUSE_SECONDS: Final = 0.5
MAX_PAUSE_SECONDS: Final = 30.0
_END_SECONDS: Final = 2.0

_log = structlog.stdlib.get_logger("strongroom.auditlog.hsm_key")


@dataclass(frozen=True, slots=True)
class HsmKeySettings:
    """Which key of which token. Holds no secret: the PIN stays in its file."""

    module: Path
    token_label: str
    pin_file: Path
    key_label: str
    module_parameters: str = ""
    module_environment: Mapping[str, str] = field(default_factory=dict)


class _FaultError(Exception):
    """The signer process failed; another one may work."""


class HsmKey:
    """A `checkpoint.SigningKey`. Thread safety: complete; one signature at a time."""

    def __init__(self, settings: HsmKeySettings, environment: Mapping[str, str]):
        """Start nothing yet; `open` is the way to make one."""
        self._settings = settings
        self._environment = environment
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._connection: socket.socket | None = None
        self._public_key: Ed25519PublicKey | None = None
        self._stopped: str | None = None
        self._failures = 0
        self._next_start_at = 0.0
        self.restarts = 0
        """How many signer processes had to be replaced."""

    @classmethod
    def open(
        cls,
        settings: HsmKeySettings,
        *,
        create: bool = False,
        environment: Mapping[str, str] = os.environ,
    ) -> HsmKey:
        """Start the signer process and have it find the key.

        Args:
            settings: Which key.
            create: Make the key when there is none.
            environment: Of the signer process, which adds `settings.module_environment`.

        Raises:
            StartRefusedError: The login is refused, token or key are not there, or the
                module fails.
        """
        key = cls(settings, environment)
        try:
            key._start(create=create)
        except (_FaultError, SigningStoppedError) as exc:
            key.close()
            raise StartRefusedError(str(exc)) from exc
        return key

    def public_key(self) -> Ed25519PublicKey:
        """Return the public half."""
        if self._public_key is None:
            raise StartRefusedError("[log.hsm] the key was not opened")
        return self._public_key

    def sign(self, data: bytes, /) -> bytes:
        """Return the signature of `data`.

        Waits for SIGN_SECONDS, and for the start of a process that began by then.

        Raises:
            SigningStoppedError: The login was refused, or the key is gone or another one.
            LogError: No signer process works; try again.
        """
        deadline = time.monotonic() + SIGN_SECONDS
        with self._lock:
            while True:
                if self._stopped is not None:
                    raise SigningStoppedError(f"[log.hsm] {self._stopped}")
                try:
                    if self._connection is None:
                        self._wait_to_start(deadline)
                        self._start(create=False)
                    return self._sign(data)
                except _FaultError as exc:
                    self._end()
                    self.restarts += 1
                    pause = min(MAX_PAUSE_SECONDS, MIN_PAUSE_SECONDS * 2.0**self._failures)
                    self._failures = min(self._failures + 1, 10)
                    self._next_start_at = time.monotonic() + pause
                    _log.error("the signer process failed", error=str(exc), pause_seconds=pause)
                    if self._next_start_at > deadline:
                        raise LogError(f"the HSM does not sign: {exc}") from exc

    def close(self) -> None:
        """End the signer process."""
        with self._lock:
            self._end()

    def _wait_to_start(self, deadline: float) -> None:
        if self._next_start_at > deadline:
            raise LogError("the HSM does not sign; its process is started again in a while")
        time.sleep(max(0.0, self._next_start_at - time.monotonic()))

    def _sign(self, data: bytes) -> bytes:
        kind, body = self._call(FrameKind.SIGN, data, ANSWER_SECONDS)
        if kind is not FrameKind.SIGNED:
            raise _FaultError(f"[log.hsm] {_shown(kind, body)}")
        self._failures = 0
        return body

    def _start(self, *, create: bool) -> None:
        """Start a signer process and open the key.

        Raises:
            SigningStoppedError: Another process would fare no better.
            _FaultError: Another process may work.
        """
        settings = self._settings
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        with theirs:
            # ``-P`` keeps the working directory, where others may write, out of the
            # module search path.
            program = [sys.executable, "-P", "-m", "strongroom_server.hsm.log_signer"]
            self._process = subprocess.Popen(  # noqa: S603 - fixed argv
                [*program, str(theirs.fileno())],
                pass_fds=(theirs.fileno(),),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                env={**self._environment, **settings.module_environment},
            )
        self._connection = ours
        request = OpenRequest(
            module=str(settings.module),
            module_parameters=settings.module_parameters,
            token_label=settings.token_label,
            pin_file=str(settings.pin_file),
            key_label=settings.key_label,
            create=create,
        )
        kind, body = self._call(FrameKind.OPEN, request.to_body(), OPEN_SECONDS)
        if kind is FrameKind.READY:
            found = Ed25519PublicKey.from_public_bytes(body)
            if self._public_key is None:
                self._public_key = found
            elif found != self._public_key:
                self._stop("the key on the token is another one than at the start")
            return
        if kind is FrameKind.STOPPED:
            self._stop(f"the signer stopped: {_shown(kind, body)}")
        raise _FaultError(f"[log.hsm] {_shown(kind, body)}")

    def _stop(self, reason: str) -> None:
        self._stopped = reason
        self._end()
        raise SigningStoppedError(f"[log.hsm] {reason}")

    def _call(self, kind: FrameKind, body: bytes, seconds: float) -> tuple[FrameKind, bytes]:
        """Send a frame and wait for the answer to it."""
        if self._connection is None:
            raise _FaultError("no signer process")
        try:
            self._connection.settimeout(seconds)
            self._connection.sendall(pack_frame(kind, body))
            return read_frame(self._connection.recv)
        except TimeoutError as exc:
            self._end()
            raise _FaultError(f"the signer process did not answer within {seconds:g} s") from exc
        except (OSError, SignerWireError) as exc:
            self._end()
            raise _FaultError(f"the signer process ended: {exc}") from exc

    def _end(self) -> None:
        """End the process, by closing its socket, and by SIGKILL when it does not go."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        if self._process is not None:
            try:
                self._process.wait(0.2)
            except subprocess.TimeoutExpired:
                self._process.kill()
                try:
                    self._process.wait(_END_SECONDS)
                except subprocess.TimeoutExpired:
                    _log.warning("a signer process does not end", pid=self._process.pid)
            self._process = None


def _shown(kind: FrameKind, body: bytes) -> str:
    if kind in {FrameKind.STOPPED, FrameKind.FAULT}:
        return body.decode(errors="replace")
    return f"an unexpected frame {kind.name}"
