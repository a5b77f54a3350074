"""What the clients return about policies and grants: plain frozen dataclasses, no protobuf."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from strongroom.receipts import Receipt

__all__ = [
    "AccessExplanation",
    "Consideration",
    "ConstraintKind",
    "Grant",
    "GrantConstraint",
    "KeyPolicy",
    "Mismatch",
    "MismatchPart",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyPolicy:
    """A policy that a key has or had. `policy` is empty in lists without texts."""

    key: str
    policy: str
    revision: int
    author: str
    create_time: datetime
    etag: str
    policy_sha256: bytes
    receipts: tuple[Receipt, ...] = field(default=(), compare=False)


class ConstraintKind(enum.StrEnum):
    """How an encryption context is compared; UNKNOWN for what a newer service says.

    EQUALS: it has these pairs and no others. SUBSET: it has these, and may have others.
    """

    UNKNOWN = "UNKNOWN"
    EQUALS = "EQUALS"
    SUBSET = "SUBSET"


@dataclass(frozen=True, slots=True)
class GrantConstraint:
    """Under which encryption contexts a grant holds: 1 to 8 pairs."""

    kind: ConstraintKind
    pairs: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """Permission for one principal to use a key; `name` is its resource name."""

    name: str
    key: str
    grantee_principal: str
    operations: tuple[str, ...]
    constraint: GrantConstraint | None
    retiring_principal: str
    grant_name: str
    issuer: str
    create_time: datetime
    receipts: tuple[Receipt, ...] = field(default=(), compare=False)


class MismatchPart(enum.StrEnum):
    """Which part of a policy or grant does not fit; UNKNOWN for what a newer service says."""

    UNKNOWN = "UNKNOWN"
    PRINCIPAL = "PRINCIPAL"
    OPERATION = "OPERATION"
    RESOURCE = "RESOURCE"
    CONDITION = "CONDITION"
    CONSTRAINT = "CONSTRAINT"
    ERROR = "ERROR"


@dataclass(frozen=True, slots=True)
class Mismatch:
    """Why a policy or grant does not apply: the condition, the pair, or the error in words."""

    part: MismatchPart
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Consideration:
    """A policy, or a grant as ``grant/{uuid}``, and whether it applies to what was asked."""

    id: str
    forbids: bool
    applies: bool
    mismatches: tuple[Mismatch, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class AccessExplanation:
    """Whether something is allowed, and why. The key's state is another question."""

    allowed: bool
    decided_by: str
    policy_revision: int
    is_administrator: bool
    considerations: tuple[Consideration, ...]
    receipts: tuple[Receipt, ...] = field(default=(), compare=False)
