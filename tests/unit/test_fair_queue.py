"""Deficit round robin: nobody waits for what others have queued."""

from __future__ import annotations

from collections import Counter, deque

import pytest
from hypothesis import given
from hypothesis import strategies as st

from strongroom_server.domain.fair_queue import MAX_QUANTA, FairQueue, may_join

QUANTUM = 10
flows = st.sampled_from("abcd")
pushes = st.lists(st.tuples(flows, st.integers(0, 35)), max_size=120)


@given(pushes, st.integers(0, 120))
def test_flows_keep_their_order_and_nothing_is_lost(
    items: list[tuple[str, int]], pops: int
) -> None:
    """Each flow is first come first served, also when items are put back."""
    queue: FairQueue[tuple[str, int]] = FairQueue(quantum=QUANTUM)
    expected: dict[str, deque[int]] = {flow: deque() for flow in "abcd"}
    costs = [cost for _, cost in items]
    for number, (flow, cost) in enumerate(items):
        queue.push(flow, (flow, number), cost)
        expected[flow].append(number)
    for turn in range(min(pops, len(items))):
        flow, number = queue.pop()
        assert expected[flow][0] == number
        if turn % 3 == 1:
            queue.put_back(flow, (flow, number), costs[number])
        else:
            expected[flow].popleft()
        assert len(queue) == sum(map(len, expected.values()))
        assert all(queue.waiting(flow) == len(left) for flow, left in expected.items())


@given(pushes)
def test_flows_that_wait_are_served_alike(items: list[tuple[str, int]]) -> None:
    """While two flows wait, what they get differs by a quantum and two items at most."""
    queue: FairQueue[tuple[str, int]] = FairQueue(quantum=QUANTUM)
    for flow, cost in items:
        queue.push(flow, (flow, cost), cost)
    served: Counter[str] = Counter()
    while len(queue):
        if all(queue.waiting(flow) for flow in {flow for flow, _ in items}):
            for one in served:
                for two in served:
                    assert served[one] - served[two] <= QUANTUM + 2 * 35
        flow, cost = queue.pop()
        served[flow] += cost


@given(pushes, flows, st.integers(0, 35))
def test_what_is_ahead_is_known(items: list[tuple[str, int]], flow: str, cost: int) -> None:
    """No more is served before a new item than was foretold, but for what is in between."""
    queue: FairQueue[tuple[str, int]] = FairQueue(quantum=QUANTUM)
    for name, each in items:
        queue.push(name, (name, each), each)
    flows_now = len({name for name, _ in items})
    foretold = queue.ahead_of(flow)
    assert foretold <= sum(each for _, each in items)
    queue.push(flow, ("new", 0), cost)
    served = 0
    while (popped := queue.pop())[0] != "new":
        served += popped[1]
    # Each other flow may have saved for its next item, and be a turn ahead.
    assert served <= foretold + (flows_now + 1) * (cost + QUANTUM + 35)
    assert queue.ahead_of("somebody new") <= sum(each for _, each in items)


@pytest.mark.parametrize("others", [1, 5])
def test_a_light_flow_waits_for_a_quantum_of_each_other(others: int) -> None:
    """However much the others have queued."""
    queue: FairQueue[str] = FairQueue(quantum=QUANTUM)
    for number in range(others):
        for _ in range(1000):
            queue.push(f"flood {number}", "flood", 2)
    queue.push("light", "light", 2)
    waited = 0
    while queue.pop() != "light":
        waited += 2
    assert waited <= others * QUANTUM


def test_a_dear_item_waits_in_bounds() -> None:
    """What costs more than everything is served after a bounded number of turns."""
    queue: FairQueue[str] = FairQueue(quantum=QUANTUM)
    queue.push("dear", "dear", 10**9)
    for _ in range(10_000):
        queue.push("cheap", "cheap", QUANTUM)
    for turn in range(10_000):  # noqa: B007 - the number is what is asked for
        if queue.pop() == "dear":
            break
    assert turn <= MAX_QUANTA + 1


def test_an_empty_queue_has_nothing() -> None:
    """Taking from an empty queue is an error."""
    with pytest.raises(IndexError):
        FairQueue[int](quantum=1).pop()


def test_room_is_shared() -> None:
    """One flow alone takes three quarters, two take three sevenths each, a new one gets in."""
    for count, share in ((1, 75), (2, 42)):
        held = [0] * count
        for _ in range(1000):
            for flow in range(count):
                if may_join(held[flow], sum(held), 100):
                    held[flow] += 1
        assert all(share <= each <= share + 2 for each in held)
        assert may_join(0, sum(held), 100)
    assert may_join(0, 0, 1)
    assert not may_join(0, 1, 1)
