"""Small binary results: to a file, whole or not at all, or to standard output."""

from __future__ import annotations

import contextlib
import os
import secrets
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from strongroom_server.cli.failures import CliError
from strongroom_server.cli.output import binary_output

__all__ = ["Destination", "replacing"]


@dataclass(frozen=True, slots=True)
class Destination:
    """Where a result goes; None is standard output."""

    path: Path | None
    private: bool
    force: bool

    @classmethod
    def of(
        cls, path: Path | None, what: str, *, private: bool, force: bool, is_text: bool = False
    ) -> Destination:
        """Check where to write before the service is asked for anything.

        Raises:
            CliError: Standard output is a terminal and the result is not text, or the
                file exists and `force` is not given.
        """
        if path is None or path == Path("-"):
            if not is_text:
                binary_output(what)
            return cls(None, private, force)
        if path.exists() and not force:
            raise CliError("FILE_EXISTS", f"{path} exists")
        return cls(path, private, force)

    @property
    def is_standard_output(self) -> bool:
        """Whether the result goes to standard output."""
        return self.path is None

    def write(self, data: bytes | bytearray) -> None:
        """Write the result; a file appears only when it is complete.

        Raises:
            CliError: The file came into being meanwhile and `force` is not given.
        """
        if self.path is None:
            sys.stdout.buffer.write(data)
            sys.stdout.buffer.flush()
            return
        with replacing(self.path, mode=0o600 if self.private else 0o644, force=self.force) as file:
            file.write(data)


@contextlib.contextmanager
def replacing(path: Path, *, mode: int, force: bool) -> Iterator[BinaryIO]:
    """Yield a new file that gets its name `path` when the block ends well.

    When it raises, or in a crash, `path` is as it was; a crash may leave a temporary file
    ``.{name}.{random}`` with the same mode.

    Raises:
        CliError: The file is there at the end and `force` is not given.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        if force:
            temporary.rename(path)
        else:
            # link(2) refuses to replace; checks before that are only courtesy.
            os.link(temporary, path)
    except FileExistsError as exc:
        raise CliError("FILE_EXISTS", f"{path} exists") from exc
    finally:
        with contextlib.suppress(FileNotFoundError):
            temporary.unlink()
