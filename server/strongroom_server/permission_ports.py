"""What the services need from a shard's store about grants and past policies.

The same promises as `ports.KeyStore`: reads include every change committed by this
process, and those of other processes within one second, or raise ShardUnavailableError.
Changes are committed with `KeyStore.commit`, in one transaction with their record.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from datetime import datetime
from typing import Protocol

from strongroom_server.domain.grants import Grant, PrincipalGrants
from strongroom_server.domain.keys import Key
from strongroom_server.domain.policy_history import PolicyRevision

__all__ = ["PermissionStore", "Place"]

Place = tuple[datetime, uuid.UUID]
"""Where a list of grants goes on: time and id of the last one seen."""


class PermissionStore(Protocol):
    """Grants and policy history of one shard."""

    def cached_grants(self, key_id: uuid.UUID, grantee: str) -> PrincipalGrants | None:
        """Return a principal's grants on a key when they are in memory; none is known too."""
        ...

    async def find_grants(self, key_id: uuid.UUID, grantee: str) -> PrincipalGrants:
        """Return a principal's grants on a key, from memory or the database."""
        ...

    async def find_grant(self, grant_id: uuid.UUID) -> Grant | None:
        """Return a grant; None when there is none, any more."""
        ...

    async def find_repeat(self, grant: Grant) -> Grant | None:
        """Return a grant of the same key with the same `identity`; None without one."""
        ...

    async def list_grants(
        self, key_id: uuid.UUID, *, grantee: str, after: Place | None, limit: int
    ) -> Sequence[Grant]:
        """Return at most `limit` grants of a key by (create_time, grant_id).

        Args:
            grantee: Only this principal's; everybody's when empty.
        """
        ...

    async def list_retirable_grants(
        self, principal: str, *, after: Place | None, limit: int
    ) -> Sequence[Grant]:
        """Return at most `limit` grants that name a retiring principal, in the same order."""
        ...

    async def policy_revision(self, key: Key, number: int | None) -> PolicyRevision | None:
        """Return a policy that a key has had; the last one for None."""
        ...

    async def policy_at(self, key: Key, time: datetime) -> PolicyRevision | None:
        """Return the policy that held at a time; None before there was the key."""
        ...

    async def list_policy_revisions(
        self, key: Key, *, after: int, limit: int
    ) -> Sequence[PolicyRevision]:
        """Return at most `limit` policies with numbers above `after`, ascending."""
        ...
