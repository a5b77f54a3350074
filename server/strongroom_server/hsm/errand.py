"""A process beside the server that asks one module something and may crash over it.

The doctor and the reconciliation use modules that nobody has tried: a call that crashes
or hangs must end in a line of a report. So the module is loaded by a child
(`errand_child`), which sends what it finds over a pipe, one JSON object a line. The PIN
crosses nothing: the child reads its file, as a worker does.
"""

from __future__ import annotations

import json
import os
import selectors
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Self

__all__ = ["CrashedError", "Errand", "ErrandError", "FailedError", "HsmTarget", "SilentError"]

_MAX_LINE_BYTES: Final = 1024 * 1024
_CHUNK_BYTES: Final = 64 * 1024
_END_SECONDS: Final = 5.0


@dataclass(frozen=True, slots=True)
class HsmTarget:
    """A token and what opens it. Holds no secret: the PIN stays in its file."""

    module: Path
    token_label: str
    pin_file: Path
    environment: Mapping[str, str] = field(default_factory=dict)
    parameters: str = ""


class ErrandError(Exception):
    """The child did not do what it was sent for."""


class CrashedError(ErrandError):
    """The child ended without a word."""


class SilentError(ErrandError):
    """The child does not answer; it has been killed."""


class FailedError(ErrandError):
    """The child said why it cannot go on.

    Attributes:
        kind: One of the names in `errand_child`: ``pin``, ``pin-file``,
            ``token``, ``module``, ``fault``.
    """

    def __init__(self, kind: str, text: str):
        super().__init__(text)
        self.kind = kind


class Errand:
    """A child at work; a context manager that leaves no process behind.

    Thread safety: none.
    """

    def __init__(self, target: HsmTarget, task: str, **order: object):
        """Send a child.

        Args:
            target: Where to.
            task: What for, one of the tasks of `errand_child`.
            order: What the task is told; JSON values, no secrets.
        """
        ours, theirs = os.pipe()
        try:
            self._process = subprocess.Popen(  # noqa: S603 - our own interpreter and module
                [sys.executable, "-m", "strongroom_server.hsm.errand_child", str(theirs)],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,  # modules print; the pipe is ours alone
                stderr=subprocess.DEVNULL,
                env={**os.environ, **target.environment},
                pass_fds=(theirs,),
                start_new_session=True,  # Ctrl-C is the parent's to act upon
            )
        except OSError:
            os.close(ours)
            raise
        finally:
            os.close(theirs)
        self._pipe = ours
        self._buffer = b""
        self._order = {
            "module": str(target.module),
            "token_label": target.token_label,
            "pin_file": str(target.pin_file),
            "parameters": target.parameters,
            "task": task,
            **order,
        }

    def __enter__(self) -> Self:
        """Tell the child what to do."""
        stdin = self._process.stdin
        if stdin is not None:
            try:
                stdin.write(json.dumps(self._order).encode())
                stdin.close()
            except BrokenPipeError:
                pass  # it is gone; `messages` says so
        return self

    def __exit__(self, *_: object) -> None:
        """End the child, whatever it does."""
        os.close(self._pipe)
        self._process.kill()
        self._process.wait(timeout=_END_SECONDS)

    def messages(self, *, silence_seconds: float) -> Iterator[dict[str, Any]]:
        """Yield what the child says, to its end.

        Args:
            silence_seconds: It is given up when it says nothing for so long.

        Raises:
            CrashedError: It ended before it said that it is done.
            SilentError: It says nothing more.
            FailedError: It said that it cannot go on.
        """
        while True:
            message = json.loads(self._line(silence_seconds))
            if "failed" in message:
                raise FailedError(message["failed"], message["text"])
            if message == {"done": True}:
                return
            yield message

    def _line(self, silence_seconds: float) -> bytes:
        end = time.monotonic() + silence_seconds
        with selectors.DefaultSelector() as selector:
            selector.register(self._pipe, selectors.EVENT_READ)
            while b"\n" not in self._buffer:
                if not selector.select(max(0.0, end - time.monotonic())):
                    self._process.kill()
                    raise SilentError(f"no answer within {silence_seconds:.0f} s")
                data = os.read(self._pipe, _CHUNK_BYTES)
                if not data or len(self._buffer) > _MAX_LINE_BYTES:
                    raise CrashedError(self._describe_end())
                self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line

    def _describe_end(self) -> str:
        try:
            code = self._process.wait(timeout=_END_SECONDS)
        except subprocess.TimeoutExpired:
            return "closed its pipe"
        return f"crashed, signal {-code}" if code < 0 else f"ended, exit code {code}"
