"""Where an archive lies: the port that a directory and an S3-compatible store fill."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Final, Protocol

from strongroom_auditlog.errors import ArchiveError
from strongroom_auditlog.tiles import (
    MAX_BUNDLE_BYTES,
    TILE_WIDTH,
    TreeFiles,
    decode_bundle,
    entries_path,
)

__all__ = [
    "S3_SCHEME",
    "ArchiveFiles",
    "ArchiveStore",
    "LazyStore",
    "configured_archive",
    "open_store",
    "read_bundles",
]

S3_SCHEME: Final = "s3://"


class ArchiveStore(Protocol):
    """Files by path. Thread safety: all methods may be called from any thread.

    Every method raises `ArchiveError` when the store cannot be used.
    """

    @property
    def location(self) -> str:
        """What `open_store` opens it by."""

    @property
    def is_local(self) -> bool:
        """Whether it is a directory: quick to open, and may be sent to another process."""

    def read(self, path: str, max_bytes: int) -> bytes | None:
        """Return a file's first `max_bytes` + 1 bytes; None when there is none."""

    def read_many(self, paths: Sequence[str], max_bytes: int) -> list[bytes | None]:
        """`read` for each of `paths`, several at a time where that is quicker."""

    def write_missing(self, files: Sequence[tuple[str, bytes]]) -> int:
        """Write the files that are not there with these bytes; the others are left alone.

        When this returns all are durable, each whole. When it raises, some may be there.

        Returns:
            How many were written.
        """


def open_store(location: str) -> ArchiveStore:
    """Open the archive at `location`: a directory's path, or ``s3://bucket/prefix``.

    Raises:
        ArchiveError: There is no such directory or bucket, or the extra is not installed.
    """
    if location.startswith(S3_SCHEME):
        # Only here: boto3 is an extra, and takes a fifth of a second to load.
        from strongroom_auditlog.retention.s3_store import S3Store  # noqa: PLC0415 - see above

        return S3Store.open(location)
    if "://" in location:
        raise ArchiveError(f"{location}: expected a directory or s3://bucket/prefix")
    from strongroom_auditlog.retention.directory_store import (  # noqa: PLC0415 - symmetry
        DirectoryStore,
    )

    return DirectoryStore.open(Path(location))


class LazyStore:
    """An archive that is opened at its first use: what it is needed for is rare.

    An `ArchiveStore`.
    """

    def __init__(self, location: str):
        """Take the location; nothing is opened or checked yet."""
        self._location = location
        self._store: ArchiveStore | None = None
        self._lock = threading.Lock()

    @property
    def location(self) -> str:
        """As configured."""
        return self._location

    @property
    def is_local(self) -> bool:
        """Never: it holds a lock, and may hold connections."""
        return False

    def read(self, path: str, max_bytes: int) -> bytes | None:
        """As `ArchiveStore`."""
        return self._opened().read(path, max_bytes)

    def read_many(self, paths: Sequence[str], max_bytes: int) -> list[bytes | None]:
        """As `ArchiveStore`."""
        return self._opened().read_many(paths, max_bytes)

    def write_missing(self, files: Sequence[tuple[str, bytes]]) -> int:
        """As `ArchiveStore`."""
        return self._opened().write_missing(files)

    def _opened(self) -> ArchiveStore:
        with self._lock:
            if self._store is None:
                self._store = open_store(self._location)
            return self._store


def read_bundles(store: ArchiveStore, numbers: Sequence[int]) -> list[list[bytes]]:
    """Return the entries of full bundles, as they lie in the archive.

    Raises:
        ArchiveError: The archive cannot be read, or has not all of them.
        EntryInvalidError: One is malformed.
    """
    paths = [entries_path(n) for n in numbers]
    found: list[list[bytes]] = []
    for path, data in zip(paths, store.read_many(paths, MAX_BUNDLE_BYTES), strict=True):
        where = f"{store.location}/{path}"
        if data is None:
            raise ArchiveError(f"{where}: missing")
        found.append(decode_bundle(data, TILE_WIDTH, where=where))
    return found


def configured_archive(location: str | None) -> ArchiveFiles | None:
    """Return the archive of a configuration; it is opened when it is first read."""
    return None if location is None else ArchiveFiles(LazyStore(location))


class ArchiveFiles(TreeFiles):
    """An archive as a tree of tiles and bundles. Thread safety: as `TreeFiles`."""

    def __init__(self, store: ArchiveStore):
        super().__init__()
        self.store = store

    def _read(self, path: str, max_bytes: int) -> bytes | None:
        return self.store.read(path, max_bytes)
