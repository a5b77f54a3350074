"""Alembic's entry point: runs on the connection and in the transaction it is given.

Only `store/migrate.py` runs it. It opens nothing and leaves logging alone.
"""

from __future__ import annotations

from alembic import context

from strongroom_server.store.schema import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    # SQLite can roll DDL back; the connection begins its transactions itself.
    transactional_ddl=True,
)
context.run_migrations()
