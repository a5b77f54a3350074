"""The image's build steps work, run without a container engine."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.soak


def build_steps() -> list[str]:
    """Return COPY and RUN of the build stage, in order."""
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8").replace("\\\n", " ")
    stage = text.partition(" AS build\n")[2].partition("\nFROM ")[0]
    return re.findall(r"^(?:COPY|RUN) .*$", stage, re.MULTILINE)


def test_the_build_stage_makes_a_working_installation(tmp_path: Path) -> None:
    """Its steps, run in order in a directory, install programs that start."""
    source = tmp_path / "src"
    source.mkdir()
    moved = {"/opt/": f"{tmp_path}/opt/", "/dist": f"{tmp_path}/dist"}
    for step in build_steps():
        instruction, _, rest = step.partition(" ")
        if instruction == "COPY":
            *names, target = rest.split()
            for name in names:
                place = source / target / (Path(name).name if target.endswith("/") else "")
                place.parent.mkdir(parents=True, exist_ok=True)
                if (ROOT / name).is_dir():
                    shutil.copytree(ROOT / name, place)
                else:
                    shutil.copyfile(ROOT / name, place)
            continue
        command = re.sub(r"\bpython -m venv", f"{sys.executable} -m venv", rest)
        for old, new in moved.items():
            command = command.replace(old, new)
        done = subprocess.run(
            ["/bin/sh", "-ec", command], cwd=source, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{step}\n{done.stdout}{done.stderr}"
    programs = tmp_path / "opt" / "strongroom" / "bin"
    for arguments in (["--help"], ["serve", "--help"]):
        subprocess.run([programs / "strongroom", *arguments], check=True, capture_output=True)
    unhealthy = subprocess.run(
        [programs / "python", "-m", "strongroom_server.ops.healthcheck", "127.0.0.1:1"],
        check=False,
        capture_output=True,
    )
    assert unhealthy.returncode == 1
