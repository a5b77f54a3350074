"""Two stores on one file, as two server processes have them."""

from __future__ import annotations

import asyncio
import sqlite3
import uuid
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from pathlib import Path

import pytest
import pytest_asyncio
from tests.support.store_samples import (
    REGION,
    START,
    SteppingClock,
    creation,
    make_key,
    make_memo,
    new_alias,
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
from strongroom_server.store import SqliteKeyStore

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


async def _until(condition: Callable[[], bool], *, seconds: float) -> None:
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - the store has no event to wait for
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
    await _until(lambda: there.find_key(key.key_id) == here.find_key(key.key_id), seconds=1)
    found = there.find_key(key.key_id)
    assert found is not None
    assert (found.state, found.revision, found.versions[1].reserved_uses) == (
        KeyState.DISABLED,
        3,
        65536,
    )
    assert there.find_alias(AliasName(REGION, "orders")) is not None
    assert set(heard) == {key.key_id}
    assert there.counts() == here.counts()


async def test_late_keys_of_the_other_take_their_place_in_the_list(pair: Pair) -> None:
    """Both list the same keys in the same order."""
    here, there = pair
    for number in range(10):
        key = make_key(create_time=START + timedelta(seconds=number * 7 % 10))
        await (here, there)[number % 2].commit(creation(key))
    await here.refresh()
    await there.refresh()
    assert list(here.list_keys(after=None)) == list(there.list_keys(after=None))
    assert len(here.list_keys(after=None)) == 10


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
        assert pair[0].find_key(key.key_id) is None
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
    with sqlite3.connect(tmp_path / "store.db") as vandal:
        vandal.execute("UPDATE policies SET cedar = 'permit(principal, action, resource);'")
        vandal.execute("UPDATE keys SET change_number = change_number + 1")
        vandal.execute("UPDATE shard_meta SET change_number = change_number + 1")
    vandal.close()

    def is_refused() -> bool:
        try:
            assert there.find_key(key.key_id) == key
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
        pair[0].list_keys(after=None)
    await _until(lambda: pair[0].is_current, seconds=3)
    assert list(pair[0].list_keys(after=None)) == []


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
        assert store.find_key(key.key_id) == key
        await store.close()
    assert [entry.name for entry in path.parent.iterdir()] == ["store.db"]
