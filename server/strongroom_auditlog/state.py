"""What the log must not forget: the last signed tree, and how far each shard has come.

A SQLite database beside the log, never inside what is served (docs/formats/audit-log-v1.md).
It is the memory that a restored backup of the log lacks: a tree is signed only by moving
the row `log` from exactly the tree that this process knows (compare-and-swap), in the one
transaction that also moves the shards' positions. So a record enters once, and a forked or
restored log stops the signer.

    log      one row: origin, signed size, signed root
    shards   region -> epoch, next sequence
    runs     position -> leaf, as runs of consecutive records; an index, rebuilt from the
             entries when it does not add up, never trusted over them
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

from strongroom_auditlog.errors import ForkRefusedError, LogError, StartRefusedError
from strongroom_auditlog.records import Position, Run, next_positions

__all__ = ["State"]

SCHEMA_VERSION: Final = 2
OLDER_VERSION: Final = 1
"""The same tables; nothing said that the last checkpoint is kept elsewhere too."""

_SCHEMA: Final = """
CREATE TABLE log (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    origin TEXT NOT NULL,
    size INTEGER NOT NULL CHECK (size >= 0),
    root BLOB NOT NULL CHECK (length(root) = 32)
) STRICT;
CREATE TABLE shards (
    region TEXT PRIMARY KEY,
    epoch INTEGER NOT NULL CHECK (epoch >= 1),
    next_sequence INTEGER NOT NULL CHECK (next_sequence >= 1)
) STRICT, WITHOUT ROWID;
CREATE TABLE runs (
    region TEXT NOT NULL,
    epoch INTEGER NOT NULL,
    first_sequence INTEGER NOT NULL,
    records INTEGER NOT NULL CHECK (records >= 1),
    first_leaf INTEGER NOT NULL,
    PRIMARY KEY (region, epoch, first_sequence)
) STRICT, WITHOUT ROWID;
"""


class State:
    """The open state database.

    Thread safety: all methods may be called from any thread; one at a time runs.
    """

    def __init__(self, path: Path, connection: sqlite3.Connection, origin: str):
        self._path = path
        self._connection = connection
        self._lock = threading.Lock()
        self.origin = origin

    @property
    def has_last_checkpoint(self) -> bool:
        """Whether this log has its last checkpoint in a store of its own.

        Then a store that is missing is a loss, not an older deployment.
        """
        with self._lock:
            version = self._connection.execute("PRAGMA user_version").fetchone()[0]
        return bool(version == SCHEMA_VERSION)

    def remember_last_checkpoint(self) -> None:
        """Make `has_last_checkpoint` true, for ever.

        Raises:
            StartRefusedError: The database cannot be written.
        """
        try:
            with self._lock:
                self._connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
        except sqlite3.Error as exc:
            raise StartRefusedError(f"{self._path}: {exc}") from exc

    @classmethod
    def create(
        cls,
        path: Path,
        *,
        origin: str,
        size: int,
        root: bytes,
        runs: Sequence[Run] = (),
        positions: Mapping[str, tuple[int, int]] | None = None,
    ) -> None:
        """Create the database, for a new log or for one that was verified in full.

        `positions` are the shards', when `runs` do not begin at leaf 0.

        Raises:
            StartRefusedError: There is one already.
        """
        if path.exists():
            raise StartRefusedError(
                f"{path}: exists; the state of a log is never overwritten (if an --init was "
                "interrupted and there is no checkpoint yet, remove it)"
            )
        # Built under another name, so that a crash leaves no half-made state behind.
        temporary = path.with_name(f".{path.name}.new")
        for suffix in ("", "-wal", "-shm"):
            temporary.with_name(temporary.name + suffix).unlink(missing_ok=True)
        descriptor = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        os.close(descriptor)
        connection = sqlite3.connect(temporary, isolation_level=None)
        try:
            connection.execute("PRAGMA synchronous = FULL")
            connection.executescript(f"BEGIN; {_SCHEMA}")
            connection.execute(
                "INSERT INTO log (id, origin, size, root) VALUES (1, ?, ?, ?)", (origin, size, root)
            )
            _insert_runs(connection, runs)
            _set_positions(connection, positions or {})
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
    def open(cls, path: Path) -> State:
        """Open and check the database; the caller holds the `OwnerLock`.

        Raises:
            StartRefusedError: It is missing, damaged, or of another version.
        """
        if not path.is_file():
            raise StartRefusedError(
                f"{path}: no state; make a new log with `strongroom audit-log --init`, or restore "
                "the state that belongs to this log"
            )
        connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            # NORMAL may lose a commit at power loss, and with it what was signed.
            connection.execute("PRAGMA synchronous = FULL")
            origin = _check_database(path, connection)
        except sqlite3.Error as exc:
            connection.close()
            raise StartRefusedError(
                f"{path}: not a readable database ({exc}); restore it from a backup"
            ) from exc
        except StartRefusedError:
            connection.close()
            raise
        return cls(path, connection, origin)

    def close(self) -> None:
        """Close the database."""
        with self._lock:
            self._connection.close()

    def tree(self) -> tuple[int, bytes]:
        """Return the last signed size and root."""
        with self._lock:
            return self._tree()

    def _tree(self) -> tuple[int, bytes]:
        size, root = self._connection.execute("SELECT size, root FROM log").fetchone()
        return size, root

    def positions(self) -> dict[str, tuple[int, int]]:
        """Return region -> (epoch, next sequence)."""
        with self._lock:
            rows = self._connection.execute("SELECT region, epoch, next_sequence FROM shards")
            return {region: (epoch, sequence) for region, epoch, sequence in rows}

    def indexed_leaves(self, first_leaf: int = 0) -> int:
        """Return how many leaves the position index covers, from `first_leaf` on."""
        with self._lock:
            (count,) = self._connection.execute(
                "SELECT total(records - max(0, :first - first_leaf)) FROM runs "
                "WHERE first_leaf + records > :first",
                {"first": first_leaf},
            ).fetchone()
            return int(count)

    def find_leaf(self, position: Position) -> int | None:
        """Return the leaf that the index has for `position`; a hint, to be checked."""
        with self._lock:
            row = self._connection.execute(
                "SELECT first_sequence, records, first_leaf FROM runs "
                "WHERE region = ? AND epoch = ? AND first_sequence <= ? "
                "ORDER BY first_sequence DESC LIMIT 1",
                position,
            ).fetchone()
        if row is None or position.sequence >= row[0] + row[1]:
            return None
        return int(row[2] + position.sequence - row[0])

    def advance(
        self, *, before: tuple[int, bytes], after: tuple[int, bytes], runs: Sequence[Run]
    ) -> None:
        """Move the log from tree `before` to tree `after`, and the shards with it.

        When this returns the new tree is durable and may be signed.

        Raises:
            ForkRefusedError: The row is at another tree: another signer was here, or the
                state was exchanged. Signing on would fork the log.
            LogError: The database could not be written; nothing has changed.
        """
        with self._lock:
            try:
                with self._transaction():
                    done = self._connection.execute(
                        "UPDATE log SET size = ?, root = ? WHERE id = 1 AND size = ? AND root = ?",
                        (*after, *before),
                    )
                    if done.rowcount != 1:
                        raise ForkRefusedError(
                            f"{self._path}: the last signed tree is not the one of "
                            f"{before[0]} leaves that this process knows"
                        )
                    _insert_runs(self._connection, runs)
            except sqlite3.Error as exc:
                self._settle(before, after, exc)

    def _settle(
        self, before: tuple[int, bytes], after: tuple[int, bytes], cause: sqlite3.Error
    ) -> None:
        """Find out whether a failed transaction was committed after all."""
        try:
            tree = self._tree()
        except sqlite3.Error as exc:
            raise LogError(f"{self._path}: {exc}") from exc
        if tree == after:
            return
        if tree == before:
            raise LogError(f"{self._path}: {cause}") from cause
        raise ForkRefusedError(f"{self._path}: the last signed tree is an unknown one") from cause

    def replace_index(self, runs: Sequence[Run], first_leaf: int = 0) -> None:
        """Replace the position index from `first_leaf` on; the shards' positions stay.

        Raises:
            StartRefusedError: The database cannot be written.
        """
        try:
            with self._lock, self._transaction():
                self._connection.execute("DELETE FROM runs WHERE first_leaf >= ?", (first_leaf,))
                self._connection.execute(
                    "UPDATE runs SET records = :first - first_leaf "
                    "WHERE first_leaf + records > :first",
                    {"first": first_leaf},
                )
                for run in runs:
                    _insert_run(self._connection, run)
        except sqlite3.Error as exc:
            raise StartRefusedError(f"{self._path}: {exc}") from exc

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._connection.execute("COMMIT")
        except BaseException:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            raise


def _check_database(path: Path, connection: sqlite3.Connection) -> str:
    """Check version and integrity; return the origin of the log."""
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if version not in (OLDER_VERSION, SCHEMA_VERSION):
        raise StartRefusedError(
            f"{path}: version {version}; this program knows versions up to {SCHEMA_VERSION}"
        )
    problems = connection.execute("PRAGMA integrity_check(1)").fetchone()[0]
    if problems != "ok":
        raise StartRefusedError(f"{path}: damaged ({problems}); restore it from a backup")
    row = connection.execute("SELECT origin FROM log").fetchone()
    if row is None:
        raise StartRefusedError(f"{path}: no row of the log; restore it from a backup")
    return str(row[0])


def _insert_runs(connection: sqlite3.Connection, runs: Sequence[Run]) -> None:
    for run in runs:
        _insert_run(connection, run)
    _set_positions(connection, next_positions(runs))


def _set_positions(
    connection: sqlite3.Connection, positions: Mapping[str, tuple[int, int]]
) -> None:
    connection.executemany(
        "INSERT INTO shards (region, epoch, next_sequence) VALUES (?, ?, ?) "
        "ON CONFLICT (region) DO UPDATE SET epoch = excluded.epoch, "
        "next_sequence = excluded.next_sequence",
        [(region, *position) for region, position in positions.items()],
    )


def _insert_run(connection: sqlite3.Connection, run: Run) -> None:
    """Lengthen the run that this one continues, or begin a new one."""
    region, epoch, sequence = run.first
    done = connection.execute(
        "UPDATE runs SET records = records + :n WHERE region = :r AND epoch = :e AND "
        "first_sequence = (SELECT max(first_sequence) FROM runs WHERE region = :r AND epoch = :e) "
        "AND first_sequence + records = :s AND first_leaf + records = :l",
        {"n": run.records, "r": region, "e": epoch, "s": sequence, "l": run.first_leaf},
    )
    if done.rowcount == 0:
        connection.execute(
            "INSERT INTO runs (region, epoch, first_sequence, records, first_leaf) "
            "VALUES (?, ?, ?, ?, ?)",
            (region, epoch, sequence, run.records, run.first_leaf),
        )
