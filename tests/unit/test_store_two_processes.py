"""Two stores on one file, as two server processes have them."""

from __future__ import annotations

import asyncio
import sqlite3
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import timedelta
from pathlib import Path

import pytest
import pytest_asyncio
from tests.support.store_samples import (
    REGION,
    START,
    SteppingClock,
    all_keys,
    creation,
    make_key,
    make_memo,
    new_alias,
    new_root,
    new_version,
    state_change,
)

from strongroom.resource_names import AliasName
from strongroom_server.domain.keys import KeyState
from strongroom_server.errors import (
    EtagMismatchError,
    RequestIdReusedError,
    ShardUnavailableError,
)
from strongroom_server.mutations import RootState
from strongroom_server.store import SqliteKeyStore, unseen

Pair = tuple[SqliteKeyStore, SqliteKeyStore]


@pytest.fixture
def clock() -> SteppingClock:
    """The clock of both."""
    return SteppingClock()


@pytest_asyncio.fixture
async def pair(tmp_path: Path, clock: SteppingClock) -> AsyncIterator[Pair]:
    """Two stores that follow each other."""
    stores = [
        await SqliteKeyStore.open(tmp_path / "store.db", REGION, clock=clock) for _ in range(2)
    ]
    for store in stores:
        store.start_polling()
    yield stores[0], stores[1]
    for store in stores:
        await store.close()


async def _until(condition: Callable[[], Awaitable[bool]], *, seconds: float) -> None:
    async with asyncio.timeout(seconds):
        while not await condition():  # noqa: ASYNC110 - the store has no event to wait for
            await asyncio.sleep(0.01)


async def test_a_change_is_seen_by_the_other_within_a_second(pair: Pair) -> None:
    """Key, state, version, alias and reserved uses arrive, and listeners hear of the key."""
    here, there = pair
    heard: list[uuid.UUID] = []
    there.on_change(heard.append)
    key = make_key()
    await here.commit(creation(key))
    await here.commit(new_alias(key, "orders"))
    await here.commit(state_change(key, KeyState.DISABLED))
    await here.commit(new_version(key, revision=2))
    await here.reserve_uses(key.version_ref(2), 65536)

    async def is_seen() -> bool:
        return await there.find_key(key.key_id) == await here.find_key(key.key_id)

    await _until(is_seen, seconds=1)
    found = await there.find_key(key.key_id)
    assert found is not None
    assert (found.state, found.revision, found.versions[1].reserved_uses) == (
        KeyState.DISABLED,
        3,
        65536,
    )
    assert await there.find_alias(AliasName(REGION, "orders")) is not None
    assert set(heard) <= {key.key_id}
    assert await there.recount() == await here.recount()


async def test_what_another_process_changed_is_dropped_within_a_second(pair: Pair) -> None:
    """A key in memory is dropped, its listeners hear of it, and the next read has the change."""
    here, there = pair
    heard: list[uuid.UUID] = []
    key, other = make_key(), make_key()
    await here.commit(creation(key))
    await here.commit(creation(other))
    for each in (key, other):
        assert await there.find_key(each.key_id) == each
        assert there.cached_key(each.key_id) == each
    there.on_change(heard.append)
    await here.commit(state_change(key, KeyState.DISABLED))

    async def is_dropped() -> bool:
        found = there.cached_key(key.key_id)
        return found is None or found.state is KeyState.DISABLED

    await _until(is_dropped, seconds=1)
    assert await there.find_key(key.key_id) == await here.find_key(key.key_id)
    assert there.cached_key(other.key_id) == other
    assert heard == [key.key_id]


async def test_absence_is_not_remembered(pair: Pair) -> None:
    """A key and an alias that were not there are found as soon as another process made them."""
    here, there = pair
    key, name = make_key(), AliasName(REGION, "orders")
    assert await there.find_key(key.key_id) is None
    assert await there.find_alias(name) is None
    await here.commit(creation(key))
    await here.commit(new_alias(key, "orders"))
    assert await there.find_key(key.key_id) == key
    assert await there.find_alias(name) is not None


