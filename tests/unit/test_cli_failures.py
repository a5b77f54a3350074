"""Errors as people and programs see them."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from strongroom.receipts import Receipt
from strongroom_auditlog.errors import RootMismatchError
from strongroom_client.errors import KeyDisabledError, StrongroomError
from strongroom_server.cli.exit_codes import HINTS, REASON_EXIT_CODES, ExitCode, exit_code_of
from strongroom_server.cli.failures import CliError, describe, format_failure
from strongroom_server.errors import Reason

REFUSAL = KeyDisabledError(
    "regions/eu-1/keys/x is disabled",
    receipts=(Receipt(region="eu-1", epoch=1, sequence=1, record_sha256=bytes(32)),),
)


def _reasons(kind: type[StrongroomError]) -> set[str]:
    return {kind.reason}.union(*(_reasons(child) for child in kind.__subclasses__()))


def test_every_reason_has_an_exit_code():
    """No reason of the API or the SDK is missing in the table; hints are for known ones."""
    assert {str(reason) for reason in Reason} <= set(REASON_EXIT_CODES)
    assert _reasons(StrongroomError) - {"UNKNOWN"} <= set(REASON_EXIT_CODES)
    assert set(HINTS) <= set(REASON_EXIT_CODES)


@pytest.mark.parametrize(
    ("reason", "code"),
    [
        ("POLICY_DENIED", 3),
        ("PEER_UNAUTHENTICATED", 3),
        ("KEY_NOT_FOUND", 4),
        ("KEY_DISABLED", 5),
        ("WRONG_REGION", 5),
        ("ETAG_MISMATCH", 5),
        ("CIPHERTEXT_INVALID", 6),
        ("WRONG_KEY", 6),
        ("HSM_UNAVAILABLE", 7),
        ("OVERLOADED", 7),
        ("SOMETHING_NEW", 1),
    ],
)
def test_exit_codes_are_the_documented_ones(reason, code):
    """The exit code of a reason is what docs/cli.md promises."""
    assert exit_code_of(reason) == code


def test_the_page_lists_every_reason():
    """docs/cli.md has each reason in the row of its exit code."""
    page = (Path(__file__).resolve().parents[2] / "docs" / "cli.md").read_text()
    rows = dict(re.findall(r"^\| (\d+) \| (.*) \|$", page, re.MULTILINE))
    for reason, code in REASON_EXIT_CODES.items():
        if code not in {ExitCode.OTHER, ExitCode.INTERRUPTED}:  # the first row ends with "..."
            assert f"`{reason}`" in rows[str(int(code))], reason


def test_an_error_is_one_line_and_its_hints():
    """Text form: reason and message, then what to do."""
    failure = describe(REFUSAL)
    assert failure is not None
    lines = format_failure(failure, as_json=False).splitlines()
    assert lines[0] == "error: KEY_DISABLED: regions/eu-1/keys/x is disabled"
    assert lines[1].startswith("hint: ")
    assert failure.exit_code is ExitCode.STATE


def test_an_error_is_one_json_object():
    """JSON form: the same, for programs, with the receipts of the refusal."""
    failure = describe(REFUSAL)
    assert failure is not None
    body = json.loads(format_failure(failure, as_json=True))["error"]
    assert body["reason"] == "KEY_DISABLED"
    assert body["exit_code"] == 5
    assert len(body["receipts"]) == 1


def test_files_and_interrupts_are_told_too():
    """Local trouble has reasons of its own."""
    missing = describe(FileNotFoundError(2, "No such file or directory", "/x"))
    assert missing is not None
    assert missing.message == "/x: No such file or directory"
    interrupted = describe(KeyboardInterrupt())
    assert interrupted is not None
    assert interrupted.exit_code == 130
    usage = describe(CliError.usage("no", "do this"))
    assert usage is not None
    assert (usage.exit_code, usage.hints) == (2, ("do this",))


def test_a_fault_of_the_program_is_not_dressed_up():
    """An exception that nobody foresaw has no description: it keeps its traceback."""
    assert describe(RuntimeError("bug")) is None


def test_what_does_not_verify_has_its_exit_code():
    """A log or proof that does not verify ends with the code of bad ciphertext."""
    failure = describe(RootMismatchError("checkpoint", "another root"))
    assert failure is not None
    assert failure.exit_code is ExitCode.UNVERIFIABLE
