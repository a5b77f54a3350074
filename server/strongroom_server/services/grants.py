"""Grants: made, listed, retired, revoked."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from strongroom.receipts import Receipt
from strongroom.resource_names import GrantName, KeyName
from strongroom_server.domain.grants import (
    CONTEXT_ACTIONS,
    GRANTABLE,
    UNCONSTRAINED,
    Constraint,
    Grant,
)
from strongroom_server.domain.keys import Key
from strongroom_server.domain.policy import Action
from strongroom_server.domain.states import check_state
from strongroom_server.errors import (
    ArgumentInvalidError,
    GrantNotFoundError,
    KeyNotFoundError,
    RequestIdReusedError,
)
from strongroom_server.mutations import Change, CreateGrant, EndGrant
from strongroom_server.permission_ports import Place
from strongroom_server.ports import Clock
from strongroom_server.services import pages
from strongroom_server.services.answers import Answer
from strongroom_server.services.caller import Caller
from strongroom_server.services.changes import ChangeRequest
from strongroom_server.services.managed_keys import ManagedKeys
from strongroom_server.services.records import Trace
from strongroom_server.shards.topology import Shard

__all__ = ["GrantService", "NewGrant"]


@dataclass(frozen=True, slots=True)
class NewGrant:
    """What CreateGrant is told; empty texts mean "not given"."""

    key: KeyName
    grantee: str
    operations: Sequence[str]
    constraint: Constraint | None = None
    retiring: str = ""
    name: str = ""


class GrantService:
    """Operations on grants. Plain types in and out."""

    def __init__(
        self, *, keys: ManagedKeys, clock: Clock, new_grant_id: Callable[[], uuid.UUID]
    ) -> None:
        """Take the collaborators; `new_grant_id` makes random UUIDs (version 4)."""
        self._keys = keys
        self._clock = clock
        self._new_grant_id = new_grant_id

    async def create(
        self, caller: Caller, new: NewGrant, request: ChangeRequest
    ) -> tuple[Grant, Receipt]:
        """Make a grant, which holds on return; or return the one that it repeats by its name.

        Raises:
            StrongroomError: As the error table says; recorded.
        """
        shard = self._keys.topology.shard(new.key.region)
        trace = Trace("CreateGrant", str(new.key), validate_only=request.validate_only)

        async def plan() -> tuple[Change | None, Answer]:
            operations = _operations(new)
            key = await shard.find(new.key)
            trace.key = str(key.name)
            grant = Grant(
                grant_id=self._new_grant_id(),
                region=key.region,
                key_id=key.key_id,
                grantee=new.grantee,
                operations=operations,
                constraint=new.constraint,
                retiring=new.retiring,
                name=new.name,
                issuer=caller.principal,
                create_time=self._clock.now(),
            )
            permissions = shard.store.permissions
            trace.policy = await self._keys.authorization.authorize_grant(
                caller.principal, grant, key, permissions
            )
            check_state(Action.CREATE_GRANT, key)
            repeated = await permissions.find_repeat(grant) if new.name else None
            _describe(trace, repeated or grant)
            if repeated is not None:
                return None, Answer(grant=repeated)
            return CreateGrant(grant), Answer(grant=grant)

        body = (
            str(new.key),
            new.grantee,
            list(new.operations),
            None if new.constraint is None else [new.constraint.kind, new.constraint.pairs],
            new.retiring,
            new.name,
        )
        answer, receipt = await self._keys.changes.make(
            shard, caller, trace, request, body, plan=plan
        )
        return _grant(answer), receipt

    async def list_page(
        self, caller: Caller, name: KeyName, *, grantee: str, page_size: int, page_token: str
    ) -> tuple[Sequence[Grant], str, Receipt]:
        """Return a page of a key's grants, and the next page's token.

        Raises:
            StrongroomError: As the error table says; recorded.
        """
        shard = self._keys.topology.shard(name.region)
        trace = Trace("ListGrants", str(name))
        size = page_size or pages.DEFAULT_PAGE_SIZE

        async def work() -> tuple[Sequence[Grant], str]:
            key = await self._keys.permitted(caller, shard, name, Action.LIST_GRANTS, trace)
            parent = f"{name} {grantee}"
            found = await shard.store.permissions.list_grants(
                key.key_id,
                grantee=grantee,
                after=_position(page_token, parent),
                limit=size + 1,
            )
            return _page(found, size, parent)

        (page, token), receipt = await self._keys.recorder.run(shard, caller, trace, work)
        return page, token, receipt

    async def list_retirable_page(
        self, caller: Caller, region: str, *, page_size: int, page_token: str
    ) -> tuple[Sequence[Grant], str, Receipt]:
        """Return a page of the grants that the caller may retire as retiring principal.

        No policy is asked: the grants themselves name the caller.

        Raises:
            StrongroomError: As the error table says; recorded.
        """
        shard = self._keys.topology.shard(region)
        trace = Trace("ListRetirableGrants", policy="retiring-principal")
        size = page_size or pages.DEFAULT_PAGE_SIZE

        async def work() -> tuple[Sequence[Grant], str]:
            parent = f"regions/{region} {caller.principal}"
            found = await shard.store.permissions.list_retirable_grants(
                caller.principal, after=_position(page_token, parent), limit=size + 1
            )
            return _page(found, size, parent)

        (page, token), receipt = await self._keys.recorder.run(shard, caller, trace, work)
        return page, token, receipt

    async def retire(
        self, caller: Caller, name: GrantName, request: ChangeRequest
    ) -> tuple[Grant, Receipt]:
        """End a grant: for its retiring principal, or its grantee when it says so.

        Raises:
            StrongroomError: As the error table says; recorded.
        """
        return await self._end(caller, name, Action.RETIRE_GRANT, request)

    async def revoke(
        self, caller: Caller, name: GrantName, request: ChangeRequest
    ) -> tuple[Grant, Receipt]:
        """End a grant: for who may manage the key.

        Raises:
            StrongroomError: As the error table says; recorded.
        """
        return await self._end(caller, name, Action.REVOKE_GRANT, request)

    async def _end(
        self, caller: Caller, name: GrantName, action: Action, request: ChangeRequest
    ) -> tuple[Grant, Receipt]:
        shard = self._keys.topology.shard(name.region)
        trace = Trace(action.value, str(name.key), validate_only=request.validate_only)
        trace.details = {"grant": str(name.grant_id)}

        async def plan() -> tuple[Change | None, Answer]:
            if action is Action.REVOKE_GRANT:
                await self._keys.permitted(caller, shard, name.key, action, trace)
                grant = await _find(shard, name)
                if grant is None:
                    raise GrantNotFoundError(str(name))
            else:
                grant = await self._retirable(caller, shard, name, trace)
            _describe(trace, grant)
            return EndGrant(grant), Answer(grant=grant)

        answer, receipt = await self._keys.changes.make(
            shard, caller, trace, request, (str(name),), plan=plan
        )
        return _grant(answer), receipt

    async def _retirable(
        self, caller: Caller, shard: Shard, name: GrantName, trace: Trace
    ) -> Grant:
        key: Key = await shard.find(name.key)
        trace.key = str(key.name)
        permissions = shard.store.permissions
        grant = await _find(shard, name)
        if grant is None:
            if await self._keys.authorization.may_see(caller.principal, key, permissions):
                raise GrantNotFoundError(str(name))
            raise KeyNotFoundError(str(name.key), hidden=True)
        trace.policy = await self._keys.authorization.authorize_retirement(
            caller.principal, grant, key, permissions
        )
        return grant


async def _find(shard: Shard, name: GrantName) -> Grant | None:
    grant = await shard.store.permissions.find_grant(name.grant_id)
    # A grant's id with another key's name is no name of anything.
    return grant if grant is not None and grant.resource_name == name else None


def _operations(new: NewGrant) -> tuple[Action, ...]:
    """Return the operations in order.

    Raises:
        ArgumentInvalidError: One is unknown, cannot be granted, or takes no encryption
            context that the constraint could be about.
    """
    known = {action.value: action for action in GRANTABLE}
    for operation in new.operations:
        if operation not in known:
            raise ArgumentInvalidError.of(
                "operations", "grant.operation", f"{operation!a} cannot be granted"
            )
    operations = tuple(sorted(known[operation] for operation in new.operations))
    without = [each for each in operations if each not in CONTEXT_ACTIONS | UNCONSTRAINED]
    if new.constraint is not None and without:
        raise ArgumentInvalidError.of(
            "constraint",
            "grant.constraint",
            f"{without[0]} takes no encryption context: no constraint can hold for it",
        )
    return operations


def _describe(trace: Trace, grant: Grant) -> None:
    """Have the record say which grant it is about, and what it allows whom."""
    details = {
        "grant": str(grant.grant_id),
        "grantee": grant.grantee,
        "operations": ",".join(grant.operations),
    }
    if grant.retiring:
        details["retiring"] = grant.retiring
    trace.details = details


def _position(token: str, parent: str) -> Place | None:
    return pages.key_position(token, parent)


def _page(found: Sequence[Grant], size: int, parent: str) -> tuple[Sequence[Grant], str]:
    page = found[:size]
    if len(found) <= size:
        return page, ""
    return page, pages.key_token(parent, page[-1].create_time, page[-1].grant_id)


def _grant(answer: Answer) -> Grant:
    if answer.grant is None:  # the memo of another method cannot come here: it has its own id
        raise RequestIdReusedError
    return answer.grant
