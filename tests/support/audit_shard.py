"""A shard's AuditService over real mTLS, which can be told to misbehave."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from typing import Any

import grpc
from tests.support.audit_certificates import CertificateAuthority
from tests.support.audit_records import record

from strongroom.audit.v1 import audit_record_pb2 as nouns
from strongroom.audit.v1 import audit_service_pb2 as messages
from strongroom.audit.v1 import audit_service_pb2_grpc
from strongroom.peers import principal_from_auth_context
from strongroom_auditlog.tls import CredentialFiles

__all__ = ["Shard", "message"]

Script = Callable[[messages.StreamRecordsRequest], Iterable[messages.StreamRecordsResponse]]


def message(
    region: str, epoch: int, sequence: int, records: Sequence[bytes]
) -> messages.StreamRecordsResponse:
    """Return a batch with any claim about its position."""
    first = nouns.RecordPosition(region=region, epoch=epoch, sequence=sequence)
    return messages.StreamRecordsResponse(batch=nouns.RecordBatch(first=first, records=records))


class Shard(audit_service_pb2_grpc.AuditServiceServicer):
    """A spool in memory, served. Honest unless `script` says what to stream instead."""

    def __init__(self, region: str = "eu-1", epoch: int = 5):
        self.region = region
        self.epoch = epoch
        self.records: list[bytes] = []
        self.acknowledged = 0
        self.acknowledgements: list[tuple[int, int]] = []
        self.requests: list[messages.StreamRecordsRequest] = []
        self.principals: set[str] = set()
        self.script: Script | None = None
        self.batch_records = 500
        self.cut_after: int | None = None
        """Break the stream after so many messages."""
        self._changed = asyncio.Event()
        self._server: grpc.aio.Server | None = None

    def add(self, count: int) -> None:
        """Write records."""
        start = len(self.records) + 1
        self.records += [record(self.region, self.epoch, start + i) for i in range(count)]
        self._changed.set()

    async def start(
        self, authority: CertificateAuthority, files: CredentialFiles, port: int = 0
    ) -> int:
        """Serve on loopback; return the port."""
        self._server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
        audit_service_pb2_grpc.add_AuditServiceServicer_to_server(self, self._server)
        bound = self._server.add_secure_port(
            f"127.0.0.1:{port}", authority.server_credentials(files)
        )
        await self._server.start()
        return bound

    async def stop(self) -> None:
        """Go away without a word."""
        if self._server is not None:
            await self._server.stop(None)

    async def StreamRecords(  # noqa: N802 - a gRPC method
        self, request: messages.StreamRecordsRequest, context: Any
    ) -> AsyncIterator[messages.StreamRecordsResponse]:
        self.principals.add(principal_from_auth_context(context.auth_context()))
        self.requests.append(request)
        if self.script is not None:
            for response in self.script(request):
                yield response
            await asyncio.Event().wait()
        start = request.from_sequence if request.epoch in (0, self.epoch) else 1
        sent = 0
        while True:
            while start <= len(self.records):
                records = self.records[start - 1 : start - 1 + self.batch_records]
                yield message(self.region, self.epoch, start, records)
                start += len(records)
                sent += 1
                if sent == self.cut_after:
                    await context.abort(grpc.StatusCode.UNAVAILABLE, "cut")
            self._changed.clear()
            await self._changed.wait()

    async def AcknowledgeRecords(  # noqa: N802
        self, request: messages.AcknowledgeRecordsRequest, context: Any
    ) -> messages.AcknowledgeRecordsResponse:
        del context
        self.acknowledgements.append((request.through.epoch, request.through.sequence))
        if request.through.epoch == self.epoch:
            self.acknowledged = max(self.acknowledged, request.through.sequence)
        return messages.AcknowledgeRecordsResponse()

    async def GetSpoolStatus(  # noqa: N802
        self, request: messages.GetSpoolStatusRequest, context: Any
    ) -> messages.GetSpoolStatusResponse:
        del request, context
        return messages.GetSpoolStatusResponse(
            epoch=self.epoch,
            last_sequence=len(self.records),
            acknowledged_sequence=self.acknowledged,
        )
