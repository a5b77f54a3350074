"""Grants and policy history in memory: a fake that keeps the promises of permission_ports."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime

from strongroom_server.domain.grants import (
    MAX_GRANTS_PER_GRANTEE,
    MAX_GRANTS_PER_KEY,
    Grant,
    PrincipalGrants,
)
from strongroom_server.domain.keys import Key
from strongroom_server.domain.policy_history import PolicyRevision
from strongroom_server.errors import EtagMismatchError, GrantNotFoundError, LimitExceededError
from strongroom_server.mutations import CreateGrant, EndGrant, SetPolicy
from strongroom_server.permission_ports import Place

__all__ = ["MemoryPermissions"]


@dataclass
class MemoryPermissions:
    """Grants by id, policies by key. With `forgets`, no grants are in memory."""

    grants: dict[uuid.UUID, Grant] = field(default_factory=dict)
    history: dict[uuid.UUID, list[PolicyRevision]] = field(default_factory=dict)
    forgets: bool = False
    reads: int = 0

    def cached_grants(self, key_id: uuid.UUID, grantee: str) -> PrincipalGrants | None:
        return None if self.forgets else self._of(key_id, grantee)

    async def find_grants(self, key_id: uuid.UUID, grantee: str) -> PrincipalGrants:
        self.reads += 1
        await asyncio.sleep(0)
        return self._of(key_id, grantee)

    async def find_grant(self, grant_id: uuid.UUID) -> Grant | None:
        await asyncio.sleep(0)
        return self.grants.get(grant_id)

    async def find_repeat(self, grant: Grant) -> Grant | None:
        await asyncio.sleep(0)
        return self._repeat(grant)

    async def list_grants(
        self, key_id: uuid.UUID, *, grantee: str, after: Place | None, limit: int
    ) -> Sequence[Grant]:
        await asyncio.sleep(0)
        return _page(
            [g for g in self.grants.values() if g.key_id == key_id and grantee in ("", g.grantee)],
            after,
            limit,
        )

    async def list_retirable_grants(
        self, principal: str, *, after: Place | None, limit: int
    ) -> Sequence[Grant]:
        await asyncio.sleep(0)
        return _page([g for g in self.grants.values() if g.retiring == principal], after, limit)

    async def policy_revision(self, key: Key, number: int | None) -> PolicyRevision | None:
        await asyncio.sleep(0)
        every = self._policies(key)
        if number is None:
            return every[-1]
        return next((revision for revision in every if revision.number == number), None)

    async def policy_at(self, key: Key, time: datetime) -> PolicyRevision | None:
        await asyncio.sleep(0)
        held = [revision for revision in self._policies(key) if revision.time <= time]
        return held[-1] if held else None

    async def list_policy_revisions(
        self, key: Key, *, after: int, limit: int
    ) -> Sequence[PolicyRevision]:
        await asyncio.sleep(0)
        return [revision for revision in self._policies(key) if revision.number > after][:limit]

    def apply(self, change: CreateGrant | EndGrant) -> None:
        """Insert or take away a grant."""
        grant = change.grant
        if isinstance(change, EndGrant):
            if self.grants.pop(grant.grant_id, None) is None:
                raise GrantNotFoundError(str(grant.resource_name))
            return
        if self._repeat(grant) is not None:
            raise EtagMismatchError("grants")
        of_key = [each for each in self.grants.values() if each.key_id == grant.key_id]
        of_grantee = [each for each in of_key if each.grantee == grant.grantee]
        if len(of_key) >= MAX_GRANTS_PER_KEY or len(of_grantee) >= MAX_GRANTS_PER_GRANTEE:
            raise LimitExceededError("grants")
        self.grants[grant.grant_id] = grant

    def set_policy(self, key: Key, change: SetPolicy) -> None:
        """Keep the policy that was, and the new one; `key` is as before."""
        every = self._policies(key)
        if change.number != every[-1].number + 1:
            raise EtagMismatchError(str(key.name))
        after = PolicyRevision(key.key_id, change.number, change.policy, change.author, change.time)
        self.history[key.key_id] = [*every, after]

    def _policies(self, key: Key) -> list[PolicyRevision]:
        return self.history.get(key.key_id, [PolicyRevision.first_of(key)])

    def _of(self, key_id: uuid.UUID, grantee: str) -> PrincipalGrants:
        found = (g for g in self.grants.values() if (g.key_id, g.grantee) == (key_id, grantee))
        return PrincipalGrants(sorted(found, key=_place))

    def _repeat(self, grant: Grant) -> Grant | None:
        for each in self.grants.values():
            if each.key_id == grant.key_id and each.identity == grant.identity is not None:
                return each
        return None


def _place(grant: Grant) -> Place:
    return (grant.create_time, grant.grant_id)


def _page(found: list[Grant], after: Place | None, limit: int) -> list[Grant]:
    ordered = sorted(found, key=_place)
    return [grant for grant in ordered if after is None or _place(grant) > after][:limit]
