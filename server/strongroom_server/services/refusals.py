"""Refusals that no shard has recorded (audit-record-v1.md, Where a record is, and below).

A call that is refused before its shard is known is recorded all the same. Who was not
identified, or is over a limit, must not be able to have the server write as fast as they
can call: of those the first in a second is recorded, the others are counted.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from strongroom_server.domain.peer_address import address_of
from strongroom_server.errors import AuditUnavailableError, Reason, StrongroomError
from strongroom_server.ports import Clock
from strongroom_server.services.caller import Caller
from strongroom_server.services.records import Recorder, Trace, outcome_of
from strongroom_server.shards.topology import Shard, Topology

__all__ = ["COUNTED_REASONS", "SEVERAL", "SUMMARY_METHOD", "UNAUTHENTICATED", "Refusals", "Refused"]

UNAUTHENTICATED: Final = "strongroom:unauthenticated"
SEVERAL: Final = "strongroom:several"
SUMMARY_METHOD: Final = "PeerRefused"
COUNTED_REASONS: Final = frozenset(
    {Reason.PEER_UNAUTHENTICATED, Reason.OVERLOADED, Reason.QUOTA_EXCEEDED}
)

SUMMARY_SECONDS: Final = 10.0
MAX_PLACES: Final = 1024
MAX_RECORDS_PER_SECOND: Final = 32
_WRITE_SECONDS: Final = 5.0


@dataclass(frozen=True, slots=True)
class Refused:
    """What is known of a refused call: its method, and the names in it that are well-formed."""

    method: str
    region: str = ""
    key: str | None = None


@dataclass(slots=True)
class _Place:
    """Whence refusals come: what was counted since the last summary."""

    recorded_at: float = float("-inf")
    count: int = 0
    first: datetime | None = None
    last: datetime | None = None


class Refusals:
    """Records and counts refusals; one instance per server, owned by the event loop."""

    def __init__(self, *, topology: Topology, recorder: Recorder, clock: Clock) -> None:
        """Take the shards, the first of which is the home of what concerns no other."""
        self._topology = topology
        self._recorder = recorder
        self._clock = clock
        self._places: dict[tuple[str, str, str], _Place] = {}
        self._second = float("-inf")
        self._in_second = 0
        self._writes: set[asyncio.Task[None]] = set()

    async def record(self, caller: Caller, refused: Refused, error: StrongroomError) -> None:
        """Record a refusal and give the error its receipt; or count it.

        Raises:
            AuditUnavailableError: It could not be recorded.
        """
        trace = Trace(refused.method, refused.key)
        shard = self._topology.home_of(refused.region)
        if error.reason in COUNTED_REASONS:
            self._count(shard, caller, trace, error)
        else:
            await self._recorder.record_refusal(shard, caller, trace, error)

    async def run(self) -> None:
        """Write what was counted, every ten seconds, for ever."""
        while True:
            await asyncio.sleep(SUMMARY_SECONDS)
            self.write_counts()

    async def close(self) -> None:
        """Write what was counted, and wait for what is being written."""
        self.write_counts()
        if self._writes:
            await asyncio.wait(self._writes)

    def write_counts(self) -> None:
        """Record how often each peer was refused since the last time.

        A count that finds no place in the spool stays for the next time.
        """
        now = self._clock.monotonic()
        home = self._topology.home_of("")
        for place, seen in list(self._places.items()):
            if seen.count and not self._write_count(home, place, seen):
                return
            if now - seen.recorded_at > 1.0:
                del self._places[place]

    def _count(self, shard: Shard, caller: Caller, trace: Trace, error: StrongroomError) -> None:
        principal = caller.principal or UNAUTHENTICATED
        place = (address_of(caller.peer), principal, error.reason.value)
        seen = self._places.get(place)
        if seen is None and len(self._places) >= MAX_PLACES:
            place = ("", SEVERAL, error.reason.value)
            seen = self._places.get(place)
        if seen is None:
            seen = self._places[place] = _Place()
        now = self._clock.monotonic()
        if place[0] and now - seen.recorded_at >= 1.0 and self._may_record(now):
            try:
                shard.trail.ensure_accepting()
            except AuditUnavailableError:
                pass  # counted below
            else:
                seen.recorded_at = now
                who = Caller(principal, caller.peer, caller.request_id, 0.0, 0.0)
                self._write(shard, who, trace, *outcome_of(error))
                return
        seen.count += 1
        seen.last = self._clock.now()
        seen.first = seen.first or seen.last

    def _may_record(self, now: float) -> bool:
        if now - self._second >= 1.0:
            self._second, self._in_second = now, 0
        self._in_second += 1
        return self._in_second <= MAX_RECORDS_PER_SECOND

    def _write_count(self, home: Shard, place: tuple[str, str, str], seen: _Place) -> bool:
        address, principal, reason = place
        try:
            home.trail.ensure_accepting()
        except AuditUnavailableError:
            return False
        details = {"first": _format(seen.first), "last": _format(seen.last)}
        outcome = "DENIED" if reason == Reason.PEER_UNAUTHENTICATED else "REFUSED"
        caller = Caller(principal, address, "", 0.0, 0.0)
        trace = Trace(SUMMARY_METHOD)
        self._write(home, caller, trace, outcome, reason, count=seen.count, details=details)
        seen.count, seen.first, seen.last = 0, None, None
        return True

    def _write(
        self,
        shard: Shard,
        caller: Caller,
        trace: Trace,
        outcome: str,
        reason: str,
        *,
        count: int | None = None,
        details: dict[str, str] | None = None,
    ) -> None:
        draft = self._recorder.draft(
            caller, trace, outcome=outcome, reason=reason, count=count, details=details
        )

        async def write() -> None:
            deadline = self._clock.monotonic() + _WRITE_SECONDS
            try:
                await shard.trail.record(draft, deadline=deadline)
            except AuditUnavailableError:
                # A full spool has refused it since; a failing one still writes it.
                return

        task = asyncio.get_running_loop().create_task(write(), name="refusal")
        self._writes.add(task)
        task.add_done_callback(self._writes.discard)


def _format(time: datetime | None) -> str:
    text = "" if time is None else time.astimezone(UTC).isoformat(timespec="microseconds")
    return text.replace("+00:00", "Z")
