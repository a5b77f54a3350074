"""Searches find what a look at every record finds, in either order, page by page."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.audit_records import record
from tests.support.audit_tree import Tree
from tests.support.waiting import wait_until

from strongroom.audit.v1 import audit_log_service_pb2 as messages
from strongroom_auditlog import record_search
from strongroom_auditlog.errors import RequestError
from strongroom_auditlog.listing import list_records
from strongroom_auditlog.metrics import Metrics
from strongroom_auditlog.record_filter import RecordFields, RecordFilter
from strongroom_auditlog.record_index import RecordIndex
from strongroom_auditlog.record_search import Found, RecordSearch

SIZE = 9_500  # two whole blocks and a part of a third
INDEXED = 9_000
KEYS = [f"regions/eu-1/keys/{n:08x}-5d0d-4f5e-9a75-1a2b3c4d5e6f" for n in range(40)]
RARE = "regions/us-1/keys/00000001-5d0d-4f5e-9a75-1a2b3c4d5e6f"
PRINCIPALS = ["spiffe://example.org/orders", "spiffe://example.org/payments", "strongroom:rotation"]
METHODS = ["Decrypt", "Encrypt", "RotateKey"]
OUTCOMES = ["OK", "OK", "OK", "DENIED", "FAILED"]


@dataclass(frozen=True)
class Log:
    """A log, its index, and the same records in memory."""

    tree: Tree
    index: RecordIndex
    records: list[bytes]

    @property
    def search(self) -> RecordSearch:
        """Searches with the index."""
        return RecordSearch(self.tree.files, self.index)

    def brute(self, wanted: RecordFilter) -> list[int]:
        """Look at every record."""
        return [n for n, r in enumerate(self.records) if wanted.matches(RecordFields.of(r))]


def made_up(numbers: random.Random, n: int) -> bytes:
    """Return a record with fields of all kinds, strange ones among them."""
    region = numbers.choice(["eu-1", "us-1"])
    changes: dict[str, object] = {
        "key": numbers.choices(KEYS, [1 / (i + 1) ** 2 for i in range(40)])[0],
        "principal": numbers.choice(PRINCIPALS),
        "method": numbers.choices(METHODS, [100, 20, 1])[0],
        "outcome": numbers.choice(OUTCOMES),
        "time": f"2026-01-01T{n // 3600:02d}:{n // 60 % 60:02d}:{n % 60:02d}.000000Z",
    }
    if changes["outcome"] != "OK":
        changes["reason"] = numbers.choice(["POLICY_DENIED", "KEY_DISABLED"])
    if n % 97 == 0:
        changes |= {"key": None, "time": "yesterday", "method": 7}
    if n in (17, 5000, 9300):
        changes |= {"key": RARE}
    return record(region, 1, n + 1, **changes)


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Log]:
    """A log whose last records are not indexed yet."""
    numbers = random.Random(11)  # noqa: S311 - repeatable
    directory = tmp_path_factory.mktemp("log")
    tree = Tree(directory / "log")
    records = [made_up(numbers, n) for n in range(SIZE)]
    for start in range(0, SIZE, 500):
        tree.append(records[start : start + 500])
    index = RecordIndex(
        directory / "index.sqlite3",
        origin="test",
        files=tree.files,
        size=lambda: INDEXED,
        metrics=Metrics(regions=("eu-1",), version="0"),
    )
    index.start()
    wait_until(lambda: index.leaves == INDEXED)
    yield Log(tree, index, records)
    index.close()


def some(values: list[str]) -> st.SearchStrategy[frozenset[str]]:
    """Return sets of up to three values, most often none."""
    return st.one_of(st.just(frozenset()), st.frozensets(st.sampled_from(values), max_size=3))


times = st.one_of(
    st.just(""),
    st.integers(0, SIZE + 100).map(
        lambda n: f"2026-01-01T{n // 3600:02d}:{n // 60 % 60:02d}:{n % 60:02d}.000000Z"
    ),
)
filters = st.builds(
    RecordFilter,
    keys=some([*KEYS, RARE, *(key.rpartition("/")[2] for key in KEYS[:3]), "nothing"]),
    principals=some([*PRINCIPALS, "spiffe://example.org/other"]),
    methods=some([*METHODS, "Sign"]),
    outcomes=some(["OK", "DENIED", "FAILED", "REFUSED"]),
    reasons=some(["POLICY_DENIED", "KEY_DISABLED"]),
    regions=some(["eu-1", "us-1", "ap-1"]),
    since=times,
    until=times,
)


@settings(max_examples=30, deadline=None)
@given(
    wanted=filters,
    size=st.sampled_from([*range(0, SIZE, 500), SIZE]),
    limit=st.sampled_from([1, 7, 100, 1000]),
)
def test_an_index_finds_what_a_look_at_all_finds(
    log: Log, wanted: RecordFilter, size: int, limit: int
) -> None:
    """In both orders the pages of a search are exactly the records that match."""
    expected = [n for n in log.brute(wanted) if n < size]
    upwards: list[int] = []
    following: int | None = 0
    while following is not None and len(upwards) < 500:
        page = log.search.ascending(wanted, size=size, start=following, limit=limit)
        assert len(page.records) <= limit
        assert all(log.records[leaf] == data for leaf, data in page.records)
        upwards += [leaf for leaf, _ in page.records]
        following = page.following
    assert upwards == expected[: len(upwards)]
    assert following is not None or upwards == expected
    downwards: list[int] = []
    following = size
    while following is not None and len(downwards) < 500:
        page = log.search.descending(wanted, size=size, end=following, limit=limit)
        downwards += [leaf for leaf, _ in page.records]
        following = page.following
    assert downwards == expected[::-1][: len(downwards)]
    assert following is not None or downwards == expected[::-1]


def test_a_key_is_found_by_its_name_and_by_its_id(log: Log) -> None:
    """A bare id finds the key in every region, a name in its own only."""
    by_name = log.brute(RecordFilter(keys=frozenset([RARE])))
    assert by_name == [17, 5000, 9300]
    by_id = RecordFilter(keys=frozenset([RARE.rpartition("/")[2]]))
    found = log.search.ascending(by_id, size=SIZE, start=0, limit=None)
    assert [leaf for leaf, _ in found.records] == log.brute(by_id)
    assert set(by_name) < set(log.brute(by_id))


def test_the_index_spares_most_of_the_reading(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    """For a rare key only the bundles that have it and those not indexed yet are read."""
    read: list[int] = []
    plain = log.tree.files.read_entries

    def noted(n: int, size: int) -> list[bytes]:
        if threading.current_thread() is threading.main_thread():  # not the index's own
            read.append(n)
        return plain(n, size)

    monkeypatch.setattr(log.tree.files, "read_entries", noted)
    wanted = RecordFilter(keys=frozenset([RARE.replace("us-1", "eu-1")]), methods=frozenset(["x"]))
    assert log.search.ascending(wanted, size=SIZE, start=0, limit=10).records == []
    assert read == [35, 36, 37]  # leaves from 9,100 on


@pytest.mark.parametrize("order", ["ascending", "descending"])
def test_a_search_is_bounded_and_goes_on(
    log: Log, monkeypatch: pytest.MonkeyPatch, order: str
) -> None:
    """When the budget is spent a page may be empty, and the next one goes on behind it."""
    monkeypatch.setattr(record_search, "MAX_BUNDLES", 3)
    monkeypatch.setattr(record_search, "MAX_BLOCKS", 1)
    plain = RecordSearch(log.tree.files)
    wanted = RecordFilter(keys=frozenset([RARE]))
    found: list[int] = []
    at: int | None = 0 if order == "ascending" else SIZE
    pages = 0
    while at is not None:
        page: Found
        if order == "ascending":
            page = plain.ascending(wanted, size=SIZE, start=at, limit=10)
        else:
            page = plain.descending(wanted, size=SIZE, end=at, limit=10)
        found += [leaf for leaf, _ in page.records]
        at = page.following
        pages += 1
    assert sorted(found) == [17, 5000, 9300]
    assert pages > SIZE / 256 / 3


def ask(log: Log, size: int = SIZE, **fields: Any) -> messages.ListRecordsResponse:
    """Ask as the RPC does."""
    request = messages.ListRecordsRequest(**fields)
    return list_records(request, search=log.search, size=size)


def test_pages_are_stable_while_the_log_grows(log: Log) -> None:
    """Downwards the pages end where the first one began; upwards they take in what is new."""
    asked = messages.RecordFilter(methods=["RotateKey"])
    expected = log.brute(RecordFilter(methods=frozenset(["RotateKey"])))
    for order in (messages.RECORD_ORDER_ASCENDING, messages.RECORD_ORDER_DESCENDING):
        seen: list[int] = []
        token, size = "", 5_000
        while True:
            page = ask(
                log, min(size, SIZE), filter=asked, order=order, page_size=5, page_token=token
            )
            seen += [item.index for item in page.records]
            token, size = page.next_page_token, size + 500
            if not token:
                break
        if order == messages.RECORD_ORDER_DESCENDING:
            assert seen == [n for n in expected if n < 5_000][::-1]
        else:
            assert seen == expected[: len(seen)]
            assert seen[-1] > 5_000


@pytest.mark.parametrize(
    "change",
    [
        {"filter": messages.RecordFilter(methods=["Encrypt"])},
        {"filter": messages.RecordFilter()},
        {"order": messages.RECORD_ORDER_DESCENDING},
        {"start_index": 1},
    ],
)
def test_a_token_is_of_one_list(log: Log, change: dict[str, Any]) -> None:
    """With another filter, order or start a token is refused; with another page size it is not."""
    fields: dict[str, Any] = {"filter": messages.RecordFilter(methods=["Decrypt"])}
    token = ask(log, page_size=3, **fields).next_page_token
    assert ask(log, page_size=9, page_token=token, **fields).records[0].index > 0
    with pytest.raises(RequestError, match="page_token"):
        ask(log, page_token=token, **{**fields, **change})


def test_a_token_that_was_changed_is_refused(log: Log) -> None:
    """Every changed character of a token is noticed."""
    token = ask(log, page_size=3).next_page_token
    for at in range(len(token)):
        for character in "07az.é":
            changed = token[:at] + character + token[at + 1 :]
            if changed != token:
                with pytest.raises(RequestError):
                    ask(log, page_token=changed)
    for nonsense in ("v1.3", "v2.3.", "x", token + "0"):
        with pytest.raises(RequestError):
            ask(log, page_token=nonsense)


def test_a_descending_list_has_no_start(log: Log) -> None:
    """A start with descending order, or behind the log, is refused."""
    with pytest.raises(RequestError, match="descending"):
        ask(log, order=messages.RECORD_ORDER_DESCENDING, start_index=3)
    with pytest.raises(RequestError, match="9500 records"):
        ask(log, start_index=SIZE + 1)
    assert ask(log, start_index=SIZE).records == []


def test_times_are_rounded_to_what_records_can_say(log: Log) -> None:
    """`since` takes in its own time, `until` does not, and nanoseconds count."""
    first = RecordFields.of(log.records[100]).time
    request = messages.RecordFilter()
    request.since.FromJsonString(first)
    request.until.FromJsonString(first)
    request.until.seconds += 1
    assert [item.index for item in ask(log, filter=request).records] == [100]
    request.until.nanos = 1
    assert [item.index for item in ask(log, filter=request).records] == [100, 101]
    request.since.nanos = 1
    assert [item.index for item in ask(log, filter=request).records] == [101]
    for broken in (-(2**62), 2**62):
        request.since.seconds = broken
        with pytest.raises(RequestError, match="since"):
            ask(log, filter=request)


def test_a_page_is_bounded_in_bytes(tmp_path: Path) -> None:
    """Large records make short pages, never an empty one, and none is lost."""
    tree = Tree(tmp_path)
    tree.append([record("eu-1", 1, n, note="x" * 60_000) for n in range(1, 41)])
    search = RecordSearch(tree.files)
    wanted = RecordFilter(regions=frozenset(["eu-1"]))
    for filter_ in (wanted, RecordFilter()):
        leaves: list[int] = []
        at: int | None = 0
        while at is not None:
            page = search.ascending(filter_, size=40, start=at, limit=1000)
            assert 1 <= len(page.records) <= 17
            leaves += [leaf for leaf, _ in page.records]
            at = page.following
        assert leaves == list(range(40))


def test_an_empty_log_has_no_pages(tmp_path: Path) -> None:
    """Nothing is found in a log without records."""
    search = RecordSearch(Tree(tmp_path).files)
    nothing = Found([], None)
    wanted = replace(RecordFilter(), keys=frozenset(["x"]))
    assert search.ascending(wanted, size=0, start=0, limit=10) == nothing
    assert search.descending(RecordFilter(), size=0, end=0, limit=10) == nothing
