"""What a witness must not forget: the last checkpoint that it cosigned, of each log.

    cosigned    origin -> size, root, the note with the log's signature and our cosignature

A row moves by compare-and-swap, in one transaction with the check that allowed it, and is
durable before the cosignature leaves the process. So of two requests at the same time one
is answered with a conflict, and after a crash the witness remembers at least what it said.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from strongroom.tlog.merkle import EMPTY_ROOT
from strongroom_auditlog.errors import LogError, StartRefusedError

__all__ = ["Cosigned", "WitnessStore"]

SCHEMA_VERSION: Final = 1

_SCHEMA: Final = """
CREATE TABLE cosigned (
    origin TEXT PRIMARY KEY,
    size INTEGER NOT NULL CHECK (size >= 0),
    root BLOB NOT NULL CHECK (length(root) = 32),
    note TEXT NOT NULL
) STRICT, WITHOUT ROWID;
"""


@dataclass(frozen=True, slots=True)
class Cosigned:
    """The last checkpoint of a log that was cosigned."""

    size: int
    root: bytes
    note: str


NOTHING: Final = Cosigned(0, EMPTY_ROOT, "")
"""What is known of a log of which nothing was cosigned: the empty tree, a prefix of all."""


class WitnessStore:
    """The open database, held by one process at a time. Thread safety: complete."""

    def __init__(self, path: Path, connection: sqlite3.Connection):
        """Take over an open database; `open` is the way to make one."""
        self._path = path
        self._connection = connection
        self._lock = threading.Lock()

    @classmethod
    def create(cls, path: Path) -> None:
        """Create an empty database.

        Raises:
            StartRefusedError: There is one already.
            OSError: It cannot be written.
        """
        if path.exists():
            raise StartRefusedError(f"{path}: exists; what a witness knows is never overwritten")
        temporary = path.with_name(f".{path.name}.new")
        for suffix in ("", "-wal", "-shm", "-journal"):
            temporary.with_name(temporary.name + suffix).unlink(missing_ok=True)
        os.close(os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        connection = sqlite3.connect(temporary, isolation_level=None)
        try:
            connection.execute("PRAGMA synchronous = FULL")
            connection.executescript(f"BEGIN; {_SCHEMA}")
            connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
            connection.execute("COMMIT")
        finally:
            connection.close()
        temporary.rename(path)
        parent = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(parent)
        finally:
            os.close(parent)

    @classmethod
    def open(cls, path: Path) -> WitnessStore:
        """Open and check the database, and hold it until `close`.

        Raises:
            StartRefusedError: It is missing, damaged, of another version, or held by
                another process.
        """
        if not path.is_file():
            raise StartRefusedError(
                f"{path}: missing. A witness that has forgotten what it cosigned must not go on "
                "under the same key: put the newest copy back, or make a new witness with "
                "`strongroom audit-witness --init`"
            )
        connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=1)
        try:
            # Whoever else opens the file is refused, a second witness of the same name too.
            connection.execute("PRAGMA locking_mode = EXCLUSIVE")
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute("BEGIN IMMEDIATE")
            connection.execute("COMMIT")
            version = connection.execute("PRAGMA user_version").fetchone()[0]
            problems = connection.execute("PRAGMA integrity_check(1)").fetchone()[0]
        except sqlite3.Error as exc:
            connection.close()
            if getattr(exc, "sqlite_errorcode", None) == sqlite3.SQLITE_BUSY:
                raise StartRefusedError(
                    f"{path}: in use by another witness process; stop that one first"
                ) from exc
            raise StartRefusedError(f"{path}: not a readable database ({exc})") from exc
        if version != SCHEMA_VERSION or problems != "ok":
            connection.close()
            raise StartRefusedError(
                f"{path}: damaged, or of another version than {SCHEMA_VERSION} "
                f"(version {version}, {problems})"
            )
        return cls(path, connection)

    def load(self, origin: str) -> Cosigned:
        """Return the last cosigned checkpoint of a log; `NOTHING` when there is none.

        Raises:
            LogError: The database cannot be read.
        """
        try:
            with self._lock:
                return self._load(origin)
        except sqlite3.Error as exc:
            raise LogError(f"{self._path}: {exc}") from exc

    @contextlib.contextmanager
    def changing(self, origin: str) -> Iterator[Change]:
        """Hold the row of a log while it is decided upon.

        What `Change.replace` was given is durable when the block has ended; a block that
        raises leaves the row as it was.

        Raises:
            LogError: The database cannot be written; the row may or may not have moved,
                and nothing may be said of it.
        """
        with self._lock:
            try:
                self._connection.execute("BEGIN IMMEDIATE")
                try:
                    yield Change(self._connection, origin, self._load(origin))
                    self._connection.execute("COMMIT")
                except BaseException:
                    if self._connection.in_transaction:
                        self._connection.execute("ROLLBACK")
                    raise
            except sqlite3.Error as exc:
                raise LogError(f"{self._path}: {exc}") from exc

    def close(self) -> None:
        """Close the database, and let others open it."""
        with self._lock:
            self._connection.close()

    def _load(self, origin: str) -> Cosigned:
        row = self._connection.execute(
            "SELECT size, root, note FROM cosigned WHERE origin = ?", (origin,)
        ).fetchone()
        return NOTHING if row is None else Cosigned(*row)


class Change:
    """A row inside a transaction; made by `WitnessStore.changing`."""

    def __init__(self, connection: sqlite3.Connection, origin: str, last: Cosigned):
        """Take what the block needs."""
        self._connection = connection
        self._origin = origin
        self.last = last
        """What is there."""

    def replace(self, after: Cosigned) -> None:
        """Put `after` in the place of `last`."""
        self._connection.execute(
            "INSERT INTO cosigned (origin, size, root, note) VALUES (?, ?, ?, ?) "
            "ON CONFLICT (origin) DO UPDATE SET size = excluded.size, root = excluded.root, "
            "note = excluded.note",
            (self._origin, after.size, after.root, after.note),
        )
