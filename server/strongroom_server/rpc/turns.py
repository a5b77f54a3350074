"""Who is let in, and when: callers take turns, and share the room.

    enter ─┬→ room, and nobody waits          → at once
           ├→ room, others wait or came before → in this caller's own line
           └→ no room for this caller          → OverloadedError at once

A turn of the event loop lets `PER_TURN` calls in, one of each caller in turn. So the calls
at work on the loop stay few, however many one caller sends, and a caller with one call
waits for the calls at work and not for all that another has sent. Calls that wait for the
HSM or the disk are not on the loop: an HSM that hangs holds up its own shard's callers and
nobody's turn. (Before the HSM callers take turns again: `hsm/waiting.py`.)
"""

from __future__ import annotations

import asyncio
from typing import Final

from strongroom_server.domain.fair_queue import FairQueue, may_join
from strongroom_server.errors import OverloadedError

__all__ = ["Turns"]

PER_TURN: Final = 4
RETRY_AFTER_SECONDS: Final = 0.1


class Turns:
    """The places of one server process. Owned by the event loop."""

    def __init__(self, places: int) -> None:
        """Have so many places, for calls that wait and calls at work."""
        self._places = places
        self._taken = 0
        self._taken_by: dict[str, int] = {}
        self._line: FairQueue[asyncio.Future[None]] = FairQueue(quantum=1)
        self._this_turn = 0
        self._turn_is_due = False

    def enter(self, caller: str) -> asyncio.Future[None] | None:
        """Take a place; return what to wait for, None for nothing. `leave` gives it back.

        Raises:
            OverloadedError: There is no place, or this caller has its share of them.
        """
        own = self._taken_by.get(caller, 0)
        if not may_join(own, self._taken, self._places):
            raise OverloadedError(
                "too many calls under way", retry_after_seconds=RETRY_AFTER_SECONDS
            )
        self._taken += 1
        self._taken_by[caller] = own + 1
        self._next_turn()
        if self._this_turn < PER_TURN and not len(self._line):
            self._this_turn += 1
            return None
        turn = asyncio.get_running_loop().create_future()
        self._line.push(caller, turn, 1)
        return turn

    def leave(self, caller: str) -> None:
        """Give a place back, whether its turn ever came or not."""
        self._taken -= 1
        left = self._taken_by[caller] - 1
        if left:
            self._taken_by[caller] = left
        else:
            del self._taken_by[caller]

    def _next_turn(self) -> None:
        if not self._turn_is_due:
            self._turn_is_due = True
            asyncio.get_running_loop().call_soon(self._let_in)

    def _let_in(self) -> None:
        self._turn_is_due = False
        self._this_turn = 0
        while self._this_turn < PER_TURN and len(self._line):
            turn = self._line.pop()
            if not turn.done():  # else cancelled: the caller has gone
                turn.set_result(None)
                self._this_turn += 1
        if self._this_turn:
            self._next_turn()
