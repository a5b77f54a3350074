"""How much is in the store, for metrics: counted now and then, never on the way of a call."""

from __future__ import annotations

import asyncio
from typing import Final

from strongroom_server.errors import ShardUnavailableError
from strongroom_server.store import reading
from strongroom_server.store.database import ShardDatabase
from strongroom_server.store.reading import StoreCounts

__all__ = ["RowCounter"]

COUNT_SECONDS: Final = 10.0


class RowCounter:
    """Counts on the scanner thread, at most every 10 s, when something changed.

    Owned by the event loop.
    """

    def __init__(self, database: ShardDatabase, counts: StoreCounts) -> None:
        self._database = database
        self.counts = counts
        self._is_outdated = False
        self._task: asyncio.Task[None] | None = None

    def outdate(self) -> None:
        """Note that something changed."""
        self._is_outdated = True

    def start(self) -> None:
        """Begin; idempotent."""
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._count_for_ever())

    async def stop(self) -> None:
        """Stop; idempotent."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait([task])

    async def count(self) -> StoreCounts:
        """Count now.

        Raises:
            ShardUnavailableError: The database does not answer.
        """
        self._is_outdated = False
        with self._database.answering():
            self.counts = await self._database.scanner.run(reading.count_rows)
        return self.counts

    async def _count_for_ever(self) -> None:
        while True:
            await asyncio.sleep(COUNT_SECONDS)
            if self._is_outdated:
                try:
                    await self.count()
                except ShardUnavailableError:
                    # The poll tells of a database that does not answer, louder than a number.
                    self._is_outdated = True
