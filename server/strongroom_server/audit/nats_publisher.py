"""Publishes a shard's spool through NATS JetStream (docs/formats/audit-nats-v1.md).

    durable records -> seal_batch -> publish, wait for JetStream -> the next batch
    acknowledgement, signed by the audit log -> delete from the spool, or send again

JetStream's word that it has a batch only lets the next one go. Records leave the spool
when the audit log says that a published checkpoint covers them, and NATS cannot say so in
its place: the acknowledgement is signed. A crash anywhere leaves records that are sent
again, and the log drops them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import structlog

from strongroom.jetstream.connection import JetStream
from strongroom.jetstream.endpoint import NatsEndpoint, NatsError, ack_subject
from strongroom.jetstream.identity import ChainVerifier, IdentityError, SigningIdentity
from strongroom_server.audit.nats_session import (
    PublishedSpool,
    PublishingSession,
    SpoolRolledBackError,
)
from strongroom_server.errors import ArgumentInvalidError, AuditUnavailableError
from strongroom_server.ports import Clock

__all__ = ["NatsPublisher", "SigningFiles"]

MIN_PAUSE_SECONDS: Final = 0.1
MAX_PAUSE_SECONDS: Final = 5.0
SETTLED_SECONDS: Final = 10.0  # a session that lasted this long begins a new row of pauses

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class SigningFiles:
    """Paths of PEM files: the server's chain and key, and the CA of the audit log."""

    certificate: Path
    private_key: Path
    ca: Path

    def load(self) -> tuple[SigningIdentity, ChainVerifier]:
        """Read them.

        Raises:
            IdentityError: They cannot be read or used.
        """
        try:
            chain, key = self.certificate.read_bytes(), self.private_key.read_bytes()
            ca = self.ca.read_bytes()
        except OSError as exc:
            raise IdentityError(f"{exc.filename}: {exc.strerror}") from exc
        return SigningIdentity.from_pem(chain, key), ChainVerifier(ca)


class NatsPublisher:
    """Publishes one spool. Owned by one event loop; `start` begins, `close` ends it."""

    def __init__(
        self,
        region: str,
        spool: PublishedSpool,
        endpoint: NatsEndpoint,
        files: SigningFiles,
        *,
        consumers: frozenset[str],
        clock: Clock,
        random: Callable[[], float],
        on_error: Callable[[], None],
    ):
        """Take what is needed.

        Args:
            region: The shard's.
            spool: Stays the caller's.
            endpoint: Where NATS is.
            files: What batches are signed with.
            consumers: Principals whose acknowledgements are believed.
            clock: When certificates have to be good; the time of pauses.
            random: Numbers in [0, 1), to spread the pauses.
            on_error: Told of each session that ended in an error.
        """
        self._region = region
        self._spool = spool
        self._endpoint = endpoint
        self._files = files
        self._consumers = consumers
        self._clock = clock
        self._random = random
        self._on_error = on_error
        self._task: asyncio.Task[None] | None = None
        self.stopped: SpoolRolledBackError | None = None
        """Why nothing is published any more; None while it goes on."""
        self._logger = _log.bind(region=region)

    def start(self) -> None:
        """Begin, in the background."""
        self._task = asyncio.create_task(self._run(), name=f"publish-{self._region}")

    async def close(self) -> None:
        """End. What is not acknowledged stays in the spool."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
            self._task = None

    async def _run(self) -> None:
        failures = 0
        while True:
            began = self._clock.monotonic()
            reason = "the session ended"
            try:
                await self._session()
            except SpoolRolledBackError as exc:
                self.stopped = exc
                self._on_error()
                self._logger.error("audit_publishing_stopped", problem=str(exc))  # noqa: TRY400 - the text says it all
                return
            except (NatsError, IdentityError) as exc:
                reason = str(exc)
            except (AuditUnavailableError, ArgumentInvalidError) as exc:  # the spool's disk
                reason = exc.message
            except Exception:
                self._logger.exception("audit_publishing_failed")
            self._on_error()
            is_settled = self._clock.monotonic() - began > SETTLED_SECONDS
            failures = 1 if is_settled else failures + 1
            ceiling = min(MAX_PAUSE_SECONDS, MIN_PAUSE_SECONDS * 2.0 ** min(failures, 10))
            pause = MIN_PAUSE_SECONDS + self._random() * (ceiling - MIN_PAUSE_SECONDS)
            self._logger.warning(
                "audit_publishing_waits", reason=reason, pause_seconds=round(pause, 3)
            )
            await asyncio.sleep(pause)

    async def _session(self) -> None:
        """One connection, until it breaks."""
        identity, verifier = await asyncio.to_thread(self._files.load)
        async with JetStream.open(self._endpoint, name=f"shard-{self._region}") as connection:
            session = PublishingSession(
                self._region,
                self._spool,
                connection,
                identity,
                verifier,
                ack_stream=self._endpoint.ack_stream,
                consumers=self._consumers,
                clock=self._clock,
            )
            await session.find_start(self._endpoint.stream)
            await connection.listen(ack_subject(self._region), session.hear)
            self._logger.info("audit_publishing", epoch=self._spool.epoch)
            await connection.run(session.publish(), session.take_acknowledgements())
