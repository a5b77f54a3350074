"""Grants: permission for one principal to use one key, beside the key's policy.

The policy speaks first. What it permits needs no grant; what it forbids, no grant allows;
only where it is silent are the principal's grants asked (`Verdict.is_silent`). A grant
never allows to manage a key: of the management actions it can carry those that see the
key (GetKey) and pass on or give back what it allows (CreateGrant, RetireGrant), which is
what AWS KMS lets a grant carry.

Pure: no I/O, no clock.
"""

from __future__ import annotations

import enum
import hashlib
import json
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from strongroom.resource_names import GrantName
from strongroom_server.domain.policy import GRANT_PREFIX, USE_ACTIONS, Action

__all__ = [
    "CONTEXT_ACTIONS",
    "GRANTABLE",
    "MAX_GRANTS_PER_GRANTEE",
    "MAX_GRANTS_PER_KEY",
    "NO_GRANTS",
    "UNCONSTRAINED",
    "Constraint",
    "ConstraintKind",
    "Grant",
    "PrincipalGrants",
    "is_within",
]

MAX_GRANTS_PER_KEY: Final = 50_000
# What is read, and kept in memory, for one decision.
MAX_GRANTS_PER_GRANTEE: Final = 1_000

UNCONSTRAINED: Final = frozenset({Action.GET_KEY, Action.CREATE_GRANT, Action.RETIRE_GRANT})
"""Actions without an encryption context, which a constraint does not concern."""
GRANTABLE: Final = USE_ACTIONS | UNCONSTRAINED
CONTEXT_ACTIONS: Final = GRANTABLE & frozenset(
    {
        Action.ENCRYPT,
        Action.DECRYPT,
        Action.RE_ENCRYPT_FROM,
        Action.RE_ENCRYPT_TO,
        *(action for action in USE_ACTIONS if action.startswith("GenerateDataKey")),
    }
)
"""Actions of calls that take an encryption context."""


class ConstraintKind(enum.StrEnum):
    """How an encryption context is compared with a grant's pairs."""

    EQUALS = "EQUALS"
    """It has these pairs and no others."""
    SUBSET = "SUBSET"
    """It has these pairs, and may have others."""


@dataclass(frozen=True, slots=True)
class Constraint:
    """Under which encryption contexts a grant holds: 1 to 8 pairs, ascending by name."""

    kind: ConstraintKind
    pairs: tuple[tuple[str, str], ...]

    def admits(self, context: Mapping[str, str]) -> bool:
        """Say whether a context fits."""
        if self.kind is ConstraintKind.EQUALS and len(context) != len(self.pairs):
            return False
        return all(context.get(name) == value for name, value in self.pairs)

    def missing(self, context: Mapping[str, str]) -> str:
        """Say in words why a context does not fit; empty when it does."""
        for name, value in self.pairs:
            if name not in context:
                return f"the encryption context lacks {name}={value}"
            if context[name] != value:
                return f"the encryption context has another {name} than {value}"
        if self.admits(context):
            return ""
        more = min(context.keys() - dict(self.pairs).keys())
        return f"the encryption context has {more}, which is not among the grant's pairs"

    def is_within(self, other: Constraint) -> bool:
        """Say whether every context that fits this one fits `other`."""
        if other.kind is ConstraintKind.EQUALS:
            return self == other
        return set(other.pairs) <= set(self.pairs)


@dataclass(frozen=True, slots=True)
class Grant:
    """A grant. Operations ascend by name; `retiring` and `name` are empty for none."""

    grant_id: uuid.UUID
    region: str
    key_id: uuid.UUID
    grantee: str
    operations: tuple[Action, ...]
    constraint: Constraint | None
    retiring: str
    name: str
    issuer: str
    create_time: datetime

    @property
    def resource_name(self) -> GrantName:
        """Return the grant's resource name."""
        return GrantName(self.region, self.key_id, self.grant_id)

    @property
    def policy_id(self) -> str:
        """Return what stands in the audit record of what it allowed."""
        return f"{GRANT_PREFIX}{self.grant_id}"

    @property
    def identity(self) -> bytes | None:
        """Return what repeats of CreateGrant have in common, 32 bytes; None without a name."""
        if not self.name:
            return None
        constraint = self.constraint
        said = [
            self.name,
            self.grantee,
            [operation.value for operation in self.operations],
            None if constraint is None else [constraint.kind.value, constraint.pairs],
            self.retiring,
        ]
        return hashlib.sha256(json.dumps(said).encode("ascii")).digest()

    def missing_for(self, action: Action, context: Mapping[str, str]) -> str:
        """Say in words why a context does not fit an action it allows; empty when it does."""
        if self.constraint is None or action in UNCONSTRAINED:
            return ""
        return self.constraint.missing(context)

    def may_be_retired_by(self, principal: str) -> bool:
        """Say whether the grant itself lets a principal end it."""
        if principal == self.retiring:
            return True
        return principal == self.grantee and Action.RETIRE_GRANT in self.operations

    def covers(self, operations: Iterable[Action], constraint: Constraint | None) -> bool:
        """Say whether its grantee may pass on these operations under this constraint.

        Never more than the grant has itself, and under no weaker a constraint.
        """
        if Action.CREATE_GRANT not in self.operations:
            return False
        if not set(operations) <= set(self.operations):
            return False
        return is_within(constraint, self.constraint)


def is_within(inner: Constraint | None, outer: Constraint | None) -> bool:
    """Say whether whatever `inner` admits, `outer` admits; None admits everything."""
    return outer is None or (inner is not None and inner.is_within(outer))


@dataclass(slots=True)
class _OfAction:
    """The grants for one action: found without looking at each."""

    free: Grant | None = None
    equal: dict[tuple[tuple[str, str], ...], Grant] = field(default_factory=dict)
    # By one of their pairs: a context has at most 256, so few lists are looked at.
    subset: dict[tuple[str, str], list[Grant]] = field(default_factory=dict)

    def add(self, grant: Grant, constraint: Constraint | None) -> None:
        if constraint is None:
            self.free = self.free or grant
        elif constraint.kind is ConstraintKind.EQUALS:
            self.equal.setdefault(constraint.pairs, grant)
        else:
            self.subset.setdefault(constraint.pairs[0], []).append(grant)

    def find(self, context: Mapping[str, str]) -> Grant | None:
        if self.free is not None or not context:
            return self.free
        if self.equal:
            found = self.equal.get(tuple(sorted(context.items())))
            if found is not None:
                return found
        if self.subset:
            for pair in sorted(context.items()):
                for grant in self.subset.get(pair, ()):
                    if grant.constraint is not None and grant.constraint.admits(context):
                        return grant
        return None


class PrincipalGrants:
    """The grants of one principal on one key, at most `MAX_GRANTS_PER_GRANTEE`.

    Thread safety: immutable after construction.
    """

    __slots__ = ("_of_actions", "grants")

    def __init__(self, grants: Iterable[Grant]) -> None:
        """Take the grants, oldest first."""
        self.grants = tuple(grants)
        self._of_actions: dict[Action, _OfAction] = {}
        for grant in self.grants:
            for action in grant.operations:
                constraint = None if action in UNCONSTRAINED else grant.constraint
                self._of_actions.setdefault(action, _OfAction()).add(grant, constraint)

    def find(self, action: Action, context: Mapping[str, str]) -> Grant | None:
        """Return a grant that allows an action under a context, None when none does."""
        of_action = self._of_actions.get(action)
        return None if of_action is None else of_action.find(context)


NO_GRANTS: Final = PrincipalGrants(())
