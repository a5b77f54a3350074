"""Token buckets: exact, several windows at once, bounded memory."""

from __future__ import annotations

import uuid
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from strongroom.kms.v1 import key_service_pb2
from strongroom_server.domain import limits
from strongroom_server.domain.limits import Buckets, LimitName, Limits, Rate, limit_of, parse_rate
from strongroom_server.errors import QuotaExceededError

SECOND = 10**9
ORDERS, BILLING = "spiffe://example.org/orders", "spiffe://example.org/billing"


class ReferenceBucket:
    """A bucket as everybody knows it, in fractions."""

    def __init__(self, rate: Rate) -> None:
        self.rate, self.tokens, self.at = rate, Fraction(rate.count), 0

    def refill(self, now: int) -> None:
        gained = Fraction((now - self.at) * self.rate.count, self.rate.period_ns)
        self.tokens, self.at = min(Fraction(self.rate.count), self.tokens + gained), now


rates = st.builds(
    lambda count, unit: parse_rate(f"{count}/{unit}"),
    st.integers(1, 50),
    st.sampled_from(["second", "minute", "hour", "day"]),
)
steps = st.lists(
    st.tuples(st.integers(0, 200 * SECOND), st.integers(1, 3)), min_size=1, max_size=60
)


@given(st.lists(rates, min_size=1, max_size=3), steps)
def test_buckets_are_token_buckets(windows: list[Rate], calls: list[tuple[int, int]]) -> None:
    """Every call is let through or refused as by the reference, and none is counted in part."""
    buckets = Buckets(windows)
    references = [ReferenceBucket(rate) for rate in windows]
    now = 0
    for pause, cost in calls:
        now += pause
        for reference in references:
            reference.refill(now)
        costs = [min(cost, reference.rate.count) for reference in references]
        fits = all(r.tokens >= c for r, c in zip(references, costs, strict=True))
        lacking = buckets.take(cost, now)
        assert (lacking is None) == fits
        if fits:
            for reference, each in zip(references, costs, strict=True):
                reference.tokens -= each
        else:
            assert lacking is not None
            # The wait is exact: a nanosecond earlier it would not do.
            missing = max(
                (c - r.tokens) * r.rate.period_ns / r.rate.count
                for r, c in zip(references, costs, strict=True)
            )
            assert lacking[1] - 1 < missing <= lacking[1]


@given(st.lists(rates, min_size=1, max_size=3), steps)
def test_after_the_wait_there_is_room(windows: list[Rate], calls: list[tuple[int, int]]) -> None:
    """Whoever comes back when told to is let through."""
    buckets = Buckets(windows)
    now = 0
    for pause, cost in calls:
        now += pause
        lacking = buckets.take(cost, now)
        if lacking is not None:
            now += lacking[1]
            assert buckets.take(cost, now) is None


@pytest.mark.parametrize("text", ["20/second", "1/minute", "100_000/hour", "1000000000000/day"])
def test_a_rate_is_a_count_and_a_period(text: str) -> None:
    """Counts may have underscores, and the text is kept for messages."""
    rate = parse_rate(text)
    assert rate.count == int(text.partition("/")[0])
    assert rate.text == text


NO_RATES = """
20 20/ /second 0/second -1/day 1.5/day 20/s 20/week 1000000000001/day ٣/day 99999999999999999/day
"""


@pytest.mark.parametrize("text", [*NO_RATES.split(), "", "20 /day", "20/day ", "20/day\n"])
def test_anything_else_is_refused(text: str) -> None:
    """Rates have one form."""
    with pytest.raises(ValueError, match="COUNT/second"):
        parse_rate(text)


def test_limits_are_apart() -> None:
    """Principals, planes and keys each have their own tokens."""
    few = {name: (parse_rate("1/second"),) for name in LimitName}
    book = Limits(few)
    key, other = uuid.uuid4(), uuid.uuid4()
    for principal in (ORDERS, BILLING):
        for name in (LimitName.DATA, LimitName.CONTROL, LimitName.CREATE):
            book.take(principal, name, 1, 0)
            with pytest.raises(QuotaExceededError) as refused:
                book.take(principal, name, 1, 0)
            assert refused.value.metadata == {"limit": name, "rate": "1/second"}
            assert refused.value.retry_after_seconds == 1.0
        for key_id in (key, other):
            book.take_key(principal, key_id, 1, 0)
            with pytest.raises(QuotaExceededError):
                book.take_key(principal, key_id, 1, 0)
    book.take(ORDERS, LimitName.DATA, 1, SECOND)


def test_an_override_replaces_what_it_names() -> None:
    """The rest is as for everybody; an empty list means no limit."""
    book = Limits(
        {LimitName.DATA: (parse_rate("1/day"),), LimitName.CREATE: (parse_rate("1/day"),)},
        {ORDERS: {LimitName.DATA: ()}},
    )
    for _ in range(100):
        book.take(ORDERS, LimitName.DATA, 1, 0)
        book.take(ORDERS, LimitName.CONTROL, 1, 0)
        book.take_key(ORDERS, uuid.UUID(int=1), 1, 0)
    book.take(ORDERS, LimitName.CREATE, 1, 0)
    with pytest.raises(QuotaExceededError):
        book.take(ORDERS, LimitName.CREATE, 1, 0)
    book.take(BILLING, LimitName.DATA, 1, 0)
    with pytest.raises(QuotaExceededError):
        book.take(BILLING, LimitName.DATA, 1, 0)


def test_memory_is_bounded_and_nobody_pushes_out_another(monkeypatch: pytest.MonkeyPatch) -> None:
    """A principal that uses many keys forgets its own; the idlest principal goes first."""
    monkeypatch.setattr(limits, "MAX_PRINCIPALS", 3)
    monkeypatch.setattr(limits, "MAX_KEYS_PER_PRINCIPAL", 4)
    monkeypatch.setattr(limits, "MAX_KEYS", 6)
    once = (parse_rate("1/day"),)
    book = Limits({LimitName.DATA: once, LimitName.KEY: once})
    key = uuid.UUID(int=0)
    book.take_key(BILLING, key, 1, 0)
    for number in range(1, 100):
        book.take_key(ORDERS, uuid.UUID(int=number), 1, 0)
    with pytest.raises(QuotaExceededError):
        book.take_key(BILLING, key, 1, 0)
    assert sum(len(account.keys) for account in book._accounts.values()) == 5
    for number in range(2):
        book.take_key(f"spiffe://example.org/{number}", key, 1, 0)
    # ORDERS was idle longest: its four keys went, and with them its account.
    assert list(book._accounts) == [BILLING, *(f"spiffe://example.org/{n}" for n in range(2))]
    assert book._keys == sum(len(account.keys) for account in book._accounts.values()) == 3


def test_every_method_has_its_limit() -> None:
    """Uses of keys, reads, and what makes material are told apart; ReEncrypt counts twice."""
    methods = key_service_pb2.DESCRIPTOR.services_by_name["KeyService"].methods_by_name
    for method in methods:
        assert limit_of(method) is not None
    assert limit_of("Encrypt") == (LimitName.DATA, 1)
    assert limit_of("ReEncrypt") == (LimitName.DATA, 2)
    assert limit_of("GetKey") == limit_of("SomethingNew") == (LimitName.CONTROL, 1)
    assert limit_of("CreateKey") == (LimitName.CREATE, 1)
    assert limit_of("StreamRecords") is None
