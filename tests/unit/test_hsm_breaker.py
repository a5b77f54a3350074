"""When the circuit breaker lets operations through."""

from __future__ import annotations

import pytest

from strongroom_server.hsm.breaker import Breaker, BreakerState

CLOSED, OPEN, HALF_OPEN = BreakerState.CLOSED, BreakerState.OPEN, BreakerState.HALF_OPEN


class Told(list[BreakerState]):
    """The states that the breaker told."""


@pytest.fixture
def told() -> Told:
    """Give what the breaker tells."""
    return Told()


@pytest.fixture
def breaker(told: Told) -> Breaker:
    """Give a breaker whose jitter is the longest."""
    return Breaker(jitter=lambda: 1.0, on_change=told.append)


def _open(breaker: Breaker, now: float = 0.0) -> None:
    for _ in range(5):
        breaker.fault(now)
    assert breaker.state is OPEN


def test_five_faults_open(breaker: Breaker, told: Told) -> None:
    """The fifth fault within the window opens, and not the fourth."""
    for at in range(4):
        breaker.fault(float(at))
        assert breaker.admit()
    assert told == []
    breaker.fault(4.0)
    assert not breaker.is_ready
    assert not breaker.admit()
    assert breaker.retry_after_seconds(4.0) == 0.5
    assert told == [OPEN]


def test_a_success_between_keeps_closed(breaker: Breaker, told: Told) -> None:
    """While some operations succeed, any number of faults keeps it closed."""
    for at in range(100):
        breaker.fault(float(at) / 10)
        if at % 4 == 3:
            breaker.success()
    assert breaker.state is CLOSED
    assert told == []


def test_faults_far_apart_keep_closed(breaker: Breaker) -> None:
    """Faults that are not within one window are not a series."""
    for at in range(100):
        breaker.fault(at * 2.6)
    assert breaker.state is CLOSED


def test_no_worker_opens_at_once(breaker: Breaker, told: Told) -> None:
    """Without a worker there is nothing to count; told again, it stays as it is."""
    breaker.no_worker(0.0)
    before = breaker.probe_at
    breaker.no_worker(0.1)
    assert breaker.probe_at == before
    assert told == [OPEN]


def test_one_probe_closes(breaker: Breaker, told: Told) -> None:
    """After a health check one operation goes through; its success lets all through."""
    _open(breaker)
    breaker.health_check_passed()
    assert breaker.is_ready
    assert breaker.admit()
    assert [breaker.admit() for _ in range(10)] == [False] * 10
    assert 0 < breaker.retry_after_seconds(0.5) < 1
    breaker.success()
    assert [breaker.admit() for _ in range(10)] == [True] * 10
    assert told == [OPEN, HALF_OPEN, CLOSED]


def test_a_probe_that_fails_opens_for_longer(breaker: Breaker) -> None:
    """Each failed probe doubles the back-off, up to 30 s; a success starts it anew."""
    _open(breaker)
    now, waits = 0.0, []
    for _ in range(9):
        waits.append(breaker.probe_at - now)
        now = breaker.probe_at
        breaker.health_check_passed()
        assert breaker.admit()
        breaker.fault(now)
        assert breaker.state is OPEN
    assert waits == [0.5, 1, 2, 4, 8, 16, 30, 30, 30]
    breaker.health_check_passed()
    breaker.success()
    _open(breaker, now)
    assert breaker.probe_at - now == 0.5


def test_a_failed_health_check_doubles_too(breaker: Breaker, told: Told) -> None:
    """A health check that fails lets nothing through."""
    _open(breaker)
    breaker.health_check_failed(0.5)
    assert breaker.probe_at == 1.5
    assert not breaker.admit()
    assert breaker.retry_after_seconds(0.5) == 1.0
    assert told == [OPEN]


def test_a_probe_without_an_answer_makes_room(breaker: Breaker) -> None:
    """When the probe's caller goes away, the next operation is the probe."""
    _open(breaker)
    breaker.health_check_passed()
    assert [breaker.admit(), breaker.admit()] == [True, False]
    breaker.release()
    assert breaker.admit()
    assert breaker.state is HALF_OPEN


def test_late_news_change_nothing(breaker: Breaker, told: Told) -> None:
    """Answers and faults of operations sent before it opened do not move it."""
    _open(breaker)
    breaker.success()
    breaker.fault(0.1)
    breaker.release()
    assert breaker.state is OPEN
    assert not breaker.admit()
    assert breaker.retry_after_seconds(0.1) == pytest.approx(0.4)
    breaker.health_check_passed()
    breaker.health_check_passed()
    breaker.health_check_failed(0.2)
    assert told == [OPEN, HALF_OPEN]


@pytest.mark.parametrize(("jitter", "wait"), [(0.0, 0.25), (0.5, 0.375), (1.0, 0.5)])
def test_jitter_spreads_the_probes(jitter: float, wait: float) -> None:
    """Half of the back-off is fixed, half is chance."""
    breaker = Breaker(jitter=lambda: jitter, on_change=lambda _: None)
    breaker.no_worker(100.0)
    assert breaker.probe_at - 100.0 == wait


def test_the_wait_is_never_nothing(breaker: Breaker) -> None:
    """A caller that comes when the probe is due is not told to come back at once."""
    _open(breaker)
    assert breaker.retry_after_seconds(60.0) > 0
