"""Keys and aliases: create, see, list, enable, disable, rotate.

How a change is made, once and recorded, is in `changes.py`; here is what is changed.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final

from strongroom.receipts import Receipt
from strongroom.resource_names import AliasName, KeyName
from strongroom_server.domain.algorithms import choose_storage
from strongroom_server.domain.key_uses import check_takes_part
from strongroom_server.domain.keys import (
    Alias,
    Key,
    KeyManager,
    KeySpec,
    KeyState,
    KeyStorage,
    KeyUsage,
    KeyVersion,
)
from strongroom_server.domain.policy import Action, default_policy
from strongroom_server.errors import (
    AliasExistsError,
    ArgumentInvalidError,
    EtagMismatchError,
    KeyDisabledError,
    RequestIdReusedError,
)
from strongroom_server.mutations import AddVersion, Change, CreateAlias, CreateKey, SetState
from strongroom_server.ports import Clock
from strongroom_server.services import pages
from strongroom_server.services.answers import Answer
from strongroom_server.services.authorization import Authorization
from strongroom_server.services.caller import Caller
from strongroom_server.services.changes import ChangeRequest, Changes
from strongroom_server.services.key_access import KeyOrAlias
from strongroom_server.services.key_lists import visible_page
from strongroom_server.services.records import Recorder, Trace
from strongroom_server.services.root_book import RootBook
from strongroom_server.shards.topology import Shard, Topology

__all__ = ["LifecycleService", "NewKey"]

RESERVED_ALIAS_PREFIX: Final = "service/"


@dataclass(frozen=True, slots=True)
class NewKey:
    """What CreateKey is told.

    An empty policy means the default one; no storage, the shard's.
    """

    region: str
    description: str
    spec: KeySpec
    usage: KeyUsage
    policy: str
    storage: KeyStorage | None = None


class LifecycleService:
    """Operations on keys as resources. Plain types in and out."""

    def __init__(
        self,
        *,
        topology: Topology,
        authorization: Authorization,
        recorder: Recorder,
        roots: RootBook,
        clock: Clock,
        new_key_id: Callable[[], uuid.UUID],
    ) -> None:
        """Take the collaborators; `new_key_id` makes random UUIDs (version 4)."""
        self._topology = topology
        self._authorization = authorization
        self._recorder = recorder
        self._changes = Changes(recorder)
        self._roots = roots
        self._clock = clock
        self._new_key_id = new_key_id

    async def create_key(
        self, caller: Caller, new: NewKey, request: ChangeRequest
    ) -> tuple[Key, Receipt]:
        """Create a key with its first version.

        Raises:
            StrongroomError: As the error table says; recorded.
        """
        shard = self._topology.shard(new.region)
        trace = Trace("CreateKey", validate_only=request.validate_only)

        async def plan() -> tuple[Change | None, Answer]:
            trace.policy = self._authorization.authorize_create(
                caller.principal, f"regions/{new.region}"
            )
            now = self._clock.now()
            key = Key(
                key_id=self._new_key_id(),
                region=new.region,
                spec=new.spec,
                usage=new.usage,
                state=KeyState.ENABLED,
                manager=KeyManager.CUSTOMER,
                description=new.description,
                primary_version=1,
                creator=caller.principal,
                create_time=now,
                update_time=now,
                revision=1,
                policy=new.policy or default_policy(caller.principal),
                versions=(KeyVersion(1, now, 0),),
                storage=choose_storage(
                    new.spec, new.storage, default=shard.storage, region=shard.region
                ),
            )
            trace.key = str(key.name)
            trace.key_version = 1
            self._authorization.check_new_policy(
                key.policy, creator=caller.principal, key_name=str(key.name)
            )
            if not request.validate_only:
                first = await self._with_material(caller, shard, key, key.versions[0])
                key = replace(key, versions=(first,))
            return CreateKey(key), Answer(key=key)

        body: tuple[str, ...] = (new.region, new.description, new.spec, new.usage, new.policy)
        if new.storage is not None:  # else as before there was a choice: memos outlive updates
            body = (*body, new.storage)
        answer, receipt = await self._changes.make(shard, caller, trace, request, body, plan=plan)
        return _key(answer), receipt

    async def get_key(self, caller: Caller, name: KeyOrAlias) -> tuple[Key, Receipt]:
        """Return a key that the caller may see.

        Raises:
            StrongroomError: As the error table says; recorded.
        """
        shard = self._topology.shard(name.region)
        trace = Trace("GetKey", str(name))

        async def work() -> Key:
            return await self._permitted(caller, shard, name, Action.GET_KEY, trace)

        return await self._recorder.run(shard, caller, trace, work)

    async def list_keys(
        self, caller: Caller, region: str, *, page_size: int, page_token: str
    ) -> tuple[Sequence[Key], str, Receipt]:
        """Return a page of the keys that the caller may see, and the next page's token.

        A page may have fewer keys than asked for and a token all the same.

        Raises:
            StrongroomError: As the error table says; recorded.
        """
        shard = self._topology.shard(region)
        trace = Trace("ListKeys", policy="visible-keys")
        parent = f"regions/{region}"
        size = page_size or pages.DEFAULT_PAGE_SIZE

        async def work() -> tuple[Sequence[Key], str]:
            after = pages.key_position(page_token, parent)
            return await visible_page(
                shard, self._authorization, caller.principal, after=after, size=size
            )

        (keys, token), receipt = await self._recorder.run(shard, caller, trace, work)
        return keys, token, receipt

    async def list_versions(
        self, caller: Caller, name: KeyName, *, page_size: int, page_token: str
    ) -> tuple[Key, Sequence[KeyVersion], str, Receipt]:
        """Return a key and a page of its versions, ascending, and the next page's token.

        Raises:
            StrongroomError: As the error table says; recorded.
        """
        shard = self._topology.shard(name.region)
        trace = Trace("ListKeyVersions", str(name))
        size = page_size or pages.DEFAULT_PAGE_SIZE

        async def work() -> tuple[Key, Sequence[KeyVersion], str]:
            key = await self._permitted(caller, shard, name, Action.LIST_KEY_VERSIONS, trace)
            after = pages.version_position(page_token, str(name))
            rest = [version for version in key.versions if version.number > after]
            page = rest[:size]
            more = len(rest) > size
            token = pages.version_token(str(name), page[-1].number) if more else ""
            return key, page, token

        (key, page, token), receipt = await self._recorder.run(shard, caller, trace, work)
        return key, page, token, receipt

    async def set_state(
        self, caller: Caller, name: KeyName, state: KeyState, request: ChangeRequest
    ) -> tuple[Key, Receipt]:
        """Enable or disable a key; setting the state that it has changes nothing.

        Raises:
            StrongroomError: As the error table says; recorded.
        """
        action = Action.ENABLE_KEY if state is KeyState.ENABLED else Action.DISABLE_KEY
        shard = self._topology.shard(name.region)
        trace = Trace(action.value, str(name), validate_only=request.validate_only)

        async def plan() -> tuple[Change | None, Answer]:
            key = await self._permitted(caller, shard, name, action, trace)
            _check_etag(key, request.etag)
            if key.state is state:
                return None, Answer(key=key)
            now = self._clock.now()
            after = replace(key, state=state, update_time=now, revision=key.revision + 1)
            return SetState(key.key_id, state, now, key.revision), Answer(key=after)

        body = (str(name), request.etag)
        answer, receipt = await self._changes.make(shard, caller, trace, request, body, plan=plan)
        return _key(answer), receipt

    async def rotate_key(
        self, caller: Caller, name: KeyName, request: ChangeRequest
    ) -> tuple[Key, Receipt]:
        """Generate a new primary version; the last one in the answer's `versions`.

        Raises:
            StrongroomError: As the error table says; recorded.
        """
        shard = self._topology.shard(name.region)
        trace = Trace("RotateKey", str(name), validate_only=request.validate_only)

        async def plan() -> tuple[Change | None, Answer]:
            key = await self._permitted(caller, shard, name, Action.ROTATE_KEY, trace)
            _check_etag(key, request.etag)
            return await self._plan_rotation(caller, shard, key, request, trace)

        body = (str(name), request.etag)
        answer, receipt = await self._changes.make(shard, caller, trace, request, body, plan=plan)
        return _key(answer), receipt

    async def rotate_worn(self, caller: Caller, shard: Shard, name: KeyName) -> None:
        """Rotate a key whose primary version has reached 2^30 uses, as the service itself.

        Raises:
            StrongroomError: As the error table says; recorded.
        """
        trace = Trace("RotateKey", str(name), policy="rotation-by-use")
        request = ChangeRequest()

        async def plan() -> tuple[Change | None, Answer]:
            key = await shard.find(name)
            return await self._plan_rotation(caller, shard, key, request, trace)

        await self._changes.make(shard, caller, trace, request, (str(name),), plan=plan)

    async def create_alias(
        self, caller: Caller, name: AliasName, key_name: KeyName, request: ChangeRequest
    ) -> tuple[Alias, Receipt]:
        """Give a key of the same shard a second name.

        Raises:
            StrongroomError: As the error table says; recorded.
        """
        shard = self._topology.shard(name.region)
        trace = Trace("CreateAlias", str(key_name), validate_only=request.validate_only)

        async def plan() -> tuple[Change | None, Answer]:
            if key_name.region != name.region:
                raise ArgumentInvalidError.of(
                    "key", "alias.region", f"the key must live in regions/{name.region}"
                )
            if name.alias.startswith(RESERVED_ALIAS_PREFIX):
                raise ArgumentInvalidError.of(
                    "alias_id", "alias.reserved", f"{RESERVED_ALIAS_PREFIX} is reserved"
                )
            key = await self._permitted(caller, shard, key_name, Action.CREATE_ALIAS, trace)
            if await shard.store.find_alias(name) is not None:
                raise AliasExistsError(f"{name} exists")
            alias = Alias(name, key.key_id, self._clock.now())
            return CreateAlias(alias), Answer(alias=alias)

        body = (str(name), str(key_name))
        answer, receipt = await self._changes.make(shard, caller, trace, request, body, plan=plan)
        if answer.alias is None:
            raise RequestIdReusedError
        return answer.alias, receipt

    async def _permitted(
        self, caller: Caller, shard: Shard, name: KeyOrAlias, action: Action, trace: Trace
    ) -> Key:
        key = await shard.find(name)
        trace.key = str(key.name)
        trace.policy = self._authorization.authorize(
            caller.principal, action, key, {}, asked_name=str(name)
        )
        return key

    async def _plan_rotation(
        self, caller: Caller, shard: Shard, key: Key, request: ChangeRequest, trace: Trace
    ) -> tuple[Change | None, Answer]:
        if key.state is not KeyState.ENABLED:
            raise KeyDisabledError(str(key.name))
        check_takes_part(Action.ROTATE_KEY, key)
        now = self._clock.now()
        version = KeyVersion(key.versions[-1].number + 1, now, 0)
        trace.key_version = version.number
        if not request.validate_only:
            version = await self._with_material(caller, shard, key, version)
        after = replace(
            key,
            primary_version=version.number,
            update_time=now,
            revision=key.revision + 1,
            versions=(*key.versions, version),
        )
        return AddVersion(key.key_id, version, now, key.revision), Answer(key=after)

    async def _with_material(
        self, caller: Caller, shard: Shard, key: Key, version: KeyVersion
    ) -> KeyVersion:
        """Have the HSM make a new version's material: where the key's storage says."""
        deadline = caller.hsm_deadline
        root = None
        if key.storage is KeyStorage.WRAPPED:
            root = await self._roots.active(shard, deadline=deadline)
        # A crash after this leaves material in the token that no key names: harmless,
        # never used, found by reconciliation. Of wrapped material it leaves nothing.
        material = await shard.token.create_version(
            key.version_ref(version.number),
            spec=key.spec,
            usage=key.usage,
            root=root,
            deadline=deadline,
        )
        return replace(version, wrapped=material.wrapped)


def _check_etag(key: Key, etag: str) -> None:
    if etag and etag != key.etag:
        raise EtagMismatchError(str(key.name))


def _key(answer: Answer) -> Key:
    if answer.key is None:  # the memo of another method cannot come here: it has its own id
        raise RequestIdReusedError
    return answer.key
