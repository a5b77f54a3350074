"""What policies and grants mean, a second time and without Cedar: the model for P1.

Policies are of the shapes that docs/policies.md shows; `to_cedar` writes them down.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

__all__ = ["ModelGrant", "Statement", "decide", "to_cedar"]

USES = ("Encrypt", "Decrypt", "ReEncryptFrom", "ReEncryptTo", "GenerateDataKey", "Sign")
WITHOUT_CONTEXT = ("GetKey", "CreateGrant", "RetireGrant")
Pairs = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Statement:
    """A policy: whom, what and when it is about. None is anybody, anything, always."""

    forbids: bool
    principal: str | None  # or "administrators"
    actions: tuple[str, ...] | None  # names, or one of the groups
    has: Pairs = ()  # the context contains each
    exactly: Pairs | None = None  # the context is this
    lacks: Pairs = ()  # unless the context contains one of these
    spares_administrators: bool = False


@dataclass(frozen=True, slots=True)
class ModelGrant:
    """A grant: to whom, for what, under contexts that equal or contain the pairs."""

    grantee: str
    operations: tuple[str, ...]
    equals: Pairs | None = None
    contains: Pairs | None = None


def decide(
    policy: Sequence[Statement],
    grants: Sequence[ModelGrant],
    principal: str,
    action: str,
    context: Mapping[str, str],
    *,
    is_administrator: bool,
) -> bool:
    """Say whether it is allowed: no forbid applies, and a permit or a grant does."""
    pairs = set(context.items())

    def applies(one: Statement) -> bool:
        group = "UseKey" if action in USES else "ManageKey"
        return (
            one.principal in {None, principal, "administrators" if is_administrator else None}
            and (one.actions is None or not {action, group}.isdisjoint(one.actions))
            and set(one.has) <= pairs
            and (one.exactly is None or set(one.exactly) == pairs)
            and pairs.isdisjoint(one.lacks)
            and not (one.spares_administrators and is_administrator)
        )

    def holds(one: ModelGrant) -> bool:
        if one.grantee != principal or action not in one.operations:
            return False
        if action in WITHOUT_CONTEXT:
            return True
        if one.equals is not None:
            return set(one.equals) == pairs
        return one.contains is None or set(one.contains) <= pairs

    applying = [one for one in policy if applies(one)]
    if any(one.forbids for one in applying):
        return False
    return bool(applying) or any(map(holds, grants))


def to_cedar(number: int, one: Statement) -> str:
    """Write a statement as a policy with an id."""
    principal = "principal"
    if one.principal == "administrators":
        principal = 'principal in Role::"administrator"'
    elif one.principal is not None:
        principal = f"principal == Principal::{json.dumps(one.principal)}"
    action = "action"
    if one.actions is not None:
        names = [f'Action::"{name}"' for name in one.actions]
        is_one = len(names) == 1
        word = "in" if one.actions[0] in {"UseKey", "ManageKey"} or not is_one else "=="
        action = f"action {word} " + (names[0] if is_one else f"[{', '.join(names)}]")
    has = [f"context.encryption_context.contains({_record(pair)})" for pair in one.has]
    if one.exactly is not None:
        has.append(f"context.encryption_context == [{', '.join(map(_record, one.exactly))}]")
    lacks = [f"context.encryption_context.contains({_record(pair)})" for pair in one.lacks]
    if one.spares_administrators:
        lacks.append('principal in Role::"administrator"')
    text = f'@id("s{number}") {"forbid" if one.forbids else "permit"} '
    text += f"({principal}, {action}, resource)"
    if has:
        text += f" when {{ {' && '.join(has)} }}"
    if lacks:
        text += f" unless {{ {' || '.join(lacks)} }}"
    return f"{text};"


def _record(pair: tuple[str, str]) -> str:
    name, value = (json.dumps(text, ensure_ascii=False) for text in pair)
    return f"{{name: {name}, value: {value}}}"
