"""Reads what is not in memory: one read for all who want the same at the same time.

While the reader thread is at work, the keys that are wanted next gather, and are read
together: that costs half of reading each alone.
"""

from __future__ import annotations

import asyncio
import functools
import uuid
from dataclasses import dataclass
from typing import Final

from strongroom.resource_names import AliasName
from strongroom_server.domain.keys import Alias, Key
from strongroom_server.store import reading
from strongroom_server.store.database import ShardDatabase
from strongroom_server.store.digests import StoreDamagedError
from strongroom_server.store.key_cache import KeyCache, StoredAlias, StoredKey
from strongroom_server.store.reading import FoundKey

__all__ = ["KeyReads"]

# Little enough that the first of them does not wait long for the last.
MAX_TOGETHER: Final = 32


@dataclass(slots=True, eq=False)
class _KeyRead:
    """A read under way, and the newest row of its key that was seen meanwhile."""

    done: asyncio.Future[None]
    newest: StoredKey | None = None

    def note(self, stored: StoredKey | None) -> None:
        if stored is not None and (
            self.newest is None or self.newest.change_number < stored.change_number
        ):
            self.newest = stored

    def end(self, error: Exception | None = None) -> None:
        if error is None:
            self.done.set_result(None)
        else:
            self.done.set_exception(error)
            self.done.exception()  # looked at, for when everybody who waited has given up


class KeyReads:
    """The misses of a cache. Owned by the event loop.

    A read that began before a commit of this process may end after it, with the row as it
    was before. So commits are told here (`note`), and the newest row wins. Changes of
    other processes need no such care: they are found on the same thread that reads, so
    the cache hears of both in the order in which they were read.
    """

    def __init__(self, database: ShardDatabase, cache: KeyCache) -> None:
        self._database = database
        self._cache = cache
        self._keys: dict[uuid.UUID, _KeyRead] = {}
        self._wanted: list[uuid.UUID] = []
        self._reading: asyncio.Task[None] | None = None
        self._aliases: dict[AliasName, asyncio.Task[StoredAlias | None]] = {}

    async def key(self, key_id: uuid.UUID) -> Key | None:
        """Read a key and keep it in the cache; absence is not kept.

        Raises:
            StoreDamagedError, SQLAlchemyError: What `ShardDatabase.answering` turns into
                an answer.
        """
        read = self._keys.get(key_id)
        if read is None:
            loop = asyncio.get_running_loop()
            read = self._keys[key_id] = _KeyRead(loop.create_future())
            self._wanted.append(key_id)
            if self._reading is None:
                self._reading = loop.create_task(self._read_wanted())
        # A caller that gives up does not end the read that others wait for.
        await asyncio.shield(read.done)
        return None if read.newest is None else read.newest.key

    async def alias(self, name: AliasName) -> Alias | None:
        """Read an alias and keep it in the cache; absence is not kept.

        Raises:
            StoreDamagedError, SQLAlchemyError: As `key`.
        """
        task = self._aliases.get(name)
        if task is None:
            task = asyncio.get_running_loop().create_task(self._read_alias(name))
            self._aliases[name] = task
            task.add_done_callback(_look_at)
        stored = await asyncio.shield(task)
        return None if stored is None or stored.deleted else stored.alias

    def note(self, stored: StoredKey) -> None:
        """Hear of a row that this process committed."""
        read = self._keys.get(stored.key.key_id)
        if read is not None:
            read.note(stored)

    async def _read_wanted(self) -> None:
        try:
            while self._wanted:
                together = self._wanted[:MAX_TOGETHER]
                del self._wanted[:MAX_TOGETHER]
                await self._read_keys(together)
        finally:
            self._reading = None

    async def _read_keys(self, key_ids: list[uuid.UUID]) -> None:
        try:
            # Kept by the thread's callback, and so in the order of what it reads.
            await self._database.reader.run(
                functools.partial(reading.read_each, region=self._database.region, key_ids=key_ids),
                then=self._keep,
            )
        except Exception as exc:  # noqa: BLE001 - handed to those who wait, all of them
            for key_id in key_ids:
                self._keys.pop(key_id).end(exc)

    def _keep(self, found: dict[uuid.UUID, FoundKey]) -> None:
        for key_id, each in found.items():
            read = self._keys.pop(key_id)
            if isinstance(each, StoreDamagedError):
                read.end(each)
                continue
            read.note(each)
            if read.newest is not None:
                self._cache.put_key(read.newest)
            read.end()

    async def _read_alias(self, name: AliasName) -> StoredAlias | None:
        def keep(stored: StoredAlias | None) -> None:
            if stored is not None:
                self._cache.put_alias(stored)

        try:
            return await self._database.reader.run(
                functools.partial(reading.read_alias, region=self._database.region, name=name),
                then=keep,
            )
        finally:
            del self._aliases[name]


def _look_at(task: asyncio.Task[StoredAlias | None]) -> None:
    """Take note of a failure, for when everybody who waited has given up."""
    if not task.cancelled():
        task.exception()
