"""The metadata store of one shard: a SQLite file on disk, and what is used often in memory.

The event loop owns what is in memory and never waits for the disk: `database.py` has the
threads, `key_reads.py` what is read on a miss, `following.py` other processes' changes.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Final, Self

from strongroom.resource_names import AliasName
from strongroom_server.domain.keys import Alias, Key, KeyMaterial, KeyVersionRef
from strongroom_server.errors import ShardUnavailableError
from strongroom_server.mutations import (
    Mutation,
    OutboxRow,
    RequestMemo,
    RewrappedVersion,
    WrappingRoot,
)
from strongroom_server.ports import Clock
from strongroom_server.store import changes, opening, reading, version_changes
from strongroom_server.store.checking import BackgroundCheck
from strongroom_server.store.counting import RowCounter
from strongroom_server.store.database import ShardDatabase
from strongroom_server.store.following import Follower
from strongroom_server.store.grant_changes import GrantsChanged
from strongroom_server.store.import_store import ImportStore
from strongroom_server.store.key_cache import DEFAULT_KEY_CACHE_KEYS, StoredAlias, StoredKey
from strongroom_server.store.memory import ShardMemory
from strongroom_server.store.permission_store import SqlitePermissionStore
from strongroom_server.store.reading import StoreCounts
from strongroom_server.store.reservations import Reservations
from strongroom_server.store.unseen import Changed

__all__ = ["SqliteKeyStore"]

CHECK_BEFORE_START_BYTES: Final = 64 * 2**20
"""A database up to this size is checked as a whole before the start, in about a second."""


class SqliteKeyStore(ImportStore):
    """Implements ports.KeyStore and ports.Outbox.

    Thread safety: used from one event loop.
    """

    def __init__(
        self,
        database: ShardDatabase,
        loaded: opening.Loaded,
        *,
        clock: Clock,
        key_cache_keys: int,
        check: BackgroundCheck | None,
    ) -> None:
        super().__init__(database)
        self._clock = clock
        #: Grants and past policies; ports.KeyStore.permissions.
        self.permissions = SqlitePermissionStore(database, ensure_current=self._ensure_current)
        self._memory = ShardMemory(
            database, limit=key_cache_keys, roots=loaded.roots, permissions=self.permissions
        )
        self._counter = RowCounter(database, loaded.counts)
        self._reservations = Reservations(database, on_stored=self._memory.replace_keys)
        self._follower = Follower(
            database, clock=clock, since=loaded.change_number, take_over=self._take_over
        )
        self._check = check
        for key in loaded.keys:
            self._memory.cache.put_key(key)
        for alias in loaded.aliases:
            self._memory.cache.put_alias(alias)

    @classmethod
    async def open(
        cls,
        path: Path,
        region: str,
        *,
        clock: Clock,
        key_cache_keys: int = DEFAULT_KEY_CACHE_KEYS,
        check_before_start_bytes: int = CHECK_BEFORE_START_BYTES,
    ) -> Self:
        """Open the shard's database, made anew when there is none.

        Args:
            key_cache_keys: How many keys, and as many aliases, are kept in memory.
            check_before_start_bytes: Up to this size all of it is checked before this
                returns; above it, in the background from `start_polling` on.

        Raises:
            StartRefusedError: It is damaged, of another region, of a later program, or
                cannot be used; the message has the cure.
        """
        loop = asyncio.get_running_loop()
        with opening.refusals(path):
            await loop.run_in_executor(
                None, lambda: opening.create_if_absent(path, region, now=clock.now())
            )
            whole = opening.is_to_be_checked_first(path, up_to_bytes=check_before_start_bytes)
        database = ShardDatabase(path, region)
        try:
            with opening.refusals(path):
                await database.reader.run(
                    lambda found: opening.check_before_use(found, whole=whole)
                )
                await database.writer.run(opening.upgrade_if_older)
                loaded = await database.reader.run(
                    lambda found: opening.load(found, region, whole=whole, keep=key_cache_keys)
                )
                if whole:
                    opening.forget_damage(path)
        except BaseException:  # whatever it is, the threads must not stay; re-raised
            await database.close()
            raise

        def found_damage(damage: str) -> None:
            database.damage = damage

        check = None if whole else BackgroundCheck(path, region, found=found_damage)
        return cls(database, loaded, clock=clock, key_cache_keys=key_cache_keys, check=check)

    def on_change(self, callback: Callable[[uuid.UUID], None]) -> None:
        """Call `callback` with the id of every key that was changed, or dropped from memory.

        Those that another process changed are told if they were in memory, whatever it was
        that changed. On the event loop, after memory has the change. It must not raise.
        """
        self._memory.on_change(callback)

    def start_polling(self) -> None:
        """Begin what goes on behind the calls; from here on stale reads are refused.

        That is following other processes, counting, and the check of a database that was
        too large to be checked before the start.
        """
        self._follower.start()
        if self._check is not None:
            self._check.start()
        self._counter.start()

    async def close(self) -> None:
        """Finish what was begun, stop polling, close the database. Idempotent."""
        await self._follower.stop()
        await self._counter.stop()
        if self._check is not None:
            await self._check.stop()
        await self._reservations.close()
        await self._database.close()

    @property
    def is_current(self) -> bool:
        """Whether memory has what other processes committed a second ago; for readiness.

        False for good once damage was found.
        """
        return self._database.damage is None and self._follower.is_current

    @property
    def is_checking(self) -> bool:
        """Whether the whole of the database is still being checked, behind the calls."""
        return self._check is not None and self._check.is_running

    def counts(self) -> StoreCounts:
        """Return how much there was some seconds ago, for metrics; constant time."""
        return self._counter.counts

    async def recount(self) -> StoreCounts:
        """Count now.

        Raises:
            ShardUnavailableError: The database does not answer.
        """
        return await self._counter.count()

    def cached_key(self, key_id: uuid.UUID) -> Key | None:
        """Return a key when it is in memory: the hot path."""
        self._ensure_current()
        return self._memory.cache.key(key_id)

    async def find_key(self, key_id: uuid.UUID) -> Key | None:
        """Return a key with all its versions, from memory or the database."""
        self._ensure_current()
        key = self._memory.cache.key(key_id)
        if key is None:
            with self._database.answering():
                key = await self._memory.reads.key(key_id)
        return key

    async def find_alias(self, name: AliasName) -> Alias | None:
        """Return an alias, from memory or the database."""
        self._ensure_current()
        alias = self._memory.cache.alias(name)
        if alias is None:
            with self._database.answering():
                alias = await self._memory.reads.alias(name)
        return alias

    async def list_keys(
        self,
        *,
        after: tuple[datetime, uuid.UUID] | None,
        limit: int,
        newest_first: bool = False,
    ) -> Sequence[Key]:
        """Return keys by (create_time, key_id); they do not enter the cache."""
        self._ensure_current()
        region = self._database.region
        with self._database.answering():
            found = await self._database.reader.run(
                lambda connection: reading.read_keys_after(
                    connection, region, after=after, limit=limit, newest_first=newest_first
                )
            )
        return [stored.key for stored in found]

    async def list_aliases(
        self, *, key_id: uuid.UUID | None, after: str, limit: int
    ) -> Sequence[Alias]:
        """Return aliases by name; they do not enter the cache."""
        self._ensure_current()
        region = self._database.region
        with self._database.answering():
            found = await self._database.reader.run(
                lambda connection: reading.read_aliases_after(
                    connection, region, key_id=key_id, after=after, limit=limit
                )
            )
        return [stored.alias for stored in found]

    async def list_roots(self) -> Sequence[WrappingRoot]:
        """Return the wrapping roots; from memory until one changes."""
        self._ensure_current()
        with self._database.answering():
            return await self._memory.roots()

    async def stale_versions(self, root: int, *, limit: int) -> Sequence[KeyMaterial]:
        """Return versions under another root than `root`; see ports.KeyStore."""
        region = self._database.region
        with self._database.answering():
            return await self._database.reader.run(
                lambda connection: reading.read_stale(connection, region, root=root, limit=limit)
            )

    async def count_stale_versions(self, root: int) -> int:
        """Count the versions under another root than `root`; by its index."""
        with self._database.answering():
            return await self._database.scanner.run(
                lambda connection: reading.count_stale(connection, root=root)
            )

    async def replace_wrapped(self, versions: Sequence[RewrappedVersion]) -> int:
        """Put re-wrapped materials in the place of the old ones; see ports.KeyStore."""
        self._database.ensure_whole()
        region = self._database.region
        with self._database.answering():
            replaced, _ = await self._database.writer.run(
                lambda connection: version_changes.replace_wrapped(connection, region, versions),
                then=lambda result: self._memory.replace_keys(result[1]),
            )
        return replaced

    async def find_memo(self, principal: str, method: str, request_id: str) -> RequestMemo | None:
        """Return the memo of a request id; from the database, so of any process."""
        with self._database.answering():
            return await self._database.reader.run(
                lambda connection: reading.read_memo(connection, principal, method, request_id)
            )

    async def commit(self, mutation: Mutation) -> int:
        """Commit a change with its record and memo; see ports.KeyStore.

        When a database error is raised the change may still have been committed, if the
        error came after the commit was on disk; a repeat with the same request id tells.

        Raises:
            KeyNotFoundError: The alias' key does not exist.
        """
        self._database.ensure_whole()
        region, now = self._database.region, self._clock.now()
        with self._database.answering():
            outbox_id, _ = await self._database.writer.run(
                lambda connection: changes.apply_mutation(connection, region, mutation, now=now),
                then=lambda result: self._put(mutation, result[1]),
            )
        return outbox_id

    async def reserve_uses(self, ref: KeyVersionRef, uses: int) -> int:
        """Reserve `uses` (1 or more) encryptions; see ports.KeyStore.

        Raises:
            KeyExhaustedError: The version's total would pass 2^32.
        """
        if uses < 1:
            raise ValueError("at least one use has to be reserved")
        self._database.ensure_whole()
        with self._database.answering():
            return await self._reservations.reserve(ref, uses)

    async def outbox_after(self, outbox_id: int, limit: int) -> list[OutboxRow]:
        """Return outbox rows; see ports.Outbox."""
        with self._database.answering():
            return await self._database.reader.run(
                lambda connection: reading.read_outbox(connection, after=outbox_id, limit=limit)
            )

    async def delete_outbox_through(self, outbox_id: int) -> None:
        """Delete outbox rows that the spool holds; see ports.Outbox."""
        self._database.ensure_whole()
        with self._database.answering():
            await self._database.writer.run(
                lambda connection: changes.delete_outbox(connection, through=outbox_id)
            )

    async def last_outbox_id(self) -> int:
        """Return the highest outbox id ever given out, 0 when none was.

        A spool that knows a higher one shows that this database is an older copy: its
        next ids would be taken for repeats and their records dropped. Such a shard must
        not start.
        """
        with self._database.answering():
            meta = await self._database.reader.run(reading.read_meta)
        return meta.last_outbox_id

    async def refresh(self) -> None:
        """Take over what other processes have committed so far."""
        await self._follower.refresh()

    def _take_over(self, changed: Changed) -> None:
        self._memory.take_over(changed)
        if changed.keys or changed.aliases or not changed.is_complete:
            self._counter.outdate()

    def _put(
        self, mutation: Mutation, stored: StoredKey | StoredAlias | GrantsChanged | None
    ) -> None:
        if mutation.change is not None:
            self._memory.put(stored)
            self._counter.outdate()

    def _ensure_current(self) -> None:
        self._database.ensure_whole()
        if not self._follower.is_current:
            raise ShardUnavailableError(
                self._database.region, "the metadata store cannot be followed"
            )
