"""`strongroom policy` and `strongroom grants` against real processes."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.support.cli import Cli, running_deployment

pytestmark = [pytest.mark.integration, pytest.mark.hsm, pytest.mark.timeout(300)]
WORKER = "spiffe://example.org/worker"


@pytest.fixture(scope="module")
def cli(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cli]:
    """Run one region for this module."""
    with running_deployment(tmp_path_factory.mktemp("policy") / "dev", "eu-1") as (made, _):
        yield made


@pytest.fixture
def key(cli: Cli) -> str:
    """Return the name of a new key."""
    return str(cli("keys", "create", "-o", "json").json["name"])


def test_a_policy_is_read_changed_and_read_again(cli, key, tmp_path):
    """What `get` prints, `put` takes; `history` and `get --revision` have what was."""
    file = tmp_path / "policy.cedar"
    first = cli("policy", "get", key).stdout.decode()
    file.write_text(f"{first}// reviewed\n")
    planned = cli("policy", "put", key, str(file), "--dry-run", "-o", "json").json
    assert planned["revision"] == 2
    put = cli("policy", "put", key, str(file), "--etag", "p1", "-o", "json").json
    assert put["etag"] == "p2"
    again = cli("policy", "put", key, str(file), "--etag", "p1", "-o", "json", code=5)
    assert again.error["reason"] == "ETAG_MISMATCH"
    history = cli("policy", "history", key, "-o", "json").json
    assert [row["revision"] for row in history] == [1, 2]
    assert history[1]["policy_sha256"] == put["policy_sha256"]
    assert cli("policy", "get", key, "--revision", "1").stdout.decode() == first
    cli("policy", "get", key, "--out", str(tmp_path / "out"))
    assert (tmp_path / "out").read_text() == file.read_text()


def test_a_policy_that_cannot_be_is_refused(cli, key, tmp_path):
    """Wrong syntax and a lock-out end with 2, and the old one holds."""
    file = tmp_path / "policy.cedar"
    for text in ("permit everything;", "forbid (principal, action, resource);"):
        file.write_text(text)
        refused = cli("policy", "put", key, str(file), "-o", "json", code=2)
        assert refused.error["reason"] == "POLICY_INVALID"
    assert cli("policy", "get", key, "-o", "json").json["revision"] == 1


def test_a_grant_is_made_listed_explained_and_ended(cli, key):
    """From `create` to `revoke`, and what `explain` says meanwhile."""
    made = cli(
        "grants", "create", key, WORKER, "--operation", "Decrypt", "--context", "tenant=7",
        "--retiring", "spiffe://strongroom.dev/orders", "-o", "json",
    ).json  # fmt: skip
    assert (made["operations"], made["constraint"]) == ("Decrypt", "subset: tenant=7")
    assert [row["name"] for row in cli("grants", "list", key, "-o", "json").json] == [made["name"]]
    assert made["name"] in cli("grants", "retirable").stdout.decode()
    explain = ("policy", "explain", key, "Decrypt", "--principal", WORKER, "-o", "json")
    allowed = cli(*explain, "--context", "tenant=7").json
    assert allowed["allowed"]
    assert allowed["decided_by"] == f"grant/{made['name'].rpartition('/')[2]}"
    denied = cli(*explain, "--context", "tenant=8").json
    assert not denied["allowed"]
    assert "another tenant than 7" in denied["considerations"][-1]["because"]
    assert "the key was not there yet" in cli(*explain[:-2], "--at", "7d", code=2).stderr
    assert cli("grants", "revoke", made["name"], "-o", "json").json["name"] == made["name"]
    gone = cli("grants", "retire", made["name"], "-o", "json", code=4)
    assert gone.error["reason"] == "GRANT_NOT_FOUND"
    assert cli("grants", "list", key, "-o", "json").json == []


def test_wrong_arguments_are_told(cli, key):
    """What cannot be granted, a name that is none, an operation that is none."""
    for arguments in (
        ("grants", "create", key, WORKER, "--operation", "PutKeyPolicy"),
        ("grants", "create", key, "worker", "--operation", "Decrypt"),
        ("grants", "revoke", key),
        ("policy", "explain", key, "decrypt"),
        ("policy", "get", key, "--revision", "7"),
    ):
        assert cli(*arguments, "-o", "json", code=2).error["reason"] == "ARGUMENT_INVALID"
