"""Keys: create, see, list, enable, disable, rotate.

How a change is made, once and recorded, is in `changes.py`; here is what is changed.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from strongroom.receipts import Receipt
from strongroom.resource_names import KeyName
from strongroom_server.domain.algorithms import choose_storage
from strongroom_server.domain.imports import check_can_be_brought, check_made_in_hsm
from strongroom_server.domain.key_uses import check_takes_part
from strongroom_server.domain.keys import (
    AuditMode,
    ExternalMaterial,
    Key,
    KeyManager,
    KeyOrigin,
    KeySpec,
    KeyState,
    KeyStorage,
    KeyUsage,
    KeyVersion,
)
from strongroom_server.domain.policy import Action, default_policy
from strongroom_server.domain.states import check_state
from strongroom_server.domain.tags import check_tags
from strongroom_server.mutations import AddVersion, Change, CreateKey, KeyChange, SetState
from strongroom_server.ports import Clock
from strongroom_server.services import pages
from strongroom_server.services.answers import Answer
from strongroom_server.services.caller import Caller
from strongroom_server.services.changes import ChangeRequest
from strongroom_server.services.key_access import KeyOrAlias
from strongroom_server.services.key_lists import KeyList, visible_page
from strongroom_server.services.managed_keys import ManagedKeys, key_of
from strongroom_server.services.records import Trace
from strongroom_server.services.root_book import RootBook
from strongroom_server.shards.topology import Shard

__all__ = ["LifecycleService", "NewKey"]

ALL_KEYS: Final = KeyList()


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
    audit_mode: AuditMode = AuditMode.REQUIRED
    tags: Mapping[str, str] = field(default_factory=dict)
    origin: KeyOrigin = KeyOrigin.HSM


class LifecycleService:
    """Operations on keys as resources. Plain types in and out."""

    def __init__(
        self,
        *,
        keys: ManagedKeys,
        roots: RootBook,
        clock: Clock,
        new_key_id: Callable[[], uuid.UUID],
    ) -> None:
        """Take the collaborators; `new_key_id` makes random UUIDs (version 4)."""
        self._keys = keys
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
        shard = self._keys.topology.shard(new.region)
        trace = Trace("CreateKey", validate_only=request.validate_only)
        is_brought = new.origin is KeyOrigin.EXTERNAL

        async def plan() -> tuple[Change | None, Answer]:
            trace.policy = self._keys.authorization.authorize_create(
                caller.principal, f"regions/{new.region}"
            )
            now = self._clock.now()
            first = KeyVersion(1, now, 0)
            if is_brought:
                check_can_be_brought(new.spec)
                first = replace(first, external=ExternalMaterial())
            key = Key(
                key_id=self._new_key_id(),
                region=new.region,
                spec=new.spec,
                usage=new.usage,
                state=KeyState.PENDING_IMPORT if is_brought else KeyState.ENABLED,
                manager=KeyManager.CUSTOMER,
                description=new.description,
                primary_version=1,
                creator=caller.principal,
                create_time=now,
                update_time=now,
                revision=1,
                policy=new.policy or default_policy(caller.principal),
                versions=(first,),
                storage=choose_storage(
                    new.spec, new.storage, default=shard.storage, region=shard.region
                ),
                audit_mode=new.audit_mode,
                tags=check_tags(new.tags),
            )
            trace.key = str(key.name)
            trace.key_version = 1
            trace.mode = key.audit_mode
            self._keys.authorization.check_new_policy(
                key.policy, creator=caller.principal, key_name=str(key.name)
            )
            if not request.validate_only and not is_brought:
                first = await self._with_material(caller, shard, key, first)
                key = replace(key, versions=(first,))
            return CreateKey(key), Answer(key=key)

        body: tuple[object, ...] = (new.region, new.description, new.spec, new.usage, new.policy)
        if new.storage is not None:  # else as before there was a choice: memos outlive updates
            body = (*body, new.storage)
        if new.audit_mode is not AuditMode.REQUIRED:
            body = (*body, f"audit_mode {new.audit_mode}")
        if new.tags:
            body = (*body, sorted(new.tags.items()))
        if is_brought:
            body = (*body, f"origin {new.origin}")
        answer, receipt = await self._keys.changes.make(
            shard, caller, trace, request, body, plan=plan
        )
        return key_of(answer), receipt

    async def get_key(self, caller: Caller, name: KeyOrAlias) -> tuple[Key, Receipt]:
        """Return a key that the caller may see.

        Raises:
            StrongroomError: As the error table says; recorded.
        """
        shard = self._keys.topology.shard(name.region)
        trace = Trace("GetKey", str(name))

        async def work() -> Key:
            return await self._keys.permitted(caller, shard, name, Action.GET_KEY, trace)

        return await self._keys.recorder.run(shard, caller, trace, work)

    async def list_keys(
        self,
        caller: Caller,
        region: str,
        *,
        page_size: int,
        page_token: str,
        wanted: KeyList = ALL_KEYS,
    ) -> tuple[Sequence[Key], str, Receipt]:
        """Return a page of those `wanted` that the caller may see, and the next page's token.

        A page may have fewer keys than asked for and a token all the same.

        Raises:
            StrongroomError: As the error table says; recorded.
        """
        shard = self._keys.topology.shard(region)
        trace = Trace("ListKeys", policy="visible-keys")
        size = page_size or pages.DEFAULT_PAGE_SIZE

        async def work() -> tuple[Sequence[Key], str]:
            return await visible_page(
                shard,
                self._keys.authorization,
                caller.principal,
                wanted,
                page_token=page_token,
                size=size,
            )

        (keys, token), receipt = await self._keys.recorder.run(shard, caller, trace, work)
        return keys, token, receipt

    async def list_versions(
        self, caller: Caller, name: KeyName, *, page_size: int, page_token: str
    ) -> tuple[Key, Sequence[KeyVersion], str, Receipt]:
        """Return a key and a page of its versions, ascending, and the next page's token.

        Raises:
            StrongroomError: As the error table says; recorded.
        """
        shard = self._keys.topology.shard(name.region)
        trace = Trace("ListKeyVersions", str(name))
        size = page_size or pages.DEFAULT_PAGE_SIZE

        async def work() -> tuple[Key, Sequence[KeyVersion], str]:
            key = await self._keys.permitted(caller, shard, name, Action.LIST_KEY_VERSIONS, trace)
            after = pages.version_position(page_token, str(name))
            rest = [version for version in key.versions if version.number > after]
            page = rest[:size]
            more = len(rest) > size
            token = pages.version_token(str(name), page[-1].number) if more else ""
            return key, page, token

        (key, page, token), receipt = await self._keys.recorder.run(shard, caller, trace, work)
        return key, page, token, receipt

    async def set_state(
        self, caller: Caller, name: KeyName, state: KeyState, request: ChangeRequest
    ) -> tuple[Key, Receipt]:
        """Enable or disable a key; setting the state that it has changes nothing.

        Raises:
            StrongroomError: As the error table says; recorded.
        """
        action = Action.ENABLE_KEY if state is KeyState.ENABLED else Action.DISABLE_KEY

        async def plan(_: Shard, key: Key) -> KeyChange | None:
            if key.state is state:
                return None
            return SetState(key.key_id, state, self._clock.now(), key.revision)

        body = (str(name), request.etag)
        return await self._keys.change(caller, name, action, request, body, plan=plan)

    async def rotate_key(
        self, caller: Caller, name: KeyName, request: ChangeRequest
    ) -> tuple[Key, Receipt]:
        """Generate a new primary version; the last one in the answer's `versions`.

        Raises:
            StrongroomError: As the error table says; recorded.
        """

        async def plan(shard: Shard, key: Key) -> KeyChange | None:
            return await self._plan_rotation(caller, shard, key, request)

        body = (str(name), request.etag)
        return await self._keys.change(caller, name, Action.ROTATE_KEY, request, body, plan=plan)

    async def rotate_worn(self, caller: Caller, shard: Shard, name: KeyName) -> None:
        """Rotate a key whose primary version has reached 2^30 uses, as the service itself.

        Raises:
            StrongroomError: As the error table says; recorded.
        """
        trace = Trace("RotateKey", str(name), policy="rotation-by-use")
        request = ChangeRequest()

        async def plan() -> tuple[Change | None, Answer]:
            key = await shard.find(name)
            check_state(Action.ROTATE_KEY, key)
            change = await self._plan_rotation(caller, shard, key, request)
            trace.key_version = change.version.number
            return change, Answer(key=change.apply(key))

        await self._keys.changes.make(shard, caller, trace, request, (str(name),), plan=plan)

    async def _plan_rotation(
        self, caller: Caller, shard: Shard, key: Key, request: ChangeRequest
    ) -> AddVersion:
        check_takes_part(Action.ROTATE_KEY, key)
        check_made_in_hsm(Action.ROTATE_KEY, key)
        now = self._clock.now()
        version = KeyVersion(key.versions[-1].number + 1, now, 0)
        if not request.validate_only:
            version = await self._with_material(caller, shard, key, version)
        return AddVersion(key.key_id, version, now, key.revision)

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
