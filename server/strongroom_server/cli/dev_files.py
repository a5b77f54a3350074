"""How a development deployment writes its files: whole or not at all, secrets 0600."""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
from pathlib import Path
from typing import Final

from strongroom_server.cli.failures import CliError

__all__ = ["make_directory", "read_private", "write_private", "write_public"]

OTHERS: Final = stat.S_IRWXG | stat.S_IRWXO


def make_directory(path: Path) -> None:
    """Make a directory that only its owner can enter."""
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    path.chmod(0o700)  # whatever the umask took away or an earlier run left


def write_private(path: Path, data: bytes) -> None:
    """Write a secret, mode 0600 from its first byte on; replaces the file at once."""
    _replace(path, data, 0o600)


def write_public(path: Path, data: bytes) -> None:
    """Write what anybody may read; replaces the file at once."""
    _replace(path, data, 0o644)


def _replace(path: Path, data: bytes, mode: int) -> None:
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.rename(path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            temporary.unlink()
        raise


def read_private(path: Path) -> bytes:
    """Read a secret.

    Raises:
        CliError: Other users may read it: it is no secret any more.
    """
    with path.open("rb") as file:
        if os.fstat(file.fileno()).st_mode & OTHERS:
            raise CliError("FILE", f"{path}: other users can read it; chmod 600 it")
        return file.read()
