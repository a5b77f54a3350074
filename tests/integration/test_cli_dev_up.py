"""`strongroom dev up`: everything starts, ends together, and nothing is left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from tests.support.cli import Cli

from strongroom_server.cli.dev_layout import Layout

pytestmark = [pytest.mark.integration, pytest.mark.hsm, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return where the deployment is made by the first `dev up`."""
    return tmp_path_factory.mktemp("up") / "dev"


@pytest.fixture
def up(directory: Path) -> Iterator[subprocess.Popen[str]]:
    """Run `dev up` until it says where to reach it; end it, and every process under it."""
    arguments = ["dev", "up", "--dir", str(directory), "--region", "eu-1", "--port-base", "0"]
    process = subprocess.Popen(
        [sys.executable, "-m", "strongroom_server.cli", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    line = process.stdout.readline()
    below = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
    try:
        assert line == f"export STRONGROOM_CONFIG={Layout(directory).client_config}\n"
        yield process
    finally:
        for number in (signal.SIGTERM, signal.SIGKILL):
            if process.poll() is None:
                process.send_signal(number)
                try:
                    process.wait(60)
                except subprocess.TimeoutExpired:
                    continue
        process.stdout.close()
        _, alive = psutil.wait_procs(below, timeout=30)
        for left in alive:
            left.kill()
        assert not alive


def _children(process: subprocess.Popen[str]) -> dict[str, psutil.Process]:
    return {
        "audit-log" if "audit-log" in child.cmdline() else "server": child
        for child in psutil.Process(process.pid).children()
    }


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_serves_and_ends_cleanly(up, directory, number):
    """The deployment answers; a signal ends every process in order, with 0."""
    cli = Cli(Layout(directory))
    assert isinstance(cli("keys", "list", "-o", "json").json, list)
    children = _children(up)
    assert set(children) == {"server", "audit-log"}
    up.send_signal(number)
    assert up.wait(60) == 0
    assert not any(child.is_running() for child in children.values())


@pytest.mark.parametrize("who", ["server", "audit-log"])
def test_it_ends_when_a_process_dies(up, who):
    """A process that ends by itself ends all, with 1."""
    children = _children(up)
    children[who].kill()
    assert up.wait(60) == 1
    assert not any(child.is_running() for child in children.values())


def test_nothing_outlives_it(up):
    """Killed itself, it takes every process with it: the kernel sends them SIGTERM."""
    tree = psutil.Process(up.pid).children(recursive=True)
    up.kill()
    up.wait(10)
    _, alive = psutil.wait_procs(tree, timeout=60)
    assert alive == []


def test_a_port_that_is_taken_is_told(directory):
    """A second `dev up` of the same deployment fails with the last words of the process."""
    first = subprocess.Popen(
        [sys.executable, "-m", "strongroom_server.cli", "dev", "up", "--dir", str(directory)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert first.stdout is not None
    try:
        assert first.stdout.readline().startswith("export")
        second = subprocess.run(
            [sys.executable, "-m", "strongroom_server.cli", "dev", "up", "--dir", str(directory)],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert second.returncode == 1
        assert "error: CHILD_DIED: " in second.stderr
        assert first.poll() is None
    finally:
        first.terminate()
        assert first.wait(60) == 0
        first.stdout.close()


def test_a_child_without_its_parent_does_not_start():
    """A child whose parent has gone before it could ask for a signal ends at once."""
    started = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "strongroom_server.cli.dev_child", str(os.getppid()), "--help"],
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert done.stdout == b""
    assert time.monotonic() - started < 60
