"""Commands on keys, aliases and key material, against real processes."""

from __future__ import annotations

import os
import pty
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.cli import Cli, running_deployment

from strongroom_client import KmsClient, load_options

pytestmark = [pytest.mark.integration, pytest.mark.hsm, pytest.mark.timeout(300)]
UNKNOWN = "regions/eu-1/keys/00000000-0000-4000-8000-000000000000"


@pytest.fixture(scope="module")
def cli(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cli]:
    """Run one region for this module."""
    with running_deployment(tmp_path_factory.mktemp("keys") / "dev", "eu-1") as (made, _):
        yield made


@pytest.fixture(scope="module")
def key(cli: Cli) -> str:
    """Return the name of a key of orders, alias `orders/files`."""
    answer = cli("keys", "create", "--alias", "orders/files", "-o", "json")
    return str(answer.json["name"])


def test_a_key_is_made_listed_and_shown(cli):
    """What `create` prints is what `list` and `show` find, by every form of its name."""
    made = cli("keys", "create", "--description", "a [b] c", "--alias", "a/b", "-o", "json").json
    assert made["state"] == "ENABLED"
    assert made["creator"] == "spiffe://strongroom.dev/orders"
    assert made["receipt"].startswith("v1:eu-1:")
    assert made["alias"] == "regions/eu-1/aliases/a/b"
    listed = cli("keys", "list", "-o", "json").json
    assert made["name"] in [row["name"] for row in listed]
    uuid = made["name"].rpartition("/")[2]
    for name in (made["name"], uuid, f"keys/{uuid}", "a/b", "aliases/a/b", made["alias"]):
        assert cli("keys", "show", name, "-o", "json").json["name"] == made["name"]
    table = cli("keys", "list").stdout.decode()
    assert made["name"] in table
    assert "a [b] c" in table


def test_a_key_is_rotated(cli):
    """After `rotate` there are two versions and the newer one is primary."""
    name = cli("keys", "create", "-o", "json").json["name"]
    rotated = cli("keys", "rotate", name, "-o", "json").json
    assert rotated["primary_version"] == f"{name}/versions/2"
    versions = cli("keys", "versions", name, "-o", "json").json
    assert [(v["number"], v["is_primary"]) for v in versions] == [(1, False), (2, True)]


def test_a_disabled_key_is_refused_until_it_is_enabled(cli, key):
    """KEY_DISABLED ends with 5, on the record, and `enable` takes it back."""
    assert cli("keys", "disable", "orders/files", "-o", "json").json["state"] == "DISABLED"
    refused = cli("datakey", "--key", key, "--out", "-", "-o", "json", code=5)
    assert refused.error["reason"] == "KEY_DISABLED"
    assert refused.error["receipts"][0].startswith("v1:eu-1:")
    assert refused.stdout == b""
    assert cli("keys", "enable", key, "-o", "json").json["state"] == "ENABLED"
    assert len(cli("datakey", "--key", key, "--out", "-").stdout) > 50


def test_an_alias_names_one_key(cli, key):
    """An alias that exists is not pointed elsewhere; `show` says what it names."""
    cli("aliases", "create", "orders/second", key)
    assert cli("aliases", "show", "orders/second", "-o", "json").json["name"] == key
    again = cli("aliases", "create", "orders/second", key, "-o", "json", code=5)
    assert again.error["reason"] == "ALIAS_EXISTS"


def test_a_key_without_its_alias_is_named(cli, key):
    """When the alias is taken, the error says which key was made without it."""
    assert key
    refused = cli("keys", "create", "--alias", "orders/files", "-o", "json", code=5)
    assert refused.error["reason"] == "ALIAS_EXISTS"
    made = refused.error["message"].partition("the key ")[2].split()[0].rstrip(",")
    assert cli("keys", "show", made, "-o", "json").json["state"] == "ENABLED"


