"""The key store's promises, one by one, on a real database file."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
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
    new_version,
    state_change,
)

from strongroom.resource_names import AliasName
from strongroom_server.domain.keys import KeyState, KeyVersionRef
from strongroom_server.domain.rotation import MAX_USES
from strongroom_server.errors import (
    AliasExistsError,
    EtagMismatchError,
    KeyExhaustedError,
    KeyNotFoundError,
    RequestIdReusedError,
    ShardUnavailableError,
)
from strongroom_server.ports import KeyStore, Outbox
from strongroom_server.store import SqliteKeyStore


@pytest.fixture
def clock() -> SteppingClock:
    """The clock of the store."""
    return SteppingClock()


@pytest_asyncio.fixture
async def store(tmp_path: Path, clock: SteppingClock) -> AsyncIterator[SqliteKeyStore]:
    """An empty store."""
    opened = await SqliteKeyStore.open(tmp_path / "store.db", REGION, clock=clock)
    yield opened
    await opened.close()


def test_it_is_what_the_ports_ask_for(store: SqliteKeyStore) -> None:
    """The store is a KeyStore and an Outbox to the type checker."""

    def use(key_store: KeyStore, outbox: Outbox) -> None:
        assert (key_store, outbox) == (store, store)

    use(store, store)


async def test_a_created_key_is_found_as_it_was_made_also_after_reopening(
    store: SqliteKeyStore, tmp_path: Path, clock: SteppingClock
) -> None:
    """Every field of a key, to the microsecond, is in memory at once and on disk for good."""
    key = make_key(description="für alle Fälle \x00 '; DROP TABLE keys;--")
    assert await store.commit(creation(key)) == 1
    assert await store.find_key(key.key_id) == key
    await store.close()
    again = await SqliteKeyStore.open(tmp_path / "store.db", REGION, clock=clock)
    assert await again.find_key(key.key_id) == key
    assert await all_keys(again) == [key]
    await again.close()


async def test_a_state_change_raises_the_revision_by_one(store: SqliteKeyStore) -> None:
    """The state, the update time and the revision change, nothing else."""
    key = make_key()
    await store.commit(creation(key))
    await store.commit(state_change(key, KeyState.DISABLED))
    found = await store.find_key(key.key_id)
    assert found is not None
    assert (found.state, found.revision) == (KeyState.DISABLED, 2)
    assert found.update_time == START + timedelta(seconds=1)
    assert (found.create_time, found.policy, found.versions) == (
        key.create_time,
        key.policy,
        key.versions,
    )


async def test_a_new_version_becomes_primary(store: SqliteKeyStore) -> None:
    """The old version stays, the new one is primary."""
    key = make_key()
    await store.commit(creation(key))
    await store.commit(new_version(key))
    found = await store.find_key(key.key_id)
    assert found is not None
    assert [version.number for version in found.versions] == [1, 2]
    assert (found.primary_version, found.revision) == (2, 2)


@pytest.mark.parametrize("change", [state_change, new_version])
async def test_a_change_of_another_revision_is_refused_and_leaves_nothing(
    store: SqliteKeyStore, change: object
) -> None:
    """Neither the key nor the outbox shows anything of a refused change."""
    key = make_key()
    await store.commit(creation(key))
    for revision in (0, 2):
        refused = (
            new_version(key, revision=revision)
            if change is new_version
            else state_change(key, KeyState.DISABLED, revision=revision)
        )
        with pytest.raises(EtagMismatchError):
            await store.commit(refused)
    assert await store.find_key(key.key_id) == key
    assert len(await store.outbox_after(0, 10)) == 1
    assert await store.commit(state_change(key, KeyState.DISABLED)) == 2


async def test_changing_a_key_that_is_not_there_is_a_mismatch(store: SqliteKeyStore) -> None:
    """A key nobody created has no revision to expect."""
    with pytest.raises(EtagMismatchError):
        await store.commit(state_change(make_key(), KeyState.DISABLED))


async def test_an_alias_is_found_and_is_unique(store: SqliteKeyStore) -> None:
    """The second alias of a name is refused, whatever key it is for."""
    first, second = make_key(), make_key()
    await store.commit(creation(first))
    await store.commit(creation(second))
    await store.commit(new_alias(first, "orders/main"))
    with pytest.raises(AliasExistsError):
        await store.commit(new_alias(second, "orders/main"))
    alias = await store.find_alias(AliasName(REGION, "orders/main"))
    assert alias is not None
    assert (alias.key_id, alias.create_time) == (first.key_id, START)
    assert await store.find_alias(AliasName(REGION, "orders/Main")) is None


async def test_an_alias_of_a_key_that_is_not_there_is_refused(store: SqliteKeyStore) -> None:
    """Aliases never dangle."""
    with pytest.raises(KeyNotFoundError):
        await store.commit(new_alias(make_key(), "nobody"))


async def test_outbox_rows_equal_the_changes_and_ids_are_never_used_again(
    store: SqliteKeyStore, tmp_path: Path, clock: SteppingClock
) -> None:
    """Each commit has its draft, in order; deleting the last row does not free its id."""
    key = make_key()
    mutations = [creation(key), state_change(key, KeyState.DISABLED), new_alias(key, "a")]
    ids = [await store.commit(mutation) for mutation in mutations]
    assert ids == [1, 2, 3]
    rows = await store.outbox_after(0, 10)
    assert [row.outbox_id for row in rows] == ids
    assert [row.draft for row in rows] == [mutation.draft for mutation in mutations]
    assert [row.outbox_id for row in await store.outbox_after(1, 1)] == [2]
    await store.delete_outbox_through(2)
    await store.delete_outbox_through(2)
    assert [row.outbox_id for row in await store.outbox_after(0, 10)] == [3]
    await store.delete_outbox_through(3)
    await store.close()
    again = await SqliteKeyStore.open(tmp_path / "store.db", REGION, clock=clock)
    assert await again.last_outbox_id() == 3
    assert await again.commit(new_alias(key, "b")) == 4
    await again.close()


async def test_a_memo_is_kept_and_taken_once(store: SqliteKeyStore) -> None:
    """The first memo of a request id stays; a second commit with it changes nothing."""
    first, second = make_key(), make_key()
    memo = make_memo("r-1", answer='{"key":"1"}')
    await store.commit(creation(first, memo))
    with pytest.raises(RequestIdReusedError):
        await store.commit(creation(second, make_memo("r-1", body=b"another")))
    assert await store.find_key(second.key_id) is None
    assert await store.find_memo(memo.principal, memo.method, "r-1") == memo
    assert await store.find_memo(memo.principal, memo.method, "r-2") is None
    assert await store.find_memo("spiffe://example.org/other", memo.method, "r-1") is None
    assert await store.find_memo(memo.principal, "RotateKey", "r-1") is None


async def test_a_taken_request_id_is_told_before_anything_else(store: SqliteKeyStore) -> None:
    """A repeat hears of its memo and not of the effect of the first call."""
    key = make_key()
    await store.commit(creation(key))
    await store.commit(new_alias(key, "orders", make_memo("r-1")))
    with pytest.raises(RequestIdReusedError):
        await store.commit(new_alias(key, "orders", make_memo("r-1")))


async def test_a_refused_change_leaves_no_memo(store: SqliteKeyStore) -> None:
    """After a conflict the same request id can be used again."""
    key, other = make_key(), make_key()
    await store.commit(creation(key))
    await store.commit(new_alias(key, "orders"))
    memo = make_memo("r-1")
    with pytest.raises(AliasExistsError):
        await store.commit(new_alias(key, "orders", memo))
    assert await store.find_memo(memo.principal, memo.method, "r-1") is None
    await store.commit(creation(other, memo))


async def test_memos_live_for_a_day_and_are_purged_some_time_later(
    store: SqliteKeyStore, clock: SteppingClock
) -> None:
    """After 24 hours a memo is there; after 48 later commits have deleted it."""
    for number in range(40):
        await store.commit(creation(make_key(), make_memo(f"old-{number}")))
    clock.wall += timedelta(hours=24)
    await store.commit(creation(make_key(), make_memo("day")))
    memo = make_memo("old-0")
    assert await store.find_memo(memo.principal, memo.method, "old-0") is not None
    clock.wall += timedelta(hours=24, seconds=1)
    for number in range(3):
        await store.commit(creation(make_key(), make_memo(f"new-{number}")))
    for number in range(40):
        assert await store.find_memo(memo.principal, memo.method, f"old-{number}") is None
    assert await store.find_memo(memo.principal, memo.method, "day") is not None


async def test_reserved_uses_are_current_in_memory_and_leave_the_etag_alone(
    store: SqliteKeyStore, tmp_path: Path, clock: SteppingClock
) -> None:
    """Reservations add up, on disk too, and are no change of the key."""
    key = make_key()
    await store.commit(creation(key))
    heard: list[uuid.UUID] = []
    store.on_change(heard.append)
    ref = key.version_ref(1)
    assert await store.reserve_uses(ref, 65536) == 65536
    assert await store.reserve_uses(ref, 65536) == 131072
    found = await store.find_key(key.key_id)
    assert found is not None
    assert (found.versions[0].reserved_uses, found.etag) == (131072, key.etag)
    assert heard == []
    await store.commit(state_change(key, KeyState.DISABLED))
    await store.close()
    again = await SqliteKeyStore.open(tmp_path / "store.db", REGION, clock=clock)
    assert await again.reserve_uses(ref, 1) == 131073
    await again.close()


async def test_reservations_stop_at_the_limit(store: SqliteKeyStore) -> None:
    """The last use can be reserved, one more is refused, the next version starts anew."""
    key = make_key()
    await store.commit(creation(key))
    await store.reserve_uses(key.version_ref(1), MAX_USES - 1)
    with pytest.raises(KeyExhaustedError):
        await store.reserve_uses(key.version_ref(1), 2)
    assert await store.reserve_uses(key.version_ref(1), 1) == MAX_USES
    await store.commit(new_version(key))
    assert await store.reserve_uses(key.version_ref(2), 7) == 7


async def test_reserving_nothing_or_for_nobody_is_refused(store: SqliteKeyStore) -> None:
    """Zero uses are a mistake of the caller, a missing version one of the store."""
    key = make_key()
    await store.commit(creation(key))
    with pytest.raises(ValueError, match="at least one"):
        await store.reserve_uses(key.version_ref(1), 0)
    for ref in (key.version_ref(2), KeyVersionRef(uuid.uuid4(), 1)):
        with pytest.raises(ShardUnavailableError):
            await store.reserve_uses(ref, 1)


async def test_listeners_hear_of_each_change_after_it_is_visible(store: SqliteKeyStore) -> None:
    """When a listener runs, memory has the change already."""
    key = make_key()
    seen: list[object] = []
    store.on_change(lambda key_id: seen.append(store.cached_key(key_id)))
    await store.commit(creation(key))
    await store.commit(state_change(key, KeyState.DISABLED))
    assert seen == [key, await store.find_key(key.key_id)]


async def test_a_cancelled_caller_does_not_part_memory_from_disk(store: SqliteKeyStore) -> None:
    """A commit whose caller gave up is in memory when it is on disk."""
    keys = [make_key() for _ in range(20)]
    for key in keys:
        task = asyncio.create_task(store.commit(creation(key)))
        await asyncio.sleep(0.0005)
        task.cancel()
        await asyncio.wait([task])
    await store.commit(creation(make_key()))  # behind all others in the writer's queue
    rows = await store.outbox_after(0, 100)
    assert {row.draft.key for row in rows} == {str(key.name) for key in await all_keys(store)}


async def test_commits_at_once_are_all_made(store: SqliteKeyStore) -> None:
    """Fifty commits given together get fifty ids in the order they were given."""
    keys = [make_key(create_time=START + timedelta(seconds=n)) for n in range(50)]
    ids = await asyncio.gather(*(store.commit(creation(key)) for key in keys))
    assert ids == list(range(1, 51))
    assert await all_keys(store) == keys
    assert (await store.recount()).versions == 50
    expected = dict.fromkeys(KeyState, 0) | {KeyState.ENABLED: 50}
    assert store.counts().keys_by_state == expected


async def test_a_change_of_another_region_or_shape_is_a_mistake(store: SqliteKeyStore) -> None:
    """What the store could not read back it does not write."""
    with pytest.raises(ValueError, match="region"):
        await store.commit(creation(make_key(region="us-test")))
    assert await store.outbox_after(0, 1) == []


async def test_a_closed_store_says_so(store: SqliteKeyStore) -> None:
    """After close, twice, every call that needs the database is refused."""
    await store.close()
    await store.close()
    with pytest.raises(ShardUnavailableError, match="closed"):
        await store.commit(creation(make_key()))
    with pytest.raises(ShardUnavailableError, match="closed"):
        await store.find_memo("p", "m", "r")


async def test_a_full_database_refuses_a_change_whole_and_recovers(store: SqliteKeyStore) -> None:
    """SQLITE_FULL in the middle of a change leaves nothing of it, and is not for ever."""
    kept, refused = make_key(), make_key(description="x" * 8192)
    await store.commit(creation(kept))
    await store._database.writer.run(
        lambda connection: connection.exec_driver_sql("PRAGMA max_page_count = 1").scalar_one()
    )
    with pytest.raises(ShardUnavailableError):
        await store.commit(creation(refused, make_memo("r-0")))
    assert await store.find_key(refused.key_id) is None
    assert await all_keys(store) == [kept]
    memo = make_memo("r-0")
    assert await store.find_memo(memo.principal, memo.method, memo.request_id) is None
    # The failed connection was thrown away, and with it the limit.
    assert await store.commit(creation(refused, memo)) == 2
