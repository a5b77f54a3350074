"""What a database must show before it is used; what a new one looks like."""

from __future__ import annotations

import functools
import os
import sqlite3
import stat
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import Connection
from tests.support.store_samples import (
    REGION,
    SteppingClock,
    creation,
    make_key,
    make_material,
    new_alias,
    new_root,
)

from strongroom_server.errors import StartRefusedError
from strongroom_server.store import SqliteKeyStore


async def _open(path: Path, region: str = REGION) -> SqliteKeyStore:
    return await SqliteKeyStore.open(path, region, clock=SteppingClock())


def _pragma(connection: Connection, *, name: str) -> object:
    return connection.exec_driver_sql(f"PRAGMA {name}").scalar_one()


async def _made(path: Path) -> None:
    store = await _open(path)
    key = make_key()
    await store.commit(creation(key))
    await store.commit(new_alias(key, "orders"))
    await store.commit(new_root(1))
    await store.commit(creation(make_key(wrapped=make_material(1))))
    await store.close()


def _sql(path: Path, *statements: str) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        for statement in statements:
            connection.execute(statement)


async def test_a_new_database_is_for_its_owner_only(tmp_path: Path) -> None:
    """File, WAL and shared memory have mode 0600, the directory 0700, whatever the umask."""
    path = tmp_path / "shard" / "store.db"
    old_umask = os.umask(0)
    try:
        store = await _open(path)
        await store.commit(creation(make_key()))
        modes = {entry.name: stat.S_IMODE(entry.stat().st_mode) for entry in path.parent.iterdir()}
    finally:
        os.umask(old_umask)
    await store.close()
    assert modes == {"store.db": 0o600, "store.db-wal": 0o600, "store.db-shm": 0o600}
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


async def test_connections_wait_for_the_disk_and_check_references(tmp_path: Path) -> None:
    """WAL, synchronous=FULL, foreign keys and a busy timeout are on."""
    store = await _open(tmp_path / "store.db")
    database = store._database
    for thread in (database.writer, database.reader, database.scanner):
        for pragma, value in {
            "journal_mode": "wal",
            "synchronous": 2,
            "foreign_keys": 1,
            "busy_timeout": 2000,
            "trusted_schema": 0,
            "cell_size_check": 1,
            "query_only": int(thread is not database.writer),
        }.items():
            found = await thread.run(functools.partial(_pragma, name=pragma))
            assert (pragma, found) == (pragma, value)
    await store.close()


async def test_the_database_of_another_region_is_refused(tmp_path: Path) -> None:
    """The message names both regions."""
    await _made(tmp_path / "store.db")
    with pytest.raises(StartRefusedError, match=f"region {REGION}, not us-test"):
        await _open(tmp_path / "store.db", "us-test")


async def test_the_database_of_a_later_program_is_refused_and_left_alone(tmp_path: Path) -> None:
    """A schema that this program does not know is neither used nor changed."""
    path = tmp_path / "store.db"
    await _made(path)
    _sql(path, "UPDATE alembic_version SET version_num = '9999'")
    before = path.read_bytes()
    with pytest.raises(StartRefusedError, match="9999 is newer than this program"):
        await _open(path)
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("content", "words"),
    [(b"", "empty"), (b"this is not a database, by any means" * 200, "not a database")],
)
async def test_what_is_no_database_is_refused(tmp_path: Path, content: bytes, words: str) -> None:
    """Neither an empty file nor another one is taken for a new shard."""
    path = tmp_path / "store.db"
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(StartRefusedError, match=words):
        await _open(path)
    assert path.read_bytes() == content


async def test_a_foreign_sqlite_database_is_refused(tmp_path: Path) -> None:
    """A database of some other program gets no tables from us."""
    path = tmp_path / "store.db"
    _sql(path, "PRAGMA journal_mode = WAL", "CREATE TABLE t (a)")
    path.chmod(0o600)
    with pytest.raises(StartRefusedError, match="no Strongroom schema"):
        await _open(path)


async def test_a_file_that_everybody_may_open_is_refused(tmp_path: Path) -> None:
    """The cure is in the message."""
    path = tmp_path / "store.db"
    await _made(path)
    path.chmod(0o644)
    with pytest.raises(StartRefusedError, match="chmod 600"):
        await _open(path)


async def test_a_directory_in_its_place_is_refused(tmp_path: Path) -> None:
    """A path that is no file is a mistake in the configuration."""
    (tmp_path / "store.db").mkdir()
    with pytest.raises(StartRefusedError, match="is not a file"):
        await _open(tmp_path / "store.db")


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE policies SET cedar = 'permit(principal, action, resource);'",
        "DELETE FROM policies",
        "UPDATE keys SET state = 'DISABLED'",
        "UPDATE keys SET state = 'OPEN'",
        "UPDATE keys SET creator = 'spiffe://example.org/mallory'",
        "UPDATE keys SET primary_version = 2",
        "UPDATE keys SET create_time = 9223372036854775807",
        "UPDATE key_versions SET reserved_uses = reserved_uses + 1",
        "DELETE FROM key_versions",
        (
            "INSERT INTO key_versions (key_id, number, create_time, reserved_uses)"
            " SELECT key_id, 2, create_time, 0 FROM key_versions"
        ),
        "UPDATE keys SET storage = 'WRAPPED'",
        "UPDATE key_versions SET wrapped_root = 1, wrapped = x'00' WHERE number = 1",
        "UPDATE keys SET storage = 'RESIDENT' WHERE storage = 'WRAPPED'",
        "UPDATE key_versions SET wrapped = zeroblob(39) WHERE wrapped NOT NULL",
        "UPDATE key_versions SET wrapped_root = 2 WHERE wrapped_root = 1",
        "UPDATE key_versions SET wrapped_root = NULL, wrapped = NULL",
        "UPDATE wrapping_roots SET state = 'RETIRED'",
        "UPDATE wrapping_roots SET number = 2",
        "UPDATE aliases SET alias = 'invoices'",
        "UPDATE outbox SET draft = replace(draft, 'orders', 'mallory')",
        "UPDATE outbox SET outbox_id = outbox_id + 10",
        "UPDATE shard_meta SET change_number = 0",
        "UPDATE shard_meta SET last_outbox_id = 0",
        "DELETE FROM shard_meta",
        "INSERT INTO alembic_version VALUES ('0000')",
        "UPDATE keys SET description = CAST(x'ff' AS TEXT)",
        "DROP TABLE policies",
        "PRAGMA journal_mode = DELETE",
    ],
)
async def test_an_edited_database_is_refused(tmp_path: Path, statement: str) -> None:
    """Rows that are not as they were written stop the start, also when SQLite is content."""
    path = tmp_path / "store.db"
    await _made(path)
    _sql(path, "PRAGMA foreign_keys = OFF", statement)
    with pytest.raises(StartRefusedError, match=r"store\.db: "):
        await _open(path)
