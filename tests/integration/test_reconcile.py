"""`strongroom hsm audit` and `reconcile`, beside a running server and on a real token."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from tests.support.cli import Cli, running_deployment

from strongroom_client import KmsClient, UnavailableError, load_options
from strongroom_server.cli.hsm_shards import target_of
from strongroom_server.config import load_config
from strongroom_server.domain.keys import KeyVersionRef
from strongroom_server.hsm.errand import Errand, HsmTarget
from strongroom_server.hsm.key_template import label_for

pytestmark = [pytest.mark.integration, pytest.mark.hsm, pytest.mark.timeout(300)]
REGION = "eu-1"

_PLANT = """
import json, os, sys
from pathlib import Path
from strongroom_server.hsm import ck_mechanisms as ck, key_template
from strongroom_server.hsm.conformance import AES, check_module
from strongroom_server.hsm.token import TokenSession
from strongroom_server.hsm.worker import read_pin
module, label, pin_file, ref, changes = sys.argv[1:]
session = TokenSession.open(module, label, read_pin(Path(pin_file)))
capabilities, _ = check_module(session)
ref = bytes.fromhex(ref)
template = key_template.resident_secret(AES).named(ref, key_template.label_for(ref))
made = {**template.to_make(capabilities.hardening), **json.loads(changes)}
session.generate_key(ck.plain(AES.generate), made)
os._exit(0)
"""

Hsm = Callable[..., tuple[Any, str]]


@pytest.fixture(scope="module")
def cli(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cli]:
    """Run one region for this module."""
    with running_deployment(tmp_path_factory.mktemp("reconcile") / "dev", REGION) as (made, _):
        yield made


@pytest.fixture(scope="module")
def target(cli: Cli) -> HsmTarget:
    """Give the region's token."""
    return target_of(load_config(cli.layout.server_config(REGION)).shards[0])


@pytest.fixture(scope="module")
def hsm(cli: Cli) -> Hsm:
    """Return what runs ``strongroom hsm ...``: rows of standard output, all of standard error."""

    def call(*arguments: str, code: int = 0, stdin: str = "") -> tuple[Any, str]:
        config = str(cli.layout.server_config(REGION))
        program = [sys.executable, "-m", "strongroom_server.cli", "hsm"]
        done = subprocess.run(
            [*program, *arguments, "--config", config, "-o", "json"],
            input=stdin.encode(),
            capture_output=True,
            # For the time between its looks; the server keeps its own.
            env={**os.environ, "STRONGROOM_SERVER__DEFAULT_DEADLINE_SECONDS": "1"},
            timeout=120,
            check=False,
        )
        assert done.returncode == code, done.stderr.decode()
        return json.loads(done.stdout), done.stderr.decode()

    return call


def plant(target: HsmTarget, **changes: bool) -> str:
    """Make a key on the token that no record names; return its label."""
    ref = KeyVersionRef(uuid.uuid4(), 1).to_bytes()
    subprocess.run(
        [
            *(sys.executable, "-c", _PLANT),
            *(str(target.module), target.token_label, str(target.pin_file)),
            *(ref.hex(), json.dumps(changes)),
        ],
        env={**os.environ, **target.environment},
        timeout=60,
        check=True,
    )
    return label_for(ref)


def wait_recorded(cli: Cli, text: str) -> None:
    """Wait until the spool of the running server has a record with a text."""
    until = time.monotonic() + 20
    spool = cli.layout.shard(REGION) / "spool"
    while not any(text.encode() in path.read_bytes() for path in spool.glob("*.seg")):
        assert time.monotonic() < until, text
        time.sleep(0.1)


def test_database_against_token(cli: Cli, target: HsmTarget, hsm: Hsm) -> None:
    """Agreement is told; an orphan is listed, destroyed when asked; a missing key is listed."""
    with KmsClient(load_options(cli.config("orders"))) as kms:
        key = kms.create_key(REGION)
        context = {"order": "17"}
        sealed = kms.encrypt(key.name, b"text", encryption_context=context)
        recorded = label_for(KeyVersionRef(uuid.UUID(key.name.rpartition("/")[2]), 1).to_bytes())

        rows, told = hsm("reconcile")
        assert rows == []
        assert "nothing differs in eu-1" in told
        assert [row["name"] for row in hsm("audit")[0]] == [recorded]

        orphan = plant(target)
        rows, told = hsm("reconcile", code=5)
        assert [(row["result"], row["name"]) for row in rows] == [("orphan", orphan)]
        assert "looking again" in told
        assert "HSM_DIFFERS" in told

        # Asked, and told no.
        rows, told = hsm("reconcile", "--apply", code=130, stdin="n\n")
        assert orphan in told
        assert len(hsm("audit")[0]) == 2

        rows, told = hsm("reconcile", "--apply", "--yes")
        assert [row["name"] for row in rows] == [orphan]
        assert f"destroyed: {orphan}" in told
        wait_recorded(cli, f'"details":{{"object":"{orphan}","uid":"{os.getuid()}"}}')
        assert hsm("reconcile")[0] == []
        opened = kms.decrypt(key.name, sealed.ciphertext, encryption_context=context)
        assert opened.plaintext == b"text"

        with Errand(target, "destroy", names=[recorded]) as errand:
            list(errand.messages(silence_seconds=30))
        rows, _ = hsm("reconcile", code=5)
        assert [(row["result"], row["name"]) for row in rows] == [("missing", recorded)]
        with pytest.raises(UnavailableError):
            kms.with_timeout(2.0).decrypt(key.name, sealed.ciphertext, encryption_context=context)


def test_an_unsafe_key_is_told(target: HsmTarget, hsm: Hsm) -> None:
    """A key of ours that could be wrapped out is named, with what is wrong."""
    unsafe = plant(target, EXTRACTABLE=True)
    rows, told = hsm("audit", code=5)
    (row,) = [row for row in rows if row["name"] == unsafe]
    assert "CKA_EXTRACTABLE is True" in row["result"]
    assert "KEY_UNSAFE" in told
