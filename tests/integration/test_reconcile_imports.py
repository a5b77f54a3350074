"""`strongroom hsm reconcile` on imports, and what a holder of the PIN plants."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
from tests.support.cli import Cli, running_deployment

from strongroom_client import InternalError, KeyOrigin, KmsClient, load_options, wrap_key_material
from strongroom_server.cli.hsm_shards import target_of
from strongroom_server.config import load_config
from strongroom_server.domain.keys import KeyVersionRef
from strongroom_server.hsm.errand import HsmTarget
from strongroom_server.hsm.key_template import label_for, label_for_transfer

pytestmark = [pytest.mark.integration, pytest.mark.hsm, pytest.mark.timeout(300)]
REGION = "eu-1"
KNOWN = bytes(range(32))

_OPEN = """
import os, sys
from pathlib import Path
from strongroom_server.hsm import ck_mechanisms as ck, key_template
from strongroom_server.hsm.conformance import AES, check_module
from strongroom_server.hsm.token import TokenSession
from strongroom_server.hsm.transfer_keys import _templates
from strongroom_server.hsm.worker import read_pin
module, label, pin_file, ref = sys.argv[1:]
session = TokenSession.open(module, label, read_pin(Path(pin_file)))
capabilities, _ = check_module(session)
ref = bytes.fromhex(ref)
"""
_PLANT_TRANSFER_KEY = """
public, private = _templates(ref, 3072)
session.generate_key_pair(
    ck.plain(ck.CKM_RSA_PKCS_KEY_PAIR_GEN),
    public.to_make(capabilities.hardening),
    private.to_make(capabilities.hardening),
)
os._exit(0)
"""
_REPLACE_KEY = """
for handle in session.find({"TOKEN": True, "ID": ref}):
    session.destroy(handle)
name = key_template.label_for(ref) + key_template.IMPORTED
template = key_template.imported(AES).named(ref, name)
session.create_object({**template.to_make(capabilities.hardening), "VALUE": bytes(range(32))})
os._exit(0)
"""


@pytest.fixture(scope="module")
def cli(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cli]:
    """Run one region for this module."""
    with running_deployment(tmp_path_factory.mktemp("imports") / "dev", REGION) as (made, _):
        yield made


@pytest.fixture(scope="module")
def target(cli: Cli) -> HsmTarget:
    """Give the region's token."""
    return target_of(load_config(cli.layout.server_config(REGION)).shards[0])


def _reconcile(cli: Cli, *options: str, code: int = 0) -> list[dict[str, Any]]:
    done = subprocess.run(
        [
            *(sys.executable, "-m", "strongroom_server.cli", "hsm", "reconcile", *options),
            *("--config", str(cli.layout.server_config(REGION)), "-o", "json"),
        ],
        capture_output=True,
        env={**os.environ, "STRONGROOM_SERVER__DEFAULT_DEADLINE_SECONDS": "1"},
        timeout=120,
        check=False,
    )
    assert done.returncode == code, done.stderr.decode()
    rows: list[dict[str, Any]] = json.loads(done.stdout)
    return rows


def _do(target: HsmTarget, program: str, ref: bytes) -> None:
    subprocess.run(
        [
            *(sys.executable, "-c", _OPEN + program),
            *(str(target.module), target.token_label, str(target.pin_file), ref.hex()),
        ],
        env={**os.environ, **target.environment},
        timeout=60,
        check=True,
    )


def test_imports_and_what_is_left_of_them(cli: Cli, target: HsmTarget) -> None:
    """Imported keys and open tokens agree; a wrapping key without a token is told and destroyed."""
    with KmsClient(load_options(cli.config("orders"))) as kms:
        key = kms.create_key(REGION, origin=KeyOrigin.EXTERNAL)
        made = kms.get_import_parameters(key.name)
        assert _reconcile(cli) == []
        kms.import_key_material(
            key.name,
            import_token=made.import_token,
            encrypted_material=wrap_key_material(made, KNOWN),
        )
        kms.get_import_parameters(key.name)
        assert _reconcile(cli) == []
        left = uuid.uuid4().bytes + bytes(4)
        _do(target, _PLANT_TRANSFER_KEY, left)
        told = [("orphan", "transfer", label_for_transfer(left))]
        rows = _reconcile(cli, code=5)
        assert [(row["result"], row["kind"], row["name"]) for row in rows] == told
        rows = _reconcile(cli, "--apply", "--yes")
        assert [(row["result"], row["kind"], row["name"]) for row in rows] == told
        assert _reconcile(cli) == []
        assert kms.encrypt(key.name, b"x", encryption_context={}).ciphertext


def test_a_planted_key_is_not_used(cli: Cli, target: HsmTarget) -> None:
    """Material of known value in the place of a key is refused by a running server, and told."""
    with KmsClient(load_options(cli.config("orders"))) as kms:
        key = kms.create_key(REGION)
        kms.encrypt(key.name, b"x", encryption_context={})
        ref = KeyVersionRef(uuid.UUID(key.name.rpartition("/")[2]), 1).to_bytes()
        _do(target, _REPLACE_KEY, ref)
        with pytest.raises(InternalError):
            kms.encrypt(key.name, b"x", encryption_context={})
        rows = _reconcile(cli, code=5)
        assert [(row["result"], row["name"]) for row in rows] == [("unsafe", label_for(ref))]
        assert "brought from outside" in rows[0]["detail"]