@pytest.mark.parametrize(
    ("arguments", "code", "reason"),
    [
        (["keys", "show", UNKNOWN], 4, "KEY_NOT_FOUND"),
        (["keys", "show", "no/such/alias"], 4, "KEY_NOT_FOUND"),
        (["keys", "show", "regions/ap-1/aliases/x"], 2, "NO_ENDPOINT"),
        (["keys", "show", "not a name"], 2, "USAGE"),
        (["keys", "create", "--alias", "regions/us-1/aliases/x"], 2, "USAGE"),
        (["keys", "create", "--region", "ap-1"], 2, "OPTIONS_INVALID"),
        (["aliases", "create", "service/x", UNKNOWN], 2, "ARGUMENT_INVALID"),
        (["datakey", "--key", "orders/files", "--context", "novalue", "--out", "-"], 2, "USAGE"),
    ],
)
@pytest.mark.usefixtures("key")
def test_refusals_have_their_exit_codes(cli, arguments, code, reason):
    """What is not there, not allowed or not right ends with the documented code."""
    assert cli(*arguments, "-o", "json", code=code).error["reason"] == reason


def test_what_others_may_not_see_is_not_there(cli, key):
    """payments gets the same answer for the key of orders as for no key at all."""
    hidden = cli("keys", "show", key, "-o", "json", who="payments", code=4).error
    absent = cli("keys", "show", UNKNOWN, "-o", "json", who="payments", code=4).error
    assert hidden["message"].replace(key, "") == absent["message"].replace(UNKNOWN, "")
    assert cli("keys", "show", key, "-o", "json", who="operator").json["name"] == key


def test_a_policy_is_checked(cli, tmp_path: Path):
    """A policy that does not parse is refused with 2, and no key is made."""
    before = len(cli("keys", "list", "-o", "json").json)
    policy = tmp_path / "policy.cedar"
    policy.write_text("permit (everything);")
    refused = cli("keys", "create", "--policy", policy, "-o", "json", code=2)
    assert refused.error["reason"] == "POLICY_INVALID"
    assert len(cli("keys", "list", "-o", "json").json) == before


def test_a_data_key_can_be_unwrapped(cli, key, tmp_path: Path):
    """The wrapped form decrypts to the plaintext, which is in a file for its owner only."""
    wrapped, plain = tmp_path / "wrapped.bin", tmp_path / "plain.bin"
    arguments = ("datakey", "--key", key, "--context", "a=b", "--bytes", "64", "--out", wrapped)
    cli(*arguments, "--plaintext-file", plain)
    assert stat.S_IMODE(plain.stat().st_mode) == 0o600
    with KmsClient(load_options(cli.config("orders"))) as client:
        opened = client.decrypt(key, wrapped.read_bytes(), encryption_context={"a": "b"})
    assert opened.plaintext == plain.read_bytes()
    assert len(opened.plaintext) == 64
    before = wrapped.read_bytes()
    assert cli(*arguments, "-o", "json", code=5).error["reason"] == "FILE_EXISTS"
    assert wrapped.read_bytes() == before
    cli(*arguments, "--force")
    assert wrapped.read_bytes() != before


def test_random_bytes_come_from_the_hsm(cli):
    """`random` prints as many bytes as asked for, raw or in hex, and never the same."""
    assert len(cli("random", "16").stdout) == 16
    first, second = (cli("random", "--hex", "16").stdout for _ in range(2))
    assert len(bytes.fromhex(first.decode())) == 16
    assert first != second


@pytest.mark.parametrize(
    "arguments", [["random", "16"], ["datakey", "--key", "orders/files"], ["encrypt", "-"]]
)
@pytest.mark.usefixtures("key")
def test_no_bytes_to_a_terminal(cli, arguments):
    """Binary results are refused when standard output is a terminal."""
    if arguments[0] == "encrypt":
        arguments = [*arguments, "--key", "orders/files"]
    ours, theirs = pty.openpty()
    try:
        done = subprocess.run(
            cli.command(*arguments),
            stdin=subprocess.DEVNULL,
            stdout=theirs,
            stderr=subprocess.PIPE,
            timeout=60,
            check=False,
        )
    finally:
        os.close(theirs)
        os.close(ours)
    assert done.returncode == 2
    assert b"terminal" in done.stderr
