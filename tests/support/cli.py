"""A development deployment for tests, and the command line run against it."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from strongroom_server.cli.dev_fleet import Fleet
from strongroom_server.cli.dev_layout import Layout
from strongroom_server.cli.root import run

__all__ = ["Answer", "Cli", "running_deployment"]


@dataclass(frozen=True)
class Answer:
    """How a command ended and what it printed."""

    code: int
    stdout: bytes
    stderr: str

    @property
    def json(self) -> Any:
        """Standard output as JSON."""
        return json.loads(self.stdout)

    @property
    def error(self) -> dict[str, Any]:
        """The error of a command with ``-o json``: the last line of standard error."""
        error: dict[str, Any] = json.loads(self.stderr.splitlines()[-1])["error"]
        return error


class Cli:
    """Runs commands as one of the callers of a deployment."""

    def __init__(self, layout: Layout):
        self.layout = layout

    def config(self, who: str) -> Path:
        """Return the configuration of a caller."""
        return self.layout.client_config if who == "operator" else self.layout.client_config_of(who)

    def __call__(self, *arguments: str | Path, who: str = "orders", code: int = 0) -> Answer:
        """Run a command in this process; check its exit code."""
        out, err = io.BytesIO(), io.StringIO()
        text = io.TextIOWrapper(out, encoding="utf-8", write_through=True)
        with redirect_stdout(text), redirect_stderr(err):
            ended = run([*map(str, arguments), *self._config(arguments, who)])
        text.flush()
        answer = Answer(ended, out.getvalue(), err.getvalue())
        assert answer.code == code, answer
        return answer

    def process(
        self, *arguments: str | Path, who: str = "orders", stdin: bytes = b"", code: int = 0
    ) -> Answer:
        """Run a command as a process of its own, with bytes on its standard input."""
        done = subprocess.run(
            self.command(*arguments, who=who),
            input=stdin,
            capture_output=True,
            timeout=120,
            check=False,
        )
        answer = Answer(done.returncode, done.stdout, done.stderr.decode())
        assert answer.code == code, answer
        return answer

    def command(self, *arguments: str | Path, who: str = "orders") -> Sequence[str]:
        """Return the arguments of a process."""
        program = [sys.executable, "-m", "strongroom_server.cli"]
        return [*program, *map(str, arguments), *self._config(arguments, who)]

    def _config(self, arguments: Sequence[str | Path], who: str) -> list[str]:
        offline = [str(a) for a in arguments[:2]] in (["audit", "verify"], ["audit", "check-proof"])
        return [] if offline else ["--config", str(self.config(who))]


@contextmanager
def running_deployment(directory: Path, *regions: str) -> Iterator[tuple[Cli, Fleet]]:
    """Make a deployment, run all of it, end it."""
    layout = Layout(directory)
    options = [option for region in regions for option in ("--region", region)]
    assert run(["dev", "init", "--dir", str(directory), "--port-base", "0", *options]) == 0
    fleet = Fleet(layout)
    try:
        fleet.start_all()
        fleet.wait_ready(120)
        yield Cli(layout), fleet
    finally:
        fleet.stop_all()
