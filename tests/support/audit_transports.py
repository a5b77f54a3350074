"""The ways from shards to the audit log, for suites that both have to pass."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Protocol

from tests.support.audit_certificates import CertificateAuthority
from tests.support.audit_process import AuditLogProcess
from tests.support.audit_shard import Shard
from tests.support.nats_server import NatsServer
from tests.support.nats_shard import NatsShard

__all__ = ["DirectTransport", "NatsTransport", "Transport"]


class Transport(Protocol):
    """How records travel."""

    name: str

    def shard(self, region: str = "eu-1", epoch: int = 5) -> Shard:
        """Return a shard that was not started."""
        ...

    async def connect(
        self, root: Path, authority: CertificateAuthority, *shards: Shard
    ) -> AuditLogProcess:
        """Start shards, and make the audit log that takes from them; it does not run."""
        ...

    async def close(self) -> None:
        """End everything but the audit log."""
        ...


class DirectTransport:
    """gRPC from the shards themselves."""

    name = "direct"

    def __init__(self) -> None:
        self._shards: tuple[Shard, ...] = ()

    def shard(self, region: str = "eu-1", epoch: int = 5) -> Shard:
        """Implement the port."""
        return Shard(region, epoch)

    async def connect(
        self, root: Path, authority: CertificateAuthority, *shards: Shard
    ) -> AuditLogProcess:
        """Implement the port."""
        self._shards = shards
        server = authority.issue("server")
        ports = {shard.region: await shard.start(authority, server) for shard in shards}
        return AuditLogProcess.create(root / "home", authority.issue("audit-log"), ports)

    async def close(self) -> None:
        """Implement the port."""
        for shard in self._shards:
            await shard.stop()


class NatsTransport:
    """A NATS server in between."""

    name = "nats"

    def __init__(self) -> None:
        self._shards: tuple[Shard, ...] = ()
        self.server: NatsServer | None = None

    def shard(self, region: str = "eu-1", epoch: int = 5) -> NatsShard:
        """Implement the port."""
        return NatsShard(region, epoch)

    async def connect(
        self, root: Path, authority: CertificateAuthority, *shards: Shard
    ) -> AuditLogProcess:
        """Implement the port."""
        self._shards = shards
        principals = {s.region: f"spiffe://example.org/server-{s.region}" for s in shards}
        # May do everything that NATS has, and is still no shard.
        admins = ["spiffe://example.org/nats-admin"]
        self.server = NatsServer.create(
            root / "nats", authority.issue("nats"), principals, admins=admins
        )
        await asyncio.to_thread(self.server.start)
        lines = ["[nats]", f'servers = ["{self.server.address}"]', f"max_bytes = {2**28}"]
        for region, principal in principals.items():
            lines += ["[[shards]]", f'region = "{region}"', 'transport = "nats"']
            lines += [f'principal = "{principal}"']
        process = AuditLogProcess.create(
            root / "home", authority.issue("audit-log"), {}, more=tuple(lines)
        )
        for shard in shards:
            assert isinstance(shard, NatsShard)
            await shard.publish_to(self.server.address, authority)
        return process

    async def close(self) -> None:
        """Implement the port."""
        for shard in self._shards:
            await shard.stop()
        if self.server is not None:
            self.server.kill()
