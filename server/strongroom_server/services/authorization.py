"""May this principal do this to that key?

The key's policy is asked first, and the principal's grants only when no policy applies: what
a policy forbids, no grant allows.

Decisions are cached per key for as long as the key's policy text is the same object;
policies that read the encryption context get one entry per context, under its hash: the
contexts themselves, 8 KiB each, would let one caller fill the memory. Keys with the same
policy text share its compiled form.

Three bounds hold the memory: on the keys, on the decisions of one key (a caller who
varies the context pushes out nobody else's), and on the decisions of all.
"""

from __future__ import annotations

import hashlib
import uuid
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from typing import Final

from strongroom import encryption_context as contexts
from strongroom_server.domain.grants import Constraint, Grant, PrincipalGrants
from strongroom_server.domain.keys import Key
from strongroom_server.domain.policy import (
    Action,
    CompiledPolicy,
    Verdict,
    check_lock_out,
    check_new_ids,
)
from strongroom_server.errors import KeyNotFoundError, PolicyDeniedError
from strongroom_server.permission_ports import PermissionStore

__all__ = ["Authorization"]

MAX_CACHED_KEYS: Final = 10_000
MAX_CACHED_DECISIONS_PER_KEY: Final = 1_000
MAX_CACHED_DECISIONS: Final = 100_000
MAX_SHARED_POLICIES: Final = 1_000


class _KeyDecisions:
    __slots__ = ("compiled", "decisions", "text")

    def __init__(self, text: str, compiled: CompiledPolicy) -> None:
        self.text = text
        self.compiled = compiled
        self.decisions: dict[tuple[str, Action, bytes], Verdict] = {}


