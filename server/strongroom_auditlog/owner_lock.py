"""One process at a time may change a log."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from strongroom_auditlog.errors import StartRefusedError

__all__ = ["OwnerLock"]


class OwnerLock:
    """An flock on the log's directory and on a file beside the state: one signer at a time.

    The kernel drops it when the process ends, however that happens.
    """

    def __init__(self, directory: Path, state_file: Path):
        self._descriptors: list[int] = []
        # Two links to one state are one state.
        state_file = state_file.resolve()
        lock_file = state_file.with_name(f"{state_file.name}.lock")
        try:
            # Not the database itself: closing a second descriptor of it would drop the
            # POSIX locks that SQLite holds (sqlite.org/howtocorrupt, section 2.2).
            self._take(os.open(lock_file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600), lock_file)
            self._take(os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC), directory)
        except OSError as exc:
            self.release()
            raise StartRefusedError(f"{exc.filename}: {exc.strerror}") from exc
        except StartRefusedError:
            self.release()
            raise

    def _take(self, descriptor: int, path: Path) -> None:
        self._descriptors.append(descriptor)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as exc:
            raise StartRefusedError(
                f"{path}: in use by another audit log process; stop that one first"
            ) from exc

    def release(self) -> None:
        """Give the locks back."""
        while self._descriptors:
            os.close(self._descriptors.pop())
