"""`make demo`, after set-up."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.integration
@pytest.mark.hsm
@pytest.mark.timeout(300)
def test_the_demo_tells_its_whole_story():
    """The demo ends with 0, having shown every chapter, and leaves no process behind."""
    done = subprocess.run(
        [sys.executable, ROOT / "deploy" / "demo.py"],
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    for words in (
        "SENSITIVE=True",
        "came back byte for byte",
        "KEY_NOT_FOUND",
        "ENVELOPE_INVALID",
        "through us-1 alone",
        "versions/2",
        "the body has not",
        "KEY_DISABLED",
        "record",
        "kill -9",
        "verified",
        "all ended with 0",
    ):
        assert words in done.stdout, words
    started = [int(number) for number in re.findall(r"runs as process (\d+)", done.stdout)]
    assert len(started) == 3
    assert [number for number in started if psutil.pid_exists(number)] == []
