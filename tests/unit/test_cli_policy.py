"""`strongroom policy check` and `test`: policies without a service."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import pytest

from strongroom_server.cli.exit_codes import ExitCode
from strongroom_server.cli.root import run

POLICY = """
@id("administrators")
permit (principal in Role::"administrator", action in Action::"ManageKey", resource);
@id("tenant-7")
permit (principal == Principal::"spiffe://example.org/api", action in Action::"UseKey", resource)
when { context.encryption_context.contains({name: "tenant", value: "7"}) };
"""
CASES = """
[[cases]]
principal = "spiffe://example.org/api"
action = "Decrypt"
context = { tenant = "7" }
expect = "allow"
by = "tenant-7"

[[cases]]
principal = "spiffe://example.org/api"
action = "Decrypt"
expect = "deny"
by = "default-deny"

[[cases]]
principal = "spiffe://example.org/ann"
administrator = true
action = "DisableKey"
expect = "allow"
"""


@pytest.fixture
def policy(tmp_path: Path) -> Path:
    """Give a policy's file."""
    path = tmp_path / "policy.cedar"
    path.write_text(POLICY)
    return path


def test_a_good_policy_is_checked(policy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What fits the schema and locks nobody out."""
    assert run(["policy", "check", str(policy), "-o", "json"]) == ExitCode.OK
    assert json.loads(capsys.readouterr().out)["policies"] == 2
    assert run(["policy", "check", str(policy), "--author", "spiffe://example.org/a"]) == 0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('permit (principal, action == Action::"Decrpyt", resource);', "Decrpyt"),
        ('@id("grant/1") permit (principal, action, resource);', "grant/"),
        ('permit (principal == Principal::"spiffe://x", action, resource);', "locks everybody out"),
    ],
)
def test_a_bad_policy_is_refused(
    policy: Path, capsys: pytest.CaptureFixture[str], text: str, message: str
) -> None:
    """Schema, ids and lock-out, as the service refuses them."""
    policy.write_text(text)
    code = run(["policy", "check", str(policy), "--author", "spiffe://example.org/a"])
    assert code == ExitCode.USAGE
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["toml", "json"])
def test_cases_that_are_as_expected(policy: Path, tmp_path: Path, kind: str) -> None:
    """The same cases in TOML and JSON."""
    cases = tmp_path / f"cases.{kind}"
    cases.write_text(CASES if kind == "toml" else json.dumps(tomllib.loads(CASES)))
    assert run(["policy", "test", str(policy), "--cases", str(cases)]) == ExitCode.OK


def test_a_case_that_is_not_as_expected_is_shown(
    policy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Another answer, or another policy that decides, fails the run; the others are not shown."""
    cases = tmp_path / "cases.toml"
    cases.write_text(CASES.replace('"deny"', '"allow"').replace('by = "tenant-7"', 'by = "x"'))
    code = run(["policy", "test", str(policy), "--cases", str(cases), "-o", "json"])
    assert code == ExitCode.OTHER
    captured = capsys.readouterr()
    assert [row["case"] for row in json.loads(captured.out)] == [1, 2]
    assert json.loads(captured.err)["error"]["reason"] == "POLICY_CASES_FAILED"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "cases"),
        ("cases = []", "at least one"),
        ("cases = [1]", "expected members"),
        (CASES.replace("expect =", "expected ="), "unknown member expected"),
        (CASES.replace('"Decrypt"', '"decrypt"'), "'decrypt' is none"),
        (CASES.replace('"deny"', '"no"'), "allow or deny"),
        (CASES.replace("= true", '= "yes"'), "true or false"),
        (CASES.replace('tenant = "7"', "tenant = 7"), "expected texts"),
        (CASES + "other = 1\n", "unknown member other"),
        (CASES.replace('principal = "spiffe://example.org/ann"\n', ""), "principal"),
        ("cases", "expected"),
    ],
)
def test_cases_that_cannot_be_read_are_refused(
    policy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, message: str
) -> None:
    """A misspelt member or action must not make a case that says nothing."""
    cases = tmp_path / "cases.toml"
    cases.write_text(text)
    assert run(["policy", "test", str(policy), "--cases", str(cases)]) == ExitCode.USAGE
    assert message.lower() in capsys.readouterr().err.lower()


def test_the_pages_example_is_as_it_says(tmp_path: Path) -> None:
    """The cases in docs/policies.md go with the policy of its second example."""
    page = (Path(__file__).resolve().parents[2] / "docs" / "policies.md").read_text("utf-8")
    example = page.partition("### A tenant's data")[2].partition("```cedar\n")[2]
    policy, cases = tmp_path / "policy.cedar", tmp_path / "cases.toml"
    policy.write_text(example.partition("```")[0])
    cases.write_text(page.partition("```toml\n")[2].partition("```")[0])
    assert run(["policy", "test", str(policy), "--cases", str(cases)]) == ExitCode.OK
