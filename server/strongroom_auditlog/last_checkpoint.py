"""The last signed checkpoint, kept apart from log and state (docs/formats/audit-log-v1.md).

A backup that brings back log and state together looks whole: everything in it fits. Only
something that was not restored with it can tell that later checkpoints were signed. This
is that something: one row, moved by compare-and-swap before a checkpoint leaves the
process, on another disk or volume than log and state.

    last_checkpoint    one row: origin, size, root, the signed note

A store in a database service or an object store with conditional writes is another class
with the methods of `CheckpointStore`.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from strongroom_auditlog.errors import ForkRefusedError, LogError, StartRefusedError

__all__ = ["CheckpointStore", "LastCheckpoint", "SqliteCheckpointStore"]

SCHEMA_VERSION: Final = 1

_SCHEMA: Final = """
CREATE TABLE last_checkpoint (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    origin TEXT NOT NULL,
    size INTEGER NOT NULL CHECK (size >= 0),
    root BLOB NOT NULL CHECK (length(root) = 32),
    note TEXT NOT NULL
) STRICT;
"""


@dataclass(frozen=True, slots=True)
class LastCheckpoint:
    """What was signed last."""

    origin: str
    size: int
    root: bytes
    note: str
    """The signed note, without cosignatures."""


class CheckpointStore(Protocol):
    """Where the last checkpoint of one log is kept.

    Thread safety: methods may be called from any thread, one at a time.
    """

    def load(self) -> LastCheckpoint:
        """Return the last checkpoint, as durable as it was stored.

        Raises:
            LogError: The store cannot be read.
        """
        ...

    def replace(self, before: LastCheckpoint, after: LastCheckpoint) -> None:
        """Put `after` in the place of `before`; durable when this returns.

        Raises:
            ForkRefusedError: Another checkpoint than `before` is there: another signer was
                here, or the store was exchanged. Nothing was changed.
            LogError: The store could not be written; it holds `before`.
        """
        ...

    def close(self) -> None:
        """Give the store back."""
        ...


class SqliteCheckpointStore:
    """The store in a SQLite database of its own, held by one process at a time."""

    def __init__(self, path: Path, connection: sqlite3.Connection):
        """Take over an open database; `open` is the way to make one."""
        self._path = path
        self._connection = connection
        self._lock = threading.Lock()

    @classmethod
    def create(cls, path: Path, last: LastCheckpoint) -> None:
        """Create the database with its row.

        Raises:
            StartRefusedError: There is one already.
            OSError: It cannot be written.
        """
        if path.exists():
            raise StartRefusedError(
                f"{path}: exists; the last checkpoint of a log is never overwritten (if an --init "
                "was interrupted and there is no checkpoint yet, remove it)"
            )
        # Built under another name, so that a crash leaves no half-made store behind.
        temporary = path.with_name(f".{path.name}.new")
        for suffix in ("", "-wal", "-shm", "-journal"):
            temporary.with_name(temporary.name + suffix).unlink(missing_ok=True)
        os.close(os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        connection = sqlite3.connect(temporary, isolation_level=None)
        try:
            connection.execute("PRAGMA synchronous = FULL")
            connection.executescript(f"BEGIN; {_SCHEMA}")
            connection.execute(
                "INSERT INTO last_checkpoint (id, origin, size, root, note) VALUES (1, ?, ?, ?, ?)",
                (last.origin, last.size, last.root, last.note),
            )
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
    def open(cls, path: Path) -> SqliteCheckpointStore:
        """Open and check the database, and hold it until `close`.

        Raises:
            StartRefusedError: It is missing, damaged, of another version, or held by
                another process.
        """
        if not path.is_file():
            raise StartRefusedError(f"{path}: missing; put back the newest copy of it")
        connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=1)
        try:
            # Before the first access: then WAL does without shared memory, and works on
            # network volumes; and whoever else opens the file is refused (sqlite.org/wal,
            # section 6.1).
            connection.execute("PRAGMA locking_mode = EXCLUSIVE")
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute("BEGIN IMMEDIATE")
            connection.execute("COMMIT")
            version = connection.execute("PRAGMA user_version").fetchone()[0]
            problems = connection.execute("PRAGMA integrity_check(1)").fetchone()[0]
            rows = connection.execute("SELECT count(*) FROM last_checkpoint").fetchone()[0]
        except sqlite3.Error as exc:
            connection.close()
            if getattr(exc, "sqlite_errorcode", None) == sqlite3.SQLITE_BUSY:
                raise StartRefusedError(
                    f"{path}: in use by another audit log process; stop that one first"
                ) from exc
            raise StartRefusedError(
                f"{path}: not a readable database ({exc}); put back the newest copy of it"
            ) from exc
        if version != SCHEMA_VERSION or problems != "ok" or rows != 1:
            connection.close()
            raise StartRefusedError(
                f"{path}: damaged, or of another version than {SCHEMA_VERSION} "
                f"(version {version}, {problems}, {rows} rows); put back the newest copy of it"
            )
        return cls(path, connection)

    def load(self) -> LastCheckpoint:
        """Return the last checkpoint."""
        try:
            with self._lock:
                row = self._connection.execute(
                    "SELECT origin, size, root, note FROM last_checkpoint"
                ).fetchone()
        except sqlite3.Error as exc:
            raise LogError(f"{self._path}: {exc}") from exc
        return LastCheckpoint(*row)

    def replace(self, before: LastCheckpoint, after: LastCheckpoint) -> None:
        """Compare and swap, in one transaction."""
        try:
            with self._lock:
                done = self._connection.execute(
                    "UPDATE last_checkpoint SET size = ?, root = ?, note = ? "
                    "WHERE id = 1 AND origin = ? AND size = ? AND root = ?",
                    (after.size, after.root, after.note, before.origin, before.size, before.root),
                )
        except sqlite3.Error as exc:
            self._settle(before, after, exc)
            return
        if done.rowcount != 1:
            raise ForkRefusedError(
                f"{self._path}: holds another checkpoint than the one of {before.size} leaves "
                "that this process signed last: another signer was here"
            )

    def _settle(self, before: LastCheckpoint, after: LastCheckpoint, cause: sqlite3.Error) -> None:
        """Find out whether a failed statement was committed after all."""
        found = self.load()
        if (found.size, found.root) == (after.size, after.root):
            return
        if (found.size, found.root) == (before.size, before.root):
            raise LogError(f"{self._path}: {cause}") from cause
        raise ForkRefusedError(f"{self._path}: holds an unknown checkpoint") from cause

    def close(self) -> None:
        """Close the database, and let others open it."""
        with self._lock:
            self._connection.close()
