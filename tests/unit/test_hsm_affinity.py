"""Which worker gets which operation."""

from __future__ import annotations

import asyncio
import uuid
from collections import Counter, deque
from dataclasses import dataclass
from typing import cast

from strongroom_server.hsm import affinity
from strongroom_server.hsm.wire import NO_KEY, Answer, Operation, Request, WireKey
from strongroom_server.hsm.worker_process import PendingOperation, WorkerProcess


@dataclass(eq=False)
class _Worker:
    """As much of a worker as its load."""

    pid: int
    in_flight: int = 0
    has_room: bool = True


def _workers(count: int = 4) -> list[_Worker]:
    return [_Worker(pid) for pid in range(100, 100 + count)]


def _pending(key: WireKey) -> PendingOperation:
    future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
    request = Request(1, Operation.DATA_KEY, 1.0, 32, b"", b"a", b"", key, NO_KEY)
    return PendingOperation(request, future, bound=False)


def _wrapped(ref: bytes | None = None) -> WireKey:
    return WireKey(ref or uuid.uuid4().bytes + b"\0\0\0\1", 1, 1, 1, bytes(40))


def _resident() -> WireKey:
    return WireKey(uuid.uuid4().bytes + b"\0\0\0\1", 1, 1, 0, b"")


def _share(
    queue: deque[PendingOperation], workers: list[_Worker], limit: int = 64, now: float = 1.0
) -> dict[int, list[PendingOperation]]:
    batches, _ = affinity.share_out(queue, cast("list[WorkerProcess]", workers), limit, now)
    return {worker.pid: batch for worker, batch in batches.items()}


def _preferred(pending: PendingOperation, workers: list[_Worker]) -> int:
    return affinity.preferred_worker(pending, cast("list[WorkerProcess]", workers)).pid


async def test_resident_keys_are_shared_evenly() -> None:
    """Operations without a preference level the load of the workers."""
    workers = _workers()
    workers[0].in_flight = 5
    queue = deque(_pending(_resident()) for _ in range(23))
    sizes = {pid: len(batch) for pid, batch in _share(queue, workers).items()}
    assert sizes == {100: 2, 101: 7, 102: 7, 103: 7}
    assert not queue


async def test_a_wrapped_key_prefers_one_worker() -> None:
    """Each key goes to the same worker every time, and keys spread over the workers."""
    workers = _workers()
    keys = [_wrapped() for _ in range(400)]
    first = [_preferred(_pending(key), workers) for key in keys]
    assert first == [_preferred(_pending(key), workers) for key in keys]
    assert min(Counter(first).values()) > 60
    for key, pid in zip(keys[:50], first[:50], strict=True):
        assert set(_share(deque([_pending(key)]), workers)) == {pid}


async def test_a_lost_worker_moves_its_own_keys_only() -> None:
    """When a worker goes, the keys of the others stay where they are unwrapped."""
    workers = _workers()
    keys = [_wrapped() for _ in range(200)]
    before = [_preferred(_pending(key), workers) for key in keys]
    after = [_preferred(_pending(key), workers[1:]) for key in keys]
    moved = {old for old, new in zip(before, after, strict=True) if old != new}
    assert moved == {100}


async def test_a_hot_key_spills() -> None:
    """A key that is asked for more than its worker can do is used by the others too."""
    workers = _workers(2)
    key = _wrapped()
    sizes = {
        pid: len(batch)
        for pid, batch in _share(deque(_pending(key) for _ in range(64)), workers).items()
    }
    preferred = _preferred(_pending(key), workers)
    assert sum(sizes.values()) == 64
    assert sizes[preferred] - min(sizes.values()) in range(9)
    few = _share(deque(_pending(key) for _ in range(8)), workers)
    assert set(few) == {preferred}


async def test_without_room_it_waits_a_moment_for_its_worker() -> None:
    """With its worker full and the others busy a key waits, but not long; then any will do."""
    workers = _workers(2)
    pending = _pending(_wrapped())
    preferred = _preferred(pending, workers)
    for worker in workers:
        worker.in_flight = 3
        worker.has_room = worker.pid != preferred
    queue = deque([pending])
    assert _share(queue, workers, now=10.0) == {}
    assert list(queue) == [pending]
    assert _share(queue, workers, now=10.001) == {}
    (other,) = (worker.pid for worker in workers if worker.pid != preferred)
    assert _share(queue, workers, now=10.006) == {other: [pending]}


async def test_an_idle_worker_takes_what_its_neighbour_has_no_room_for() -> None:
    """Nobody stands idle beside a queue."""
    workers = _workers(2)
    pending = _pending(_wrapped())
    preferred = _preferred(pending, workers)
    for worker in workers:
        worker.has_room = worker.pid != preferred
        worker.in_flight = 2 if worker.pid == preferred else 0
    (other,) = (worker.pid for worker in workers if worker.pid != preferred)
    assert _share(deque([pending]), workers) == {other: [pending]}


async def test_order_and_limits_are_kept() -> None:
    """Batches are bounded, what does not fit stays in its order, the given-up are handed back."""
    workers = _workers(1)
    pending = [_pending(_resident()) for _ in range(10)]
    pending[1].future.cancel()
    queue = deque(pending)
    batches, given_up = affinity.share_out(queue, cast("list[WorkerProcess]", workers), 4, 1.0)
    assert list(batches.values()) == [[pending[0], *pending[2:5]]]
    assert given_up == [pending[1]]
    assert list(queue) == pending[5:]
    workers[0].has_room = False
    assert affinity.share_out(queue, cast("list[WorkerProcess]", workers), 4, 1.0) == ({}, [])
    assert list(queue) == pending[5:]
