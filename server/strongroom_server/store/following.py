"""Following other processes on the same database, and knowing when that fails.

A disabled key must be refused everywhere within a second. So memory is believed only as
long as the database was asked lately what has changed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

import structlog

from strongroom_server.errors import ShardUnavailableError
from strongroom_server.ports import Clock
from strongroom_server.store.database import ShardDatabase
from strongroom_server.store.unseen import Changed, read_unseen

__all__ = ["Follower"]

POLL_SECONDS: Final = 0.25
# A disabled key must be refused everywhere within a second: when the database cannot be
# asked for so long, memory may not be believed any more.
STALE_AFTER_ERRORS_SECONDS: Final = 1.0
# The same without an error, when a poll hangs or this process was stopped. Longer, so that
# a busy machine alone refuses nothing.
STALE_SECONDS: Final = 3.0

_log = structlog.get_logger(__name__)


class Follower:
    """Asks what changed, a few times a second. Owned by the event loop."""

    def __init__(
        self,
        database: ShardDatabase,
        *,
        clock: Clock,
        since: int,
        take_over: Callable[[Changed], None],
    ) -> None:
        """Begin at change number `since`; `take_over` hears of every later change."""
        self._database = database
        self._clock = clock
        self._take_over = take_over
        # Every change up to this number, of any process, was told to `take_over`.
        self._seen = since
        self._polling: asyncio.Task[None] | None = None
        self._polled_at = clock.monotonic()
        self._poll_failed = False

    @property
    def is_current(self) -> bool:
        """Whether all that was committed a second ago has been told."""
        if self._polling is None:
            return True
        age_seconds = self._clock.monotonic() - self._polled_at
        return age_seconds <= (STALE_AFTER_ERRORS_SECONDS if self._poll_failed else STALE_SECONDS)

    def start(self) -> None:
        """Begin; from here on staleness is noticed."""
        if self._polling is None:
            self._polled_at = self._clock.monotonic()
            self._polling = asyncio.get_running_loop().create_task(self._poll())

    async def stop(self) -> None:
        """Stop; idempotent."""
        polling, self._polling = self._polling, None
        if polling is not None:
            polling.cancel()
            await asyncio.wait([polling])

    async def refresh(self) -> None:
        """Ask now.

        Raises:
            ShardUnavailableError: The database does not answer, or is damaged.
        """
        since = self._seen
        started_at = self._clock.monotonic()
        with self._database.answering():
            await self._database.reader.run(
                lambda connection: read_unseen(connection, self._database.region, since=since),
                then=self._hear,
            )
        self._polled_at = started_at

    def _hear(self, changed: Changed | None) -> None:
        if changed is not None:
            self._take_over(changed)
            self._seen = max(self._seen, changed.change_number)

    async def _poll(self) -> None:
        region = self._database.region
        while True:
            await asyncio.sleep(POLL_SECONDS)
            try:
                await self.refresh()
            except ShardUnavailableError as exc:
                if not self._poll_failed:
                    _log.warning("store_poll_failed", region=region, error=str(exc.__cause__))
                self._poll_failed = True
            except Exception:
                # Without the poll, reads are refused from now on: somebody has to know why.
                _log.exception("store_poll_ended", region=region)
                raise
            else:
                self._poll_failed = False
