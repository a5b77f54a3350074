"""Which wrapping root new material is wrapped under, and the making of the first one."""

from __future__ import annotations

import asyncio
from typing import Final

from strongroom_server.errors import EtagMismatchError, HsmUnavailableError
from strongroom_server.mutations import AddRoot, Mutation, RootState
from strongroom_server.ports import Clock
from strongroom_server.services.caller import Caller
from strongroom_server.services.records import Recorder, Trace
from strongroom_server.shards.topology import Shard

__all__ = ["CREATE_METHOD", "PRINCIPAL", "RootBook"]

PRINCIPAL: Final = "strongroom:roots"
"""Principal of the records about wrapping roots; no certificate can name it."""

CREATE_METHOD: Final = "CreateWrappingRoot"
FIRST_ROOT: Final = 1
TIMEOUT_SECONDS: Final = 10.0


class RootBook:
    """Knows the active root of each shard. Owned by the event loop.

    Keeps nothing itself: the store has the roots in memory and follows their changes.
    """

    def __init__(self, *, recorder: Recorder, clock: Clock) -> None:
        """Take the recorder, for the record of the first root."""
        self._recorder = recorder
        self._clock = clock
        self._locks: dict[str, asyncio.Lock] = {}

    async def active(self, shard: Shard, *, deadline: float | None = None) -> int:
        """Return the number of the shard's active root; make the first when there is none.

        Args:
            deadline: Absolute; None gives the making of the first root ten seconds.

        Raises:
            HsmUnavailableError: The first root could not be made.
            ShardUnavailableError: The store cannot tell, or cannot be written.
            AuditUnavailableError: The record of the first root could not be made durable.
        """
        number = await self._find(shard)
        if number is not None:
            return number
        async with self._locks.setdefault(shard.region, asyncio.Lock()):
            number = await self._find(shard)  # made meanwhile by who had the lock before
            if number is None:
                number = await self._create_first(
                    shard,
                    self._clock.monotonic() + TIMEOUT_SECONDS if deadline is None else deadline,
                )
            return number

    async def _find(self, shard: Shard) -> int | None:
        for root in await shard.store.list_roots():
            if root.state is RootState.ACTIVE:
                return root.number
        return None

    async def _create_first(self, shard: Shard, deadline: float) -> int:
        # The token object first: a root that the store names must be there. A crash in
        # between leaves an object that wraps nothing; creation finds it and goes on.
        await shard.token.create_root(FIRST_ROOT, deadline=deadline)
        caller = Caller(PRINCIPAL, "", "", deadline, deadline)
        name = f"regions/{shard.region}/wrapping-roots/{FIRST_ROOT}"
        draft = self._recorder.draft(caller, Trace(CREATE_METHOD, name))
        change = AddRoot(FIRST_ROOT, self._clock.now())
        try:
            outbox_id = await shard.store.commit(Mutation(change, draft))
        except EtagMismatchError:
            # Another process was first, with the same object: its root is the active one.
            number = await self._find_after_other(shard)
        else:
            await shard.trail.record_committed(outbox_id, deadline=deadline)
            number = FIRST_ROOT
        return number

    async def _find_after_other(self, shard: Shard) -> int:
        deadline = self._clock.monotonic() + 1.0  # what others commit is seen within a second
        while (number := await self._find(shard)) is None:
            if self._clock.monotonic() > deadline:
                raise HsmUnavailableError(shard.region, "its wrapping roots are being changed")
            await asyncio.sleep(0.05)
        return number
