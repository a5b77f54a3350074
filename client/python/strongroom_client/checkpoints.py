"""`CheckpointStore`: the newest checkpoint of the audit log that this program has seen.

A file with the signed note, exactly as the log gave it (C2SP tlog-checkpoint). Whoever keeps
it notices when the log later shows another history, whatever its operator does.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from strongroom.tlog.checkpoint import Checkpoint, open_checkpoint
from strongroom.tlog.errors import VerificationError
from strongroom.tlog.note import VerifierKey
from strongroom_client._files import replacing
from strongroom_client.errors import AuditUnverifiedError

__all__ = ["CheckpointStore"]

MAX_BYTES: Final = 2**16


class CheckpointStore:
    """A file that programs may share; it only ever moves to larger trees.

    Thread safety: any number of threads and processes; a lock is held on ``{name}.lock``.
    """

    def __init__(self, path: Path | str):
        """Use `path`; the file comes into being with the first checkpoint."""
        self._path = Path(path)

    def load(self, key: VerifierKey) -> Checkpoint | None:
        """Return the checkpoint; None before there is one.

        Raises:
            AuditUnverifiedError: The file holds something else, or a checkpoint that `key`
                did not sign.
            OSError: It cannot be read.
        """
        try:
            with self._path.open("rb") as file:
                data = file.read(MAX_BYTES + 1)
        except FileNotFoundError:
            return None
        try:
            return open_checkpoint(data.decode(), key)
        except (VerificationError, UnicodeDecodeError) as exc:
            raise AuditUnverifiedError(f"{self._path}: {exc}") from exc

    def advance(
        self, key: VerifierKey, *, before: Checkpoint | None, after: Checkpoint
    ) -> Checkpoint | None:
        """Replace `before`, which `after` was proved to have grown from.

        Returns:
            None when that is done; else the checkpoint that is there instead of `before`, to
            be compared first.

        Raises:
            AuditUnverifiedError: As `load`.
            OSError: The file cannot be written.
        """
        with self._locked():
            current = self.load(key)
            if (current and current.text) != (before and before.text):
                return current
            if before is None or after.size > before.size:
                with replacing(self._path, mode=0o600) as file:
                    file.write(after.text.encode())
            return None

    @contextmanager
    def _locked(self) -> Iterator[None]:
        # A file of its own: the other one is replaced, and a lock on it would go with it.
        lock = self._path.with_name(f"{self._path.name}.lock")
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)
