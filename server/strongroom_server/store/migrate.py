"""Brings a database to this program's schema, with the Alembic scripts in `migrations/`."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Final

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import Connection

__all__ = ["SchemaUnknownError", "is_current", "upgrade"]

# Alembic hands the running migration to its scripts through module globals (alembic.op,
# alembic.context): two shards of one process would run on each other's connection.
_ALEMBIC_LOCK: Final = threading.Lock()


class SchemaUnknownError(Exception):
    """The database's schema is none that this program knows: newer, or not ours."""


def is_current(connection: Connection) -> bool:
    """Say whether the database has the schema of this program.

    Raises:
        SchemaUnknownError: It is of a later program, or the database has none.
    """
    scripts = ScriptDirectory.from_config(_config())
    try:
        revision = MigrationContext.configure(connection).get_current_revision()
    except CommandError as exc:  # more than one
        raise SchemaUnknownError("its schema is not one that Strongroom makes") from exc
    if revision is None:
        raise SchemaUnknownError("it has no Strongroom schema")
    known = {script.revision for script in scripts.walk_revisions()}
    if revision not in known:
        raise SchemaUnknownError(f"its schema {revision} is newer than this program")
    return revision == scripts.get_current_head()


def upgrade(connection: Connection) -> None:
    """Run what is missing, inside the caller's transaction: all of it or nothing."""
    config = _config()
    config.attributes["connection"] = connection
    with _ALEMBIC_LOCK:
        command.upgrade(config, "head")


def _config() -> Config:
    # No ini file: nothing here configures logging or reads the working directory.
    config = Config()
    folder = Path(__file__).parent / "migrations"
    config.set_main_option("script_location", str(folder).replace("%", "%%"))
    return config
