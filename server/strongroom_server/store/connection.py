"""One SQLite connection with every setting explicit, and the one thread that uses it."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final, TypeVar

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.pool import NullPool

from strongroom_server.store.digests import StoreDamagedError

__all__ = ["DatabaseClosedError", "DatabaseThread", "SqliteConnection"]

BUSY_TIMEOUT_SECONDS: Final = 2.0  # how long another process' transaction is waited for

# Pragmas of a connection; WAL is a property of the file and set when it is made.
_PRAGMAS: Final = (
    "foreign_keys = ON",
    # NORMAL would lose the last commits at power loss (sqlite.org/pragma.html#pragma_synchronous).
    "synchronous = FULL",
    # A damaged file must not be able to run functions or hide cells that overlap
    # (sqlite.org/security.html).
    "trusted_schema = OFF",
    "cell_size_check = ON",
    # What is taken out of a row is overwritten with zeros: wrapped material of a destroyed
    # version does not stay behind in free space (sqlite.org/pragma.html#pragma_secure_delete).
    "secure_delete = ON",
)

_T = TypeVar("_T")


class DatabaseClosedError(Exception):
    """The database was closed before the work began."""


class SqliteConnection:
    """A connection that is opened on first use and thrown away after an error.

    Thread safety: none. Exactly one thread may call it, `close` included.

    `writes` decides how transactions begin: IMMEDIATE takes the write lock at once, so
    that what was read in the transaction is still true when it commits; otherwise the
    connection cannot write at all and a transaction is one consistent snapshot.
    """

    def __init__(self, path: Path, *, writes: bool) -> None:
        self._engine = _build_engine(path, writes=writes)
        self._connection: Connection | None = None

    @contextlib.contextmanager
    def transaction(self) -> Iterator[Connection]:
        """Run a block in a transaction: committed at its end, rolled back when it raises.

        Raises:
            StoreDamagedError: The driver met a text that is not UTF-8.
        """
        try:
            if self._connection is None:
                self._connection = self._engine.connect()
            with self._connection.begin():
                yield self._connection
        except UnicodeDecodeError as exc:
            # The driver could not even say what is wrong, or how a column is called.
            self.close()
            raise StoreDamagedError("a text in the database is not UTF-8") from exc
        except (SQLAlchemyError, sqlite3.Error):
            # After a failed write or fsync nothing is known about this connection's state.
            self.close()
            raise

    def close(self) -> None:
        """Close the connection; a later transaction opens a new one."""
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(SQLAlchemyError, sqlite3.Error):
                connection.close()
        self._engine.dispose()


class DatabaseThread:
    """A connection and its thread, for use from an event loop.

    Work is done in the order in which it was given, one transaction each.
    """

    def __init__(self, path: Path, *, name: str, writes: bool) -> None:
        self._database = SqliteConnection(path, writes=writes)
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix=name)
        self._closed = False

    async def run(
        self, work: Callable[[Connection], _T], *, then: Callable[[_T], None] | None = None
    ) -> _T:
        """Run `work` in a transaction.

        `then` gets the result on the event loop once it is committed, before this
        coroutine goes on, and also when the coroutine was cancelled meanwhile: the
        caller's deadline does not undo a commit.

        Raises:
            DatabaseClosedError: `close` was called.
        """
        if self._closed:
            raise DatabaseClosedError
        loop = asyncio.get_running_loop()

        def transact() -> _T:
            with self._database.transaction() as connection:
                result = work(connection)
            if then is not None:
                loop.call_soon_threadsafe(then, result)
            return result

        return await loop.run_in_executor(self._executor, transact)

    async def close(self) -> None:
        """Finish the work that was given, then close; idempotent."""
        if self._closed:
            return
        self._closed = True
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(self._executor, self._database.close)
        self._executor.shutdown(wait=False)


def _build_engine(path: Path, *, writes: bool) -> Engine:
    # mode=rw: a database that is missing is an error and never an empty new one.
    uri = f"{path.absolute().as_uri()}?mode=rw"
    pragmas = _PRAGMAS if writes else (*_PRAGMAS, "query_only = ON")

    def open_file() -> sqlite3.Connection:
        # isolation_level=None: the driver begins no transactions behind our back.
        connection = sqlite3.connect(
            uri, uri=True, timeout=BUSY_TIMEOUT_SECONDS, isolation_level=None
        )
        try:
            for pragma in pragmas:
                connection.execute(f"PRAGMA {pragma}")
        except BaseException:  # whatever it is, the file must not stay open; re-raised
            connection.close()
            raise
        return connection

    engine = create_engine("sqlite://", creator=open_file, poolclass=NullPool)

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    return engine
