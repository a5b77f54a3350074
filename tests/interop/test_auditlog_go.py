"""The log's files verified by Go's own transparency log code, golang.org/x/mod/sumdb (A7)."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from tests.support.audit_records import LogHome, batch
from tests.support.witness import TestCosigner

SOURCE = Path(__file__).with_name("go")


def find_go() -> str | None:
    """Return the path of the Go tool; None where there is none."""
    return shutil.which("go") or shutil.which("/usr/local/go/bin/go")


@pytest.fixture(scope="module")
def tlogcheck(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give the checker, built from tests/interop/go."""
    go = find_go()
    if go is None:
        pytest.skip("no Go tool: install Go 1.22 or later to run this check")
    program = tmp_path_factory.mktemp("go") / "tlogcheck"
    built = subprocess.run(
        [go, "build", "-mod=readonly", "-o", str(program), "."],
        cwd=SOURCE,
        env={**os.environ, "CGO_ENABLED": "0"},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    if built.returncode != 0 and "dial tcp" in built.stderr:
        pytest.skip(f"no Go module proxy to get golang.org/x/mod from: {built.stderr}")
    assert built.returncode == 0, built.stderr
    return program


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> tuple[LogHome, list[str]]:
    """Give a log of 3,000 records, its verifier key's file and its older checkpoints' files."""
    home = LogHome.create(tmp_path_factory.mktemp("log"))
    older = []
    sequence = 1
    for count in (1, 1, 254, 1, 255, 500, 12, 1976):
        text = home.fill(batch("eu-1", 5, range(sequence, sequence + count)))
        sequence += count
        path = home.root / f"checkpoint-{sequence - 1}"
        path.write_text(text)
        older.append(str(path))
    (home.root / "log.vkey").write_text(f"{home.key}\n")
    return home, older


def run(program: Path, home: LogHome, directory: Path, *older: str) -> tuple[int, str]:
    done = subprocess.run(
        [str(program), str(directory), str(home.root / "log.vkey"), *older],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


def test_go_verifies_signature_root_inclusion_and_consistency(
    tlogcheck: Path, log: tuple[LogHome, list[str]]
) -> None:
    """All 3,000 leaves and all older checkpoints, from our files and our verifier key."""
    home, older = log
    assert run(tlogcheck, home, home.directory, *older) == (
        0,
        "3000 leaves, 8 older checkpoints\n",
    )


def test_go_verifies_cosignatures(
    tlogcheck: Path, log: tuple[LogHome, list[str]], tmp_path: Path
) -> None:
    """Witnesses in the published checkpoint are verified by sumdb's notes, and must be there."""
    home, _ = log
    shutil.copytree(home.directory, tmp_path / "log")
    path = tmp_path / "log" / "checkpoint"
    text = path.read_text()
    first, second, third = (TestCosigner(f"witness.example.org/w{n}") for n in range(3))
    path.write_text(text + first.line(text) + third.line(text, 2) + second.line(text, 2**62))
    witnesses = ["-witness", str(first.key), "-witness", str(second.key)]
    assert run(tlogcheck, home, tmp_path / "log", *witnesses)[0] == 0
    path.write_text(text + first.line(text))
    code, output = run(tlogcheck, home, tmp_path / "log", *witnesses)
    assert (code, "not signed by witness.example.org/w1" in output) == (1, True)
    other = home.signer.sign(7, bytes(32)).text
    path.write_text(text + first.line(text) + second.line(other))
    assert run(tlogcheck, home, tmp_path / "log", *witnesses)[0] == 1


@pytest.mark.parametrize(
    "name", ["tile/entries/004", "tile/0/004", "tile/1/000.p/11", "checkpoint"]
)
def test_go_refuses_damage(
    tlogcheck: Path, log: tuple[LogHome, list[str]], tmp_path: Path, name: str
) -> None:
    """The check is not vacuous: one bit in any kind of file and Go says no."""
    home, _ = log
    shutil.copytree(home.directory, tmp_path / "log")
    path = tmp_path / "log" / name
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    assert run(tlogcheck, home, tmp_path / "log")[0] == 1
