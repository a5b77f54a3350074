"""A queue that serves its flows in turn: deficit round robin.

Each flow waits in its own FIFO. A flow whose turn it is may spend a quantum; what its next
item costs more than it has left, it has saved up for by a later turn (Shreedhar and
Varghese, "Efficient Fair Queuing Using Deficit Round-Robin", 1995). So a flow with little
to do waits for one quantum of each other flow, however much those have queued.

`may_join` shares the room: a flow may hold `SHARE` times what is free (Choudhury and Hahne,
"Dynamic Queue Length Thresholds for Shared-Memory Packet Switches", 1998). One alone can
take three quarters of it, and there is always room for whoever comes next.
"""

from __future__ import annotations

from collections import deque
from typing import Final, Generic, TypeVar

__all__ = ["MAX_QUANTA", "SHARE", "FairQueue", "may_join"]

T = TypeVar("T")

SHARE: Final = 3
MAX_QUANTA: Final = 100
"""What an item may cost at most, in quanta: a dearer one waits no longer than that."""


def may_join(own: int, total: int, limit: int) -> bool:
    """Say whether a flow that holds `own` of the `total` places taken may take another.

    The first place of a flow needs only a free one.
    """
    free = limit - total
    return free > 0 and (own == 0 or own < SHARE * free)


class _Flow(Generic[T]):
    __slots__ = ("cost", "deficit", "items", "name")

    def __init__(self, name: str, deficit: int) -> None:
        self.name = name
        self.cost = 0  # of all its items
        self.deficit = deficit
        self.items: deque[tuple[T, int]] = deque()


class FairQueue(Generic[T]):
    """Items of many flows; constant time for each. Thread safety: none."""

    def __init__(self, *, quantum: int) -> None:
        """Start empty.

        Args:
            quantum: What a flow may spend in one turn, 1 or more, in the unit of the costs.
        """
        self._quantum = quantum
        self._flows: dict[str, _Flow[T]] = {}
        self._ring: deque[_Flow[T]] = deque()
        self._length = 0
        self._cost = 0

    def __len__(self) -> int:
        """Return how many items wait."""
        return self._length

    def waiting(self, flow: str) -> int:
        """Return how many items of one flow wait."""
        found = self._flows.get(flow)
        return 0 if found is None else len(found.items)

    def ahead_of(self, flow: str) -> int:
        """Return what is served before a new item of a flow, at most, as a cost.

        All that its own flow has and as much of each other's, or all that there is.
        """
        found = self._flows.get(flow)
        if found is None:
            return min(self._cost, len(self._flows) * self._quantum)
        return min(self._cost, len(self._flows) * (found.cost + self._quantum))

    def push(self, flow: str, item: T, cost: int) -> None:
        """Add an item behind those of its flow."""
        cost = min(cost, MAX_QUANTA * self._quantum)
        found = self._flow(flow)
        found.items.append((item, cost))
        self._add(found, cost, 1)

    def put_back(self, flow: str, item: T, cost: int) -> None:
        """Put an item before those of its flow, and give back what it spent."""
        cost = min(cost, MAX_QUANTA * self._quantum)
        found = self._flow(flow)
        found.items.appendleft((item, cost))
        # Never more than a turn's worth: a flow that was alone spent nothing.
        found.deficit = min(found.deficit + cost, self._quantum + cost)
        self._add(found, cost, 1)

    def pop(self) -> T:
        """Take the next item off.

        Raises:
            IndexError: None waits.
        """
        ring = self._ring
        while True:
            flow = ring[0]
            item, cost = flow.items[0]
            if cost <= flow.deficit or len(ring) == 1:
                break
            flow.deficit += self._quantum
            ring.rotate(-1)
        flow.items.popleft()
        # Alone it owes nothing: nobody waited for it.
        flow.deficit = max(flow.deficit - cost, 0)
        self._add(flow, -cost, -1)
        if not flow.items:
            ring.popleft()
            del self._flows[flow.name]  # what it saved it loses: it has nothing to wait for
        return item

    def _add(self, flow: _Flow[T], cost: int, items: int) -> None:
        flow.cost += cost
        self._cost += cost
        self._length += items

    def _flow(self, name: str) -> _Flow[T]:
        flow = self._flows.get(name)
        if flow is None:
            flow = self._flows[name] = _Flow(name, self._quantum)
            self._ring.append(flow)
        return flow
