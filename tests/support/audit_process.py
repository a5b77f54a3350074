"""The audit log as a process of its own."""

from __future__ import annotations

import asyncio
import signal
import sys
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from tests.support.ports import free_port

from strongroom.tlog.checkpoint import VerifierKey
from strongroom_auditlog import app
from strongroom_auditlog.config import Config, load_config
from strongroom_auditlog.tls import CredentialFiles

__all__ = ["AuditLogProcess"]

_PROGRAM = """
import sys
from pathlib import Path
from strongroom_auditlog.app import run
from strongroom_auditlog.config import load_config
sys.exit(run(load_config(Path(sys.argv[1]))))
"""


@dataclass
class AuditLogProcess:
    """One deployment of the audit log; starts and ends only its own process."""

    config_file: Path
    key: VerifierKey
    process: asyncio.subprocess.Process | None = None

    @classmethod
    def create(
        cls,
        root: Path,
        tls: CredentialFiles,
        shards: dict[str, int],
        readers: tuple[str, ...] = (),
        *,
        log: tuple[str, ...] = ('private_key_file = "log.key"',),
        more: tuple[str, ...] = (),
    ) -> AuditLogProcess:
        """Write a configuration and make the empty log.

        `log` are further lines of [log], `more` further tables.
        """
        root.mkdir()
        lines = [
            "[log]",
            'directory = "log"',
            'state = "state.sqlite3"',
            'origin = "audit.example.org/strongroom"',
            "batch_seconds = 0.05",
            *log,
            "[server]",
            f'listen = "127.0.0.1:{free_port()}"',
            "[ops]",
            f'listen = "127.0.0.1:{free_port()}"',
            "[tls]",
            f'certificate_file = "{tls.certificate}"',
            f'private_key_file = "{tls.private_key}"',
            f'ca_file = "{tls.ca}"',
            "[access]",
            f"readers = {list(readers)!r}",
        ]
        for region, port in shards.items():
            lines += ["[[shards]]", f'region = "{region}"', f'endpoint = "127.0.0.1:{port}"']
        lines += more
        config_file = root / "audit-log.toml"
        config_file.write_text("\n".join(lines))
        return cls(config_file, app.initialize(load_config(config_file)))

    @property
    def config(self) -> Config:
        """The configuration."""
        return load_config(self.config_file)

    @property
    def log_lines(self) -> Path:
        """What the process has printed."""
        return self.config_file.with_name("stdout.jsonl")

    @property
    def command(self) -> tuple[str, ...]:
        """How it is started."""
        return (sys.executable, "-c", _PROGRAM, str(self.config_file))

    async def start(self) -> None:
        """Start it and wait until it is ready."""
        with self.log_lines.open("ab") as output:
            self.process = await asyncio.create_subprocess_exec(
                *self.command, stdout=output, stderr=output
            )
        async with asyncio.timeout(20):
            while (await self.ops("/readyz"))[0] != 200:
                if self.process.returncode is not None:
                    raise RuntimeError(self.log_lines.read_text())
                await asyncio.sleep(0.05)

    async def ops(self, path: str) -> tuple[int, str]:
        """Ask the ops port; status 0 when nobody answers."""

        def ask() -> tuple[int, str]:
            url = f"http://{self.config.ops.listen}{path}"
            try:
                with urllib.request.urlopen(url, timeout=2) as response:
                    return response.status, response.read().decode()
            except urllib.error.HTTPError as exc:
                with exc:
                    return exc.code, exc.read().decode()
            except OSError:
                return 0, ""

        return await asyncio.to_thread(ask)

    async def kill(self) -> None:
        """SIGKILL."""
        await self._end(signal.SIGKILL)

    async def stop(self) -> int:
        """SIGTERM; the exit code."""
        return await self._end(signal.SIGTERM)

    async def _end(self, number: signal.Signals) -> int:
        if self.process is None:
            return 0
        if self.process.returncode is None:
            self.process.send_signal(number)
        async with asyncio.timeout(20):
            code = await self.process.wait()
        self.process = None
        return code
