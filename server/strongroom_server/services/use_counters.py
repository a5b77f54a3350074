"""Counting encryptions per key version, so that random IVs stay safe (SP 800-38D, 8.3)."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

from strongroom_server.domain.keys import Key, KeyVersionRef
from strongroom_server.domain.rotation import FIRST_BLOCK_USES, UseBlock
from strongroom_server.errors import KeyExhaustedError
from strongroom_server.shards.topology import Shard

__all__ = ["UseCounters"]

DEFAULT_MAX_VERSIONS: Final = 10_000

_Slot = tuple[str, KeyVersionRef]


class UseCounters:
    """Hands out uses, one per encryption, from durably reserved blocks.

    Owned by the event loop. Blocks of so many versions are kept, those used last. A block
    that is not used up when it is put out, or when the process ends, is lost on purpose:
    it is never handed out again (how little that is: `domain/rotation.py`).
    """

    def __init__(
        self,
        *,
        on_rotation_due: Callable[[Shard, Key], None],
        max_versions: int = DEFAULT_MAX_VERSIONS,
    ) -> None:
        """Take who rotates, and the bound.

        Args:
            on_rotation_due: Hears that a key is to be rotated, at most once a version as
                long as its block is kept.
            max_versions: Key versions whose blocks are kept, at least 1.
        """
        if max_versions < 1:
            raise ValueError("at least one block has to be kept")
        self._on_rotation_due = on_rotation_due
        self._max_versions = max_versions
        self._blocks: OrderedDict[_Slot, UseBlock] = OrderedDict()
        self._reserving: dict[_Slot, asyncio.Event] = {}
        self._announced: set[_Slot] = set()

    async def take(self, shard: Shard, key: Key) -> KeyVersionRef:
        """Take one use of the key's primary version; return the version.

        Raises:
            KeyExhaustedError: The version has been used 2^32 times.
            ShardUnavailableError: The reservation could not be made durable.
        """
        ref = key.version_ref(key.primary_version)
        slot = (shard.region, ref)
        while True:
            block = self._blocks.get(slot)
            if block is not None and block.take():
                break
            reserving = self._reserving.get(slot)
            if reserving is None:
                await self._reserve(shard, slot)
            else:
                # One reservation at a time: the others wait and take from the same block,
                # or, when it failed, try themselves.
                await reserving.wait()
        self._blocks.move_to_end(slot)
        if block.wants_rotation and slot not in self._announced:
            self._announced.add(slot)
            self._on_rotation_due(shard, key)
        return ref

    async def _reserve(self, shard: Shard, slot: _Slot) -> None:
        done = self._reserving[slot] = asyncio.Event()
        try:
            block = self._blocks.get(slot) or UseBlock()
            uses = block.next_uses
            try:
                total = await shard.store.reserve_uses(slot[1], uses)
            except KeyExhaustedError:
                if uses == FIRST_BLOCK_USES:
                    raise
                uses = FIRST_BLOCK_USES  # the last uses before 2^32, piece by piece
                total = await shard.store.reserve_uses(slot[1], uses)
            block.add(uses=uses, reserved_total=total)
            self._keep(slot, block)
        finally:
            del self._reserving[slot]
            done.set()

    def _keep(self, slot: _Slot, block: UseBlock) -> None:
        self._blocks[slot] = block
        self._blocks.move_to_end(slot)
        if len(self._blocks) > self._max_versions:
            forgotten, _ = self._blocks.popitem(last=False)
            self._announced.discard(forgotten)
