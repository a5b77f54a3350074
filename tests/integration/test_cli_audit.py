"""`audit tail`, `prove`, `check-proof` and `verify` against a real log."""

from __future__ import annotations

import hashlib
import json
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.cli import Cli, running_deployment

from strongroom_auditlog.checkpoint import Signer
from strongroom_server.cli.dev_fleet import AUDIT_LOG, Fleet

pytestmark = [pytest.mark.integration, pytest.mark.hsm, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def deployment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Cli, Fleet]]:
    """Run one region and the audit log."""
    with running_deployment(tmp_path_factory.mktemp("audit") / "dev", "eu-1") as made:
        yield made


@pytest.fixture
def cli(deployment: tuple[Cli, Fleet]) -> Cli:
    """Return the command line."""
    return deployment[0]


@pytest.fixture
def receipt(cli: Cli) -> str:
    """Return the receipt of a fresh record that is in the log."""
    made = str(cli("keys", "create", "-o", "json").json["receipt"])
    cli("audit", "prove", made, "--wait", "30")
    return made


def _offline(cli: Cli, *arguments: str | Path, code: int = 0, log: Path | None = None) -> str:
    directory = cli.layout.audit_log
    options = ("--log", log or directory / "log", "--vkey", directory / "log.vkey")
    answer = cli("audit", "verify", *options, *arguments, "-o", "json", code=code)
    return answer.stdout.decode() if code == 0 else str(answer.error["message"])


def test_a_record_is_read_as_it_was_hashed(cli, receipt):
    """A line of `audit tail -o json` has the hash that the receipt gives."""
    lines = cli("audit", "tail", "-n", "1000", "-o", "json", who="operator").stdout.splitlines()
    digests = [hashlib.sha256(line).hexdigest() for line in lines]
    assert receipt.rpartition(":")[2] in digests
    record = json.loads(lines[digests.index(receipt.rpartition(":")[2])])
    assert (record["method"], record["outcome"]) == ("CreateKey", "OK")
    assert record["principal"] == "spiffe://strongroom.dev/orders"


def test_tail_prints_as_many_as_asked_for(cli, receipt):
    """-n counts from the end, newest last, one line each."""
    del receipt
    for _ in range(3):
        last = cli("keys", "list", "-o", "json")
    assert last.code == 0
    lines = cli("audit", "tail", "-n", "2", who="operator").stdout.decode().splitlines()
    assert len(lines) == 2
    assert int(lines[0].split()[0]) + 1 == int(lines[1].split()[0])
    assert cli("audit", "tail", "-n", "0", who="operator").stdout == b""


def test_tail_follows(cli):
    """--follow prints what is logged from now on, until Ctrl-C."""
    command = cli.command("audit", "tail", "-n", "1", "--follow", "-o", "json", who="operator")
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline()
        name = cli("keys", "create", "-o", "json").json["name"]
        for line in process.stdout:
            record = json.loads(line)
            if record["key"] == name:
                break
        assert record["method"] == "CreateKey"
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130


def test_records_are_for_readers(cli):
    """Who is not configured as a reader gets no records, and 3."""
    refused = cli("audit", "tail", "-o", "json", who="orders", code=3)
    assert refused.error["reason"] == "POLICY_DENIED"


def test_a_proof_checks_offline(cli, receipt, tmp_path: Path):
    """Proof, record and verifier key suffice; another record or receipt is refused."""
    proof, record = tmp_path / "x.proof", tmp_path / "x.json"
    cli("audit", "prove", receipt, "--out", proof, "--record", record, who="operator")
    assert proof.read_text().startswith("c2sp.org/tlog-proof@v1\n")
    vkey = cli.layout.audit_log / "log.vkey"
    check = ("audit", "check-proof", proof, "--record", record, "--vkey", vkey, "-o", "json")
    assert cli(*check, "--receipt", receipt).json["verified"] is True
    other = f"{receipt[:-1]}{'0' if receipt[-1] != '0' else '1'}"
    assert cli(*check, "--receipt", other, code=6).error["reason"] == "UNVERIFIABLE"
    record.write_bytes(record.read_bytes().replace(b'"OK"', b'"NO"'))
    assert cli(*check, code=6).error["reason"] == "UNVERIFIABLE"


