"""After a rotation of the wrapping root: re-wraps every version in the background.

Calls go on meanwhile: a version is used under the root that its row names, and both roots
are on the token. What is left to do is what the store says, so a stop or a crash at any
point is taken up again by the next start.
"""

from __future__ import annotations

import asyncio
from typing import Final, Protocol

from strongroom_server.errors import StrongroomError
from strongroom_server.mutations import RootState
from strongroom_server.ports import Clock
from strongroom_server.services.records import Recorder
from strongroom_server.services.root_rotation import RewrapProgress, RootRotator
from strongroom_server.shards.topology import Shard

__all__ = ["RootRotation", "RotationObserver"]

# A new root, added by this process or another, shows within this and the store's own poll.
LOOK_SECONDS: Final = 1.0
# Stale versions without a root that retires: rare, and worth a look in the database.
STALE_LOOK_SECONDS: Final = 30.0
MIN_RETRY_SECONDS: Final = 1.0
MAX_RETRY_SECONDS: Final = 60.0


class RotationObserver(Protocol):
    """Hears how the work goes on, for metrics and the log. Must not raise."""

    def stepped(self, progress: RewrapProgress) -> None:
        """Hear of a step."""
        ...

    def waits(self, problem: StrongroomError) -> None:
        """Hear why the work waits; it is tried again."""
        ...

    def failed(self, fault: Exception) -> None:
        """Hear of a fault of the program; it is tried again too."""
        ...


class RootRotation:
    """Keeps one shard's wrapped versions under its newest root. Owned by the event loop."""

    def __init__(
        self,
        shard: Shard,
        recorder: Recorder,
        clock: Clock,
        observer: RotationObserver,
    ) -> None:
        """Take the shard, and who hears of it."""
        self._shard = shard
        self._clock = clock
        self._observer = observer
        self._rotator = RootRotator(
            shard.region,
            token=shard.token,
            store=shard.store,
            recorder=recorder,
            clock=clock,
            mutations=shard.mutations,
        )
        self._stale_look_due = clock.monotonic()

    async def run(self) -> None:
        """Look for work and do it, until cancelled. Never raises anything else."""
        failures = 0
        while True:
            try:
                # After a failure also when nothing seems due: somebody else may have done
                # the rest, and the observer has to hear that nothing is left.
                if failures or await self._is_due():
                    await self.settle()
            except StrongroomError as problem:
                failures += 1
                self._observer.waits(problem)
            except Exception as fault:  # noqa: BLE001 - the task's edge: it must outlive its faults
                failures += 1
                self._observer.failed(fault)
            else:
                failures = 0
            await asyncio.sleep(_delay_seconds(failures))

    async def settle(self) -> bool:
        """Re-wrap and retire once; return whether nothing is left.

        Raises:
            StrongroomError: The HSM, the store or the audit trail fails. What was done
                is done; call it again.
        """
        # Retiring a root leaves a record: with a full spool nothing is begun that has to.
        self._shard.trail.ensure_accepting()
        return await self._rotator.settle(self._observer.stepped)

    async def _is_due(self) -> bool:
        roots = await self._shard.store.list_roots()
        if any(root.state is RootState.RETIRING for root in roots):
            return True
        now = self._clock.monotonic()
        if len(roots) < 2 or now < self._stale_look_due:  # noqa: PLR2004 - a newest and an older
            return False
        self._stale_look_due = now + STALE_LOOK_SECONDS
        return not await self._rotator.is_settled()


def _delay_seconds(failures: int) -> float:
    """Return how long to wait after so many failures in a row, none or more."""
    if failures == 0:
        return LOOK_SECONDS
    return float(min(MIN_RETRY_SECONDS * 2 ** min(failures - 1, 6), MAX_RETRY_SECONDS))
