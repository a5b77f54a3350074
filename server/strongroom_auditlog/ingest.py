"""Brings the records of one shard into the log, for ever.

    connect -> GetSpoolStatus -> StreamRecords from the next sequence
                                   -> Sequencer -> Committer -> checkpoint
            <- AcknowledgeRecords <------------------------------'

The shard delivers at least once; the sequencer and the positions in the state make it
exactly once. An acknowledgement that is lost is sent again on the next connection. A
connection that breaks is made again after a jittered, growing pause.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Final

import grpc
import structlog

from strongroom.audit.v1 import audit_record_pb2, audit_service_pb2, audit_service_pb2_grpc
from strongroom.tlog.errors import VerificationError
from strongroom_auditlog.committer import Committer
from strongroom_auditlog.errors import StartRefusedError
from strongroom_auditlog.log import AuditLog
from strongroom_auditlog.metrics import ErrorKind, Metrics
from strongroom_auditlog.records import Position
from strongroom_auditlog.sequencer import Sequencer, ShardStoppedError, SpoolStatus
from strongroom_auditlog.tls import CredentialFiles, channel_credentials

__all__ = ["ShardEndpoint", "ShardIngest"]

CALL_SECONDS: Final = 10.0
MAX_MESSAGE_BYTES: Final = 16 * 2**20
MAX_RECORDS_IN_FLIGHT: Final = 32_768  # then the stream is not read: HTTP/2 holds the shard back
MAX_BYTES_IN_FLIGHT: Final = 64 * 2**20  # the same, for large records
MAX_RECORDS_INLINE: Final = 512
MIN_PAUSE_SECONDS: Final = 0.1
MAX_PAUSE_SECONDS: Final = 5.0
SETTLED_SECONDS: Final = 10.0  # a session that lasted this long begins a new row of pauses

_log = structlog.stdlib.get_logger("strongroom.auditlog.ingest")


@dataclass(frozen=True, slots=True)
class ShardEndpoint:
    """Where a shard is."""

    region: str
    endpoint: str
    server_name: str | None

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


class ShardIngest:
    """The ingestion of one shard. Owned by one event loop."""

    def __init__(
        self,
        shard: ShardEndpoint,
        *,
        tls: CredentialFiles,
        log: AuditLog,
        committer: Committer,
        metrics: Metrics,
        random: Callable[[], float],
    ):
        """Take what is needed; `random` returns numbers in [0, 1) and spreads the pauses."""
        self._shard = shard
        self._tls = tls
        self._audit_log = log
        self._committer = committer
        self._metrics = metrics
        self._random = random
        known = log.next_position(shard.region)
        self._sequencer = Sequencer(shard.region, known)
        # Position of the last record that a published checkpoint covers.
        self._covered = known and Position(shard.region, known[0], known[1] - 1)
        self._in_flight = 0  # records given to the committer and not covered yet
        self._bytes_in_flight = 0
        self._progress = asyncio.Event()  # something was covered, or repeated
        self.stopped: ShardStoppedError | None = None
        """Why the shard was stopped; None while it runs."""
        self._logger = _log.bind(region=shard.region)

    async def run(self) -> None:
        """Ingest until the shard has to be stopped; then return.

        Raises:
            VerificationError: The log's own files are damaged.
        """
        loop = asyncio.get_running_loop()
        failures = 0
        while True:
            began = loop.time()
            try:
                await self._session()
                reason = "the shard ended the stream"
            except ShardStoppedError as exc:
                self._stop(exc)
                return
            except grpc.aio.AioRpcError as exc:
                reason = f"{exc.code().name}: {exc.details()}"
            except StartRefusedError as exc:
                reason = str(exc)  # TLS files that are being replaced
            failures = 1 if loop.time() - began > SETTLED_SECONDS else failures + 1
            self._metrics.error(self._shard.region, ErrorKind.RPC)
            # Full jitter: many consumers of a shard that returns do not come all at once.
            ceiling = min(MAX_PAUSE_SECONDS, MIN_PAUSE_SECONDS * 2.0 ** min(failures, 10))
            pause = MIN_PAUSE_SECONDS + self._random() * (ceiling - MIN_PAUSE_SECONDS)
            self._logger.warning("connecting again", reason=reason, pause_seconds=round(pause, 3))
            await asyncio.sleep(pause)

    def _stop(self, reason: ShardStoppedError) -> None:
        self.stopped = reason
        self._metrics.error(self._shard.region, reason.kind)
        self._metrics.stopped[self._shard.region].set(1)
        self._logger.error(
            "ingestion of the shard stopped; nothing of it enters the log until this is "
            "cleared up and the audit log is started again",
            kind=reason.kind.value,
            error=str(reason),
        )

    async def _session(self) -> None:
        """One connection: read and acknowledge until either fails."""
        credentials = await asyncio.to_thread(channel_credentials, self._tls)
        async with grpc.aio.secure_channel(
            self._shard.endpoint, credentials, options=self._shard.options()
        ) as channel:
            stub = audit_service_pb2_grpc.AuditServiceStub(channel)
            status = await stub.GetSpoolStatus(
                audit_service_pb2.GetSpoolStatusRequest(region=self._shard.region),
                timeout=CALL_SECONDS,
            )
            self._check_status(status)
            self._logger.info(
                "connected", epoch=status.epoch, next_sequence=self._sequencer.expected[1]
            )
            tasks = {
                asyncio.create_task(self._read(stub)),
                asyncio.create_task(self._acknowledge(stub, status.epoch)),
            }
            try:
                done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
            for task in done:
                task.result()

    def _check_status(self, response: audit_service_pb2.GetSpoolStatusResponse) -> None:
        status = SpoolStatus(response.epoch, response.last_sequence, response.acknowledged_sequence)
        known_epoch = self._sequencer.expected[0]
        if self._sequencer.check_status(status) and known_epoch:
            self._logger.warning(
                "the shard has a new spool; its records begin anew at sequence 1",
                old_epoch=known_epoch,
                new_epoch=status.epoch,
            )

    async def _read(self, stub: audit_service_pb2_grpc.AuditServiceAsyncStub) -> None:
        epoch, following = self._sequencer.expected
        request = audit_service_pb2.StreamRecordsRequest(
            region=self._shard.region, epoch=epoch, from_sequence=following
        )
        async for response in stub.StreamRecords(request):
            await self._take(response.batch)
            while (
                self._in_flight > MAX_RECORDS_IN_FLIGHT
                or self._bytes_in_flight > MAX_BYTES_IN_FLIGHT
            ):
                self._progress.clear()
                await self._progress.wait()

    async def _take(self, batch: audit_record_pb2.RecordBatch) -> None:
        first = Position(batch.first.region, batch.first.epoch, batch.first.sequence)
        epoch, following = self._sequencer.expected
        is_repeat = first.epoch == epoch and first.sequence < following
        while is_repeat and self._in_flight:
            # Repeats are compared with the log, so what they repeat has to be in it.
            self._progress.clear()
            await self._progress.wait()
        records = list(batch.records)
        take = partial(self._sequencer.take, first, records, holds=self._audit_log.holds)
        try:
            # Repeats are looked up in files, and many records take milliseconds to parse.
            # Nobody else uses the sequencer meanwhile: this stream is read by one task.
            is_long = is_repeat or len(records) > MAX_RECORDS_INLINE
            taken = await asyncio.to_thread(take) if is_long else take()
        except VerificationError as exc:
            raise ShardStoppedError(
                ErrorKind.CONFLICT, f"a repeat cannot be compared, the log is damaged: {exc}"
            ) from exc
        if taken is None:
            self._logger.info("records repeated", first=str(first), records=len(records))
            self._progress.set()
            return
        last = taken.first._replace(sequence=taken.first.sequence + len(taken.records) - 1)
        size_bytes = sum(map(len, taken.records))
        self._in_flight += len(taken.records)
        self._bytes_in_flight += size_bytes
        done = self._committer.submit(taken)

        def cover(future: asyncio.Future[None], last: Position = last) -> None:
            self._in_flight -= len(taken.records)
            self._bytes_in_flight -= size_bytes
            if not future.cancelled() and future.exception() is None:
                self._covered = last
                self._progress.set()

        done.add_done_callback(cover)

    async def _acknowledge(
        self, stub: audit_service_pb2_grpc.AuditServiceAsyncStub, epoch: int
    ) -> None:
        """Acknowledge what checkpoints cover; at first what earlier sessions left."""
        sent: Position | None = None
        while True:
            covered = self._covered
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
            self._progress.clear()
            await self._progress.wait()
