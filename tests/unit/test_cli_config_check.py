"""`strongroom config check`."""

from __future__ import annotations

from pathlib import Path

import pytest

from strongroom.tlog.note import CosignerKey, VerifierKey
from strongroom_server.cli.root import run

TLS = '[tls]\ncertificate_file = "a"\nprivate_key_file = "b"\n'
CLIENT = TLS + 'ca_file = "c"\n[endpoints]\neu-1 = "127.0.0.1:7443"\n'
SERVER = (
    TLS
    + 'client_ca_file = "c"\n[[shards]]\nregion = "eu-1"\nmodule = "m"\ntoken_label = "t"\n'
    + 'pin_file = "p"\nstore = "s"\nspool = "q"\n'
)
AUDIT_LOG = (
    TLS
    + 'ca_file = "c"\n[log]\ndirectory = "l"\nstate = "s"\norigin = "o"\nprivate_key_file = "k"\n'
    + '[[shards]]\nregion = "eu-1"\nendpoint = "127.0.0.1:7443"\n'
)
WITNESS = (
    '[witness]\nname = "w.example"\nprivate_key_file = "k"\nstate = "s"\n'
    f'[[logs]]\nverifier_key = "{VerifierKey("o", bytes(32))}"\n'
)


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        (CLIENT, "client"),
        (SERVER, "server"),
        (AUDIT_LOG, "audit log"),
        (WITNESS, "witness"),
    ],
)
def test_each_kind_is_recognised(text, kind, tmp_path: Path, capsys):
    """The file's content says whose it is; a right one is ok."""
    path = tmp_path / "x.toml"
    path.write_text(text)
    assert run(["config", "check", str(path)]) == 0
    assert capsys.readouterr().out == f"{path}: ok, configuration of a {kind}\n"


def test_every_mistake_is_named(tmp_path: Path, capsys):
    """Unknown keys and bad values are told together, and the exit code is 2."""
    path = tmp_path / "x.toml"
    path.write_text(SERVER + 'sessions = 0\nunknown = 1\n[server]\nlisten = "nowhere"\n')
    assert run(["config", "check", str(path)]) == 2
    error = capsys.readouterr().err
    for name in ("sessions", "unknown", "server.listen"):
        assert name in error


@pytest.mark.parametrize(
    "text", ["[", CLIENT + "[nonsense]\n", AUDIT_LOG + "x = 1\n", WITNESS + "x = 1\n", "x = 1\n"]
)
def test_what_is_no_configuration_is_refused(text, tmp_path: Path, capsys):
    """Broken TOML and unknown tables end with 2 for every kind."""
    path = tmp_path / "x.toml"
    path.write_text(text)
    assert run(["config", "check", str(path)]) == 2
    assert "CONFIGURATION" in capsys.readouterr().err


def test_a_missing_file_is_said_to_be_missing(tmp_path: Path, capsys):
    """A file that is not there is an error of its own."""
    assert run(["config", "check", str(tmp_path / "x")]) == 1
    assert "No such file" in capsys.readouterr().err


def test_the_environment_of_the_client_does_not_disturb_a_server(tmp_path, capsys, monkeypatch):
    """STRONGROOM_CONFIG and STRONGROOM_OUTPUT are no settings of the server."""
    monkeypatch.setenv("STRONGROOM_CONFIG", "x")
    monkeypatch.setenv("STRONGROOM_OUTPUT", "table")
    path = tmp_path / "x.toml"
    path.write_text(SERVER)
    assert run(["config", "check", str(path)]) == 0
    assert "server" in capsys.readouterr().out


def test_a_witness_is_made_and_told_by_its_key(tmp_path: Path, capsys):
    """`audit-witness --init` prints the verifier key alone; a second time is refused."""
    path = tmp_path / "x.toml"
    path.write_text(WITNESS)
    assert run(["audit-witness", "--config", str(path), "--init"]) == 0
    assert CosignerKey.parse(capsys.readouterr().out).name == "w.example"
    assert run(["audit-witness", "--config", str(path), "--init"]) == 1
    assert "never overwritten" in capsys.readouterr().err


def test_what_an_audit_log_lost_is_made_again(tmp_path: Path, capsys):
    """The two --rebuild- options say what they made, and are never given together."""
    path = tmp_path / "x.toml"
    path.write_text(AUDIT_LOG)
    command = ["audit-log", "--config", str(path)]
    assert run([*command, "--init"]) == 0
    for lost, option in (
        ("s", "--rebuild-state"),
        ("last-checkpoint.sqlite3", "--rebuild-last-checkpoint"),
    ):
        assert run([*command, option]) == 1
        (tmp_path / lost).unlink()
        assert run([*command, option]) == 0
        assert f"{lost}: made, at 0 records" in capsys.readouterr().err
    assert run([*command, "--rebuild-state", "--rebuild-last-checkpoint"]) == 2
