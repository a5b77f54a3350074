"""`strongroom config check`."""

from __future__ import annotations

from pathlib import Path

import pytest

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


@pytest.mark.parametrize(
    ("text", "kind"), [(CLIENT, "client"), (SERVER, "server"), (AUDIT_LOG, "audit log")]
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


@pytest.mark.parametrize("text", ["[", CLIENT + "[nonsense]\n", AUDIT_LOG + "x = 1\n", "x = 1\n"])
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
