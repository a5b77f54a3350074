"""Grants and policies in the first answers of mutations; see `answers.py`."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

from strongroom.resource_names import GrantName
from strongroom_server.domain.grants import Constraint, ConstraintKind, Grant
from strongroom_server.domain.policy import Action
from strongroom_server.domain.policy_history import PolicyRevision

__all__ = ["decode_grant", "decode_revision", "encode_grant", "encode_revision"]


def encode_grant(grant: Grant) -> dict[str, object]:
    """Return the grant's members."""
    constraint = grant.constraint
    return {
        "name": str(grant.resource_name),
        "grantee": grant.grantee,
        "operations": list(grant.operations),
        "constraint": None if constraint is None else [constraint.kind, list(constraint.pairs)],
        "retiring": grant.retiring,
        "grant_name": grant.name,
        "issuer": grant.issuer,
        "created": grant.create_time.isoformat(),
    }


def decode_grant(data: dict[str, Any]) -> Grant:
    """Return what `encode_grant` made the members of."""
    name = GrantName.parse(data["name"])
    constraint = None
    if data["constraint"] is not None:
        kind, pairs = data["constraint"]
        constraint = Constraint(ConstraintKind(kind), tuple((pair[0], pair[1]) for pair in pairs))
    return Grant(
        grant_id=name.grant_id,
        region=name.region,
        key_id=name.key_id,
        grantee=data["grantee"],
        operations=tuple(Action(operation) for operation in data["operations"]),
        constraint=constraint,
        retiring=data["retiring"],
        name=data["grant_name"],
        issuer=data["issuer"],
        create_time=datetime.fromisoformat(data["created"]),
    )


def encode_revision(revision: PolicyRevision) -> dict[str, object]:
    """Return the members of a policy."""
    return {
        "key_id": str(revision.key_id),
        "number": revision.number,
        "text": revision.text,
        "author": revision.author,
        "time": revision.time.isoformat(),
    }


def decode_revision(data: dict[str, Any]) -> PolicyRevision:
    """Return what `encode_revision` made the members of."""
    return PolicyRevision(
        key_id=UUID(data["key_id"]),
        number=data["number"],
        text=data["text"],
        author=data["author"],
        time=datetime.fromisoformat(data["time"]),
    )
