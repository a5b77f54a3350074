"""What a key says of itself: description and tags."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from strongroom.receipts import Receipt
from strongroom.resource_names import KeyName
from strongroom_server.domain.keys import Key
from strongroom_server.domain.policy import Action
from strongroom_server.domain.tags import Tags, check_tags, with_tags, without_tags
from strongroom_server.mutations import KeyChange, UpdateKey
from strongroom_server.ports import Clock
from strongroom_server.services.caller import Caller
from strongroom_server.services.changes import ChangeRequest
from strongroom_server.services.managed_keys import ManagedKeys
from strongroom_server.shards.topology import Shard

__all__ = ["KeyDetails"]


class KeyDetails:
    """Changes what a key says of itself. Plain types in and out."""

    def __init__(self, *, keys: ManagedKeys, clock: Clock) -> None:
        """Take the collaborators; holds no state of its own."""
        self._keys = keys
        self._clock = clock

    async def update(
        self, caller: Caller, name: KeyName, description: str, request: ChangeRequest
    ) -> tuple[Key, Receipt]:
        """Set the description.

        Raises:
            StrongroomError: As the error table says; recorded.
        """

        async def plan(_: Shard, key: Key) -> KeyChange | None:
            return self._change(key, description=description, tags=key.tags)

        body = (str(name), description, request.etag)
        return await self._keys.change(caller, name, Action.UPDATE_KEY, request, body, plan=plan)

    async def tag(
        self, caller: Caller, name: KeyName, tags: Mapping[str, str], request: ChangeRequest
    ) -> tuple[Key, Receipt]:
        """Set tags; others stay.

        Raises:
            StrongroomError: As the error table says; recorded.
        """

        async def plan(_: Shard, key: Key) -> KeyChange | None:
            after = with_tags(key.tags, dict(check_tags(tags)))
            return self._change(key, description=key.description, tags=after)

        body = (str(name), sorted(tags.items()), request.etag)
        return await self._keys.change(caller, name, Action.TAG_RESOURCE, request, body, plan=plan)

    async def untag(
        self, caller: Caller, name: KeyName, tag_names: Sequence[str], request: ChangeRequest
    ) -> tuple[Key, Receipt]:
        """Take tags away.

        Raises:
            StrongroomError: As the error table says; recorded.
        """

        async def plan(_: Shard, key: Key) -> KeyChange | None:
            after = without_tags(key.tags, tag_names)
            return self._change(key, description=key.description, tags=after)

        body = (str(name), sorted(tag_names), request.etag)
        return await self._keys.change(
            caller, name, Action.UNTAG_RESOURCE, request, body, plan=plan
        )

    def _change(self, key: Key, *, description: str, tags: Tags) -> KeyChange | None:
        if (description, tags) == (key.description, key.tags):
            return None
        return UpdateKey(key.key_id, description, tags, self._clock.now(), key.revision)