class Authorization:
    """Deny by default; one instance per server, owned by the event loop."""

    def __init__(
        self,
        *,
        administrators: frozenset[str],
        key_creators: frozenset[str],
        on_decision: Callable[[bool], None],
    ) -> None:
        """Take the configured principals; `on_decision` hears of every verdict."""
        self._administrators = administrators
        self._key_creators = key_creators | administrators
        self._on_decision = on_decision
        self._keys: OrderedDict[uuid.UUID, _KeyDecisions] = OrderedDict()
        self._decisions = 0
        self._policies: OrderedDict[str, CompiledPolicy] = OrderedDict()

    def authorize_create(self, principal: str, region_name: str) -> str:
        """Let a configured creator or administrator create keys; return the rule's name.

        Raises:
            PolicyDeniedError: The principal is neither.
        """
        allowed = principal in self._key_creators
        self._on_decision(allowed)
        if not allowed:
            raise PolicyDeniedError("CreateKey", region_name)
        return "administrators" if principal in self._administrators else "key_creators"

    def check_new_policy(self, text: str, *, creator: str, key_name: str) -> None:
        """Check a policy that is about to be stored.

        Raises:
            PolicyInvalidError: It is malformed, names itself like a grant, or locks
                everybody out.
        """
        compiled = self.compiled(text)
        check_new_ids(compiled)
        check_lock_out(
            compiled,
            creator=creator,
            creator_is_administrator=creator in self._administrators,
            key=key_name,
        )

    def is_administrator(self, principal: str) -> bool:
        """Say whether the configuration lists this principal as administrator."""
        return principal in self._administrators

    async def may_see(self, principal: str, key: Key, permissions: PermissionStore) -> bool:
        """Say whether the key exists for this principal."""
        verdict = self._verdict(principal, Action.GET_KEY, key, {})
        if verdict.is_silent:
            grants = await _grants_of(principal, key, permissions)
            return grants.find(Action.GET_KEY, {}) is not None
        return verdict.allowed

    def may_list(self, principal: str, key: Key) -> bool:
        """Say whether a policy lets the principal see one of many keys.

        Without a place in the cache for it: a list goes over keys that nobody uses and
        would push out those in use. And without a look at grants, which are in memory for
        the keys in use only: who sees a key by a grant alone finds it by its name.
        """
        if key.key_id in self._keys:
            return self._verdict(principal, Action.GET_KEY, key, {}).allowed
        compiled = self.compiled(key.policy)
        return self._evaluate(compiled, principal, Action.GET_KEY, key, {}).allowed

    async def authorize(
        self,
        principal: str,
        action: Action,
        key: Key,
        encryption_context: Mapping[str, str],
        *,
        asked_name: str,
        permissions: PermissionStore,
    ) -> str:
        """Return the id of the policy, or grant, that allows it.

        Args:
            permissions: Those of the key's shard.
            asked_name: The name that the caller used, for the error; empty when the
                caller named no key.

        Raises:
            KeyNotFoundError: Not allowed, and the caller may not even see the key.
            PolicyDeniedError: Not allowed, and the caller may see the key.
        """
        verdict = self._verdict(principal, action, key, encryption_context)
        if verdict.is_silent:
            grants = await _grants_of(principal, key, permissions)
            verdict = _by(grants.find(action, encryption_context), verdict)
        return await self._answer(
            verdict, principal, action, key, asked_name=asked_name, permissions=permissions
        )

    async def authorize_grant(
        self, principal: str, grant: Grant, key: Key, permissions: PermissionStore
    ) -> str:
        """Return the id of what lets the principal make a grant, as `authorize` does.

        Who may make grants by policy may make any. Who may by a grant can pass on no
        operation that this grant does not have, and under no weaker a constraint.
        """
        verdict = self._verdict(principal, Action.CREATE_GRANT, key, {})
        if verdict.is_silent:
            grants = await _grants_of(principal, key, permissions)
            covering = _covering(grants, grant.operations, grant.constraint)
            verdict = _by(covering, verdict)
        return await self._answer(
            verdict,
            principal,
            Action.CREATE_GRANT,
            key,
            asked_name=str(key.name),
            permissions=permissions,
        )

    async def authorize_retirement(
        self, principal: str, grant: Grant, key: Key, permissions: PermissionStore
    ) -> str:
        """Return the id of what lets the principal retire a grant, as `authorize` does.

        Besides the policy, that is the grant itself.
        """
        verdict = self._verdict(principal, Action.RETIRE_GRANT, key, {})
        if verdict.is_silent and grant.may_be_retired_by(principal):
            verdict = _by(grant, verdict)
        return await self._answer(
            verdict,
            principal,
            Action.RETIRE_GRANT,
            key,
            asked_name=str(key.name),
            permissions=permissions,
        )

    async def _answer(
        self,
        verdict: Verdict,
        principal: str,
        action: Action,
        key: Key,
        *,
        asked_name: str,
        permissions: PermissionStore,
    ) -> str:
        self._on_decision(verdict.allowed)
        if verdict.allowed:
            return verdict.policy_id
        if await self.may_see(principal, key, permissions):
            raise PolicyDeniedError(action, str(key.name), policy_id=verdict.policy_id)
        raise KeyNotFoundError(asked_name, hidden=True, policy_id=verdict.policy_id)

    def _verdict(
        self, principal: str, action: Action, key: Key, encryption_context: Mapping[str, str]
    ) -> Verdict:
        cached = self._keys.get(key.key_id)
        if cached is None or cached.text is not key.policy:
            cached = self._take_over(key)
        else:
            self._keys.move_to_end(key.key_id)
        bound = b""
        if encryption_context and cached.compiled.depends_on_context:
            bound = hashlib.sha256(contexts.encode(encryption_context)).digest()
        entry = (principal, action, bound)
        verdict = cached.decisions.get(entry)
        if verdict is None:
            verdict = self._evaluate(cached.compiled, principal, action, key, encryption_context)
            if len(cached.decisions) >= MAX_CACHED_DECISIONS_PER_KEY:
                self._decisions -= len(cached.decisions)
                cached.decisions.clear()
            cached.decisions[entry] = verdict
            self._decisions += 1
            while self._decisions > MAX_CACHED_DECISIONS:
                self._forget_one()
        return verdict

    def _evaluate(
        self,
        compiled: CompiledPolicy,
        principal: str,
        action: Action,
        key: Key,
        encryption_context: Mapping[str, str],
    ) -> Verdict:
        return compiled.evaluate(
            principal=principal,
            is_administrator=principal in self._administrators,
            action=action,
            key=str(key.name),
            encryption_context=encryption_context,
        )

    def _take_over(self, key: Key) -> _KeyDecisions:
        cached = self._keys.get(key.key_id)
        if cached is not None and cached.text == key.policy:
            cached.text = key.policy  # the same words in a new object: keep the decisions
        else:
            if cached is not None:
                self._decisions -= len(cached.decisions)
            cached = _KeyDecisions(key.policy, self.compiled(key.policy))
            self._keys[key.key_id] = cached
        self._keys.move_to_end(key.key_id)
        if len(self._keys) > MAX_CACHED_KEYS:
            self._forget_one()
        return cached

    def _forget_one(self) -> None:
        """Forget the key that was not asked for longest; never the one just asked for."""
        _, forgotten = self._keys.popitem(last=False)
        self._decisions -= len(forgotten.decisions)

    def compiled(self, text: str) -> CompiledPolicy:
        """Return the compiled form of a policy; the last 1,000 texts are kept.

        Raises:
            PolicyInvalidError: It is malformed.
        """
        compiled = self._policies.get(text)
        if compiled is None:
            compiled = self._policies[text] = CompiledPolicy(text)
            if len(self._policies) > MAX_SHARED_POLICIES:
                self._policies.popitem(last=False)
        else:
            self._policies.move_to_end(text)
        return compiled


async def _grants_of(principal: str, key: Key, permissions: PermissionStore) -> PrincipalGrants:
    grants = permissions.cached_grants(key.key_id, principal)
    return await permissions.find_grants(key.key_id, principal) if grants is None else grants


def _by(grant: Grant | None, verdict: Verdict) -> Verdict:
    return verdict if grant is None else Verdict(allowed=True, policy_id=grant.policy_id)


def _covering(
    grants: PrincipalGrants, operations: Iterable[Action], constraint: Constraint | None
) -> Grant | None:
    return next((grant for grant in grants.grants if grant.covers(operations, constraint)), None)
