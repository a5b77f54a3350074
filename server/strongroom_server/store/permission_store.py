"""The part of a shard's store that knows grants and past policies."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime

from sqlalchemy import Connection

from strongroom_server.domain.grants import Grant, PrincipalGrants
from strongroom_server.domain.keys import Key
from strongroom_server.domain.policy_history import PolicyRevision
from strongroom_server.permission_ports import Place
from strongroom_server.store import grant_reading
from strongroom_server.store.database import ShardDatabase
from strongroom_server.store.digests import StoreDamagedError
from strongroom_server.store.grant_cache import GrantCache, GrantPlace
from strongroom_server.store.reading import read_key

__all__ = ["SqlitePermissionStore"]


class SqlitePermissionStore:
    """Implements permission_ports.PermissionStore. Owned by the event loop."""

    def __init__(self, database: ShardDatabase, *, ensure_current: Callable[[], None]) -> None:
        """Take the database; `ensure_current` raises when memory may not be believed."""
        self._database = database
        self._ensure_current = ensure_current
        self.cache = GrantCache()
        # Reads under way that may still be kept: what is told as changed meanwhile leaves
        # here, for such a read may have begun before the change.
        self._reads: dict[GrantPlace, asyncio.Task[PrincipalGrants]] = {}

    def cached_grants(self, key_id: uuid.UUID, grantee: str) -> PrincipalGrants | None:
        """Return grants that are in memory: the hot path."""
        self._ensure_current()
        return self.cache.get((key_id, grantee))

    async def find_grants(self, key_id: uuid.UUID, grantee: str) -> PrincipalGrants:
        """Return grants, from memory or the database; one read for all who want the same."""
        place = (key_id, grantee)
        cached = self.cached_grants(key_id, grantee)
        if cached is not None:
            return cached
        task = self._reads.get(place)
        if task is None:
            task = asyncio.get_running_loop().create_task(self._read(place))
            self._reads[place] = task
            task.add_done_callback(_look_at)
        with self._database.answering():
            # A caller that gives up does not end the read that others wait for.
            return await asyncio.shield(task)

    async def find_grant(self, grant_id: uuid.UUID) -> Grant | None:
        """Return a grant."""
        self._ensure_current()
        region = self._database.region
        with self._database.answering():
            return await self._database.reader.run(
                lambda connection: grant_reading.read_grant(connection, region, grant_id)
            )

    async def find_repeat(self, grant: Grant) -> Grant | None:
        """Return the grant that this one would repeat."""
        self._ensure_current()
        region = self._database.region
        with self._database.answering():
            return await self._database.reader.run(
                lambda connection: grant_reading.read_repeat(connection, region, grant)
            )

    async def list_grants(
        self, key_id: uuid.UUID, *, grantee: str, after: Place | None, limit: int
    ) -> Sequence[Grant]:
        """Return grants of a key by age."""
        self._ensure_current()
        region = self._database.region
        with self._database.answering():
            return await self._database.reader.run(
                lambda connection: grant_reading.read_grants_after(
                    connection, region, key_id, grantee=grantee, after=after, limit=limit
                )
            )

    async def list_retirable_grants(
        self, principal: str, *, after: Place | None, limit: int
    ) -> Sequence[Grant]:
        """Return grants that name a retiring principal, by age."""
        self._ensure_current()
        region = self._database.region
        with self._database.answering():
            return await self._database.reader.run(
                lambda connection: grant_reading.read_retirable_after(
                    connection, region, principal, after=after, limit=limit
                )
            )

    async def policy_revision(self, key: Key, number: int | None) -> PolicyRevision | None:
        """Return a policy that a key has had; the last one for None."""
        self._ensure_current()
        region = self._database.region

        def read(connection: Connection) -> PolicyRevision | None:
            fresh = _fresh(connection, region, key)
            if number is None:
                return grant_reading.read_last_revision(connection, fresh)
            return grant_reading.read_revision(connection, fresh, number)

        with self._database.answering():
            return await self._database.reader.run(read)

    async def policy_at(self, key: Key, time: datetime) -> PolicyRevision | None:
        """Return the policy that held at a time."""
        self._ensure_current()
        region = self._database.region
        with self._database.answering():
            return await self._database.reader.run(
                lambda connection: grant_reading.read_revision_at(
                    connection, _fresh(connection, region, key), time
                )
            )

    async def list_policy_revisions(
        self, key: Key, *, after: int, limit: int
    ) -> Sequence[PolicyRevision]:
        """Return policies that a key has had, ascending."""
        self._ensure_current()
        region = self._database.region
        with self._database.answering():
            return await self._database.reader.run(
                lambda connection: grant_reading.read_revisions_after(
                    connection, _fresh(connection, region, key), after=after, limit=limit
                )
            )

    def note_commit(self, place: GrantPlace) -> None:
        """Hear of a change that this process committed."""
        self._reads.pop(place, None)
        self.cache.drop(place)

    def take_over(self, changed: Iterable[tuple[GrantPlace, int]], *, is_complete: bool) -> None:
        """Hear of changes that any process committed; all may have when not complete.

        They were read on the thread that reads grants too, so no read that ended before is
        newer, and none that ends later is older.
        """
        if is_complete:
            self.cache.drop_older(changed)
        else:
            self.cache.drop_everything()

    async def _read(self, place: GrantPlace) -> PrincipalGrants:
        this = asyncio.current_task()
        region = self._database.region

        def keep(found: tuple[PrincipalGrants, int]) -> None:
            if self._reads.get(place) is this:
                self.cache.put(place, *found)

        try:
            grants, _ = await self._database.reader.run(
                lambda connection: grant_reading.read_grants(connection, region, *place),
                then=keep,
            )
        finally:
            if self._reads.get(place) is this:
                del self._reads[place]
        return grants


def _fresh(connection: Connection, region: str, key: Key) -> Key:
    """Return a key as it is in this transaction: memory may be a moment behind its history."""
    stored = read_key(connection, region, key.key_id)
    if stored is None:
        raise StoreDamagedError(f"key {key.key_id} is damaged: it is missing")
    return stored.key


def _look_at(task: asyncio.Task[PrincipalGrants]) -> None:
    """Take note of a failure, for when everybody who waited has given up."""
    if not task.cancelled():
        task.exception()