def test_what_is_not_logged_cannot_be_proved(cli, receipt):
    """A receipt from nowhere is not found; a text that is none is a usage error."""
    parts = receipt.split(":")
    parts[3] = "999999"
    absent = cli("audit", "prove", ":".join(parts), "--wait", "0", "-o", "json", code=4)
    assert absent.error["reason"] == "RECORD_NOT_FOUND"
    assert cli("audit", "prove", "nonsense", "-o", "json", code=2).error["reason"] == "USAGE"


def test_the_log_verifies_offline(cli, receipt, tmp_path: Path):
    """The whole log verifies with receipts given as options and as a file."""
    receipts = tmp_path / "receipts"
    receipts.write_text(f"{receipt}\n\n")
    verified = json.loads(_offline(cli, "--receipt", receipt, "--receipts", receipts))
    assert verified["verified"] is True
    assert verified["receipts"] == 1
    assert verified["shard eu-1"].startswith("sequence 1 to ")


def test_an_older_checkpoint_must_be_a_prefix(cli, receipt, tmp_path: Path):
    """A checkpoint kept from before verifies; one that the log did not grow from does not."""
    old = tmp_path / "checkpoint"
    shutil.copy(cli.layout.audit_log / "log" / "checkpoint", old)
    cli("keys", "list")
    time.sleep(1)
    assert json.loads(_offline(cli, "--checkpoint", old))["older_checkpoints"] == 1
    # A rollback: the copy of the log from before, against the checkpoint of now.
    log = tmp_path / "log"
    shutil.copytree(cli.layout.audit_log / "log", log)
    shutil.copy(old, log / "checkpoint")
    now = cli.layout.audit_log / "log" / "checkpoint"
    assert "older copy" in _offline(cli, "--checkpoint", now, log=log, code=6)
    assert receipt


def test_a_changed_log_does_not_verify(cli, receipt, tmp_path: Path):
    """One flipped bit in any kind of file of the log is found."""
    assert receipt
    original = tmp_path / "original"
    shutil.copytree(cli.layout.audit_log / "log", original)
    size = int((original / "checkpoint").read_text().splitlines()[1])
    for name in ("checkpoint", f"tile/0/000.p/{size}", f"tile/entries/000.p/{size}"):
        copy = tmp_path / "copy"
        shutil.copytree(original, copy)
        data = bytearray((copy / name).read_bytes())
        data[len(data) // 2] ^= 1
        (copy / name).chmod(0o600)
        (copy / name).write_bytes(data)
        _offline(cli, log=copy, code=6)
        shutil.rmtree(copy)


def test_another_key_is_refused(cli, tmp_path: Path):
    """With the verifier key of another log nothing verifies."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import (  # noqa: PLC0415 - this test only
        Ed25519PrivateKey,
    )

    other = tmp_path / "other.vkey"
    signer = Signer("strongroom.dev/audit-log", Ed25519PrivateKey.generate())
    other.write_text(f"{signer.verifier_key}\n")
    log = cli.layout.audit_log / "log"
    answer = cli("audit", "verify", "--log", log, "--vkey", other, "-o", "json", code=6)
    assert answer.error["reason"] == "UNVERIFIABLE"


def test_without_the_log_the_service_goes_on(deployment):
    """While the log is down calls are answered, `prove` ends with 7, and later it catches up."""
    cli, fleet = deployment
    fleet.stop(AUDIT_LOG)
    try:
        receipt = cli("keys", "create", "-o", "json").json["receipt"]
        down = cli("audit", "prove", receipt, "--wait", "0", "-o", "json", code=7)
        assert down.error["reason"] in {"UNREACHABLE", "DEADLINE_EXCEEDED"}
    finally:
        fleet.start(AUDIT_LOG)
        fleet.wait_ready(120)
    cli("audit", "prove", receipt, "--wait", "30")
    _offline(cli, "--receipt", receipt)
