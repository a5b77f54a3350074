"""Witnesses: their keys, their cosignatures, and the process."""

from __future__ import annotations

import asyncio
import http.client
import signal
import sys
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from tests.support.ports import free_port

from strongroom.tlog.cosignature import Cosignature, cosigned_message
from strongroom.tlog.note import CosignerKey, VerifierKey, split_note
from strongroom_auditlog.witness import app
from strongroom_auditlog.witness.config import WitnessSettings, load_witness_config

__all__ = ["TestCosigner", "WitnessProcess"]

_PROGRAM = """
import sys
from pathlib import Path
from strongroom_auditlog.witness.app import run
from strongroom_auditlog.witness.config import load_witness_config
sys.exit(run(load_witness_config(Path(sys.argv[1]))))
"""


class TestCosigner:
    """A witness's key in the hands of a test: it cosigns anything."""

    __test__ = False

    def __init__(self, name: str = "witness.example.org/w1"):
        self.private_key = Ed25519PrivateKey.generate()
        self.key = CosignerKey(name, self.private_key.public_key().public_bytes_raw())

    def line(self, note: str, timestamp: int = 1_700_000_000) -> str:
        """Return the cosignature line for a note."""
        body, _ = split_note(note)
        signature = self.private_key.sign(cosigned_message(body, timestamp))
        return Cosignature(self.key, timestamp, signature).line


@dataclass
class WitnessProcess:
    """A witness; starts and ends only its own process."""

    config_file: Path
    key: CosignerKey
    process: asyncio.subprocess.Process | None = None

    @classmethod
    def create(cls, root: Path, name: str, *logs: VerifierKey) -> WitnessProcess:
        """Write a configuration and make key and state."""
        root.mkdir(parents=True)
        lines = [
            "[witness]",
            f'name = "{name}"',
            'private_key_file = "witness.key"',
            'state = "witness.sqlite3"',
            "[server]",
            f'listen = "127.0.0.1:{free_port()}"',
            "[ops]",
            f'listen = "127.0.0.1:{free_port()}"',
        ]
        for log in logs:
            lines += ["[[logs]]", f'verifier_key = "{log}"']
        config_file = root / "witness.toml"
        config_file.write_text("\n".join(lines))
        return cls(config_file, app.initialize(load_witness_config(config_file)))

    @property
    def config(self) -> WitnessSettings:
        """The configuration."""
        return load_witness_config(self.config_file)

    @property
    def url(self) -> str:
        """What logs are told."""
        return f"http://{self.config.server.listen}"

    @property
    def log_lines(self) -> Path:
        """What the process has printed."""
        return self.config_file.with_name("stdout.jsonl")

    async def start(self) -> None:
        """Start it and wait until it is ready."""
        with self.log_lines.open("ab") as output:
            self.process = await asyncio.create_subprocess_exec(
                sys.executable, "-c", _PROGRAM, str(self.config_file), stdout=output, stderr=output
            )
        async with asyncio.timeout(20):
            while (await asyncio.to_thread(self.get, "/readyz"))[0] != 200:
                if self.process.returncode is not None:
                    raise RuntimeError(self.log_lines.read_text())
                await asyncio.sleep(0.05)

    def get(self, path: str, *, ops: bool = True) -> tuple[int, str]:
        """GET from the ops port or the public one; status 0 when nobody answers."""
        listen = self.config.ops.listen if ops else self.config.server.listen
        return self._ask("GET", path, b"", listen)[:2]

    def post(self, body: bytes) -> tuple[int, str, str]:
        """Ask for a cosignature; return status, text and content type."""
        return self._ask("POST", "/add-checkpoint", body, self.config.server.listen)

    def _ask(self, method: str, path: str, body: bytes, listen: str) -> tuple[int, str, str]:
        connection = http.client.HTTPConnection(listen, timeout=10)
        try:
            connection.request(method, path, body)
            response = connection.getresponse()
            content_type = response.headers.get("Content-Type", "")
            return response.status, response.read().decode(), content_type
        except OSError:
            return 0, "", ""
        finally:
            connection.close()

    async def kill(self) -> None:
        """SIGKILL."""
        await self.end(signal.SIGKILL)

    async def stop(self) -> int:
        """SIGTERM; the exit code."""
        return await self.end(signal.SIGTERM)

    async def end(self, number: signal.Signals) -> int:
        """Send a signal and wait for the end."""
        if self.process is None:
            return 0
        if self.process.returncode is None:
            self.process.send_signal(number)
        async with asyncio.timeout(20):
            code = await self.process.wait()
        self.process = None
        return code
