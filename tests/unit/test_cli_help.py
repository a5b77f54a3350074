"""`strongroom --help` and what it must not load."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from strongroom_server.cli.exit_codes import ExitCode
from strongroom_server.cli.root import run

#: Each costs tens to hundreds of milliseconds; help must come at once.
HEAVY = (
    "alembic",
    "cedarpy",
    "cryptography",
    "google.protobuf",
    "grpc",
    "pkcs11",
    "prometheus_client",
    "protovalidate",
    "pydantic",
    "rich.console",
    "rich.progress",
    "sqlalchemy",
    "strongroom_auditlog",
    "strongroom_client",
    "strongroom_server.app",
    "structlog",
    "uvloop",
)
LEAVES = (
    ("dev", "init"),
    ("dev", "up"),
    ("serve",),
    ("audit-log",),
    ("config", "check"),
    *(("keys", v) for v in ("create", "list", "show", "rotate", "enable", "disable", "versions")),
    *(("keys", v) for v in ("import", "import-parameters", "delete-material")),
    ("aliases", "create"),
    ("aliases", "show"),
    *(("policy", v) for v in ("get", "put", "history", "explain", "check", "test")),
    *(("grants", v) for v in ("create", "list", "retirable", "retire", "revoke")),
    *(("hsm", v) for v in ("doctor", "audit", "reconcile", "roots", "rotate-root")),
    ("encrypt",),
    ("decrypt",),
    ("rekey",),
    ("datakey",),
    ("random",),
    *((name,) for name in ("sign", "verify", "mac", "verify-mac", "public-key", "derive")),
    ("datakey-pair",),
    ("audit", "tail"),
    ("audit", "search"),
    ("audit", "export"),
    ("audit", "summary"),
    ("audit", "check-receipts"),
    ("audit", "verify"),
    ("audit", "prove"),
    ("audit", "check-proof"),
    ("audit", "archive"),
    ("audit", "prune"),
    ("audit", "restore-archive"),
)


def test_help_loads_nothing_heavy():
    """--help answers without gRPC, SQL, PKCS#11, pydantic, cryptography and rich."""
    script = (
        "import json, sys\n"
        "from strongroom_server.cli.root import run\n"
        "code = run(['--help'])\n"
        "print(json.dumps([code, sorted(sys.modules)]))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60
    )
    code, modules = json.loads(done.stdout.splitlines()[-1])
    assert code == 0
    assert [name for name in HEAVY if name in modules] == []
    assert "Exit codes:" in done.stdout


@pytest.mark.parametrize("path", LEAVES, ids="-".join)
def test_every_command_has_help(path, capsys):
    """Every command of the documented list is there and explains itself."""
    assert run([*path, "--help"]) == 0
    assert f"Usage: strongroom {' '.join(path)}" in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments",
    [
        ["nonsense"],
        ["keys", "show"],
        ["keys", "show", "x", "--nonsense"],
        ["encrypt", "x"],
        ["random", "0"],
        ["random", "1025"],
        ["keys", "list", "-o", "xml"],
        ["dev", "init", "--port-base", "-1"],
    ],
)
def test_wrong_usage_ends_with_2(arguments, capsys):
    """A wrong command line is one error line with a hint, nothing on standard output."""
    assert run(arguments) == ExitCode.USAGE
    captured = capsys.readouterr()
    assert captured.err.startswith("error: USAGE: ")
    assert captured.out == ""


def test_wrong_usage_is_json_when_asked(capsys):
    """With -o json, errors are one JSON object on standard error."""
    assert run(["keys", "show", "-o", "json"]) == ExitCode.USAGE
    assert json.loads(capsys.readouterr().err)["error"]["reason"] == "USAGE"


def test_the_environment_chooses_json_too(capsys, monkeypatch):
    """STRONGROOM_OUTPUT=json does the same for every command."""
    monkeypatch.setenv("STRONGROOM_OUTPUT", "json")
    assert run(["nonsense"]) == ExitCode.USAGE
    assert json.loads(capsys.readouterr().err)["error"]["exit_code"] == 2


def test_no_configuration_is_a_configuration_error(capsys, monkeypatch, tmp_path):
    """Without any client configuration a command says where it looked and how to get one."""
    monkeypatch.delenv("STRONGROOM_CONFIG", raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert run(["keys", "list"]) == ExitCode.USAGE
    error = capsys.readouterr().err
    assert error.startswith("error: CONFIGURATION: ")
    assert "dev up" in error


def test_the_configuration_is_looked_for_in_order(capsys, monkeypatch, tmp_path):
    """The user's file comes before ./dev/client.toml, the one given before both."""
    monkeypatch.delenv("STRONGROOM_CONFIG", raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "xdg"))
    monkeypatch.chdir(tmp_path)
    dev = tmp_path / "dev" / "client.toml"
    user = tmp_path / "xdg" / "strongroom" / "client.toml"
    for path in (dev, user):
        path.parent.mkdir(parents=True)
        path.write_text("no toml")
        assert run(["keys", "list"]) == ExitCode.USAGE
        assert f"OPTIONS_INVALID: {path}" in capsys.readouterr().err
    assert run(["keys", "list", "--config", str(tmp_path / "given")]) == ExitCode.USAGE
    assert f"OPTIONS_INVALID: {tmp_path / 'given'}" in capsys.readouterr().err