async def test_more_changes_than_are_told_one_by_one_drop_everything(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a flood nothing old is believed, and what was here is told to listeners."""
    here, there = pair
    monkeypatch.setattr(unseen, "MAX_CHANGED_ROWS", 3)
    old, changed = make_key(), [make_key() for _ in range(5)]
    for key in (old, *changed):
        await here.commit(creation(key))
    await there.refresh()
    for key in (old, *changed):
        assert await there.find_key(key.key_id) == key
    heard: list[uuid.UUID] = []
    there.on_change(heard.append)
    for key in changed:
        await here.commit(state_change(key, KeyState.DISABLED))
    await there.refresh()
    for key in changed:
        found = await there.find_key(key.key_id)
        assert found is not None
        assert found.state is KeyState.DISABLED
    assert await there.find_key(old.key_id) == old
    assert {key.key_id for key in changed} <= set(heard)


async def test_roots_of_the_other_are_seen_within_a_second(pair: Pair) -> None:
    """The new active root is known, the old one retires, and of two adders one wins."""
    here, there = pair
    assert await there.list_roots() == ()
    await here.commit(new_root(1))

    async def has_it() -> bool:
        return [root.number for root in await there.list_roots()] == [1]

    await _until(has_it, seconds=1)
    results = await asyncio.gather(
        *(store.commit(new_root(2)) for store in pair), return_exceptions=True
    )
    assert sorted(type(result).__name__ for result in results) == ["EtagMismatchError", "int"]
    await there.refresh()
    states = [(root.number, root.state) for root in await there.list_roots()]
    assert states == [(1, RootState.RETIRING), (2, RootState.ACTIVE)]


async def test_late_keys_of_the_other_take_their_place_in_the_list(pair: Pair) -> None:
    """Both list the same keys in the same order."""
    here, there = pair
    for number in range(10):
        key = make_key(create_time=START + timedelta(seconds=number * 7 % 10))
        await (here, there)[number % 2].commit(creation(key))
    await here.refresh()
    await there.refresh()
    assert await all_keys(here) == await all_keys(there)
    assert len(await all_keys(here)) == 10


async def test_a_stale_etag_is_refused_even_when_memory_does_not_know_yet(pair: Pair) -> None:
    """The revision is checked in the database, not in memory."""
    here, there = pair
    key = make_key()
    await here.commit(creation(key))
    await there.refresh()
    await here.commit(state_change(key, KeyState.DISABLED))
    with pytest.raises(EtagMismatchError):
        await there.commit(new_version(key))


async def test_of_two_changes_at_once_one_wins(pair: Pair) -> None:
    """For each revision exactly one of two processes commits."""
    key = make_key()
    await pair[0].commit(creation(key))
    await pair[1].refresh()
    for revision in range(1, 11):
        results = await asyncio.gather(
            *(
                store.commit(state_change(key, KeyState.DISABLED, revision=revision))
                for store in pair
            ),
            return_exceptions=True,
        )
        assert sorted(type(result).__name__ for result in results) == ["EtagMismatchError", "int"]
    assert len(await pair[0].outbox_after(0, 100)) == 11


async def test_a_memo_is_found_and_kept_by_both(pair: Pair) -> None:
    """A request id that one process took is taken for the other at once."""
    here, there = pair
    memo = make_memo("r-1")
    await here.commit(creation(make_key(), memo))
    assert await there.find_memo(memo.principal, memo.method, "r-1") == memo
    with pytest.raises(RequestIdReusedError):
        await there.commit(creation(make_key(), memo))


async def test_uses_are_never_handed_out_twice(pair: Pair) -> None:
    """Reservations of both, at once, are disjoint blocks without a gap."""
    key = make_key()
    await pair[0].commit(creation(key))
    await pair[1].refresh()
    totals = await asyncio.gather(
        *(pair[number % 2].reserve_uses(key.version_ref(1), 16) for number in range(40))
    )
    assert sorted(totals) == [16 * number for number in range(1, 41)]


async def test_outbox_ids_of_both_are_one_ascending_row(pair: Pair) -> None:
    """No id is given twice and none is missing."""
    ids = await asyncio.gather(
        *(pair[number % 2].commit(creation(make_key())) for number in range(30))
    )
    assert sorted(ids) == list(range(1, 31))
    assert [row.outbox_id for row in await pair[0].outbox_after(0, 100)] == list(range(1, 31))


async def test_a_writer_that_keeps_the_lock_means_unavailable_not_for_ever(
    pair: Pair, tmp_path: Path
) -> None:
    """A commit that cannot get the write lock gives up, and the next one works."""
    key = make_key()
    other = sqlite3.connect(tmp_path / "store.db", isolation_level=None)
    try:
        other.execute("BEGIN IMMEDIATE")
        async with asyncio.timeout(5):
            with pytest.raises(ShardUnavailableError, match=REGION):
                await pair[0].commit(creation(key))
        assert await pair[0].find_key(key.key_id) is None
        other.execute("ROLLBACK")
    finally:
        other.close()
    await pair[0].commit(creation(key))


async def test_memory_is_not_believed_when_the_database_cannot_be_followed(
    pair: Pair, tmp_path: Path
) -> None:
    """A second after the database broke, reads are refused; damage is never taken over."""
    here, there = pair
    key = make_key()
    await here.commit(creation(key))
    await there.refresh()
    assert await there.find_key(key.key_id) == key
    with sqlite3.connect(tmp_path / "store.db") as vandal:
        vandal.execute("UPDATE policies SET cedar = 'permit(principal, action, resource);'")
        vandal.execute("UPDATE keys SET change_number = change_number + 1")
        vandal.execute("UPDATE shard_meta SET change_number = change_number + 1")
    vandal.close()

    async def is_refused() -> bool:
        try:
            assert there.cached_key(key.key_id) == key
        except ShardUnavailableError:
            return True
        return False

    await _until(is_refused, seconds=3)
    assert not there.is_current
    with pytest.raises(ShardUnavailableError, match="damaged"):
        await there.commit(state_change(key, KeyState.DISABLED))


async def test_a_process_that_slept_asks_before_it_answers(
    pair: Pair, clock: SteppingClock
) -> None:
    """After a long stop reads are refused until the database was asked again."""
    clock.monotonic_offset += 3600
    with pytest.raises(ShardUnavailableError):
        await pair[0].list_keys(after=None, limit=1)
    with pytest.raises(ShardUnavailableError):
        pair[0].cached_key(uuid.uuid4())

    async def is_current() -> bool:
        return pair[0].is_current

    await _until(is_current, seconds=3)
    assert await all_keys(pair[0]) == []


async def test_both_may_make_the_new_database_at_once(tmp_path: Path, clock: SteppingClock) -> None:
    """Of several processes that start on a new shard, all get the same database."""
    path = tmp_path / "new" / "store.db"
    stores = await asyncio.gather(
        *(SqliteKeyStore.open(path, REGION, clock=clock) for _ in range(4))
    )
    key = make_key()
    await stores[0].commit(creation(key))
    for store in stores:
        await store.refresh()
        assert await store.find_key(key.key_id) == key
        await store.close()
    assert [entry.name for entry in path.parent.iterdir()] == ["store.db"]
