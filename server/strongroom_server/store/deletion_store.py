"""The part of a shard's store that is asked by those who destroy keys."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from strongroom_server.domain.keys import Key
from strongroom_server.store import deletions
from strongroom_server.store.database import ShardDatabase

__all__ = ["DeletionStore"]


class DeletionStore:
    """Base of `SqliteKeyStore`. Nothing of this is in memory."""

    def __init__(self, database: ShardDatabase) -> None:
        self._database = database

    async def due_deletions(self, *, now: datetime, observed: int, limit: int) -> Sequence[Key]:
        """Return what is to be destroyed now; see ports.KeyStore."""
        region = self._database.region
        with self._database.answering():
            found = await self._database.reader.run(
                lambda connection: deletions.read_due(
                    connection, region, now=now, observed=observed, limit=limit
                )
            )
        return [stored.key for stored in found]

    async def has_deletions(self) -> bool:
        """Say whether anything waits for its destruction."""
        with self._database.answering():
            return await self._database.reader.run(deletions.has_deletions)

    async def observed_seconds(self) -> int:
        """Return for how long the shard has been looked after; see ports.KeyStore."""
        region = self._database.region
        with self._database.answering():
            return await self._database.reader.run(
                lambda connection: deletions.read_observed(connection, region)
            )

    async def advance_observed(self, *, expected: int, seconds: int) -> bool:
        """Move that on; see ports.KeyStore."""
        self._database.ensure_whole()
        region = self._database.region
        with self._database.answering():
            return await self._database.writer.run(
                lambda connection: deletions.advance_observed(
                    connection, region, expected=expected, seconds=seconds
                )
            )
