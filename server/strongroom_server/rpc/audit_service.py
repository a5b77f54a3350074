"""AuditService: hands a shard's spooled records to the audit log."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from datetime import datetime
from typing import Final, Protocol

from google.protobuf import timestamp_pb2

from strongroom.audit.v1 import audit_record_pb2 as nouns
from strongroom.audit.v1 import audit_service_pb2 as messages
from strongroom_server.errors import (
    ArgumentInvalidError,
    PolicyDeniedError,
    WrongRegionError,
)
from strongroom_server.rpc.call import Call

__all__ = ["METHODS", "SERVICE", "AuditService", "RecordSource"]

SERVICE = "strongroom.audit.v1.AuditService"
METHODS = tuple(messages.DESCRIPTOR.services_by_name["AuditService"].methods_by_name)

MAX_BATCH_RECORDS: Final = 4096
MAX_BATCH_BYTES: Final = 4 * 2**20


class DurableRecords(Protocol):
    """The durable records of a spool."""

    last_sequence: int
    acknowledged_sequence: int

    async def wait_for(self, sequence: int) -> None:
        """Return when the record of `sequence` is durable."""
        ...

    async def read(self, from_sequence: int, *, max_records: int, max_bytes: int) -> list[bytes]:
        """Return consecutive durable records from `from_sequence` on."""
        ...

    async def acknowledge(self, sequence: int) -> None:
        """Note durably that everything up to `sequence` is in a signed checkpoint."""
        ...


class SpoolStatus(Protocol):
    """How full a spool is."""

    @property
    def spool_bytes(self) -> int:
        """Bytes on disk."""
        ...

    @property
    def limit_bytes(self) -> int:
        """At this many unacknowledged bytes the shard refuses calls."""
        ...

    @property
    def oldest_unacknowledged_time(self) -> datetime | None:
        """When the oldest unacknowledged record was written."""
        ...


class RecordSource(Protocol):
    """A shard's spool, as its consumer sees it. Used from the event loop."""

    @property
    def epoch(self) -> int:
        """When the spool was created, milliseconds since 1970."""
        ...

    @property
    def durable(self) -> DurableRecords:
        """The records that can be streamed and acknowledged."""
        ...

    def status(self) -> SpoolStatus:
        """Return figures."""
        ...


class AuditService:
    """The gRPC skin over the spools of the hosted shards."""

    def __init__(self, *, sources: Mapping[str, RecordSource], consumers: frozenset[str]) -> None:
        """Take the spools by region, and the principals that may read them."""
        self._sources = sources
        self._consumers = consumers
        self._draining: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def end_streams(self) -> None:
        """End every stream once it has sent what is durable: it would never end by itself.

        What becomes durable later stays in the spool until the consumer asks again.
        """
        if not self._draining.done():
            self._draining.set_result(None)

    async def StreamRecords(  # noqa: N802 - the names of gRPC methods
        self, request: messages.StreamRecordsRequest, call: Call
    ) -> None:
        source = self._source(request.region, call)
        durable = source.durable
        start = request.from_sequence or durable.acknowledged_sequence + 1
        if request.epoch not in (0, source.epoch):
            start = 1  # the consumer knows another spool; this one begins here
        oldest, newest = durable.acknowledged_sequence + 1, durable.last_sequence
        if not oldest <= start <= newest + 1:
            raise ArgumentInvalidError.of(
                "from_sequence", "spool.sequence", f"the spool holds {oldest} to {newest}"
            )
        while True:
            if not await self._has_record(durable, start):
                return
            records = await durable.read(
                start, max_records=MAX_BATCH_RECORDS, max_bytes=MAX_BATCH_BYTES
            )
            first = nouns.RecordPosition(region=request.region, epoch=source.epoch, sequence=start)
            batch = nouns.RecordBatch(first=first, records=records)
            await call.context.write(messages.StreamRecordsResponse(batch=batch))
            start += len(records)

    async def AcknowledgeRecords(  # noqa: N802
        self, request: messages.AcknowledgeRecordsRequest, call: Call
    ) -> messages.AcknowledgeRecordsResponse:
        through = request.through
        source = self._source(through.region, call)
        last = source.durable.last_sequence
        if through.epoch != source.epoch or through.sequence > last:
            raise ArgumentInvalidError.of(
                "through",
                "spool.position",
                f"the spool has epoch {source.epoch} and {last} records",
            )
        await source.durable.acknowledge(through.sequence)
        return messages.AcknowledgeRecordsResponse()

    async def GetSpoolStatus(  # noqa: N802
        self, request: messages.GetSpoolStatusRequest, call: Call
    ) -> messages.GetSpoolStatusResponse:
        source = self._source(request.region, call)
        status = source.status()
        response = messages.GetSpoolStatusResponse(
            epoch=source.epoch,
            last_sequence=source.durable.last_sequence,
            acknowledged_sequence=source.durable.acknowledged_sequence,
            spool_bytes=status.spool_bytes,
            limit_bytes=status.limit_bytes,
        )
        oldest = status.oldest_unacknowledged_time
        if oldest is not None:
            time = timestamp_pb2.Timestamp()
            time.FromDatetime(oldest)
            response.oldest_unacknowledged_time.CopyFrom(time)
        return response

    async def _has_record(self, durable: DurableRecords, sequence: int) -> bool:
        """Wait for a record; return False when the streams end before there is one."""
        if durable.last_sequence >= sequence:
            return True
        waiting = asyncio.ensure_future(durable.wait_for(sequence))
        try:
            await asyncio.wait((waiting, self._draining), return_when=asyncio.FIRST_COMPLETED)
            return waiting.done()
        finally:
            waiting.cancel()

    def _source(self, region: str, call: Call) -> RecordSource:
        if call.principal not in self._consumers:
            raise PolicyDeniedError(call.method, f"regions/{region}")
        source = self._sources.get(region)
        if source is None:
            raise WrongRegionError(region, tuple(self._sources))
        return source
