"""Files of the spool directory: made, replaced and locked so that a crash leaves no half.

Everything here blocks; it is called at start, from the writer's thread or from an
executor.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
from pathlib import Path
from typing import Final

from strongroom_server.errors import StartRefusedError

__all__ = [
    "NEW_SUFFIX",
    "SEGMENT_SUFFIX",
    "NumberFile",
    "lock_directory",
    "segment_path",
    "sync_directory",
    "write_fully",
]

SEGMENT_SUFFIX: Final = ".seg"
NEW_SUFFIX: Final = ".new"

_NUMBER: Final = re.compile(rb"[0-9]{20}\n")


def segment_path(directory: Path, first_sequence: int) -> Path:
    """Return the path of the segment that begins with `first_sequence`."""
    return directory / f"{first_sequence:020d}{SEGMENT_SUFFIX}"


def sync_directory(directory: Path) -> None:
    """Make creations, renames and deletions in `directory` durable."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def write_fully(fd: int, data: bytes, offset: int) -> None:
    """Write all of `data` at `offset`.

    Raises:
        OSError: Some or all of it could not be written (a full disk writes a part first).
    """
    written = os.pwrite(fd, data, offset)
    while written < len(data):
        written += os.pwrite(fd, data[written:], offset + written)


def lock_directory(directory: Path) -> int:
    """Take the directory for this process; return the descriptor that holds it.

    The lock ends with the process, however it ends.

    Raises:
        StartRefusedError: Another process has it: two writers would fork the chain.
    """
    fd = os.open(directory / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as exc:
        os.close(fd)
        raise StartRefusedError(
            f"{directory}: another process uses this audit spool; stop it, or configure "
            f"another directory"
        ) from exc
    return fd


class NumberFile:
    """A file with one number, 20 digits and a line feed, replaced by rename.

    With `keeps_spare` the replacement `{name}.new` is there before it is needed, with its
    block on the disk: an acknowledgement is what frees space, and a full disk must not
    stop it.
    """

    def __init__(self, path: Path, *, keeps_spare: bool = False):
        self.path = path
        self._spare = path.with_name(path.name + NEW_SUFFIX)
        self._keeps_spare = keeps_spare

    def load(self) -> int | None:
        """Return the number; None when there is no file.

        Raises:
            StartRefusedError: The file has anything else in it.
        """
        try:
            content = self.path.read_bytes()
        except FileNotFoundError:
            return None
        if not _NUMBER.fullmatch(content):
            raise StartRefusedError(
                f"{self.path}: expected one number of 20 digits; restore the audit spool, or "
                f"move its directory away to begin a new one"
            )
        return int(content)

    def store(self, number: int) -> None:
        """Replace the number; durable on return.

        Raises:
            OSError: The old number stands.
        """
        content = b"%020d\n" % number
        self._write_spare(content)
        self._spare.rename(self.path)
        sync_directory(self.path.parent)
        if self._keeps_spare:
            # Without one the next store makes it, when the disk lets it.
            with contextlib.suppress(OSError):
                self._write_spare(content)

    def _write_spare(self, content: bytes) -> None:
        # Not truncated: the block that is there is what a full disk still gives.
        fd = os.open(self._spare, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            write_fully(fd, content, 0)
            os.fdatasync(fd)
        finally:
            os.close(fd)
