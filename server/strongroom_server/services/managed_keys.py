"""From a name to a key that the caller may manage, and from there to a change of it.

Resolve, authorise, etag, state: in this order, so that nobody is told anything of keys that
it may not see.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from strongroom.receipts import Receipt
from strongroom.resource_names import KeyName
from strongroom_server.domain.keys import Key
from strongroom_server.domain.policy import Action
from strongroom_server.domain.states import check_state
from strongroom_server.errors import EtagMismatchError, RequestIdReusedError
from strongroom_server.mutations import AddVersion, Change, KeyChange
from strongroom_server.services.answers import Answer
from strongroom_server.services.authorization import Authorization
from strongroom_server.services.caller import Caller
from strongroom_server.services.changes import ChangeRequest, Changes
from strongroom_server.services.key_access import KeyOrAlias
from strongroom_server.services.records import Recorder, Trace
from strongroom_server.shards.topology import Shard, Topology

__all__ = ["KeyPlan", "ManagedKeys", "check_etag", "key_of"]

KeyPlan = Callable[[Shard, Key], Awaitable[KeyChange | None]]
"""Returns the change of a key; None when there is nothing to change."""


class ManagedKeys:
    """What the services that manage keys have in common; holds no state of its own."""

    def __init__(
        self, *, topology: Topology, authorization: Authorization, recorder: Recorder
    ) -> None:
        """Take the collaborators."""
        self.topology = topology
        self.authorization = authorization
        self.recorder = recorder
        self.changes = Changes(recorder)

    async def permitted(
        self, caller: Caller, shard: Shard, name: KeyOrAlias, action: Action, trace: Trace
    ) -> Key:
        """Return the key behind a name, whatever its state.

        Raises:
            KeyNotFoundError: There is none, or the caller may not see it.
            PolicyDeniedError: The caller may see it, not do this.
        """
        key = await shard.find(name)
        trace.key = str(key.name)
        trace.mode = key.audit_mode
        trace.policy = await self.authorization.authorize(
            caller.principal,
            action,
            key,
            {},
            asked_name=str(name),
            permissions=shard.store.permissions,
        )
        return key

    async def change(
        self,
        caller: Caller,
        name: KeyName,
        action: Action,
        request: ChangeRequest,
        body: Sequence[object],
        *,
        plan: KeyPlan,
        version: int | None = None,
    ) -> tuple[Key, Receipt]:
        """Change a key; return it as it is afterwards, or would be.

        Args:
            body: The request's fields; a repeat of its id must have the same.
            version: For the record, when it is about one.

        Raises:
            StrongroomError: As the error table says; recorded.
        """
        shard = self.topology.shard(name.region)
        trace = Trace(action.value, str(name), validate_only=request.validate_only)
        trace.key_version = version

        async def whole() -> tuple[Change | None, Answer]:
            key = await self.permitted(caller, shard, name, action, trace)
            check_etag(key, request.etag)
            check_state(action, key)
            change = await plan(shard, key)
            if isinstance(change, AddVersion):
                trace.key_version = change.version.number
            return change, Answer(key=key if change is None else change.apply(key))

        answer, receipt = await self.changes.make(shard, caller, trace, request, body, plan=whole)
        return key_of(answer), receipt


def check_etag(key: Key, etag: str) -> None:
    """Refuse a change of a key that is not as it was read.

    Raises:
        EtagMismatchError: `etag` was given and is not the key's.
    """
    if etag and etag != key.etag:
        raise EtagMismatchError(str(key.name))


def key_of(answer: Answer) -> Key:
    """Return the key of an answer about a key."""
    if answer.key is None:  # the memo of another method cannot come here: it has its own id
        raise RequestIdReusedError
    return answer.key
