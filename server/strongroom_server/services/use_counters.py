"""Counting encryptions per key version, so that random IVs stay safe (SP 800-38D, 8.3)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from strongroom_server.domain.keys import Key, KeyVersionRef
from strongroom_server.domain.rotation import BLOCK_USES, MAX_USES, UseBlock
from strongroom_server.errors import KeyExhaustedError
from strongroom_server.shards.topology import Shard

__all__ = ["UseCounters"]


class UseCounters:
    """Hands out uses, one per encryption, from durably reserved blocks.

    Owned by the event loop. A block that is not used up when the process ends is lost,
    on purpose: it is never handed out again.
    """

    def __init__(self, *, on_rotation_due: Callable[[Shard, Key], None]) -> None:
        """`on_rotation_due` hears, at most once a version, that a key is to be rotated."""
        self._on_rotation_due = on_rotation_due
        self._blocks: dict[tuple[str, KeyVersionRef], UseBlock] = {}
        self._locks: dict[tuple[str, KeyVersionRef], asyncio.Lock] = {}
        self._announced: set[tuple[str, KeyVersionRef]] = set()

    async def take(self, shard: Shard, key: Key) -> KeyVersionRef:
        """Take one use of the key's primary version; return the version.

        Raises:
            KeyExhaustedError: The version has been used 2^32 times.
            ShardUnavailableError: The reservation could not be made durable.
        """
        ref = key.version_ref(key.primary_version)
        slot = (shard.region, ref)
        block = self._blocks.get(slot)
        if block is None or not block.take():
            await self._reserve_and_take(shard, key, slot)
            block = self._blocks[slot]
        if block.wants_rotation and slot not in self._announced:
            self._announced.add(slot)
            self._on_rotation_due(shard, key)
        return ref

    async def _reserve_and_take(
        self, shard: Shard, key: Key, slot: tuple[str, KeyVersionRef]
    ) -> None:
        # One reservation at a time: the others wait and then take from the same block.
        async with self._locks.setdefault(slot, asyncio.Lock()):
            block = self._blocks.setdefault(slot, UseBlock())
            while not block.take():
                total = await shard.store.reserve_uses(slot[1], BLOCK_USES)
                if total > MAX_USES:
                    raise KeyExhaustedError(str(key.version_name(slot[1].version)))
                block.add(uses=BLOCK_USES, reserved_total=total)
