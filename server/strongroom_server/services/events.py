"""What the service does or sees by itself, on record (audit-record-v1.md, Other methods).

Nobody waits for these records, so they must not be lost to a spool that takes none for a
while: they are kept, within a bound, and offered again. What is beyond the bound is
counted, and the count is recorded.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Mapping
from typing import Final

from strongroom.receipts import Receipt
from strongroom_server.errors import AuditUnavailableError
from strongroom_server.mutations import AuditDraft
from strongroom_server.ports import AuditTrail
from strongroom_server.services.caller import Caller
from strongroom_server.services.records import Recorder, Trace

__all__ = ["SERVER", "ShardEvents"]

SERVER: Final = "strongroom:server"
"""Principal of these records; no certificate can name it."""

MAX_KEPT: Final = 256
RETRY_SECONDS: Final = 1.0


class ShardEvents:
    """The events of one shard. Owned by the event loop."""

    def __init__(self, trail: AuditTrail, recorder: Recorder) -> None:
        """Take the shard's trail, and what makes drafts."""
        self._trail = trail
        self._recorder = recorder
        self._loop = asyncio.get_running_loop()
        self._kept: deque[AuditDraft] = deque()
        self._dropped = 0
        self._retry: asyncio.TimerHandle | None = None
        self._is_started = False

    def happened(
        self,
        method: str,
        *,
        outcome: str = "OK",
        count: int | None = None,
        details: Mapping[str, str] | None = None,
    ) -> None:
        """Record an event; never waits and never raises."""
        future = self._record(self._draft(method, outcome, count, details))
        if future is not None:
            future.add_done_callback(_look_at)

    async def started(self, details: Mapping[str, str], *, wait_seconds: float) -> bool:
        """Record that the server serves from now on; `stopped` records the end.

        Every record that is appended later is durable later, so when the disk is slow or
        fails nothing is answered before this record is durable, whoever waits for it.

        Returns:
            Whether it is durable.
        """
        self._is_started = True
        return await self.recorded("ServerStarted", details=details, wait_seconds=wait_seconds)

    async def recorded(
        self,
        method: str,
        *,
        count: int | None = None,
        details: Mapping[str, str] | None = None,
        wait_seconds: float,
    ) -> bool:
        """Record an event and wait for the disk; return whether it is durable."""
        future = self._record(self._draft(method, "OK", count, details))
        if future is None:
            return False
        future.add_done_callback(_look_at)
        await asyncio.wait([future], timeout=wait_seconds)
        return future.done() and future.exception() is None

    def stopped(self) -> None:
        """Record the end, as the last record, if the beginning was recorded.

        What is kept is offered once more; what finds no place now is lost with the process.
        """
        if self._retry is not None:
            self._retry.cancel()
            self._retry = None
        self._offer_kept()
        if self._is_started:
            self._is_started = False
            with contextlib.suppress(AuditUnavailableError):
                self._trail.record_event(
                    self._draft("ServerStopped", "OK", None, None)
                ).add_done_callback(_look_at)

    def _draft(
        self, method: str, outcome: str, count: int | None, details: Mapping[str, str] | None
    ) -> AuditDraft:
        caller = Caller(SERVER, "", "", 0.0, 0.0)
        return self._recorder.draft(
            caller, Trace(method), outcome=outcome, count=count, details=details
        )

    def _record(self, draft: AuditDraft) -> asyncio.Future[Receipt] | None:
        """Append a record; None when it is kept for later."""
        if not self._kept:
            with contextlib.suppress(AuditUnavailableError):
                return self._trail.record_event(draft)
        if len(self._kept) < MAX_KEPT:
            self._kept.append(draft)
        else:
            self._dropped += 1
        if self._retry is None:
            self._retry = self._loop.call_later(RETRY_SECONDS, self._try_again)
        return None

    def _try_again(self) -> None:
        self._retry = None
        self._offer_kept()
        if self._kept:
            self._retry = self._loop.call_later(RETRY_SECONDS, self._try_again)

    def _offer_kept(self) -> None:
        try:
            while self._kept:
                self._trail.record_event(self._kept[0]).add_done_callback(_look_at)
                self._kept.popleft()
            if self._dropped:
                dropped = self._draft("EventsNotRecorded", "FAILED", self._dropped, None)
                self._trail.record_event(dropped).add_done_callback(_look_at)
                self._dropped = 0
        except AuditUnavailableError:
            pass  # later, in their order


def _look_at(future: asyncio.Future[Receipt]) -> None:
    """Take note of a failure: the record is written when the disk takes it."""
    if not future.cancelled():
        future.exception()
