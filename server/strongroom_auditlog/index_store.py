"""The file of the record index: a SQLite database of blocks (`record_segment` has their form).

It holds nothing that the log's entries do not say, so it is made anew whenever it is
missing, damaged, of another version or of another log, and a crash in it loses nothing.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Final

__all__ = ["IndexDamagedError", "IndexStore", "IndexUnwritableError"]

INDEX_VERSION: Final = 1
APPLICATION_ID: Final = 0x53524958  # "SRIX"

_SCHEMA: Final = """
CREATE TABLE index_of (origin TEXT NOT NULL) STRICT;
CREATE TABLE segments (
    n INTEGER PRIMARY KEY CHECK (n >= 0),
    header BLOB NOT NULL,
    postings BLOB NOT NULL
) STRICT;
"""


class IndexDamagedError(Exception):
    """The database cannot be used any more; make it anew."""


class IndexUnwritableError(Exception):
    """Nothing can be written now; the database itself is whole."""


class IndexStore:
    """The open database. Used by one thread at a time."""

    def __init__(self, connection: sqlite3.Connection):
        self._connection = connection

    @classmethod
    def open(cls, path: Path, *, origin: str) -> IndexStore:
        """Open the database.

        Raises:
            IndexDamagedError: It is missing, damaged, or of another version or log.
        """
        if not path.is_file():
            raise IndexDamagedError("missing")
        with _judged():
            connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
            try:
                _check(connection, origin)
                _configure(connection)
            except BaseException:
                connection.close()
                raise
        return cls(connection)

    @classmethod
    def create(cls, path: Path, *, origin: str) -> IndexStore:
        """Make an empty database, in the place of an index that is there.

        Raises:
            IndexUnwritableError: It cannot be written.
        """
        try:
            _set_aside(path)
            # 0600: whoever reads it can guess at callers and keys.
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
            connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        except (OSError, sqlite3.Error) as exc:
            raise IndexUnwritableError(str(exc)) from exc
        try:
            _configure(connection)
            connection.executescript(f"BEGIN; {_SCHEMA}")
            connection.execute("INSERT INTO index_of (origin) VALUES (?)", (origin,))
            # In the same transaction: a crash before its end leaves version 0.
            connection.execute(f"PRAGMA user_version = {INDEX_VERSION}")
            connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            connection.execute("COMMIT")
        except sqlite3.Error as exc:
            connection.close()
            raise IndexUnwritableError(str(exc)) from exc
        return cls(connection)

    def close(self) -> None:
        """Close the database."""
        self._connection.close()

    def numbers(self) -> list[int]:
        """Return which blocks there are, ascending.

        Raises:
            IndexDamagedError: The database cannot be read.
        """
        with _judged():
            return [n for (n,) in self._connection.execute("SELECT n FROM segments ORDER BY n")]

    def header(self, n: int) -> bytes:
        """Return the header of a block; nothing when there is no such block.

        Raises:
            IndexDamagedError: The database cannot be read.
        """
        with _judged():
            row = self._connection.execute(
                "SELECT header FROM segments WHERE n = ?", (n,)
            ).fetchone()
        header = b"" if row is None else row[0]
        if type(header) is not bytes:
            raise IndexDamagedError("a header is no blob")
        return header

    def posting(self, n: int, start: int, end: int) -> bytes:
        """Return a part of a block's postings.

        Raises:
            IndexDamagedError: The database cannot be read.
        """
        with (
            _judged(),
            self._connection.blobopen("segments", "postings", n, readonly=True) as blob,
        ):
            # Not a SELECT of the column, which would read all of it.
            blob.seek(min(start, len(blob)))
            return blob.read(end - start)

    def put(self, n: int, header: bytes, postings: bytes) -> None:
        """Write a block, in the place of the one that is there.

        Raises:
            IndexUnwritableError: It cannot be written now.
            IndexDamagedError: The database is damaged.
        """
        try:
            self._connection.execute(
                "INSERT OR REPLACE INTO segments (n, header, postings) VALUES (?, ?, ?)",
                (n, header, postings),
            )
        except sqlite3.OperationalError as exc:
            raise IndexUnwritableError(str(exc)) from exc
        except sqlite3.Error as exc:
            raise IndexDamagedError(str(exc)) from exc


def _set_aside(path: Path) -> None:
    """Remove an index; something else at its path is renamed, never deleted."""
    with contextlib.suppress(FileNotFoundError), path.open("rb") as file:
        # sqlite.org/fileformat, 1.3: the application id is at 68.
        head = file.read(72)
        if head and head[68:] != APPLICATION_ID.to_bytes(4, "big"):
            path.rename(path.with_name(f"{path.name}.set-aside"))
    for suffix in ("", "-wal", "-shm", "-journal"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)


def _check(connection: sqlite3.Connection, origin: str) -> None:
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if version != INDEX_VERSION:
        raise IndexDamagedError(f"version {version}")
    # Pages only: the blocks have checksums of their own, compared with each use.
    problems = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
    if problems != "ok":
        raise IndexDamagedError(str(problems))
    if connection.execute("SELECT origin FROM index_of").fetchall() != [(origin,)]:
        raise IndexDamagedError("of another log")


def _configure(connection: sqlite3.Connection) -> None:
    connection.execute("PRAGMA journal_mode = WAL")
    # A commit that power loss takes is written again; WAL keeps the rest whole.
    connection.execute("PRAGMA synchronous = NORMAL")
    connection.execute("PRAGMA cache_size = -4096")
    connection.execute("PRAGMA journal_size_limit = 4194304")


@contextlib.contextmanager
def _judged() -> Iterator[None]:
    try:
        yield
    except (sqlite3.Error, ValueError, TypeError) as exc:
        # ValueError and TypeError: a column that holds something else than it should.
        raise IndexDamagedError(str(exc)) from exc
