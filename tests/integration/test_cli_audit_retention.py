"""`audit archive`, `prune`, `restore-archive` and `verify --archive` on a real log."""

from __future__ import annotations

import json
import stat
from pathlib import Path
from typing import Any

import pytest
from tests.support.audit_records import batch, receipt_of, record

from strongroom_auditlog import app
from strongroom_auditlog.config import Config, load_config
from strongroom_auditlog.keys import load_signer
from strongroom_auditlog.log import AuditLog
from strongroom_server.cli.root import run

pytestmark = pytest.mark.integration

CONFIG = """
[log]
directory = "log"
state = "state.sqlite3"
origin = "audit.example.org/strongroom"
private_key_file = "log.key"
[tls]
certificate_file = "tls.pem"
private_key_file = "tls.key"
ca_file = "ca.pem"
[archive]
location = "archive"
[[shards]]
region = "eu-1"
endpoint = "127.0.0.1:7443"
"""


@pytest.fixture
def config_file(tmp_path: Path) -> Path:
    """Give the configuration of a log of 1,000 records, and the directory of its archive."""
    path = tmp_path / "audit-log.toml"
    path.write_text(CONFIG)
    config = load_config(path)
    app.initialize(config)
    append(config, 1, 1001)
    (tmp_path / "archive").mkdir()
    return path


def append(config: Config, start: int, end: int) -> None:
    key_file = config.log.private_key_file
    assert key_file is not None
    signer = load_signer(origin=config.log.origin, private_key_file=key_file)
    log = AuditLog.open(config.log.directory, config.log.state, config.last_checkpoint_file, signer)
    log.append([batch("eu-1", 5, range(start, end))])
    log.close()


class Command:
    """Runs commands in this process."""

    def __init__(self, capsys: pytest.CaptureFixture[str]):
        self._capsys = capsys

    def __call__(self, *arguments: str | Path, code: int = 0) -> Any:
        ended = run(["audit", *map(str, arguments), "-o", "json"])
        captured = self._capsys.readouterr()
        assert ended == code, captured.err
        if code:
            return json.loads(captured.err.splitlines()[-1])["error"]
        self.noted = captured.err
        return captured.out


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Command:
    """Give the command line."""
    return Command(capsys)


def test_the_whole_way(config_file: Path, command: Command, tmp_path: Path) -> None:
    """Archive, prune, verify with and without the archive, restore a record and check its proof."""
    configured = ("--config", config_file)
    archived = json.loads(command("archive", *configured))
    assert (archived["archived_records"], archived["new_records"]) == (768, 768)
    assert json.loads(command("archive", *configured))["new_records"] == 0
    pruned = json.loads(command("prune", *configured, "--before-leaf", "600"))
    assert (pruned["minimum_index"], pruned["removed_records"]) == (512, 512)
    log, vkey, archive = tmp_path / "log", tmp_path / "log.vkey", tmp_path / "archive"
    offline = ("verify", "--log", log, "--vkey", vkey)
    whole = json.loads(command(*offline, "--archive", archive, "--complete"))
    assert (whole["records_read"], whole["hashes_alone"]) == (1000, 0)
    part = json.loads(command(*offline))
    assert (part["records_read"], part["hashes_alone"]) == (488, 512)
    assert "were not seen" in command.noted
    assert command(*offline, "--complete", code=5)["reason"] == "RECORD_ARCHIVED"
    receipt = str(receipt_of(record("eu-1", 5, 7)))
    assert command(*offline, "--receipt", receipt, code=5)["reason"] == "RECORD_ARCHIVED"
    out, proof = tmp_path / "r.json", tmp_path / "r.proof"
    append(load_config(config_file), 1001, 1101)
    for number, source in enumerate(
        (configured, (*configured, "--from", archive), ("--vkey", vkey, "--from", archive))
    ):
        files = ("--out", f"{out}{number}", "--proof", f"{proof}{number}")
        command("restore-archive", *source, "--receipt", receipt, *files)
        restored = Path(f"{out}{number}")
        assert restored.read_bytes() == record("eu-1", 5, 7)
        assert stat.S_IMODE(restored.stat().st_mode) == 0o600
        checked = command("check-proof", f"{proof}{number}", "--record", restored, "--vkey", vkey)
        assert json.loads(checked)["verified"] is True
    assert command("restore-archive", *configured, "--leaf", "0") == record("eu-1", 5, 1).decode()
    assert "proven in 1100 records" in command.noted


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("prune",), "USAGE"),
        (("prune", "--older-than", "1"), "USAGE"),
        (("prune", "--older-than", "1d", "--before-leaf", "3"), "USAGE"),
        (("prune", "--before", "2026-01-01T00:00"), "USAGE"),
        (("prune", "--older-than", "1d"), "ARCHIVE"),  # nothing archived yet
        (("archive", "--to", "/nowhere/at/all"), "ARCHIVE"),
        (("archive", "--to", "https://example.org"), "ARCHIVE"),
        (("restore-archive",), "USAGE"),
        (("restore-archive", "--leaf", "1", "--receipt", "v1:x"), "USAGE"),
        (("restore-archive", "--receipt", "nonsense"), "USAGE"),
        (("restore-archive", "--leaf", "1"), "ARCHIVE"),
    ],
)
def test_what_cannot_be_done_says_why(
    config_file: Path, command: Command, arguments: tuple[str, ...], reason: str
) -> None:
    """Wrong options are usage errors; an archive that is not there is an error of its own."""
    code = 2 if reason == "USAGE" else 1
    assert command(*arguments, "--config", config_file, code=code)["reason"] == reason


def test_the_location_must_be_said(config_file: Path, command: Command) -> None:
    """Neither option nor setting: a usage error that names both."""
    config_file.write_text(config_file.read_text().replace('location = "archive"', ""))
    error = command("archive", "--config", config_file, code=2)
    assert "--to, or [archive] location" in error["message"]
