"""Destroys imported material, in three steps, each of which a crash may come after.

1. Its use is stopped and its end noted, in one transaction with a record.
2. The HSM destroys it, and a fresh search finds none. Idempotent.
3. The store erases what it has of the material, in one transaction with the record of who
   asked for it: the caller of DeleteImportedKeyMaterial, or the material's own end.

What was begun is gone on with by whichever server sees it, once the one that began must
have come to its deadline: no destruction may still be on its way when the same material has
been imported again.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Final

from strongroom_server.domain.imports import is_being_deleted
from strongroom_server.domain.keys import Key, KeyState, KeyVersion
from strongroom_server.errors import EtagMismatchError
from strongroom_server.mutations import BeginMaterialDeletion, DropMaterial, Mutation
from strongroom_server.ports import Clock
from strongroom_server.services.caller import Caller
from strongroom_server.services.records import Recorder, Trace
from strongroom_server.shards.topology import Shard

__all__ = ["BEGIN_METHOD", "MaterialDeletion"]

BEGIN_METHOD: Final = "BeginImportedMaterialDeletion"
TAKE_OVER_AFTER: Final = timedelta(seconds=60)
"""Longer than a call may take (`server.default_deadline_seconds`, and what a client says)."""


class MaterialDeletion:
    """Steps 1 and 2; the caller commits step 3. Owned by the event loop."""

    def __init__(self, *, recorder: Recorder, clock: Clock) -> None:
        """Take the recorder, for the record of the first step."""
        self._recorder = recorder
        self._clock = clock

    async def destroy(
        self, caller: Caller, shard: Shard, key: Key, version: KeyVersion
    ) -> tuple[Key, DropMaterial]:
        """Stop the use of material and destroy it.

        The caller holds `shard.mutations`.

        Returns:
            The key as it is after the first step, and the third.

        Raises:
            EtagMismatchError: The key has changed; or another server is at it.
            StrongroomError: The HSM, the store or the trail fails.
        """
        now = self._clock.now()
        external = version.external
        if is_being_deleted(key, version) and external is not None:
            begun = external.expire_time
            if begun is not None and now < begun + TAKE_OVER_AFTER:
                raise EtagMismatchError(str(key.name))
        begin = BeginMaterialDeletion(
            key.key_id, version.number, _state_after(key), now, key.revision
        )
        trace = Trace(BEGIN_METHOD, str(key.name), key_version=version.number)
        trace.mode = key.audit_mode
        outbox_id = await shard.store.commit(Mutation(begin, self._recorder.draft(caller, trace)))
        await shard.trail.record_committed(outbox_id, deadline=caller.deadline)
        key = begin.apply(key)
        await shard.token.destroy_version(key.place_of(version), deadline=caller.hsm_deadline)
        return key, self.last_step(key, version.number)

    def last_step(self, key: Key, number: int) -> DropMaterial:
        """Return step 3."""
        return DropMaterial(key.key_id, number, _state_after(key), self._clock.now(), key.revision)


def _state_after(key: Key) -> KeyState:
    """Return the state without material: a deletion of the key that waits goes on."""
    if key.state in {KeyState.ENABLED, KeyState.DISABLED}:
        return KeyState.PENDING_IMPORT
    return key.state
