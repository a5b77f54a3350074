"""Deletion of keys and versions: scheduled, and taken back while there is a way back.

What destroys them when the waiting time is over is in `destruction.py`.
"""

from __future__ import annotations

from strongroom.receipts import Receipt
from strongroom.resource_names import KeyName, KeyVersionName
from strongroom_server.domain.deletion import pending_days, schedule
from strongroom_server.domain.imports import state_after_cancel
from strongroom_server.domain.keys import Deletion, Key, KeyState, KeyVersion, VersionState
from strongroom_server.domain.policy import Action
from strongroom_server.domain.states import check_version_state
from strongroom_server.errors import KeyNotFoundError, KeyStateInvalidError
from strongroom_server.mutations import KeyChange, SetDeletion, SetVersionDeletion
from strongroom_server.ports import Clock
from strongroom_server.services.caller import Caller
from strongroom_server.services.changes import ChangeRequest
from strongroom_server.services.managed_keys import ManagedKeys
from strongroom_server.services.records import Trace
from strongroom_server.shards.topology import Shard

__all__ = ["KeyDeletion"]


class KeyDeletion:
    """Schedules and cancels. Plain types in and out."""

    def __init__(self, *, keys: ManagedKeys, clock: Clock, minimum_days: int) -> None:
        """Take the collaborators.

        Args:
            keys: Finds keys and changes them.
            clock: The wall clock.
            minimum_days: The deployment's shortest waiting time, 7 to 30.
        """
        self._keys = keys
        self._clock = clock
        self._minimum_days = minimum_days

    async def schedule_key(
        self, caller: Caller, name: KeyName, days: int, request: ChangeRequest
    ) -> tuple[Key, Receipt]:
        """Stop every use of a key, and have it destroyed in so many days; 0: the default.

        Raises:
            StrongroomError: As the error table says; recorded.
        """

        async def plan(shard: Shard, key: Key) -> KeyChange | None:
            deletion = await self._deletion(shard, days)
            return SetDeletion(
                key.key_id,
                KeyState.PENDING_DELETION,
                deletion,
                self._clock.now(),
                key.revision,
            )

        body = (str(name), days, request.etag)
        return await self._keys.change(
            caller, name, Action.SCHEDULE_KEY_DELETION, request, body, plan=plan
        )

    async def cancel_key(
        self, caller: Caller, name: KeyName, request: ChangeRequest
    ) -> tuple[Key, Receipt]:
        """Take the deletion of a key back; the key is disabled then, or waits for an import.

        Raises:
            StrongroomError: As the error table says; recorded.
        """

        async def plan(_: Shard, key: Key) -> KeyChange | None:
            _refuse_begun(Action.CANCEL_KEY_DELETION, str(key.name), key.deletion)
            now = self._clock.now()
            return SetDeletion(key.key_id, state_after_cancel(key, now), None, now, key.revision)

        body = (str(name), request.etag)
        return await self._keys.change(
            caller, name, Action.CANCEL_KEY_DELETION, request, body, plan=plan
        )

    async def get_version(
        self, caller: Caller, name: KeyVersionName
    ) -> tuple[Key, KeyVersion, Receipt]:
        """Return a key and one of its versions.

        Raises:
            StrongroomError: As the error table says; recorded.
        """
        shard = self._keys.topology.shard(name.region)
        trace = Trace(Action.GET_KEY_VERSION.value, str(name.key))
        trace.key_version = name.version

        async def work() -> tuple[Key, KeyVersion]:
            key = await self._keys.permitted(caller, shard, name.key, Action.GET_KEY_VERSION, trace)
            return key, _version(key, name)

        (key, version), receipt = await self._keys.recorder.run(shard, caller, trace, work)
        return key, version, receipt

    async def schedule_version(
        self, caller: Caller, name: KeyVersionName, days: int, request: ChangeRequest
    ) -> tuple[Key, Receipt]:
        """Stop the use of one version, not the primary one, and have it destroyed.

        Raises:
            StrongroomError: As the error table says; recorded.
        """
        action = Action.SCHEDULE_KEY_VERSION_DELETION

        async def plan(shard: Shard, key: Key) -> KeyChange | None:
            version = _version(key, name)
            if version.number == key.primary_version:
                raise KeyStateInvalidError(str(name), "the primary version", action)
            check_version_state(action, key, version)
            deletion = await self._deletion(shard, days)
            return SetVersionDeletion(
                key.key_id, name.version, deletion, self._clock.now(), key.revision
            )

        body = (str(name), days, request.etag)
        return await self._keys.change(
            caller, name.key, action, request, body, plan=plan, version=name.version
        )

    async def cancel_version(
        self, caller: Caller, name: KeyVersionName, request: ChangeRequest
    ) -> tuple[Key, Receipt]:
        """Take the deletion of a version back; it can be used again, as far as its key can.

        Raises:
            StrongroomError: As the error table says; recorded.
        """
        action = Action.CANCEL_KEY_VERSION_DELETION

        async def plan(_: Shard, key: Key) -> KeyChange | None:
            version = _version(key, name)
            if version.state is VersionState.ENABLED:
                raise KeyStateInvalidError(str(name), "enabled", action)
            if version.state is VersionState.DESTROYED:
                check_version_state(action, key, version)
            _refuse_begun(action, str(name), version.deletion)
            _refuse_begun(action, str(name), key.deletion)
            return SetVersionDeletion(
                key.key_id, name.version, None, self._clock.now(), key.revision
            )

        body = (str(name), request.etag)
        return await self._keys.change(
            caller, name.key, action, request, body, plan=plan, version=name.version
        )

    async def _deletion(self, shard: Shard, days: int) -> Deletion:
        waiting = pending_days(days, minimum=self._minimum_days)
        # The time first: what is counted after it may reach back before it by one step at
        # most, which the mark has on top.
        now = self._clock.now()
        return schedule(now, await shard.store.observed_seconds(), days=waiting)


def _version(key: Key, name: KeyVersionName) -> KeyVersion:
    version = key.version(name.version)
    if version is None:
        raise KeyNotFoundError(str(name))
    return version


def _refuse_begun(action: Action, name: str, deletion: Deletion | None) -> None:
    if deletion is not None and deletion.has_begun:
        raise KeyStateInvalidError(name, "being destroyed", action)
