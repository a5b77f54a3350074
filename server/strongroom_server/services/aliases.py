"""Aliases: made, pointed elsewhere, deleted, listed."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from strongroom.receipts import Receipt
from strongroom.resource_names import AliasName, KeyName
from strongroom_server.domain.keys import Alias, Key
from strongroom_server.domain.policy import Action
from strongroom_server.domain.states import check_state
from strongroom_server.errors import (
    AliasExistsError,
    ArgumentInvalidError,
    KeyNotFoundError,
    RequestIdReusedError,
    ShardUnavailableError,
)
from strongroom_server.mutations import Change, CreateAlias, DeleteAlias, UpdateAlias
from strongroom_server.ports import Clock
from strongroom_server.services import pages
from strongroom_server.services.answers import Answer
from strongroom_server.services.caller import Caller
from strongroom_server.services.changes import ChangeRequest
from strongroom_server.services.managed_keys import ManagedKeys
from strongroom_server.services.records import Trace
from strongroom_server.shards.topology import Shard

__all__ = ["AliasService"]

RESERVED_ALIAS_PREFIX: Final = "service/"
# As for lists of keys (`key_lists.py`): a policy is evaluated for each.
READ_ALIASES: Final = 50
MAX_READS: Final = 200


class AliasService:
    """Operations on aliases. Plain types in and out."""

    def __init__(self, *, keys: ManagedKeys, clock: Clock) -> None:
        """Take the collaborators; holds no state of its own."""
        self._keys = keys
        self._clock = clock

    async def create(
        self, caller: Caller, name: AliasName, key_name: KeyName, request: ChangeRequest
    ) -> tuple[Alias, Receipt]:
        """Give a key of the same shard a second name.

        Raises:
            StrongroomError: As the error table says; recorded.
        """
        trace = Trace("CreateAlias", str(key_name), validate_only=request.validate_only)
        shard = self._keys.topology.shard(name.region)

        async def plan() -> tuple[Change | None, Answer]:
            _check_region(name, key_name)
            if name.alias.startswith(RESERVED_ALIAS_PREFIX):
                raise _reserved("alias_id")
            key = await self._keys.permitted(caller, shard, key_name, Action.CREATE_ALIAS, trace)
            check_state(Action.CREATE_ALIAS, key)
            if await shard.store.find_alias(name) is not None:
                raise AliasExistsError(f"{name} exists")
            alias = Alias(name, key.key_id, self._clock.now())
            return CreateAlias(alias), Answer(alias=alias)

        answer, receipt = await self._keys.changes.make(
            shard, caller, trace, request, (str(name), str(key_name)), plan=plan
        )
        return _alias(answer), receipt

    async def update(
        self, caller: Caller, name: AliasName, key_name: KeyName, request: ChangeRequest
    ) -> tuple[Alias, Receipt]:
        """Point an alias to another key of the same spec and usage.

        The caller needs UpdateAlias on both keys: on the one that loses the name, too.

        Raises:
            StrongroomError: As the error table says; recorded.
        """
        trace = Trace("UpdateAlias", str(key_name), validate_only=request.validate_only)
        shard = self._keys.topology.shard(name.region)

        async def plan() -> tuple[Change | None, Answer]:
            _check_region(name, key_name)
            alias, before = await self._managed(caller, shard, name, Action.UPDATE_ALIAS, trace)
            check_state(Action.UPDATE_ALIAS, before)
            after = await self._keys.permitted(caller, shard, key_name, Action.UPDATE_ALIAS, trace)
            # The new key as for CreateAlias: none that will be gone soon.
            check_state(Action.CREATE_ALIAS, after)
            if (after.spec, after.usage) != (before.spec, before.usage):
                raise ArgumentInvalidError.of(
                    "key", "alias.kind", f"the key must be {before.spec} for {before.usage}"
                )
            if after.key_id == before.key_id:
                return None, Answer(alias=alias)
            changed = replace(alias, key_id=after.key_id, update_time=self._clock.now())
            return UpdateAlias(changed, before.key_id), Answer(alias=changed)

        answer, receipt = await self._keys.changes.make(
            shard, caller, trace, request, (str(name), str(key_name)), plan=plan
        )
        return _alias(answer), receipt

    async def delete(
        self, caller: Caller, name: AliasName, request: ChangeRequest
    ) -> tuple[Alias, Receipt]:
        """Take an alias away; return it as it was.

        Raises:
            StrongroomError: As the error table says; recorded.
        """
        trace = Trace("DeleteAlias", str(name), validate_only=request.validate_only)
        shard = self._keys.topology.shard(name.region)

        async def plan() -> tuple[Change | None, Answer]:
            alias, key = await self._managed(caller, shard, name, Action.DELETE_ALIAS, trace)
            check_state(Action.DELETE_ALIAS, key)
            return DeleteAlias(name, key.key_id), Answer(alias=alias)

        answer, receipt = await self._keys.changes.make(
            shard, caller, trace, request, (str(name),), plan=plan
        )
        return _alias(answer), receipt

    async def list_page(
        self,
        caller: Caller,
        region: str,
        key_name: KeyName | None,
        *,
        page_size: int,
        page_token: str,
    ) -> tuple[Sequence[Alias], str, Receipt]:
        """Return a page of aliases by name, and the next page's token.

        Those whose keys the caller may see, of one key or of all. A page may have fewer than
        asked for and a token all the same.

        Raises:
            StrongroomError: As the error table says; recorded.
        """
        shard = self._keys.topology.shard(region)
        trace = Trace("ListAliases", None if key_name is None else str(key_name))
        size = page_size or pages.DEFAULT_PAGE_SIZE

        async def work() -> tuple[Sequence[Alias], str]:
            of: uuid.UUID | None = None
            parent = f"regions/{region}"
            if key_name is None:
                trace.policy = "visible-keys"
            else:
                if key_name.region != region:
                    raise _other_region(region)
                key = await self._keys.permitted(caller, shard, key_name, Action.GET_KEY, trace)
                of, parent = key.key_id, str(key_name)
            after = pages.alias_position(page_token, parent)
            return await self._visible(caller, shard, of, parent, after=after, size=size)

        (found, token), receipt = await self._keys.recorder.run(shard, caller, trace, work)
        return found, token, receipt

    async def _visible(
        self,
        caller: Caller,
        shard: Shard,
        of: uuid.UUID | None,
        parent: str,
        *,
        after: str,
        size: int,
    ) -> tuple[Sequence[Alias], str]:
        page: list[Alias] = []
        for _ in range(MAX_READS):
            found = await shard.store.list_aliases(key_id=of, after=after, limit=READ_ALIASES)
            for alias in found:
                if of is None and not await self._may_see(caller, shard, alias):
                    continue
                if len(page) == size:
                    return page, pages.alias_token(parent, page[-1].name.alias)
                page.append(alias)
            if len(found) < READ_ALIASES:
                return page, ""
            after = found[-1].name.alias
        return page, pages.alias_token(parent, after)

    async def _may_see(self, caller: Caller, shard: Shard, alias: Alias) -> bool:
        key = await shard.find_id(alias.key_id)
        return key is not None and self._keys.authorization.may_list(caller.principal, key)

    async def _managed(
        self, caller: Caller, shard: Shard, name: AliasName, action: Action, trace: Trace
    ) -> tuple[Alias, Key]:
        """Return an alias that the caller may change, and its key."""
        if name.alias.startswith(RESERVED_ALIAS_PREFIX):
            raise _reserved("name")
        key = await self._keys.permitted(caller, shard, name, action, trace)
        alias = await shard.store.find_alias(name)
        if alias is None:
            raise KeyNotFoundError(str(name))
        if alias.key_id != key.key_id:
            # Another server pointed it elsewhere between the two looks.
            raise ShardUnavailableError(shard.region, f"{name} has just been changed")
        return alias, key


def _check_region(name: AliasName, key_name: KeyName) -> None:
    if key_name.region != name.region:
        raise _other_region(name.region)


def _other_region(region: str) -> ArgumentInvalidError:
    return ArgumentInvalidError.of("key", "alias.region", f"the key must live in regions/{region}")


def _reserved(field: str) -> ArgumentInvalidError:
    return ArgumentInvalidError.of(field, "alias.reserved", f"{RESERVED_ALIAS_PREFIX} is reserved")


def _alias(answer: Answer) -> Alias:
    if answer.alias is None:
        raise RequestIdReusedError
    return answer.alias
