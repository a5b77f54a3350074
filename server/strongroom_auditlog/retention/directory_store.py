"""An archive in a directory, such as a mounted volume."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from strongroom_auditlog.errors import ArchiveError
from strongroom_auditlog.tiles import write_files

__all__ = ["DirectoryStore"]


@dataclass(frozen=True, slots=True)
class DirectoryStore:
    """Files below a directory. An `ArchiveStore`."""

    directory: Path

    @classmethod
    def open(cls, directory: Path) -> DirectoryStore:
        """Open the archive in `directory`, which must exist.

        It is not made here: below the mount point of a volume that is not mounted, records
        would be archived onto the disk that they are to be removed from.

        Raises:
            ArchiveError: There is no such directory.
        """
        if not directory.is_dir():
            raise ArchiveError(f"{directory}: no such directory; mount it, or make it for a start")
        return cls(directory.absolute())

    @property
    def location(self) -> str:
        """The directory."""
        return str(self.directory)

    @property
    def is_local(self) -> bool:
        """Always."""
        return True

    def read(self, path: str, max_bytes: int) -> bytes | None:
        """As `ArchiveStore`."""
        try:
            with (self.directory / path).open("rb") as file:
                return file.read(max_bytes + 1)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as exc:
            raise ArchiveError(f"{exc.filename}: {exc.strerror}") from exc

    def read_many(self, paths: Sequence[str], max_bytes: int) -> list[bytes | None]:
        """As `ArchiveStore`."""
        return [self.read(path, max_bytes) for path in paths]

    def write_missing(self, files: Sequence[tuple[str, bytes]]) -> int:
        """As `ArchiveStore`: temporary file, fsync, rename, fsync of the directory."""
        missing = [(path, data) for path, data in files if self.read(path, len(data)) != data]
        try:
            write_files(self.directory, missing)
        except OSError as exc:
            raise ArchiveError(f"{exc.filename}: {exc.strerror}") from exc
        return len(missing)
