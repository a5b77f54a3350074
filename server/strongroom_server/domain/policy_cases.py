"""Test cases of policies: what is asked, and what the answer has to be.

In TOML, the same in JSON:

    [[cases]]
    principal = "spiffe://example.org/orders"   # required
    administrator = false                       # whether it is one; default false
    action = "Decrypt"                          # required, an action of the schema
    context = { tenant = "7" }                  # encryption context; default none
    expect = "allow"                            # required, or "deny"
    by = "tenant-7"                             # what decides, as audit records have it

Unknown members are refused: a misspelt one must not make a case say less. Pure.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from strongroom_server.domain.policy import Action, CompiledPolicy, Question, Verdict

__all__ = ["MAX_CASES_BYTES", "TEST_KEY", "CasesError", "PolicyCase", "load_cases", "run_case"]

MAX_CASES_BYTES: Final = 16 * 2**20
TEST_KEY: Final = "regions/test/keys/00000000-0000-4000-8000-000000000000"
"""The key that the policies are tested for: a policy speaks of its own key as `resource`."""
_MEMBERS: Final = frozenset({"principal", "administrator", "action", "context", "expect", "by"})


class CasesError(ValueError):
    """The cases cannot be read; the message says which and why."""


@dataclass(frozen=True, slots=True)
class PolicyCase:
    """One case; `by` is empty when it does not matter what decides."""

    principal: str
    is_administrator: bool
    action: Action
    context: Mapping[str, str]
    allow: bool
    by: str


def load_cases(data: bytes, *, is_json: bool) -> list[PolicyCase]:
    """Read cases.

    Raises:
        CasesError: They are not as the module says.
    """
    if len(data) > MAX_CASES_BYTES:
        raise CasesError(f"more than {MAX_CASES_BYTES:,} bytes")
    try:
        text = data.decode()
        document = json.loads(text) if is_json else tomllib.loads(text)
    except (ValueError, RecursionError) as exc:
        raise CasesError(str(exc)) from exc
    if not isinstance(document, dict) or document.keys() != {"cases"}:
        raise CasesError("expected one member, cases")
    cases = document["cases"]
    if not isinstance(cases, list) or not cases:
        raise CasesError("cases: expected at least one")
    return [_case(number, members) for number, members in enumerate(cases, 1)]


def run_case(policy: CompiledPolicy, case: PolicyCase) -> tuple[Verdict, bool]:
    """Return what a policy answers, and whether that is what the case expects."""
    verdict = policy.decide(
        Question(case.principal, case.is_administrator, case.action, TEST_KEY, case.context)
    )
    is_expected = verdict.allowed is case.allow and case.by in ("", verdict.policy_id)
    return verdict, is_expected


def _case(number: int, members: Any) -> PolicyCase:
    if not isinstance(members, dict):
        raise CasesError(f"case {number}: expected members")
    if unknown := members.keys() - _MEMBERS:
        raise CasesError(f"case {number}: unknown member {min(unknown)}")
    context = members.get("context", {})
    if not isinstance(context, dict) or not all(isinstance(v, str) for v in context.values()):
        raise CasesError(f"case {number}: context: expected texts")
    administrator = members.get("administrator", False)
    if not isinstance(administrator, bool):
        raise CasesError(f"case {number}: administrator: expected true or false")
    action, expect = _text(number, members, "action"), _text(number, members, "expect")
    if action not in set(Action):
        raise CasesError(f"case {number}: action: {action!a} is none")
    if expect not in {"allow", "deny"}:
        raise CasesError(f"case {number}: expect: allow or deny")
    return PolicyCase(
        principal=_text(number, members, "principal"),
        is_administrator=administrator,
        action=Action(action),
        context=context,
        allow=expect == "allow",
        by=_text(number, members, "by") if "by" in members else "",
    )


def _text(number: int, members: Mapping[str, Any], name: str) -> str:
    value = members.get(name)
    if not isinstance(value, str) or not value:
        raise CasesError(f"case {number}: {name}: expected a text")
    return value
