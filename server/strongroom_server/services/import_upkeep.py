"""What ends by itself: imported material, import tokens and their wrapping keys.

Every server of a shard looks once a minute. The end of material is by the wall clock alone,
unlike a deletion (`domain/deletion.py`): nothing is lost for ever, since who brought the
material can bring it again.
"""

from __future__ import annotations

import asyncio
from typing import Final, Protocol

from strongroom_server.domain.imports import IssuedToken
from strongroom_server.domain.keys import Key
from strongroom_server.errors import EtagMismatchError, StrongroomError
from strongroom_server.mutations import Mutation
from strongroom_server.ports import Clock
from strongroom_server.services.caller import Caller
from strongroom_server.services.material_deletion import MaterialDeletion
from strongroom_server.services.records import Recorder, Trace
from strongroom_server.shards.topology import Shard

__all__ = ["EXPIRE_METHOD", "PRINCIPAL", "ImportUpkeep", "UpkeepObserver"]

PRINCIPAL: Final = "strongroom:import"
"""Principal of the records; no certificate can name it."""

EXPIRE_METHOD: Final = "ExpireImportedKeyMaterial"
LOOK_SECONDS: Final = 60.0
BATCH: Final = 32
TIMEOUT_SECONDS: Final = 10.0


class UpkeepObserver(Protocol):
    """Hears how the work goes on, for metrics and the log. Must not raise."""

    def expired(self, name: str) -> None:
        """Hear that a key's material came to its end and is destroyed."""
        ...

    def waits(self, name: str, problem: StrongroomError) -> None:
        """Hear why something is not destroyed yet; it is tried again."""
        ...

    def failed(self, fault: Exception) -> None:
        """Hear of a fault of the program; it is tried again too."""
        ...


class ImportUpkeep:
    """Destroys what has ended in one shard. Owned by the event loop."""

    def __init__(
        self,
        shard: Shard,
        deletion: MaterialDeletion,
        *,
        recorder: Recorder,
        clock: Clock,
        observer: UpkeepObserver,
    ) -> None:
        """Take the shard, and who hears of it."""
        self._shard = shard
        self._deletion = deletion
        self._recorder = recorder
        self._clock = clock
        self._observer = observer

    async def run(self) -> None:
        """Look for what has ended and destroy it, until cancelled. Never raises anything else."""
        while True:
            try:
                await self.look()
            except StrongroomError as problem:
                self._observer.waits(f"regions/{self._shard.region}", problem)
            except Exception as fault:  # noqa: BLE001 - the task's edge: it must outlive its faults
                self._observer.failed(fault)
            await asyncio.sleep(LOOK_SECONDS)

    async def look(self) -> None:
        """Destroy the materials and wrapping keys that have ended.

        Raises:
            StrongroomError: The store or the trail fails.
        """
        # Nothing is begun whose record could not be written.
        self._shard.trail.ensure_accepting()
        now = self._clock.now()
        for key in await self._shard.store.expired_materials(now=now, limit=BATCH):
            try:
                await self._expire(key)
            except EtagMismatchError:
                continue  # changed since it was read, or another server is at it
            except StrongroomError as problem:
                self._observer.waits(str(key.name), problem)
        for token in await self._shard.store.ended_imports(now=now, limit=BATCH):
            try:
                await self._close(token)
            except StrongroomError as problem:
                self._observer.waits(f"the wrapping key {token.transfer_id}", problem)

    async def _expire(self, key: Key) -> None:
        deadline = self._clock.monotonic() + TIMEOUT_SECONDS
        caller = Caller(PRINCIPAL, "", "", deadline, deadline)
        for version in key.versions:
            if not version.has_material:
                continue
            trace = Trace(EXPIRE_METHOD, str(key.name), key_version=version.number)
            trace.mode = key.audit_mode
            async with self._shard.mutations:
                after, change = await self._deletion.destroy(caller, self._shard, key, version)
                draft = self._recorder.draft(caller, trace)
                outbox_id = await self._shard.store.commit(Mutation(change, draft))
            await self._shard.trail.record_committed(outbox_id, deadline=deadline)
            self._observer.expired(str(after.name))

    async def _close(self, token: IssuedToken) -> None:
        deadline = self._clock.monotonic() + TIMEOUT_SECONDS
        await self._shard.token.destroy_wrapping_key(token.transfer_id, deadline=deadline)
        await self._shard.store.forget_wrapping_key(token.token_sha256)
