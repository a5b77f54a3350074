"""Brings the records of one shard into the log, for ever, through one source.

Sources: `direct_source`, a stream from the shard itself; `nats_source`, NATS JetStream. A
session that ends is followed by another after a jittered, growing pause.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

import structlog

from strongroom_auditlog.committer import Committer
from strongroom_auditlog.intake import ShardIntake, Source, SourceLostError
from strongroom_auditlog.log import AuditLog
from strongroom_auditlog.metrics import ErrorKind, Metrics
from strongroom_auditlog.sequencer import ShardStoppedError

__all__ = ["ShardIngest"]

MIN_PAUSE_SECONDS: Final = 0.1
MAX_PAUSE_SECONDS: Final = 5.0
SETTLED_SECONDS: Final = 10.0  # a session that lasted this long begins a new row of pauses

_log = structlog.stdlib.get_logger("strongroom.auditlog.ingest")


class ShardIngest:
    """The ingestion of one shard. Owned by one event loop."""

    def __init__(
        self,
        region: str,
        source: Source,
        *,
        log: AuditLog,
        committer: Committer,
        metrics: Metrics,
        random: Callable[[], float],
    ):
        """Take what is needed; `random` returns numbers in [0, 1) and spreads the pauses."""
        self._region = region
        self._source = source
        self._intake = ShardIntake(region, log=log, committer=committer, metrics=metrics)
        self._metrics = metrics
        self._random = random
        self.stopped: ShardStoppedError | None = None
        """Why the shard was stopped; None while it runs."""
        self._logger = _log.bind(region=region)

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
                await self._source.run_session(self._intake)
                reason = "the shard ended the stream"
            except ShardStoppedError as exc:
                self._stop(exc)
                return
            except SourceLostError as exc:
                reason = str(exc)
            failures = 1 if loop.time() - began > SETTLED_SECONDS else failures + 1
            self._metrics.error(self._region, ErrorKind.RPC)
            # Full jitter: many consumers of a shard that returns do not come all at once.
            ceiling = min(MAX_PAUSE_SECONDS, MIN_PAUSE_SECONDS * 2.0 ** min(failures, 10))
            pause = MIN_PAUSE_SECONDS + self._random() * (ceiling - MIN_PAUSE_SECONDS)
            self._logger.warning("connecting again", reason=reason, pause_seconds=round(pause, 3))
            await asyncio.sleep(pause)

    def _stop(self, reason: ShardStoppedError) -> None:
        self.stopped = reason
        self._metrics.error(self._region, reason.kind)
        self._metrics.stopped[self._region].set(1)
        self._logger.error(
            "ingestion of the shard stopped; nothing of it enters the log until this is "
            "cleared up and the audit log is started again",
            kind=reason.kind.value,
            error=str(reason),
        )
