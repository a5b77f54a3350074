"""The README is true: its commands and its Python are run against a real deployment."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from strongroom_server.cli.dev_fleet import Fleet
from strongroom_server.cli.dev_layout import Layout

pytestmark = [pytest.mark.integration, pytest.mark.hsm]

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def block(language: str) -> str:
    """Return the only code block of a language."""
    blocks: list[str] = re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
    assert len(blocks) == 1
    return blocks[0]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with a running deployment in dev/, as `make up` leaves it."""
    directory = tmp_path_factory.mktemp("readme")
    subprocess.run(
        [BIN / "strongroom", "dev", "init", "--port-base", "0"],
        cwd=directory,
        check=True,
        capture_output=True,
        timeout=60,
    )
    fleet = Fleet(Layout(directory / "dev"))
    try:
        fleet.start_all()
        fleet.wait_ready()
        yield directory
    finally:
        fleet.stop_all()


def expected_of(session: str) -> list[tuple[str, list[str]]]:
    """Split a console session into commands and the lines shown below each."""
    steps: list[tuple[str, list[str]]] = []
    for line in session.splitlines():
        if line.startswith("$ "):
            steps.append((line.removeprefix("$ "), []))
        else:
            steps[-1][1].append(line)
    return steps


def words_of(line: str) -> set[str]:
    """Return the words of a line that do not change from run to run."""
    return {w for w in line.split() if re.fullmatch(r"[A-Za-z][A-Za-z ]*|4111|1111", w)}


def test_the_session_runs_and_prints_what_is_shown(folder: Path):
    """Every command of the session succeeds, and each line shown has its like in the output."""
    environment = os.environ | {
        "PATH": f"{BIN}:{os.environ['PATH']}",
        "STRONGROOM_CONFIG": "dev/client.toml",
    }
    steps = expected_of(block("console"))
    assert len(steps) >= 7
    for command, shown in steps:
        run = subprocess.run(
            ["bash", "-c", command],
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert run.returncode == 0, f"{command}\n{run.stderr}"
        printed = [words_of(line) for line in run.stdout.splitlines()]
        for line in shown:
            if line != "…":
                assert any(words_of(line) <= words for words in printed), (command, line)


def test_the_python_runs(folder: Path):
    """The Python of the README works as it stands, on the session's deployment."""
    run = subprocess.run(
        [sys.executable, "-c", block("python")],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert run.returncode == 0, run.stderr


def test_the_two_commands_are_targets_of_the_makefile():
    """`make demo` and `make test` are there."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for command in re.findall(r"^make (\w+)", block("sh"), re.MULTILINE):
        assert re.search(rf"^{command}:", makefile, re.MULTILINE)


def test_the_links_lead_somewhere():
    """Every relative link of the README names something that is there."""
    links = re.findall(r"\]\((?!http)([^)]+)\)", README)
    assert links
    for link in links:
        assert (ROOT / link).exists(), link
