"""Rotates a key when its primary version has been used 2^30 times (SP 800-38D, 8.3)."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Final

from strongroom_server.domain.keys import Key, KeyOrigin, KeyState, KeyVersionRef
from strongroom_server.errors import StrongroomError
from strongroom_server.ports import Clock
from strongroom_server.services.caller import Caller
from strongroom_server.services.lifecycle import LifecycleService
from strongroom_server.shards.topology import Shard

__all__ = ["PRINCIPAL", "RotationByUse"]

PRINCIPAL: Final = "strongroom:rotation"
"""Principal of the records that automatic rotation leaves; no certificate can name it."""

TIMEOUT_SECONDS: Final = 10.0
RETRY_SECONDS: Final = 60.0


class RotationByUse:
    """Keeps the rotations under way. Owned by the event loop; `close` ends it."""

    def __init__(self, *, lifecycle: LifecycleService, clock: Clock) -> None:
        """Take the service that rotates."""
        self._lifecycle = lifecycle
        self._clock = clock
        self._tasks: dict[tuple[str, KeyVersionRef], asyncio.Task[None]] = {}

    def due(self, shard: Shard, key: Key) -> None:
        """Rotate `key` in the background; calls go on with the old version meanwhile.

        What is under way already is not begun again.
        """
        worn = (shard.region, key.version_ref(key.primary_version))
        if worn not in self._tasks:
            task = asyncio.create_task(self._rotate(shard, key))
            self._tasks[worn] = task
            task.add_done_callback(lambda _: self._tasks.pop(worn, None))

    async def close(self) -> None:
        """Stop; a rotation that is not done is begun again when the next block is reserved."""
        for task in list(self._tasks.values()):
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    async def _rotate(self, shard: Shard, key: Key) -> None:
        while True:
            deadline = self._clock.monotonic() + TIMEOUT_SECONDS
            caller = Caller(PRINCIPAL, "", str(key.name), deadline, deadline - 1.0)
            try:
                current = await shard.find_id(key.key_id)
                if current is None or current.primary_version != key.primary_version:
                    return  # rotated by somebody else meanwhile
                if current.origin is KeyOrigin.EXTERNAL:
                    return  # its material is brought: who brings it makes another key
                if current.state in {KeyState.PENDING_DELETION, KeyState.DESTROYED}:
                    return  # its next use, if it comes back, says so again
                await self._lifecycle.rotate_worn(caller, shard, key.name)
            except StrongroomError:
                # Recorded where it can be; the version has 3 * 2^30 uses left to try again.
                await asyncio.sleep(RETRY_SECONDS)
            else:
                return
