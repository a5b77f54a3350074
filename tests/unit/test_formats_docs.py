"""docs/policies.md and docs/errors.md say what the code does."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from strongroom_auditlog.status import CODES as AUDIT_LOG_CODES
from strongroom_client.errors import error_for_reason
from strongroom_server.cli.exit_codes import REASON_EXIT_CODES
from strongroom_server.domain.policy import (
    SCHEMA,
    Action,
    CompiledPolicy,
    check_lock_out,
    default_policy,
)
from strongroom_server.errors import PolicyInvalidError
from strongroom_server.rpc.status import CODES

DOCS = Path(__file__).resolve().parents[2] / "docs"
POLICIES = (DOCS / "policies.md").read_text(encoding="utf-8")
ERRORS = (DOCS / "errors.md").read_text(encoding="utf-8")
KEY = "regions/eu-1/keys/0b8d5f0e-6f3c-4b7e-9d1a-2f1f4a1b7c3d"
ADMINISTRATOR = "spiffe://example.org/admin"


def rows(text: str) -> list[list[str]]:
    """Return the cells of the tables in a text, without heads and rules."""
    lines = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("|")]
    cells = [[cell.strip().strip("`") for cell in line] for line in lines]
    heads = {n - 1 for n, line in enumerate(lines) if set("".join(line)) <= set("-| ")}
    return [line for n, line in enumerate(cells) if n not in heads and n - 1 not in heads]


def examples() -> dict[str, tuple[str, list[list[str]]]]:
    """Return title, policy and expected answers of the examples in docs/policies.md."""
    found = {}
    section = POLICIES.split("\n## Examples\n")[1].split("\n## ")[0]
    for part in section.split("\n### ")[1:]:
        title = part.partition("\n")[0]
        policy = re.search(r"```cedar\n(.*?)```", part, re.DOTALL)
        assert policy is not None, title
        found[title] = (policy[1], rows(part))
    return found


EXAMPLES = examples()


def test_the_schema_on_the_page_is_the_schema():
    """The page shows the schema that policies are checked against, word for word."""
    block = re.search(r"```cedarschema\n(.*?)```", POLICIES, re.DOTALL)
    assert block is not None
    assert block[1].strip() == SCHEMA.strip()


def test_the_default_policy_on_the_page_is_the_default():
    """The page shows what a key gets whose creator gave no policy."""
    block = re.search(r"```cedar\n(.*?)```", POLICIES, re.DOTALL)
    assert block is not None
    assert block[1] == default_policy("spiffe://example.org/orders")


def test_every_action_is_on_the_page_in_its_group():
    """The table of actions has all of them, and each is in the group that it says."""
    table = [row for row in rows(POLICIES) if row[0].startswith("Action::")]
    assert len(table) == 2
    listed = {name: group for group, names in table for name in names.replace("`", "").split()}
    assert set(listed) == {action.value for action in Action}
    for name, group in listed.items():
        policy = CompiledPolicy(f"permit (principal, action in {group}, resource);")
        assert policy.evaluate(
            principal=ADMINISTRATOR,
            is_administrator=False,
            action=Action(name),
            key=KEY,
            encryption_context={},
        ).allowed


def test_there_are_five_examples_with_answers():
    """Each example has a policy and at least three answers, good and bad."""
    assert len(EXAMPLES) == 5
    for _, answers in EXAMPLES.values():
        assert len(answers) >= 3
        assert {answer[3].partition(" ")[0] for answer in answers} == {"allowed", "denied"}


@pytest.mark.parametrize("title", EXAMPLES)
def test_an_example_answers_as_its_table_says(title):
    """Every row of the table is evaluated; the policy could be given to a new key."""
    text, answers = EXAMPLES[title]
    policy = CompiledPolicy(text)
    check_lock_out(
        policy, creator="spiffe://example.org/creator", creator_is_administrator=False, key=KEY
    )
    for principal, action, context, answer in answers:
        administrator = principal == "an administrator"
        verdict = policy.evaluate(
            principal=ADMINISTRATOR if administrator else principal,
            is_administrator=administrator,
            action=Action(action),
            key=KEY,
            encryption_context={}
            if context == "-"
            else dict(pair.split("=") for pair in context.split(" ")),
        )
        said = f"{'allowed' if verdict.allowed else 'denied'} by `{verdict.policy_id}"
        assert said == answer


def test_the_limits_on_the_page_are_the_limits():
    """At each limit of the page a policy is accepted, one above it is refused."""
    permit = "permit (principal, action, resource)"
    filler = permit + ";\n"
    comment = "// " + "x" * (32_768 - len(filler) - 3)
    # `permit` has 8 words, `when { true }` 4, and `true &&` 3: && is two signs.
    most = (1024 - 8 - 4) // 3
    for limit, good, bad in (
        ("32,768 bytes", filler + comment, filler + comment + "x"),
        (
            "32 deep",
            f"{permit} when {{ {'(' * 31}true{')' * 31} }};",
            f"{permit} when {{ {'(' * 32}true{')' * 32} }};",
        ),
        (
            "1,024 words",
            f"{permit} when {{ {'true && ' * most}true }};",
            f"{permit} when {{ {'true && ' * (most + 1)}true }};",
        ),
        ("1 to 64", f'@id("{"a" * 64}") {permit};', f'@id("{"a" * 65}") {permit};'),
    ):
        assert limit in POLICIES
        CompiledPolicy(good)
        with pytest.raises(PolicyInvalidError):
            CompiledPolicy(bad)


def test_every_error_is_on_the_page_with_its_code_exception_and_exit_code():
    """The table is the code's: reason, gRPC code, SDK exception, exit code; none is missing."""
    expected = {reason.value: code.name for reason, code in CODES.items()}
    for other, code in AUDIT_LOG_CODES.items():
        assert expected.setdefault(other.value, code.name) == code.name
    table = [row for row in rows(ERRORS) if len(row) == 5]
    assert {row[0]: row[1] for row in table} == expected
    assert len(table) == len(expected)
    for reason, _, exception, exit_code, _ in table:
        kind = error_for_reason(reason)
        assert kind is not None
        assert kind.__name__ == exception
        assert kind.default_code == expected[reason]
        assert int(exit_code) == REASON_EXIT_CODES[reason]
