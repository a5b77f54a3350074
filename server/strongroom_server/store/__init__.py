"""The metadata store of a shard: SQLAlchemy Core on SQLite, migrated by Alembic."""

from strongroom_server.store.reading import StoreCounts
from strongroom_server.store.sqlite_store import SqliteKeyStore

__all__ = ["SqliteKeyStore", "StoreCounts"]
