"""Reservations of uses, many in one transaction when they come together.

The first use of each key version costs a commit that is on disk before the answer. While
one commit is under way the next reservations gather, and go together in the next one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from strongroom_server.domain.keys import KeyVersionRef
from strongroom_server.store import version_changes
from strongroom_server.store.database import ShardDatabase
from strongroom_server.store.digests import StoreDamagedError
from strongroom_server.store.key_cache import StoredKey

__all__ = ["Reservations"]

# Little enough that one transaction stays short for the mutations behind it.
MAX_TOGETHER: Final = 128


@dataclass(frozen=True, slots=True, eq=False)
class _Wanted:
    ref: KeyVersionRef
    uses: int
    total: asyncio.Future[int]


class Reservations:
    """Owned by the event loop; one transaction at a time."""

    def __init__(
        self, database: ShardDatabase, *, on_stored: Callable[[list[StoredKey]], None]
    ) -> None:
        """Take the database; `on_stored` hears on the loop what each commit left."""
        self._database = database
        self._on_stored = on_stored
        self._waiting: list[_Wanted] = []
        self._flushing: asyncio.Task[None] | None = None

    async def reserve(self, ref: KeyVersionRef, uses: int) -> int:
        """Reserve; durable on return. A caller that gives up leaves the uses reserved.

        Raises:
            KeyExhaustedError: The total would pass 2^32.
            StoreDamagedError, SQLAlchemyError: What `ShardDatabase.answering` turns into
                an answer.
        """
        loop = asyncio.get_running_loop()
        wanted = _Wanted(ref, uses, loop.create_future())
        self._waiting.append(wanted)
        if self._flushing is None:
            self._flushing = loop.create_task(self._flush())
        return await wanted.total

    async def close(self) -> None:
        """Wait for what was begun."""
        if self._flushing is not None:
            await asyncio.wait([self._flushing])

    async def _flush(self) -> None:
        try:
            while self._waiting:
                together = self._waiting[:MAX_TOGETHER]
                del self._waiting[:MAX_TOGETHER]
                await self._commit(together)
        finally:
            self._flushing = None

    async def _commit(self, together: list[_Wanted]) -> None:
        region = self._database.region
        wanted = [(each.ref, each.uses) for each in together]
        try:
            outcomes, _ = await self._database.writer.run(
                lambda connection: version_changes.reserve(connection, region, wanted),
                then=lambda result: self._on_stored(result[1]),
            )
        except StoreDamagedError as exc:
            if len(together) == 1:
                _fail(together[0], exc)
                return
            for each in together:  # the others are not to suffer from the damaged one
                await self._commit([each])
        except Exception as exc:  # noqa: BLE001 - handed to those who wait, each of them
            for each in together:
                _fail(each, exc)
        else:
            for each, outcome in zip(together, outcomes, strict=True):
                if isinstance(outcome, int):
                    if not each.total.done():
                        each.total.set_result(outcome)
                else:
                    _fail(each, outcome)


def _fail(wanted: _Wanted, error: Exception) -> None:
    if not wanted.total.done():
        wanted.total.set_exception(error)
