"""Destroys keys and versions whose waiting time is over, in the background, for ever.

Every server of a shard looks once a minute; which of them does it is a race that the
database decides. Three steps, each of which a crash may come after:

1. The deletion is marked as begun, in one transaction with its record and only at the
   revision that was looked at: from here on nobody can take it back.
2. The HSM destroys every object, and a fresh search finds none. Idempotent.
3. The store erases what it has of the material and leaves a tombstone, in one transaction
   with the record.

What was begun is gone on with at the next look, by whichever server. When the time has
come is in `domain/deletion.py`: no jump of a clock brings it about.
"""

from __future__ import annotations

import asyncio
import uuid
from datetime import datetime
from typing import Final, Protocol

from strongroom_server.domain.deletion import LOOK_SECONDS, ObservedTime, is_due
from strongroom_server.domain.keys import Deletion, Key, KeyState, KeyVersion, VersionState
from strongroom_server.errors import EtagMismatchError, StrongroomError
from strongroom_server.mutations import (
    DestroyKey,
    DestroyVersion,
    KeyChange,
    Mutation,
    SetDeletion,
    SetVersionDeletion,
)
from strongroom_server.ports import Clock
from strongroom_server.services.caller import Caller
from strongroom_server.services.records import Recorder, Trace
from strongroom_server.shards.topology import Shard

__all__ = ["PRINCIPAL", "DestructionObserver", "KeyDestruction"]

PRINCIPAL: Final = "strongroom:deletion"
"""Principal of the records; no certificate can name it."""

BEGIN_KEY: Final = "BeginKeyDestruction"
DESTROY_KEY: Final = "DestroyKey"
BEGIN_VERSION: Final = "BeginKeyVersionDestruction"
DESTROY_VERSION: Final = "DestroyKeyVersion"

BATCH_KEYS: Final = 32
MAX_LEFT_KEYS: Final = 1024
# Short beside a step of observed time, which is cut off at two minutes.
MAX_LOOK_SECONDS: Final = 30.0
TIMEOUT_SECONDS: Final = 10.0


class DestructionObserver(Protocol):
    """Hears how the work goes on, for metrics and the log. Must not raise."""

    def destroyed(self, name: str, versions: int) -> None:
        """Hear that a key, or one version, is destroyed: so many versions' material."""
        ...

    def waits(self, name: str, problem: StrongroomError) -> None:
        """Hear why something that is due is not destroyed yet; it is tried again."""
        ...

    def failed(self, fault: Exception) -> None:
        """Hear of a fault of the program; it is tried again too."""
        ...


