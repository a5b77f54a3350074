"""Commands on keys that are there, and on aliases, against real processes."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.support.cli import Cli, running_deployment

pytestmark = [pytest.mark.integration, pytest.mark.hsm, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def cli(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cli]:
    """Run one region for this module."""
    with running_deployment(tmp_path_factory.mktemp("life") / "dev", "eu-1") as (made, _):
        yield made


def _new(cli: Cli, alias: str) -> str:
    return str(cli("keys", "create", "--alias", alias, "-o", "json").json["name"])


def test_a_key_is_deleted_and_taken_back(cli):
    """`delete` stops every use and says until when; `cancel-deletion` leaves it disabled."""
    name = _new(cli, "gone/soon")
    waiting = cli("keys", "delete", "gone/soon", "--days", "7", "--yes", "-o", "json").json
    assert waiting["name"] == name
    assert waiting["state"] == "PENDING_DELETION"
    assert waiting["deletion_time"] > waiting["update_time"]
    assert waiting["receipt"].startswith("v1:eu-1:")
    refused = cli("datakey", "--key", name, "--out", "-", "-o", "json", code=5)
    assert refused.error["reason"] == "KEY_STATE_INVALID"
    listed = cli("keys", "list", "--state", "pending-deletion", "-o", "json").json
    assert [row["name"] for row in listed] == [name]
    back = cli("keys", "cancel-deletion", name, "-o", "json").json
    assert (back["state"], back["deletion_time"]) == ("DISABLED", None)
    again = cli("keys", "cancel-deletion", name, "-o", "json", code=5)
    assert again.error["reason"] == "KEY_STATE_INVALID"


def test_nothing_is_deleted_without_a_yes(cli):
    """Without --yes, and nobody there to say it, the key stays as it is."""
    name = _new(cli, "kept")
    cli.process("keys", "delete", name, code=130)
    assert cli("keys", "show", name, "-o", "json").json["state"] == "ENABLED"
    assert cli("keys", "delete", name, "--yes", "--days", "3", "-o", "json", code=2).error


def test_a_version_is_deleted_alone(cli):
    """`--version` names it; `versions` shows its state."""
    name = _new(cli, "versioned")
    cli("keys", "rotate", name)
    waiting = cli("keys", "delete", name, "--version", "1", "--yes", "-o", "json").json
    assert waiting["state"] == "PENDING_DELETION"
    states = [row["state"] for row in cli("keys", "versions", name, "-o", "json").json]
    assert states == ["PENDING_DELETION", "ENABLED"]
    back = cli("keys", "cancel-deletion", name, "--version", "1", "-o", "json").json
    assert back["state"] == "ENABLED"


def test_description_and_tags(cli):
    """`update`, `tag` and `untag` change what `show` and `list --tag` say."""
    name = _new(cli, "described")
    assert (
        cli("keys", "update", name, "--description", "b", "-o", "json").json["description"] == "b"
    )
    tagged = cli("keys", "tag", "described", "team=orders", "cost=a=b", "-o", "json").json
    assert tagged["tags"] == "cost=a=b team=orders"
    listed = cli("keys", "list", "--tag", "team=orders", "--newest-first", "-o", "json").json
    assert [row["name"] for row in listed] == [name]
    assert cli("keys", "untag", name, "cost", "-o", "json").json["tags"] == "team=orders"
    assert cli("keys", "tag", name, "team", code=2).code == 2


def test_an_alias_is_moved_listed_and_deleted(cli):
    """`aliases update` names another key, `list --key` says so, `delete` frees the name."""
    first, second = _new(cli, "move/me"), _new(cli, "move/second")
    moved = cli("aliases", "update", "move/me", second, "-o", "json").json
    assert moved["key"] == second
    listed = cli("aliases", "list", "--key", second, "-o", "json").json
    assert [row["name"].rpartition("aliases/")[2] for row in listed] == ["move/me", "move/second"]
    assert cli("aliases", "list", "--key", first, "-o", "json").json == []
    cli("aliases", "delete", "move/me")
    assert (
        cli("aliases", "show", "move/me", "-o", "json", code=4).error["reason"] == "KEY_NOT_FOUND"
    )
