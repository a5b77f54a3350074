"""Looking at a whole database: SQLite's own checks, and every row's digest.

A small one is looked at before the start. A large one takes minutes: it is used at once,
each row checked when it is read, while a thread goes over all of it (docs/adr/0011).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, cast

import structlog
from sqlalchemy import Connection, func, select
from sqlalchemy.exc import DatabaseError, OperationalError

from strongroom_server.store import deletions, reading, schema
from strongroom_server.store.connection import SqliteConnection
from strongroom_server.store.database import CURE
from strongroom_server.store.digests import StoreDamagedError
from strongroom_server.store.key_cache import StoredAlias, StoredKey

__all__ = ["BackgroundCheck", "check_all_rows", "check_structure", "marker_of"]

_SHOWN_FINDINGS: Final = 3
_KEYS_BEFORE_START: Final = 500
# In the background each chunk holds the interpreter for about a millisecond, and twice as
# long is left to the calls: the check may take a third of a core and no call feels it.
_KEYS_IN_BACKGROUND: Final = 32
_REST_TIMES: Final = 2.0
_PROGRESS_SECONDS: Final = 30.0
_RETRY_SECONDS: Final = 5.0
_NICE: Final = 10
_STOP_SECONDS: Final = 5.0

# Aliases first: of an alias that an index does not lead to there is no other trace, so
# that one is "not there" until this is done. None: the references between all.
_TABLES: Final = (
    "aliases",
    *(name for name in schema.metadata.tables if name != "aliases"),
    None,
)

_log = structlog.get_logger(__name__)


def marker_of(path: Path) -> Path:
    """Return the file whose presence says: damage was found, check before the next start."""
    return path.with_name(f"{path.name}.damaged")


def check_structure(connection: Connection) -> None:
    """Look at the file as SQLite sees it: structure, constraints, references.

    Raises:
        StoreDamagedError: It is damaged.
    """
    found = connection.exec_driver_sql("PRAGMA integrity_check").scalars().all()
    if list(found) != ["ok"]:
        shown = "; ".join(str(finding) for finding in found[:_SHOWN_FINDINGS])
        raise StoreDamagedError(f"is damaged ({shown})")
    orphan = connection.exec_driver_sql("PRAGMA foreign_key_check").first()
    if orphan is not None:
        raise StoreDamagedError(f"is damaged (a row of {orphan[0]} belongs to nothing)")


def check_all_rows(
    connection: Connection, region: str, *, keep: int
) -> tuple[list[StoredKey], list[StoredAlias]]:
    """Check the digest of every key, alias and root, in one snapshot.

    Memos and outbox rows are not among them: they are checked when they are read.

    Returns:
        The `keep` keys and aliases that were made last, to begin with.

    Raises:
        StoreDamagedError: One is damaged, or is newer than the counter of shard_meta.
    """
    newest = reading.read_meta(connection).change_number
    keys: deque[StoredKey] = deque(maxlen=keep)
    aliases: deque[StoredAlias] = deque(maxlen=keep)
    last = 0
    while chunk := reading.read_keys_by_place(
        connection, region, after=last, limit=_KEYS_BEFORE_START
    ):
        last = chunk[-1][0]
        for _, stored in chunk:
            _ensure_counted(stored, newest)
            keys.append(stored)
    for alias in reading.read_aliases(connection, region):
        _ensure_counted(alias, newest)
        aliases.append(alias)
    reading.read_roots(connection, region)
    deletions.read_observed(connection, region)
    return list(keys), list(aliases)


class BackgroundCheck:
    """Goes over a database on a thread and a connection of its own, once.

    `found` is called on the event loop, at most once, with what is damaged. Then a marker
    beside the database makes the next start look at all of it first.
    """

    def __init__(self, path: Path, region: str, *, found: Callable[[str], None]) -> None:
        self._path = path
        self._region = region
        self._found = found
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self._running: sqlite3.Connection | None = None

    def start(self) -> None:
        """Begin; idempotent."""
        if self._thread is None:
            loop = asyncio.get_running_loop()
            # A daemon: a check of a broken disk must not keep the process from ending.
            self._thread = threading.Thread(
                target=self._run, args=(loop,), name="store-check", daemon=True
            )
            self._thread.start()

    async def stop(self) -> None:
        """Stop within seconds, wherever it is; idempotent."""
        self._stopping.set()
        if self._thread is not None and self._thread.is_alive():
            running = self._running
            if running is not None:
                running.interrupt()
            await asyncio.get_running_loop().run_in_executor(None, self._thread.join, _STOP_SECONDS)

    @property
    def is_running(self) -> bool:
        """Whether it has not ended yet."""
        return self._thread is not None and self._thread.is_alive()

    def _run(self, loop: asyncio.AbstractEventLoop) -> None:
        with contextlib.suppress(OSError, AttributeError):
            # Linux lets one thread be less urgent than its process.
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICE)
        while not self._stopping.is_set():
            try:
                self._check()
            except (OperationalError, sqlite3.OperationalError) as exc:
                # Busy, interrupted, or a disk that does not answer: says nothing of the rows.
                if not self._stopping.is_set():
                    _log.warning("store_check_failed", region=self._region, error=str(exc))
                self._stopping.wait(_RETRY_SECONDS)
                continue
            except (StoreDamagedError, DatabaseError, sqlite3.DatabaseError) as exc:
                self._tell(loop, str(exc.__cause__ or exc))  # the driver's words, without the SQL
            except Exception:  # noqa: BLE001 - logged with its traceback
                # The edge of the thread: unchecked is not damaged, but somebody has to know.
                _log.exception("store_check_ended", region=self._region)
            return

    def _tell(self, loop: asyncio.AbstractEventLoop, damage: str) -> None:
        _log.error("store_damaged", region=self._region, error=damage, cure=CURE)
        try:
            marker_of(self._path).touch(mode=0o600)
        except OSError as failure:
            _log.warning("store_marker_failed", region=self._region, error=str(failure))
        with contextlib.suppress(RuntimeError):  # the loop has ended meanwhile
            loop.call_soon_threadsafe(self._found, damage)

    def _check(self) -> None:
        started = time.monotonic()
        _log.info("store_check_began", region=self._region)
        database = SqliteConnection(self._path, writes=False)
        try:
            for table in _TABLES:
                with self._transaction(database) as connection:
                    _check_table(connection, table)
                if self._stopping.is_set():
                    return
            with self._transaction(database) as connection:
                newest = reading.read_meta(connection).change_number
                reading.read_roots(connection, self._region)
                deletions.read_observed(connection, self._region)
                # Few beside the keys, and not worth chunks.
                for alias in reading.read_aliases(connection, self._region):
                    _ensure_counted(alias, newest)
            checked = self._check_keys(database)
        finally:
            self._running = None
            database.close()
        if checked is not None:
            seconds = round(time.monotonic() - started, 1)
            _log.info("store_checked", region=self._region, keys=checked, seconds=seconds)

    def _check_keys(self, database: SqliteConnection) -> int | None:
        """Return how many keys were checked; None when it was stopped."""
        last = checked = 0
        told = time.monotonic()
        with self._transaction(database) as connection:
            end = _end(connection)
        while last < end:  # what is added later was checked when it was made
            began = time.monotonic()
            with self._transaction(database) as connection:
                newest = reading.read_meta(connection).change_number
                chunk = reading.read_keys_by_place(
                    connection, self._region, after=last, limit=_KEYS_IN_BACKGROUND
                )
                for _, stored in chunk:
                    _ensure_counted(stored, newest)
            if not chunk:
                break
            last = chunk[-1][0]
            checked += len(chunk)
            now = time.monotonic()
            if now - told > _PROGRESS_SECONDS:
                told = now
                percent = round(100 * last / end, 1)
                _log.info("store_check_progress", region=self._region, percent=percent)
            if self._stopping.wait(max(0.001, (now - began) * _REST_TIMES)):
                return None
        return checked

    @contextlib.contextmanager
    def _transaction(self, database: SqliteConnection) -> Iterator[Connection]:
        with database.transaction() as connection:
            self._running = cast("sqlite3.Connection", connection.connection.dbapi_connection)
            yield connection


def _check_table(connection: Connection, table: str | None) -> None:
    """Check one table with its indexes; None: the references of all."""
    if table is None:
        orphan = connection.exec_driver_sql("PRAGMA foreign_key_check").first()
        if orphan is not None:
            raise StoreDamagedError(f"a row of {orphan[0]} belongs to nothing")
        return
    # The name comes from our own schema.
    found = connection.exec_driver_sql(f"PRAGMA integrity_check('{table}')").scalars().all()
    if list(found) != ["ok"]:
        raise StoreDamagedError("; ".join(str(finding) for finding in found[:_SHOWN_FINDINGS]))


def _end(connection: Connection) -> int:
    """Return the place of the last key there is."""
    last = connection.execute(select(func.max(reading.PLACE)).select_from(schema.keys)).scalar_one()
    return last or 0


def _ensure_counted(stored: StoredKey | StoredAlias, newest: int) -> None:
    if stored.change_number > newest:
        raise StoreDamagedError("a row is newer than the change counter of shard_meta")
