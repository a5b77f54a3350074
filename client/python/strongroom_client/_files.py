"""Files that appear whole or not at all."""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, Final

__all__ = ["open_source", "replacing"]

OWNER_ONLY: Final = 0o600


def open_source(path: Path) -> BinaryIO:
    """Open a file for reading, without a buffer of Python's own: reads are large."""
    return path.open("rb", buffering=0)


@contextmanager
def replacing(path: Path, *, mode: int) -> Iterator[BinaryIO]:
    """Yield a new file that takes the place of `path` when the block ends well.

    The new file is in the directory of `path`, readable by its owner only. At the end it gets
    its mode, is forced to disk, renamed over `path`, and the directory is forced to disk too.
    When the block raises, it is removed and `path` is as it was. A crash leaves at most
    a file ``.{name}.{random}.partial`` that only its owner can read.

    Args:
        path: The destination. A symbolic link is replaced, not followed.
        mode: Permission bits of the new file when there is none at `path`; otherwise those
            of the old one stay.
    """
    directory = path.parent
    descriptor, name = tempfile.mkstemp(
        dir=directory, prefix=f".{path.name[:64]}.", suffix=".partial"
    )
    temporary = Path(name)
    try:
        with os.fdopen(descriptor, "wb", buffering=0) as file:
            yield file
            os.fchmod(file.fileno(), _mode(path, mode))
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        with suppress(FileNotFoundError):
            temporary.unlink()
        raise
    _sync_directory(directory)


def _mode(path: Path, mode: int) -> int:
    try:
        status = path.lstat()
    except FileNotFoundError:
        return mode
    return stat.S_IMODE(status.st_mode) & 0o666 if stat.S_ISREG(status.st_mode) else mode


def _sync_directory(directory: Path) -> None:
    # Without this the rename may be lost in a crash, though the file's bytes are not.
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