class KeyDestruction:
    """Destroys what is due in one shard. Owned by the event loop."""

    def __init__(
        self, shard: Shard, recorder: Recorder, clock: Clock, observer: DestructionObserver
    ) -> None:
        """Take the shard, and who hears of it."""
        self._shard = shard
        self._recorder = recorder
        self._clock = clock
        self._observer = observer
        self._observed = ObservedTime()

    async def run(self) -> None:
        """Look for what is due and destroy it, until cancelled. Never raises anything else.

        As often after a failure as without: a count of observed time that is not moved on
        makes the waiting times of all others longer.
        """
        while True:
            try:
                await self.look()
            except StrongroomError as problem:
                self._observer.waits(f"regions/{self._shard.region}", problem)
            except Exception as fault:  # noqa: BLE001 - the task's edge: it must outlive its faults
                self._observer.failed(fault)
            await asyncio.sleep(LOOK_SECONDS)

    async def look(self) -> None:
        """Move the count of observed time on, then destroy what is due.

        Raises:
            StrongroomError: The store or the trail fails.
        """
        store = self._shard.store
        monotonic = self._clock.monotonic()  # before the count is read: see ObservedTime
        observed = await store.observed_seconds()
        if not await store.has_deletions():
            self._observed.idle()
            return
        seconds = self._observed.step(observed, monotonic)
        if seconds and await store.advance_observed(expected=observed, seconds=seconds):
            self._observed.moved(seconds)
            observed += seconds
        # Nothing is begun whose record could not be written.
        self._shard.trail.ensure_accepting()
        await self._destroy_due(observed, until=monotonic + MAX_LOOK_SECONDS)

    async def _destroy_due(self, observed: int, *, until: float) -> None:
        """Destroy what is due, until nothing is left that has not been tried in this look."""
        now = self._clock.now()
        left: set[uuid.UUID] = set()
        while len(left) < MAX_LEFT_KEYS and self._clock.monotonic() < until:
            # Those that fail stay due and come first again: they must not hide the others.
            due = await self._shard.store.due_deletions(
                now=now, observed=observed, limit=BATCH_KEYS + len(left)
            )
            untried = [key for key in due if key.key_id not in left]
            for key in untried:
                if not await self._destroy(key, now, observed):
                    left.add(key.key_id)
            if len(untried) < BATCH_KEYS:
                return

    async def _destroy(self, key: Key, now: datetime, observed: int) -> bool:
        """Destroy what is due of a key; say whether that went through."""
        try:
            if key.deletion is not None and is_due(key.deletion, now, observed):
                await self._destroy_key(key, key.deletion)
                return True
            for version in key.versions:
                if version.deletion is not None and is_due(version.deletion, now, observed):
                    key = await self._destroy_version(key, version, version.deletion)
        except EtagMismatchError:
            return False  # changed since it was read, or another server was first
        except StrongroomError as problem:
            self._observer.waits(str(key.name), problem)
            return False
        return True

    async def _destroy_key(self, key: Key, deletion: Deletion) -> None:
        if not deletion.has_begun:
            begun = SetDeletion(
                key.key_id,
                KeyState.PENDING_DELETION,
                Deletion(deletion.time, None),
                self._clock.now(),
                key.revision,
            )
            key = await self._commit(key, begun, BEGIN_KEY)
        left = [v for v in key.versions if v.state is not VersionState.DESTROYED]
        for version in left:
            await self._destroy_material(key, version)
        await self._commit(
            key, DestroyKey(key.key_id, self._clock.now(), key.revision), DESTROY_KEY
        )
        self._observer.destroyed(str(key.name), len(left))

    async def _destroy_version(self, key: Key, version: KeyVersion, deletion: Deletion) -> Key:
        number = version.number
        if not deletion.has_begun:
            begun = SetVersionDeletion(
                key.key_id,
                number,
                Deletion(deletion.time, None),
                self._clock.now(),
                key.revision,
            )
            key = await self._commit(key, begun, BEGIN_VERSION, number)
        await self._destroy_material(key, version)
        change = DestroyVersion(key.key_id, number, self._clock.now(), key.revision)
        key = await self._commit(key, change, DESTROY_VERSION, number)
        self._observer.destroyed(str(key.version_name(number)), 1)
        return key

    async def _destroy_material(self, key: Key, version: KeyVersion) -> None:
        # Also where the metadata has none: an import that a crash cut off may have left it.
        deadline = self._clock.monotonic() + TIMEOUT_SECONDS
        await self._shard.token.destroy_version(key.place_of(version), deadline=deadline)

    async def _commit(
        self, key: Key, change: KeyChange, method: str, version: int | None = None
    ) -> Key:
        """Commit a change with its record; return the key as it is afterwards.

        Raises:
            EtagMismatchError: The key is not as it was read; that leaves no record, for
                another server has left one.
        """
        deadline = self._clock.monotonic() + TIMEOUT_SECONDS
        caller = Caller(PRINCIPAL, "", "", deadline, deadline)
        trace = Trace(method, str(key.name), key_version=version, policy="scheduled-deletion")
        draft = self._recorder.draft(caller, trace)
        async with self._shard.mutations:
            outbox_id = await self._shard.store.commit(Mutation(change, draft))
        await self._shard.trail.record_committed(outbox_id, deadline=deadline)
        return change.apply(key)
