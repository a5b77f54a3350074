"""The records of a shard through NATS JetStream (docs/formats/audit-nats-v1.md).

    consumer -> open_batch: signed by the shard? -> judged -> intake
    acknowledgements, signed  <---------------------------- covered, wanted
    done / drop to JetStream  <---------------------------'

NATS is not trusted. What the shard did not sign is dropped, for anybody may have written
it; what it did sign is judged as if it came from the shard itself, but for gaps: NATS may
have lost what is missing, so it is asked for.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

import structlog

from strongroom.jetstream.connection import Delivery, JetStream
from strongroom.jetstream.endpoint import NatsEndpoint, NatsError, ack_subject
from strongroom.jetstream.identity import (
    ChainVerifier,
    IdentityError,
    SignatureInvalidError,
    SigningIdentity,
)
from strongroom.jetstream.messages import (
    MAX_NUMBER,
    Acknowledgement,
    Batch,
    MessageInvalidError,
    open_batch,
    seal_acknowledgement,
)
from strongroom_auditlog.errors import StartRefusedError
from strongroom_auditlog.intake import ShardIntake, SourceLostError
from strongroom_auditlog.metrics import ErrorKind
from strongroom_auditlog.records import Position
from strongroom_auditlog.sequencer import ShardStoppedError, SpoolStatus
from strongroom_auditlog.tls import CredentialFiles

__all__ = ["NatsSource"]

CONNECTION_NAME: Final = "audit-log"
ASK_AGAIN_SECONDS: Final = 2.0

_log = structlog.stdlib.get_logger("strongroom.auditlog.ingest")


class NatsSource:
    """Implements `Source`. Owned by one event loop."""

    def __init__(
        self,
        region: str,
        principal: str,
        endpoint: NatsEndpoint,
        tls: CredentialFiles,
        *,
        wall_clock: Callable[[], float],
    ):
        """Take what is needed.

        Args:
            region: The shard's.
            principal: Who has to have signed its batches.
            endpoint: Where NATS is.
            tls: Signs acknowledgements; its CA is the one of the shards.
            wall_clock: Seconds since 1970.
        """
        self._region = region
        self._principal = principal
        self._endpoint = endpoint
        self._tls = tls
        self._wall_clock = wall_clock

    async def run_session(self, intake: ShardIntake) -> None:
        """Implement the port."""
        try:
            identity, verifier = await asyncio.to_thread(self._load)
            async with JetStream.open(self._endpoint, name=CONNECTION_NAME) as connection:
                batches = await connection.consume(self._region)
                session = _Session(
                    intake,
                    connection,
                    identity,
                    verifier,
                    principal=self._principal,
                    wall_clock=self._wall_clock,
                )
                await connection.run(session.read(batches), session.settle(), session.acknowledge())
        except (NatsError, IdentityError, StartRefusedError) as exc:
            raise SourceLostError(str(exc)) from exc

    def _load(self) -> tuple[SigningIdentity, ChainVerifier]:
        pem = self._tls.load()
        return SigningIdentity.from_pem(pem.chain, pem.key), ChainVerifier(pem.ca)


@dataclass(frozen=True, slots=True)
class _Missing:
    """Records that were asked for."""

    epoch: int
    sequence: int
    asked: float  # when, by the loop's clock


class _Session:
    """One connection's reading and acknowledging."""

    def __init__(
        self,
        intake: ShardIntake,
        connection: JetStream,
        identity: SigningIdentity,
        verifier: ChainVerifier,
        *,
        principal: str,
        wall_clock: Callable[[], float],
    ):
        self._intake = intake
        self._connection = connection
        self._identity = identity
        self._verifier = verifier
        self._principal = principal
        self._wall_clock = wall_clock
        self._loop = asyncio.get_running_loop()
        self._missing: _Missing | None = None
        self._unsettled: asyncio.Queue[tuple[Delivery, asyncio.Future[None]]] = asyncio.Queue()
        self._logger = _log.bind(region=intake.region)

    async def read(self, batches: asyncio.Queue[Delivery]) -> None:
        """Judge and take batches, in the order in which they come.

        JetStream sends at most 64 that are not settled, so the queues are bounded.
        """
        self._logger.info("connected", next_sequence=self._intake.expected[1])
        while True:
            delivery = await batches.get()
            try:
                done = await self._take(delivery.data)
            except ShardStoppedError:
                # The shard can send it again, and nobody can take it out of the stream.
                await delivery.drop()
                raise
            if done is None:
                await delivery.drop()
            else:
                self._unsettled.put_nowait((delivery, done))
            await self._intake.has_room()

    async def settle(self) -> None:
        """Have JetStream forget what is covered, in the order of the batches."""
        while True:
            delivery, done = await self._unsettled.get()
            await asyncio.wait([done])
            if done.cancelled() or done.exception() is not None:
                return  # the process is ending; the batch comes again
            await delivery.done()

    async def acknowledge(self) -> None:
        """Tell the shard what is covered, at first what earlier sessions left; ask again."""
        sent: Position | None = None
        while True:
            covered = self._intake.covered
            if covered is not None and covered != sent:
                await self._send(covered.epoch, covered.sequence, 0)
                sent = covered
                continue
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(ASK_AGAIN_SECONDS):
                    await self._intake.progress()
            missing = self._missing
            if missing is not None and self._may_ask(missing):
                await self._ask(missing.epoch, missing.sequence)

    async def _take(self, data: bytes) -> asyncio.Future[None] | None:
        """Take a batch; None when it is to be dropped."""
        batch = self._open(data)
        if batch is None:
            return None
        first = Position(batch.region, batch.epoch, batch.first)
        epoch, following = self._intake.expected
        if batch.epoch < epoch:
            if await self._intake.has(first, batch.records):
                return None  # of an older spool, and in the log
        else:
            self._intake.check_status(SpoolStatus(batch.epoch, MAX_NUMBER, batch.acknowledged))
            if batch.first > (following if batch.epoch == epoch else 1):
                await self._refuse_early(batch)
                return None
        done = await self._intake.take(first, batch.records)
        if self._missing is not None and self._is_there(self._missing):
            self._missing = None
        return done

    def _open(self, data: bytes) -> Batch | None:
        """Return the batch when it is the shard's."""
        try:
            principal, batch = open_batch(
                data, self._verifier, now=datetime.fromtimestamp(self._wall_clock(), UTC)
            )
        except (MessageInvalidError, SignatureInvalidError) as exc:
            problem = str(exc)
        else:
            if principal == self._principal and batch.region == self._intake.region:
                return batch
            problem = f"signed by {principal}, of region {batch.region}"
        self._intake.count(ErrorKind.IMPOSTOR)
        self._logger.warning("a message that is not the shard's was dropped", problem=problem)
        return None

    async def _refuse_early(self, batch: Batch) -> None:
        """Ask for what is missing before `batch`, once in a while."""
        self._intake.count(ErrorKind.MISSING)
        epoch, following = self._intake.expected
        wanted = following if batch.epoch == epoch else 1
        missing = self._missing
        if (
            missing is not None
            and (missing.epoch, missing.sequence) == (batch.epoch, wanted)
            and not self._may_ask(missing)
        ):
            return
        self._logger.warning("records are missing, asked for again", wanted=wanted, got=batch.first)
        await self._ask(batch.epoch, wanted)

    def _may_ask(self, missing: _Missing) -> bool:
        return self._loop.time() >= missing.asked + ASK_AGAIN_SECONDS

    def _is_there(self, missing: _Missing) -> bool:
        epoch, following = self._intake.expected
        return (epoch, following) > (missing.epoch, missing.sequence)

    async def _ask(self, epoch: int, wanted: int) -> None:
        self._missing = _Missing(epoch, wanted, self._loop.time())
        covered = self._intake.covered
        sequence = covered.sequence if covered is not None and covered.epoch == epoch else 0
        await self._send(epoch, sequence, wanted)

    async def _send(self, epoch: int, sequence: int, wanted: int) -> None:
        region = self._intake.region
        what = Acknowledgement(region, epoch, sequence, wanted, int(self._wall_clock() * 1000))
        message = seal_acknowledgement(what, self._identity)
        await self._connection.publish(ack_subject(region), message)
