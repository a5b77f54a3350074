"""Operations that wait for a worker: callers take turns, by the HSM time that they use.

An operation costs what its kind has lately taken in the workers, so a caller who signs
with RSA gets as much of the HSM as one who encrypts, and not hundreds of times as much.
The room is shared too: see `domain/fair_queue.py`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from strongroom_server.domain.fair_queue import FairQueue, may_join
from strongroom_server.hsm.wire import Request
from strongroom_server.hsm.worker_process import PendingOperation

__all__ = ["WaitingOperations"]

_QUANTUM_MICROSECONDS: Final = 500
"""HSM time of one turn: several operations of a quick HSM, one of a slow one."""
_UNKNOWN_MICROSECONDS: Final = 100


class WaitingOperations:
    """The queue in front of one pool's workers. Owned by the event loop.

    Thread safety: none.
    """

    def __init__(self, places: int) -> None:
        """Have room for so many."""
        self._places = places
        self._queue: FairQueue[PendingOperation] = FairQueue(quantum=_QUANTUM_MICROSECONDS)
        # By operation and kind of key: a closed set, both numbers are the protocol's own.
        self._microseconds: dict[tuple[int, int], int] = {}

    def __len__(self) -> int:
        """Return how many wait."""
        return len(self._queue)

    def has_room(self, flow: str) -> bool:
        """Say whether one more may wait for this caller."""
        return may_join(self._queue.waiting(flow), len(self._queue), self._places)

    def wait_seconds(self, flow: str, workers: int) -> float:
        """Return how long one more would wait for this caller's turn, by what is known."""
        return self._queue.ahead_of(flow) / max(workers, 1) / 1e6

    def append(self, pending: PendingOperation) -> None:
        """Add one; whether there is room was asked before."""
        cost = self._microseconds.get(_kind(pending.request), _UNKNOWN_MICROSECONDS)
        pending.cost = cost
        self._queue.push(pending.flow, pending, cost)

    def popleft(self) -> PendingOperation:
        """Take the next one off; IndexError when none waits."""
        return self._queue.pop()

    def extendleft(self, operations: Iterable[PendingOperation]) -> None:
        """Put some back before those of their callers, the last one first."""
        for pending in operations:
            self._queue.put_back(pending.flow, pending, pending.cost)

    def took(self, request: Request, microseconds: int) -> None:
        """Learn how long an operation took."""
        kind = _kind(request)
        known = self._microseconds.get(kind, microseconds)
        # One that stood still for seconds says little about the next ones.
        likely = min(microseconds, 4 * known + _UNKNOWN_MICROSECONDS)
        self._microseconds[kind] = known + (likely - known) // 8


def _kind(request: Request) -> tuple[int, int]:
    return request.operation, request.key.spec
