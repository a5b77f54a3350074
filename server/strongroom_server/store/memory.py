"""What one process keeps of a shard in memory, and how it learns of changes.

Owned by the event loop. Commits of this process are taken over as they left the rows;
what other processes changed is dropped and read again when it is asked for.
"""

from __future__ import annotations

import functools
import uuid
from collections.abc import Callable

from strongroom_server.mutations import WrappingRoot
from strongroom_server.store import reading
from strongroom_server.store.database import ShardDatabase
from strongroom_server.store.grant_changes import GrantsChanged
from strongroom_server.store.key_cache import KeyCache, StoredAlias, StoredKey
from strongroom_server.store.key_reads import KeyReads
from strongroom_server.store.permission_store import SqlitePermissionStore
from strongroom_server.store.unseen import Changed

__all__ = ["ShardMemory"]


class ShardMemory:
    """Keys and aliases within a bound, and the wrapping roots, of which there are few."""

    def __init__(
        self,
        database: ShardDatabase,
        *,
        limit: int,
        roots: tuple[WrappingRoot, ...],
        permissions: SqlitePermissionStore,
    ) -> None:
        self._database = database
        self._permissions = permissions
        self.cache = KeyCache(limit)
        self.reads = KeyReads(database, self.cache)
        self._roots: tuple[WrappingRoot, ...] | None = roots
        self._roots_changed = 0
        self._listeners: list[Callable[[uuid.UUID], None]] = []

    def on_change(self, callback: Callable[[uuid.UUID], None]) -> None:
        """Call `callback` with the id of every key that was changed or dropped."""
        self._listeners.append(callback)

    async def roots(self) -> tuple[WrappingRoot, ...]:
        """Return the wrapping roots, read again after a change.

        Raises:
            StoreDamagedError, SQLAlchemyError: As `KeyReads`.
        """
        if self._roots is not None:
            return self._roots
        changed = self._roots_changed
        roots = await self._database.reader.run(
            functools.partial(reading.read_roots, region=self._database.region)
        )
        if changed == self._roots_changed:  # else they may be older than the last change
            self._roots = roots
        return roots

    def put(self, stored: StoredKey | StoredAlias | GrantsChanged | None) -> None:
        """Take over what a commit of this process left; None: it was about a root."""
        if stored is None:
            self._forget_roots()
        elif isinstance(stored, GrantsChanged):
            self._permissions.note_commit((stored.key_id, stored.grantee))
        elif isinstance(stored, StoredAlias):
            self.cache.put_alias(stored)
        else:
            self.reads.note(stored)
            if self.cache.put_key(stored):
                self._notify([stored.key.key_id])

    def replace_keys(self, stored: list[StoredKey]) -> None:
        """Take over, where it is in memory, what changed without anybody having to hear."""
        for each in stored:
            self.reads.note(each)
            self.cache.replace_key(each)

    def take_over(self, changed: Changed) -> None:
        """Drop what is older than the database is now."""
        if changed.is_complete:
            dropped = self.cache.drop_older_keys(changed.keys)
            self.cache.drop_older_aliases(changed.aliases)
        else:
            dropped = self.cache.drop_everything()
        self._permissions.take_over(changed.grants, is_complete=changed.is_complete)
        if changed.roots or not changed.is_complete:
            self._forget_roots()
        self._notify(dropped)

    def _forget_roots(self) -> None:
        self._roots = None
        self._roots_changed += 1

    def _notify(self, key_ids: list[uuid.UUID]) -> None:
        for key_id in key_ids:
            for callback in self._listeners:
                callback(key_id)
