"""What a metadata database has to show before it is used, and how a new one is made.

A database is used as it is or not at all: nothing is repaired, skipped or made anew in
the place of something that should be there.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import stat
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final

from sqlalchemy import Connection, insert
from sqlalchemy.exc import SQLAlchemyError

from strongroom_server.errors import StartRefusedError
from strongroom_server.mutations import WrappingRoot
from strongroom_server.store import migrate, schema
from strongroom_server.store.checking import check_all_rows, check_structure, marker_of
from strongroom_server.store.connection import SqliteConnection
from strongroom_server.store.database import CURE
from strongroom_server.store.digests import StoreDamagedError
from strongroom_server.store.key_cache import StoredAlias, StoredKey
from strongroom_server.store.micros import to_micros
from strongroom_server.store.reading import (
    StoreCounts,
    count_rows,
    read_meta,
    read_outbox,
    read_roots,
)
from strongroom_server.store.rows import ShardMeta

__all__ = [
    "Loaded",
    "check_before_use",
    "create_if_absent",
    "forget_damage",
    "is_to_be_checked_first",
    "load",
    "refusals",
    "upgrade_if_older",
]

_OUTBOX_ROWS: Final = 1000


@dataclass(frozen=True, slots=True)
class Loaded:
    """What a store begins with."""

    change_number: int
    roots: tuple[WrappingRoot, ...]
    counts: StoreCounts
    keys: list[StoredKey]
    aliases: list[StoredAlias]


@contextlib.contextmanager
def refusals(path: Path) -> Iterator[None]:
    """Turn what can go wrong in the block into a StartRefusedError with the cure."""
    try:
        yield
    except migrate.SchemaUnknownError as exc:
        raise StartRefusedError(
            f"{path}: {exc}; start the release that it belongs to, or correct `store`"
        ) from exc
    except StoreDamagedError as exc:
        raise StartRefusedError(f"{path}: {exc}; {CURE}") from exc
    except (SQLAlchemyError, sqlite3.Error) as exc:
        cause = exc.__cause__ or exc  # the driver's words, without the SQL
        raise StartRefusedError(
            f"{path}: cannot be read as a metadata database ({cause}); "
            f"if it is not in use by another program, {CURE}"
        ) from exc
    except OSError as exc:
        raise StartRefusedError(
            f"{path}: {exc.strerror}; the server's user must own the file and its directory"
        ) from exc


def create_if_absent(path: Path, region: str, *, now: datetime) -> None:
    """Make the database of a new shard, mode 0600, and check an old one's file.

    A new one is made under another name and linked into place when it is complete and on
    disk, so a crash leaves no database or a whole one; of two processes at once, one wins
    and the other takes its database. A crash can leave a hidden ``.new`` file behind,
    which nothing reads.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not path.exists():
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".new")
        os.close(handle)
        unfinished = Path(name)
        try:
            _fill(unfinished, region, now=now)
            _sync(unfinished)
            with contextlib.suppress(FileExistsError):  # another process was first
                path.hardlink_to(unfinished)
        finally:
            unfinished.unlink()
        _sync(path.parent)
    found = path.stat()
    if not stat.S_ISREG(found.st_mode):
        raise StartRefusedError(f"{path}: is not a file; correct `store`")
    if found.st_mode & stat.S_IRWXO:
        raise StartRefusedError(f"{path}: everybody may open it; run `chmod 600 {path}`")
    if found.st_size == 0:
        # SQLite would take an empty file for an empty database: a shard without keys.
        raise StartRefusedError(
            f"{path}: is empty; {CURE}, or delete the file if the shard never had a key"
        )


def is_to_be_checked_first(path: Path, *, up_to_bytes: int) -> bool:
    """Say whether all of a database is looked at before the start, and not behind it.

    A small one, for that takes no time; and one that damage was found in by an earlier run.
    """
    if marker_of(path).exists():
        return True
    files = (path, path.with_name(f"{path.name}-wal"))
    return sum(file.stat().st_size for file in files if file.exists()) <= up_to_bytes


def forget_damage(path: Path) -> None:
    """Take the marker away: all of the database was checked and is whole."""
    marker_of(path).unlink(missing_ok=True)


def check_before_use(connection: Connection, *, whole: bool) -> None:
    """Look at the file as SQLite sees it, before anything is written to it.

    On a connection that cannot write. One whose schema has to be brought up to date is
    looked at as a whole in any case: a migration must not build on damage.

    Raises:
        StoreDamagedError: It is damaged, or not as this program made it.
        migrate.SchemaUnknownError: Its schema is newer than this program's, or not ours.
    """
    journal = connection.exec_driver_sql("PRAGMA journal_mode").scalar_one()
    if journal != "wal":
        raise StoreDamagedError(f"its journal mode is {journal} and not wal")
    if whole or not migrate.is_current(connection):
        check_structure(connection)


def upgrade_if_older(connection: Connection) -> None:
    """Bring the schema up to date, in the caller's write transaction: all of it or nothing.

    Under the write lock, so of several processes one does it and the others find it done.

    Raises:
        migrate.SchemaUnknownError: The schema is newer than this program's, or not ours.
    """
    if not migrate.is_current(connection):
        migrate.upgrade(connection)


def load(connection: Connection, region: str, *, whole: bool, keep: int) -> Loaded:
    """Read what the start needs, in one snapshot.

    Args:
        whole: Check every row's digest.
        keep: How many keys and aliases to keep of those read on the way.

    Raises:
        StartRefusedError: The database belongs to another region.
        StoreDamagedError: A row is damaged.
    """
    meta = read_meta(connection)
    if meta.region != region:
        raise StartRefusedError(
            f"the database belongs to region {meta.region}, not {region}; correct `store`"
        )
    _check_outbox(connection, meta)
    keys: list[StoredKey] = []
    aliases: list[StoredAlias] = []
    if whole:
        keys, aliases = check_all_rows(connection, region, keep=keep)
    return Loaded(
        change_number=meta.change_number,
        roots=read_roots(connection, region),
        counts=count_rows(connection),
        keys=keys,
        aliases=aliases,
    )


def _check_outbox(connection: Connection, meta: ShardMeta) -> None:
    last = 0
    while rows := read_outbox(connection, after=last, limit=_OUTBOX_ROWS):
        last = rows[-1].outbox_id
    if last > meta.last_outbox_id:
        raise StoreDamagedError("an outbox row is newer than the counter of shard_meta")


def _fill(path: Path, region: str, *, now: datetime) -> None:
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as plain:
        plain.execute("PRAGMA journal_mode = WAL")
    database = SqliteConnection(path, writes=True)
    try:
        with database.transaction() as connection:
            migrate.upgrade(connection)
            meta = ShardMeta(region, change_number=0, last_outbox_id=0, create_time=to_micros(now))
            connection.execute(insert(schema.shard_meta), meta.to_row())
    finally:
        # The last connection to close moves the WAL into the file and deletes it.
        database.close()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
