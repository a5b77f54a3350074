"""Which worker gets which waiting operation.

An operation on a key of wrapped storage prefers the worker that probably has the key
unwrapped already: the same one each time, by rendezvous hashing over those that live, so
that a worker's end moves only its own keys (Thaler and Ravishankar, "A Name-Based Mapping
Scheme for Rendezvous", 1998). When that one has no room, or much more to do than another,
the key spills to the one with least to do. All other operations go there anyway.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final, Protocol

from strongroom_server.hsm.worker_process import PendingOperation, WorkerProcess

__all__ = ["Waiting", "preferred_worker", "share_out"]

_SPILL_AFTER: Final = 8
"""Operations that a worker may have more than the least busy one before its keys spill."""
_MAX_WAIT_SECONDS: Final = 0.005
"""How long an operation waits for its preferred worker while others have room: several
batches' time, and no longer, for a worker that hangs must not hold up its keys."""

Batches = dict[WorkerProcess, list[PendingOperation]]


class Waiting(Protocol):
    """As much of a queue as is needed here; a deque will do."""

    def __len__(self) -> int:
        """Return how many wait."""
        ...

    def popleft(self) -> PendingOperation:
        """Take the next one off."""
        ...

    def extendleft(self, iterable: Iterable[PendingOperation], /) -> None:
        """Put some back in front, the last one first."""
        ...


def share_out(
    queue: Waiting,
    workers: Sequence[WorkerProcess],
    limit: int,
    now: float,
) -> tuple[Batches, list[PendingOperation]]:
    """Take operations off the queue, for the workers that have room.

    Args:
        queue: Those that wait; what is left in it keeps its order.
        workers: All that serve.
        limit: Operations of one batch.
        now: CLOCK_MONOTONIC, in seconds.

    Returns:
        Batches of 1 to `limit` operations; and the operations that were taken off the
        queue because their callers have given up.
    """
    batches: Batches = {worker: [] for worker in workers if worker.has_room}
    given_up: list[PendingOperation] = []
    kept: list[PendingOperation] = []
    while len(queue) and batches:
        least = _least_busy(batches, limit)
        if least is None:
            break
        pending = queue.popleft()
        if pending.future.done():
            given_up.append(pending)
        elif not pending.request.key.root or len(workers) == 1:
            batches[least].append(pending)
        else:
            worker = _place(pending, preferred_worker(pending, workers), least, batches, limit, now)
            if worker is None:
                kept.append(pending)
            else:
                batches[worker].append(pending)
    queue.extendleft(reversed(kept))
    return {worker: batch for worker, batch in batches.items() if batch}, given_up


def preferred_worker(pending: PendingOperation, workers: Sequence[WorkerProcess]) -> WorkerProcess:
    """Return the worker with the highest weight for the operation's key."""
    ref = pending.request.key.ref
    return max(workers, key=lambda worker: hash((ref, worker.pid)))


def _place(  # noqa: PLR0917 - the hot path: one positional call per operation
    pending: PendingOperation,
    preferred: WorkerProcess,
    least: WorkerProcess,
    batches: Batches,
    limit: int,
    now: float,
) -> WorkerProcess | None:
    """Return who gets an operation with a preference; None when it waits."""
    has_room = preferred in batches and len(batches[preferred]) < limit
    is_behind = _load(preferred, batches) >= _load(least, batches) + _SPILL_AFTER
    if has_room and not is_behind:
        return preferred
    if is_behind or _load(least, batches) == 0:
        return least
    pending.kept_since = pending.kept_since or now
    return least if now - pending.kept_since > _MAX_WAIT_SECONDS else None


def _load(worker: WorkerProcess, batches: Batches) -> int:
    return worker.in_flight + len(batches.get(worker, ()))


def _least_busy(batches: Batches, limit: int) -> WorkerProcess | None:
    """Return the worker with least to do whose batch has room."""
    best = None
    least = 0
    for worker, batch in batches.items():
        load = worker.in_flight + len(batch)
        if len(batch) < limit and (best is None or load < least):
            best, least = worker, load
    return best
