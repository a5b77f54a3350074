"""A shard whose records go through NATS: the real publisher, or a script of its own."""

from __future__ import annotations

import asyncio
import random
import secrets
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import structlog
from tests.support.audit_certificates import CertificateAuthority
from tests.support.audit_shard import Shard, message

from strongroom.audit.v1 import audit_service_pb2 as messages
from strongroom.jetstream.connection import JetStream
from strongroom.jetstream.endpoint import NatsEndpoint, ack_subject, batch_subject
from strongroom.jetstream.messages import Batch, open_acknowledgement, seal_batch
from strongroom_auditlog.tls import CredentialFiles
from strongroom_server.audit.nats_publisher import NatsPublisher, SigningFiles

__all__ = ["LOG", "NatsShard", "nats_endpoint"]

LOG = "spiffe://example.org/audit-log"


class SystemClock:
    """The machine's clocks."""

    def now(self) -> datetime:
        """Implement the port."""
        return datetime.now(UTC)

    def monotonic(self) -> float:
        """Implement the port."""
        return asyncio.get_running_loop().time()


def nats_endpoint(address: str, files: CredentialFiles) -> NatsEndpoint:
    """Return where a NATS server is, for whom `files` are."""
    return NatsEndpoint(
        servers=(address,),
        certificate=files.certificate,
        private_key=files.private_key,
        ca=files.ca,
        stream="STRONGROOM_AUDIT",
        replicas=1,
        max_bytes=2**28,
    )


class NatsShard(Shard):
    """A spool in memory, published. Honest unless `script` says what to publish instead.

    A script is called at first, and again whenever the log asks for records that are
    missing.
    """

    def __init__(self, region: str = "eu-1", epoch: int = 5):
        super().__init__(region, epoch)
        self.errors = 0
        self.publisher: NatsPublisher | None = None
        self._task: asyncio.Task[None] | None = None
        self._endpoint: NatsEndpoint | None = None
        self._signing: SigningFiles | None = None

    def files(self, authority: CertificateAuthority) -> CredentialFiles:
        """Return its certificate."""
        name = f"server-{self.region}"
        root = authority.directory
        if (root / f"{name}.pem").exists():
            return CredentialFiles(root / f"{name}.pem", root / f"{name}.key", root / "ca.pem")
        return authority.issue(name)

    async def publish_to(self, address: str, authority: CertificateAuthority) -> None:
        """Begin to publish."""
        files = self.files(authority)
        self._endpoint = nats_endpoint(address, files)
        self._signing = SigningFiles(files.certificate, files.private_key, files.ca)
        if self.script is not None:
            self._task = asyncio.create_task(self._run_script())
            return
        self.publisher = NatsPublisher(
            self.region,
            self,
            self._endpoint,
            self._signing,
            consumers=frozenset({LOG}),
            clock=SystemClock(),
            random=random.Random(1).random,  # noqa: S311 - spreads pauses
            on_error=self._count,
        )
        self.publisher.start()

    async def stop(self) -> None:
        """Go away without a word."""
        if self.publisher is not None:
            await self.publisher.close()
            self.publisher = None
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
            self._task = None

    # A spool, as the publisher sees it.

    @property
    def durable(self) -> NatsShard:
        """The records."""
        return self

    @property
    def last_sequence(self) -> int:
        """All of them are durable."""
        return len(self.records)

    @property
    def acknowledged_sequence(self) -> int:
        """Up to here."""
        return self.acknowledged

    async def wait_for(self, sequence: int) -> None:
        """Return when there is such a record."""
        while len(self.records) < sequence:
            self._changed.clear()
            await self._changed.wait()

    async def read(self, from_sequence: int, *, max_records: int, max_bytes: int) -> list[bytes]:
        """Return records, none that was acknowledged."""
        assert from_sequence > self.acknowledged
        found: list[bytes] = []
        for record in self.records[from_sequence - 1 :][: min(max_records, self.batch_records)]:
            max_bytes -= len(record)
            if found and max_bytes < 0:
                break
            found.append(record)
        return found

    async def acknowledge(self, sequence: int) -> None:
        """Note it; it must not run ahead, nor back."""
        assert self.acknowledged < sequence <= len(self.records)
        self.acknowledged = sequence
        self.acknowledgements.append((self.epoch, sequence))

    # A script.

    def _count(self) -> None:
        self.errors += 1

    async def _run_script(self) -> None:
        while True:
            try:
                await self._publish_script()
            except Exception:  # noqa: BLE001 - whatever ended it, the shard comes back
                structlog.get_logger().exception("script")
                await asyncio.sleep(0.1)

    async def _publish_script(self) -> None:
        assert self._signing is not None
        assert self._endpoint is not None
        identity, verifier = self._signing.load()
        wanted: asyncio.Queue[int] = asyncio.Queue()

        async def hear(data: bytes) -> None:
            _, what = open_acknowledgement(data, verifier, now=datetime.now(UTC))
            if what.epoch == self.epoch and what.sequence > self.acknowledged:
                await self.acknowledge(what.sequence)
            if what.wanted:
                wanted.put_nowait(what.wanted)

        async with JetStream.open(self._endpoint, name=f"shard-{self.region}") as connection:
            await connection.listen(ack_subject(self.region), hear)
            start = self.acknowledged + 1
            while True:
                await self._publish_responses(connection, identity, start)
                start = await wanted.get()

    def _honest(
        self, request: messages.StreamRecordsRequest
    ) -> Iterator[messages.StreamRecordsResponse]:
        for first in range(request.from_sequence, len(self.records) + 1, 500):
            yield message(self.region, self.epoch, first, self.records[first - 1 : first + 499])

    async def _publish_responses(self, connection: JetStream, identity: Any, start: int) -> None:
        request = messages.StreamRecordsRequest(region=self.region, from_sequence=start)
        self.requests.append(request)
        for response in (self.script or self._honest)(request):
            first = response.batch.first
            batch = Batch(
                first.region, first.epoch, first.sequence, 0, tuple(response.batch.records)
            )
            await connection.publish(
                batch_subject(self.region), seal_batch(batch, identity), secrets.token_hex(8)
            )
