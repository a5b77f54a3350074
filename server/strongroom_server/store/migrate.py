"""Brings a database to this program's schema, with the Alembic scripts in `migrations/`.

Alembic is imported when there is something to do, which is seldom: importing it takes a
sixth of a server's start. Whether there is, the database's table and the scripts' names
tell.
"""

from __future__ import annotations

import re
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Final

from sqlalchemy import Connection

if TYPE_CHECKING:
    from alembic.config import Config

__all__ = ["SchemaUnknownError", "is_current", "revisions", "upgrade"]

_FOLDER: Final = Path(__file__).parent / "migrations"
_SCRIPT: Final = re.compile(r"v([0-9]{4})_[a-z0-9_]+\.py")
# Alembic hands the running migration to its scripts through module globals (alembic.op,
# alembic.context): two shards of one process would run on each other's connection.
_ALEMBIC_LOCK: Final = threading.Lock()


class SchemaUnknownError(Exception):
    """The database's schema is none that this program knows: newer, or not ours."""


def revisions() -> list[str]:
    """Return the revisions that this program knows, oldest first: one line, no branches."""
    found = (_SCRIPT.fullmatch(path.name) for path in (_FOLDER / "versions").iterdir())
    return sorted(match[1] for match in found if match)


def is_current(connection: Connection) -> bool:
    """Say whether the database has the schema of this program.

    Raises:
        SchemaUnknownError: It is of a later program, or the database has none.
    """
    table = connection.exec_driver_sql(
        "SELECT name FROM sqlite_master WHERE type = 'table' AND name = 'alembic_version'"
    ).first()
    if table is None:
        raise SchemaUnknownError("it has no Strongroom schema")
    rows = connection.exec_driver_sql("SELECT version_num FROM alembic_version").scalars().all()
    if len(rows) != 1:
        raise SchemaUnknownError("its schema is not one that Strongroom makes")
    known = revisions()
    if rows[0] not in known:
        raise SchemaUnknownError(f"its schema {rows[0]} is newer than this program")
    return bool(rows[0] == known[-1])


def upgrade(connection: Connection) -> None:
    """Run what is missing, inside the caller's transaction: all of it or nothing."""
    from alembic import command  # noqa: PLC0415 - see the module's docstring

    config = _config()
    config.attributes["connection"] = connection
    with _ALEMBIC_LOCK:
        command.upgrade(config, "head")


def _config() -> Config:
    # No ini file: nothing here configures logging or reads the working directory.
    from alembic.config import Config  # noqa: PLC0415 - see the module's docstring

    config = Config()
    config.set_main_option("script_location", str(_FOLDER).replace("%", "%%"))
    return config
