"""The migrations make exactly the tables that the program uses."""

from __future__ import annotations

import logging
import re
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, create_engine
from tests.support.store_samples import REGION, SteppingClock

from strongroom_server.store import SqliteKeyStore, migrate, schema


def _tables(connection: Connection) -> dict[str, str]:
    rows = connection.exec_driver_sql(
        "SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL AND name <> 'alembic_version'"
    )
    return {name: re.sub(r"[\s\"]+", " ", sql).strip() for name, sql in rows}


def test_migrated_and_declared_tables_are_the_same() -> None:
    """Alembic finds no difference, and SQLite holds the same statements, checks included."""
    migrated = create_engine("sqlite://")
    declared = create_engine("sqlite://")
    with migrated.begin() as connection:
        migrate.upgrade(connection)
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, schema.metadata) == []
        found = _tables(connection)
    with declared.begin() as connection:
        schema.metadata.create_all(connection)
        assert _tables(connection) == found
    migrated.dispose()
    declared.dispose()


def test_the_scripts_are_those_that_alembic_knows() -> None:
    """Names and revisions of the scripts agree, in one line without branches."""
    scripts = ScriptDirectory.from_config(migrate._config())
    assert migrate.revisions() == [script.revision for script in scripts.walk_revisions()][::-1]
    assert scripts.get_heads() == migrate.revisions()[-1:]


def test_a_server_starts_without_alembic() -> None:
    """What only a migration needs is not imported with the store."""
    program = "import sys, strongroom_server.store; sys.exit('alembic' in sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True)


async def test_opening_leaves_logging_alone(tmp_path: Path) -> None:
    """Migrations configure no logger and no handler."""
    before = (logging.root.handlers[:], logging.root.level, logging.getLogger("alembic").level)
    store = await SqliteKeyStore.open(tmp_path / "store.db", REGION, clock=SteppingClock())
    await store.close()
    after = (logging.root.handlers[:], logging.root.level, logging.getLogger("alembic").level)
    assert after == before


@pytest.mark.parametrize("folder", ["plain", "with %d and spaces"])
async def test_a_migration_that_fails_leaves_no_database(
    tmp_path: Path, folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A new shard's database is there whole or not at all."""
    path = tmp_path / folder / "store.db"

    def fail(connection: Connection) -> None:
        connection.exec_driver_sql("CREATE TABLE half (a)")
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(migrate, "upgrade", fail)
        with pytest.raises(Exception, match="No space left"):
            await SqliteKeyStore.open(path, REGION, clock=SteppingClock())
    assert list(path.parent.iterdir()) == []
    store = await SqliteKeyStore.open(path, REGION, clock=SteppingClock())
    await store.close()
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT region FROM shard_meta").fetchall() == [(REGION,)]
