"""Why somebody may do something with a key, or may not."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from strongroom.receipts import Receipt
from strongroom_server.domain.explaining import Consideration, consider_grant, consider_policies
from strongroom_server.domain.grants import PrincipalGrants
from strongroom_server.domain.keys import Key
from strongroom_server.domain.policy import Action, Question
from strongroom_server.domain.policy_history import PolicyRevision
from strongroom_server.errors import ArgumentInvalidError, PolicyDeniedError
from strongroom_server.services.caller import Caller
from strongroom_server.services.key_access import KeyOrAlias
from strongroom_server.services.managed_keys import ManagedKeys
from strongroom_server.services.records import Trace
from strongroom_server.shards.topology import Shard

__all__ = ["AccessQuestion", "Explanation", "ExplanationService"]

OWN_ACCESS: Final = "own-access"
"""In the place of a policy's id: the caller asked about itself, and may see the key."""
MAX_CONSIDERATIONS: Final = 1_000
# Each costs some hundred microseconds: then others have their turn.
_TOGETHER: Final = 8


@dataclass(frozen=True, slots=True)
class AccessQuestion:
    """What ExplainAccess is told. No principal means the caller, no time means now."""

    key: KeyOrAlias
    operation: str
    encryption_context: Mapping[str, str]
    principal: str = ""
    at_time: datetime | None = None


@dataclass(frozen=True, slots=True)
class Explanation:
    """A decision, what decided, and what was considered."""

    allowed: bool
    decided_by: str
    policy_revision: int
    is_administrator: bool
    considerations: Sequence[Consideration]


class ExplanationService:
    """Explains decisions; takes none. Plain types in and out."""

    def __init__(self, *, keys: ManagedKeys) -> None:
        """Take the collaborators; holds no state of its own."""
        self._keys = keys

    async def explain(self, caller: Caller, asked: AccessQuestion) -> tuple[Explanation, Receipt]:
        """Explain. About themselves those may ask who see the key; about others, who may.

        Raises:
            StrongroomError: As the error table says; recorded.
        """
        shard = self._keys.topology.shard(asked.key.region)
        principal = asked.principal or caller.principal
        trace = Trace("ExplainAccess", str(asked.key), encryption_context=asked.encryption_context)
        trace.details = {"operation": asked.operation, "principal": principal}

        async def work() -> Explanation:
            try:
                action = Action(asked.operation)
            except ValueError as exc:
                raise ArgumentInvalidError.of(
                    "operation", "policy.action", "no action of a policy (docs/policies.md)"
                ) from exc
            key, may_see_all = await self._permitted(caller, shard, asked.key, principal, trace)
            revision, grants = await _as_of(shard, key, principal, asked.at_time)
            question = Question(
                principal,
                self._keys.authorization.is_administrator(principal),
                action,
                str(key.name),
                asked.encryption_context,
            )
            return await self._explain(question, revision, grants, may_see_all=may_see_all)

        return await self._keys.recorder.run(shard, caller, trace, work)

    async def _permitted(
        self, caller: Caller, shard: Shard, name: KeyOrAlias, principal: str, trace: Trace
    ) -> tuple[Key, bool]:
        """Return the key, and whether the caller may be told of others' policies."""
        try:
            key = await self._keys.permitted(caller, shard, name, Action.EXPLAIN_ACCESS, trace)
        except PolicyDeniedError:
            if principal != caller.principal:
                raise
            # Denied and not hidden: the caller may see the key.
            trace.policy = OWN_ACCESS
            return await shard.find(name), False
        return key, True

    async def _explain(
        self,
        question: Question,
        revision: PolicyRevision,
        grants: PrincipalGrants,
        *,
        may_see_all: bool,
    ) -> Explanation:
        policy = self._keys.authorization.compiled(revision.text)
        verdict = policy.decide(question)
        found: list[Consideration] = []
        for number, each in enumerate(consider_policies(policy, question)):
            if may_see_all or each.is_for_principal:
                found.append(each)
            if number % _TOGETHER == _TOGETHER - 1:
                await asyncio.sleep(0)
        action, context = question.action, question.encryption_context
        of_grants = [consider_grant(grant, action, context) for grant in grants.grants]
        found += sorted(of_grants, key=lambda each: not each.applies)
        allowed, decided_by = verdict.allowed, verdict.policy_id
        if verdict.is_silent and (grant := grants.find(action, context)) is not None:
            allowed, decided_by = True, grant.policy_id
        return Explanation(
            allowed,
            decided_by,
            revision.number,
            question.is_administrator,
            found[:MAX_CONSIDERATIONS],
        )


async def _as_of(
    shard: Shard, key: Key, principal: str, time: datetime | None
) -> tuple[PolicyRevision, PrincipalGrants]:
    """Return policy and grants of a time.

    Grants that have ended since are not known any more: of those the audit log tells.
    """
    permissions = shard.store.permissions
    grants = await permissions.find_grants(key.key_id, principal)
    if time is None:
        found = await permissions.policy_revision(key, None)
    else:
        found = await permissions.policy_at(key, time)
        grants = PrincipalGrants(grant for grant in grants.grants if grant.create_time <= time)
    if found is None:
        raise ArgumentInvalidError.of("at_time", "policy.time", "the key was not there yet")
    return found, grants
