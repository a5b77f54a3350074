"""One connection of a shard's publisher: what it has sent, and what it was told.

Owned by the publisher's task; docs/formats/audit-nats-v1.md says why each step is safe.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from typing import Final, Protocol

import structlog

from strongroom.jetstream.connection import JetStream
from strongroom.jetstream.endpoint import NatsError, ack_subject, batch_subject
from strongroom.jetstream.identity import ChainVerifier, SignatureInvalidError, SigningIdentity
from strongroom.jetstream.messages import (
    MAX_BATCH_RECORDS,
    MAX_MESSAGE_BYTES,
    MAX_RECORD_BYTES,
    RECORD_OVERHEAD_BYTES,
    Acknowledgement,
    Batch,
    MessageInvalidError,
    open_acknowledgement,
    open_batch,
    seal_batch,
)
from strongroom_server.ports import Clock

__all__ = ["PublishedSpool", "PublishingSession", "SpoolRolledBackError"]

LOOK_SECONDS: Final = 5.0  # an acknowledgement that was not heard is found within this
REWIND_SECONDS: Final = 1.0  # between two times that the log has records sent again
MIN_PROBE_SECONDS: Final = 10.0
MAX_PROBE_SECONDS: Final = 300.0
#: Around the records: certificates, positions, signature, and NATS's own headers.
ENVELOPE_BYTES: Final = 2048

_log = structlog.get_logger(__name__)


class SpoolRolledBackError(Exception):
    """The audit log has records that this spool never had: it was restored from a backup."""


class PublishedRecords(Protocol):
    """The durable records of a spool."""

    @property
    def last_sequence(self) -> int:
        """Of the newest record; 0 before the first."""
        ...

    @property
    def acknowledged_sequence(self) -> int:
        """Everything up to here is in a published checkpoint."""
        ...

    async def wait_for(self, sequence: int) -> None:
        """Return when the record of `sequence` is durable."""
        ...

    async def read(self, from_sequence: int, *, max_records: int, max_bytes: int) -> list[bytes]:
        """Return consecutive durable records from `from_sequence` on."""
        ...

    async def acknowledge(self, sequence: int) -> None:
        """Note durably that everything up to `sequence` is in a published checkpoint."""
        ...


class PublishedSpool(Protocol):
    """A shard's spool. Used from the event loop."""

    @property
    def epoch(self) -> int:
        """When the spool was created, milliseconds since 1970."""
        ...

    @property
    def durable(self) -> PublishedRecords:
        """The records that can be published and acknowledged."""
        ...


