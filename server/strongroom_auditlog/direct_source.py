"""The records of a shard from the shard itself, over gRPC.

    connect -> GetSpoolStatus -> StreamRecords from the next sequence -> intake
            <- AcknowledgeRecords <------------------------------------- covered

An acknowledgement that is lost is sent again on the next connection. HTTP/2 holds the
shard back while the intake has no room.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Final

import grpc
import structlog

from strongroom.audit.v1 import audit_record_pb2, audit_service_pb2, audit_service_pb2_grpc
from strongroom_auditlog.errors import StartRefusedError
from strongroom_auditlog.intake import ShardIntake, SourceLostError
from strongroom_auditlog.records import Position
from strongroom_auditlog.sequencer import SpoolStatus
from strongroom_auditlog.tls import CredentialFiles, channel_credentials, pin_peer

__all__ = ["DirectSource", "ShardEndpoint"]

CALL_SECONDS: Final = 10.0
MAX_MESSAGE_BYTES: Final = 16 * 2**20

_log = structlog.stdlib.get_logger("strongroom.auditlog.ingest")


@dataclass(frozen=True, slots=True)
class ShardEndpoint:
    """Where a shard is, and who it must be."""

    region: str
    endpoint: str
    server_name: str | None
    principal: str | None = None

    def options(self) -> list[tuple[str, int | str]]:
        """Return the channel's options."""
        options: list[tuple[str, int | str]] = [
            ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
            # A shard that vanished without a word is noticed after 50 s.
            ("grpc.keepalive_time_ms", 30_000),
            ("grpc.keepalive_timeout_ms", 20_000),
            ("grpc.enable_http_proxy", 0),
        ]
        if self.server_name is not None:
            options.append(("grpc.ssl_target_name_override", self.server_name))
        return options


class DirectSource:
    """Implements `Source`."""

    def __init__(self, shard: ShardEndpoint, tls: CredentialFiles):
        self._shard = shard
        self._tls = tls
        self._logger = _log.bind(region=shard.region)

    async def run_session(self, intake: ShardIntake) -> None:
        """Implement the port."""
        try:
            credentials = await asyncio.to_thread(self._credentials)
            async with grpc.aio.secure_channel(
                self._shard.endpoint, credentials, options=self._shard.options()
            ) as channel:
                await self._run(audit_service_pb2_grpc.AuditServiceStub(channel), intake)
        except grpc.aio.AioRpcError as exc:
            raise SourceLostError(f"{exc.code().name}: {exc.details()}") from exc
        except StartRefusedError as exc:  # TLS files that are being replaced
            raise SourceLostError(str(exc)) from exc

    def _credentials(self) -> grpc.ChannelCredentials:
        shard = self._shard
        if shard.principal is None:
            return channel_credentials(self._tls)
        # gRPC compares the host's name, and shows nobody the certificate. So one
        # connection looks who is there, and the next takes nobody but that certificate.
        root = pin_peer(
            shard.endpoint,
            self._tls,
            server_name=shard.server_name,
            principal=shard.principal,
        )
        return channel_credentials(self._tls, root=root)

    async def _run(
        self, stub: audit_service_pb2_grpc.AuditServiceAsyncStub, intake: ShardIntake
    ) -> None:
        """One connection: read and acknowledge until either fails."""
        status = await stub.GetSpoolStatus(
            audit_service_pb2.GetSpoolStatusRequest(region=self._shard.region),
            timeout=CALL_SECONDS,
        )
        intake.check_status(
            SpoolStatus(status.epoch, status.last_sequence, status.acknowledged_sequence)
        )
        self._logger.info("connected", epoch=status.epoch, next_sequence=intake.expected[1])
        tasks = {
            asyncio.create_task(self._read(stub, intake)),
            asyncio.create_task(self._acknowledge(stub, intake, status.epoch)),
        }
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        for task in done:
            task.result()

    async def _read(
        self, stub: audit_service_pb2_grpc.AuditServiceAsyncStub, intake: ShardIntake
    ) -> None:
        epoch, following = intake.expected
        request = audit_service_pb2.StreamRecordsRequest(
            region=self._shard.region, epoch=epoch, from_sequence=following
        )
        async for response in stub.StreamRecords(request):
            first = response.batch.first
            await intake.take(
                Position(first.region, first.epoch, first.sequence), list(response.batch.records)
            )
            await intake.has_room()

    async def _acknowledge(
        self,
        stub: audit_service_pb2_grpc.AuditServiceAsyncStub,
        intake: ShardIntake,
        epoch: int,
    ) -> None:
        """Acknowledge what checkpoints cover; at first what earlier sessions left."""
        sent: Position | None = None
        while True:
            covered = intake.covered
            if covered is not None and covered != sent and covered.epoch == epoch:
                await stub.AcknowledgeRecords(
                    audit_service_pb2.AcknowledgeRecordsRequest(
                        through=audit_record_pb2.RecordPosition(
                            region=covered.region, epoch=covered.epoch, sequence=covered.sequence
                        )
                    ),
                    timeout=CALL_SECONDS,
                )
                sent = covered
                continue
            await intake.progress()
