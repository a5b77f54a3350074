"""Why a policy or a grant applies or not, part by part.

The decision itself is Cedar's (`policy.py`); here each policy of a set is looked at alone.
Scopes are compared as Cedar compares them, and conditions are given to Cedar one by one.
"""

from __future__ import annotations

import enum
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import cedarpy

from strongroom_server.domain.grants import Grant
from strongroom_server.domain.policy import Action, CompiledPolicy, Question, group_of

__all__ = ["Consideration", "Mismatch", "MismatchPart", "consider_grant", "consider_policies"]

MAX_MISMATCHES: Final = 8
MAX_DETAIL_CHARACTERS: Final = 1_000
# A condition of more parts than this is not taken apart: each is a run of Cedar.
MAX_PARTS: Final = 16
_HEAD: Final = "permit(principal, action, resource) when { "
_TAIL: Final = " };"


class MismatchPart(enum.StrEnum):
    """Which part of a policy or grant does not fit what was asked."""

    PRINCIPAL = "PRINCIPAL"
    OPERATION = "OPERATION"
    RESOURCE = "RESOURCE"
    CONDITION = "CONDITION"
    CONSTRAINT = "CONSTRAINT"
    ERROR = "ERROR"


@dataclass(frozen=True, slots=True)
class Mismatch:
    """A part that does not fit; `detail` is at most 1,000 characters."""

    part: MismatchPart
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Consideration:
    """One policy or grant, and what stands in its way: nothing when it applies."""

    policy_id: str
    forbids: bool
    mismatches: tuple[Mismatch, ...]

    @property
    def applies(self) -> bool:
        """Whether it applies to what was asked."""
        return not self.mismatches

    @property
    def is_for_principal(self) -> bool:
        """Whether it is for the principal that was asked about, for one operation or another."""
        return all(each.part is not MismatchPart.PRINCIPAL for each in self.mismatches)


def consider_policies(policy: CompiledPolicy, asked: Question) -> Iterator[Consideration]:
    """Look at each policy of a set, in its order; some hundred microseconds each."""
    for number in range(len(policy.statements)):
        name = f"policy{number}"
        statement = policy.statements[name]
        mismatches = [*_scope(statement, asked)]
        if not mismatches:
            mismatches = [*_conditions(statement, asked)]
        yield Consideration(
            statement.get("annotations", {}).get("id") or name,
            statement["effect"] == "forbid",
            tuple(mismatches[:MAX_MISMATCHES]),
        )


def consider_grant(
    grant: Grant, action: Action, encryption_context: Mapping[str, str]
) -> Consideration:
    """Look at a grant of the principal."""
    mismatches = []
    if action not in grant.operations:
        allowed = ", ".join(grant.operations)
        mismatches.append(Mismatch(MismatchPart.OPERATION, _cut(f"it allows {allowed}")))
    elif (missing := grant.missing_for(action, encryption_context)) != "":
        mismatches.append(Mismatch(MismatchPart.CONSTRAINT, _cut(missing)))
    return Consideration(grant.policy_id, forbids=False, mismatches=tuple(mismatches))


def _scope(statement: Mapping[str, Any], asked: Question) -> Iterator[Mismatch]:
    roles = [("Role", "administrator")] if asked.is_administrator else []
    group = ("Action", group_of(asked.action))
    for part, name, entities in (
        (MismatchPart.PRINCIPAL, "principal", [("Principal", asked.principal), *roles]),
        (MismatchPart.OPERATION, "action", [("Action", asked.action.value), group]),
        (MismatchPart.RESOURCE, "resource", [("Key", asked.key)]),
    ):
        if not _fits(statement[name], entities):
            yield Mismatch(part)


def _fits(scope: Mapping[str, Any], entities: list[tuple[str, str]]) -> bool:
    """Compare a scope with an entity, the first, and those that it is in."""
    match scope["op"]:
        case "All":
            return True
        case "==":
            return _uid(scope["entity"]) == entities[0]
        case "in":
            every = scope["entities"] if "entities" in scope else [scope["entity"]]
            return any(_uid(each) in entities for each in every)
        case _:  # "is", alone or with "in"
            inside = scope.get("in")
            return scope["entity_type"] == entities[0][0] and (
                inside is None or _uid(inside["entity"]) in entities
            )


def _uid(entity: Mapping[str, str]) -> tuple[str, str]:
    return entity["type"], entity["id"]


def _conditions(statement: Mapping[str, Any], asked: Question) -> Iterator[Mismatch]:
    for condition in statement["conditions"]:
        kind, body = condition["kind"], condition["body"]
        parts = _conjuncts(body) if kind == "when" else [body]
        if len(parts) > MAX_PARTS:
            parts = [body]
        for part in parts:
            text = _text_of(part)
            holds, error = asked.holds(f"{_HEAD}{text}{_TAIL}")
            if error:
                # Evaluation ends here: the policy does not apply, as Cedar says.
                yield Mismatch(MismatchPart.ERROR, _cut(error))
                return
            if holds is not (kind == "when"):
                yield Mismatch(MismatchPart.CONDITION, _cut(f"{kind} {{ {text} }}"))
                if len(parts) > 1:
                    # What comes after a part that fails Cedar does not look at; it may
                    # be an error that this part guards against.
                    break


def _conjuncts(body: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Take ``a && b && c`` apart."""
    parts, rest = [], [body]
    while rest:
        one = rest.pop()
        if "&&" in one:
            rest += [one["&&"]["right"], one["&&"]["left"]]
        else:
            parts.append(one)
    return parts


def _text_of(body: Mapping[str, Any]) -> str:
    anything = {"op": "All"}
    policy = {
        "effect": "permit",
        "principal": anything,
        "action": anything,
        "resource": anything,
        "conditions": [{"kind": "when", "body": body}],
    }
    document = {"staticPolicies": {"policy0": policy}, "templates": {}, "templateLinks": []}
    text = cedarpy.policies_from_json_str(json.dumps(document)).strip()
    return text.removeprefix(_HEAD).removesuffix(_TAIL)


def _cut(text: str) -> str:
    if len(text) <= MAX_DETAIL_CHARACTERS:
        return text
    return text[: MAX_DETAIL_CHARACTERS - 1] + "…"