class PublishingSession:
    """What one connection has published and heard."""

    def __init__(
        self,
        region: str,
        spool: PublishedSpool,
        connection: JetStream,
        identity: SigningIdentity,
        verifier: ChainVerifier,
        *,
        ack_stream: str,
        consumers: frozenset[str],
        clock: Clock,
    ):
        self._region = region
        self._epoch = spool.epoch
        self._durable = spool.durable
        self._connection = connection
        self._identity = identity
        self._verifier = verifier
        self._ack_stream = ack_stream
        self._consumers = consumers
        self._clock = clock
        room = min(connection.max_message_bytes, MAX_MESSAGE_BYTES)
        room -= ENVELOPE_BYTES + sum(map(len, identity.chain))
        self._max_records = min(MAX_BATCH_RECORDS, room // (2 * RECORD_OVERHEAD_BYTES))
        self._max_bytes = room - RECORD_OVERHEAD_BYTES * self._max_records
        if self._max_bytes < MAX_RECORD_BYTES:
            raise NatsError(
                f"the server takes messages of {connection.max_message_bytes} bytes, the longest "
                "record needs 128 KiB: raise its max_payload to 1 MiB"
            )
        #: Sequence of the next record to be published.
        self._cursor = self._durable.acknowledged_sequence + 1
        #: Set when it was put back.
        self._rewound = asyncio.Event()
        #: Goes into message ids of records that are sent once more.
        self._salt = ""
        self._salted_through = 0
        #: When something was published or acknowledged last, and how long to wait from then.
        self._progress = clock.monotonic()
        self._probe_seconds = MIN_PROBE_SECONDS
        self._heard: bytes | None = None
        self._news = asyncio.Event()
        self._wanted_time_ms = 0
        self._rewound_at = -REWIND_SECONDS
        self._logger = _log.bind(region=region)

    async def find_start(self, stream: str) -> None:
        """Begin behind what the stream has of this spool; the log asks for what it lacks."""
        last = await self._connection.last(stream, batch_subject(self._region))
        if last is None:
            return
        try:
            principal, batch = open_batch(last, self._verifier, now=self._clock.now())
        except (MessageInvalidError, SignatureInvalidError):
            return
        if (principal, batch.region, batch.epoch) == (
            self._identity.principal,
            self._region,
            self._epoch,
        ) and self._cursor <= batch.last <= self._durable.last_sequence:
            self._cursor = batch.last + 1

    async def publish(self) -> None:
        """Publish from the cursor on, for ever."""
        while True:
            # Acknowledged records may be gone: what they covered is in the log.
            self._cursor = max(self._cursor, self._durable.acknowledged_sequence + 1)
            start = self._cursor
            if start > self._durable.last_sequence:
                await self._wait_for_more(start)
                continue
            records = await self._durable.read(
                start, max_records=self._max_records, max_bytes=self._max_bytes
            )
            await self._send(start, records)
            self._progress = self._clock.monotonic()
            if self._cursor == start:  # else it was put back meanwhile
                self._cursor = start + len(records)

    async def hear(self, message: bytes) -> None:
        """Note an acknowledgement; only the newest counts, for it covers the others."""
        self._heard = message
        self._news.set()

    async def take_acknowledgements(self) -> None:
        """Act on acknowledgements, for ever."""
        done: bytes | None = None
        while True:
            self._heard = self._heard or await self._connection.last(
                self._ack_stream, ack_subject(self._region)
            )
            message, self._heard = self._heard, None
            if message is not None and message != done:
                await self._take(message)
                done = message
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOK_SECONDS):
                    await self._news.wait()
            self._news.clear()

    async def _wait_for_more(self, start: int) -> None:
        """Wait for a record, for the cursor to be put back, or send the last one again."""
        self._rewound.clear()
        waits = [
            asyncio.ensure_future(self._durable.wait_for(start)),
            asyncio.ensure_future(self._rewound.wait()),
        ]
        try:
            done, _ = await asyncio.wait(
                waits, timeout=self._probe_seconds, return_when=asyncio.FIRST_COMPLETED
            )
        finally:
            for wait in waits:
                wait.cancel()
        if not done:
            await self._probe()

    async def _probe(self) -> None:
        """Send the last record again when nothing was acknowledged for long.

        What was published may be lost, and the log cannot miss what it has never heard of.
        """
        durable = self._durable
        idle = self._clock.monotonic() - self._progress
        if durable.acknowledged_sequence == durable.last_sequence or idle < self._probe_seconds:
            return
        self._probe_seconds = min(2 * self._probe_seconds, MAX_PROBE_SECONDS)
        last = durable.last_sequence
        self._salt_through(last)
        records = await durable.read(last, max_records=1, max_bytes=self._max_bytes)
        await self._send(last, records)

    async def _send(self, first: int, records: list[bytes]) -> None:
        batch = Batch(
            self._region,
            self._epoch,
            first,
            self._durable.acknowledged_sequence,
            tuple(records),
        )
        message_id = f"{self._region}:{self._epoch}:{batch.first}-{batch.last}"
        if first <= self._salted_through:
            message_id += f"~{self._salt}"
        message = seal_batch(batch, self._identity)
        await self._connection.publish(batch_subject(self._region), message, message_id)

    async def _take(self, message: bytes) -> None:
        """Act on an acknowledgement, if it is the audit log's."""
        try:
            principal, what = open_acknowledgement(message, self._verifier, now=self._clock.now())
        except (MessageInvalidError, SignatureInvalidError) as exc:
            problem = str(exc)
        else:
            if principal in self._consumers and what.region == self._region:
                await self._obey(what)
                return
            problem = f"signed by {principal}, of region {what.region}"
        self._logger.warning("audit_acknowledgement_refused", problem=problem)

    async def _obey(self, what: Acknowledgement) -> None:
        durable = self._durable
        if what.epoch != self._epoch:
            if what.epoch > self._epoch:
                raise SpoolRolledBackError(
                    f"the audit log is at epoch {what.epoch}, this spool is of {self._epoch}: an "
                    "older spool was restored; move it away once its records are in the log"
                )
            return
        if what.sequence > durable.last_sequence:
            raise SpoolRolledBackError(
                f"the audit log has records up to {what.sequence}, this spool ends at "
                f"{durable.last_sequence}: an older spool was restored; move it away"
            )
        if what.sequence > durable.acknowledged_sequence:
            await durable.acknowledge(what.sequence)
            self._progress = self._clock.monotonic()
            self._probe_seconds = MIN_PROBE_SECONDS
        now = self._clock.monotonic()
        if (
            what.time_ms > self._wanted_time_ms  # an old message, replayed, has no effect
            and what.sequence < what.wanted < self._cursor
            and now >= self._rewound_at + REWIND_SECONDS
        ):
            self._wanted_time_ms = what.time_ms
            self._rewound_at = now
            self._logger.warning("audit_records_sent_again", wanted=what.wanted)
            self._salt_through(self._cursor - 1)
            self._cursor = what.wanted
            self._rewound.set()

    def _salt_through(self, sequence: int) -> None:
        """Give what is sent again other message ids, or JetStream drops it as a duplicate."""
        self._salt = secrets.token_hex(4)
        self._salted_through = max(self._salted_through, sequence)
