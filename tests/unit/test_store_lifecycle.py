"""The store's part of deletion, tags and aliases: real SQLite files, restarts, two processes."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from tests.support.store_samples import (
    PRINCIPAL,
    REGION,
    START,
    SteppingClock,
    all_keys,
    creation,
    make_draft,
    make_key,
    make_material,
    make_memo,
    mutation,
    new_alias,
    new_root,
    new_version,
    state_change,
)

from strongroom.resource_names import AliasName
from strongroom_server.domain.keys import Deletion, Key, KeyState
from strongroom_server.errors import (
    AliasExistsError,
    EtagMismatchError,
    StartRefusedError,
)
from strongroom_server.mutations import (
    DeleteAlias,
    DestroyKey,
    DestroyVersion,
    KeyChange,
    Mutation,
    SetDeletion,
    SetVersionDeletion,
    UpdateAlias,
    UpdateKey,
)
from strongroom_server.store import SqliteKeyStore

LATER = START + timedelta(days=7)
NAME = AliasName(REGION, "orders")


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteKeyStore]:
    opened = await open_store(tmp_path)
    yield opened
    await opened.close()


async def open_store(directory: Path) -> SqliteKeyStore:
    """Open the database of a test; every row's digest is checked on the way."""
    return await SqliteKeyStore.open(directory / "store.db", REGION, clock=SteppingClock())


async def changed(store: SqliteKeyStore, key: Key, change: KeyChange) -> Key:
    """Commit a change and return the key as the store has it; it is as the change says."""
    await store.commit(mutation(key, change))
    now = await store.find_key(key.key_id)
    assert now == change.apply(key)
    return now


def waiting(key: Key, mark: int | None = 500) -> SetDeletion:
    """Schedule the deletion of `key`."""
    deletion = Deletion(LATER, mark)
    return SetDeletion(key.key_id, KeyState.PENDING_DELETION, deletion, START, key.revision)


async def two_versions(store: SqliteKeyStore, *, is_wrapped: bool) -> Key:
    """Make a key and rotate it once."""
    first, second = (make_material(1, 0xA5A5A5A5A5), make_material(1, 0x5A5A5A5A5A))
    if is_wrapped:
        await store.commit(new_root(1))
    key = make_key(wrapped=first if is_wrapped else None)
    await store.commit(creation(key))
    await store.commit(new_version(key, wrapped=second if is_wrapped else None))
    found = await store.find_key(key.key_id)
    assert found is not None
    return found


@pytest.mark.parametrize("is_wrapped", [False, True])
async def test_a_key_s_whole_life_survives_restarts(tmp_path: Path, is_wrapped: bool) -> None:  # noqa: FBT001 - a parameter of the test
    """Each change reads back as it was made, also by a process that checks every digest."""
    store = await open_store(tmp_path)
    key = await two_versions(store, is_wrapped=is_wrapped)
    tags = (("größe", "x"), ("team", "payments"))
    key = await changed(store, key, UpdateKey(key.key_id, "new", tags, START, key.revision))
    version = SetVersionDeletion(key.key_id, 1, Deletion(LATER, 9), START, key.revision)
    key = await changed(store, key, version)
    key = await changed(store, key, waiting(key))
    back = SetDeletion(key.key_id, KeyState.DISABLED, None, START, key.revision)
    key = await changed(store, key, back)
    key = await changed(store, key, DestroyVersion(key.key_id, 1, LATER, key.revision))
    key = await changed(store, key, waiting(key, mark=None))
    await store.close()
    store = await open_store(tmp_path)
    assert await store.find_key(key.key_id) == key
    key = await changed(store, key, DestroyKey(key.key_id, LATER, key.revision))
    await store.close()
    store = await open_store(tmp_path)
    assert await all_keys(store) == [key]
    assert [v.wrapped for v in key.versions] == [None, None]
    assert (await store.recount()).keys_by_state[KeyState.DESTROYED] == 1
    assert await store.stale_versions(2, limit=10) == ()
    await store.close()


async def test_a_change_of_another_revision_is_refused(store: SqliteKeyStore) -> None:
    """Compare and swap: what was read before another change cannot be written."""
    key = await two_versions(store, is_wrapped=False)
    await store.commit(state_change(key, KeyState.DISABLED))
    now = await store.find_key(key.key_id)
    for change in (waiting(key), DestroyKey(key.key_id, LATER, key.revision)):
        with pytest.raises(EtagMismatchError):
            await store.commit(mutation(key, change))
    assert await store.find_key(key.key_id) == now


async def test_erased_material_is_nowhere_in_the_files(tmp_path: Path) -> None:
    """After the destruction and a checkpoint neither database nor journal has the bytes."""
    store = await open_store(tmp_path)
    key = await two_versions(store, is_wrapped=True)
    secret = key.versions[0].wrapped
    assert secret is not None
    path = tmp_path / "store.db"

    def is_in_a_file() -> bool:
        return any(secret.wrapped in file.read_bytes() for file in tmp_path.iterdir())

    def is_on_disk() -> bool:
        with closing(sqlite3.connect(path)) as other:
            other.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        return is_in_a_file()

    assert is_on_disk()
    key = await changed(store, key, DestroyVersion(key.key_id, 1, LATER, key.revision))
    assert not is_on_disk()
    await store.close()
    assert not is_in_a_file()


async def test_what_is_due_is_found_by_both_clocks(store: SqliteKeyStore) -> None:
    """Time and mark have to have come, for keys and versions alike; what has begun is due."""
    keys = [make_key(create_time=START + timedelta(seconds=n)) for n in range(4)]
    for key in keys:
        await store.commit(creation(key))
    assert not await store.has_deletions()
    early = timedelta(microseconds=1)
    await store.commit(mutation(keys[0], waiting(keys[0])))
    await store.commit(mutation(keys[1], waiting(keys[1], mark=None)))
    version = SetVersionDeletion(keys[2].key_id, 1, Deletion(LATER, 500), START, 1)
    await store.commit(mutation(keys[2], version))
    assert await store.has_deletions()

    async def due(ahead: timedelta, observed: int, limit: int = 10) -> list[int]:
        found = await store.due_deletions(now=LATER + ahead, observed=observed, limit=limit)
        ids = [key.key_id for key in found]
        return sorted(number for number, key in enumerate(keys) if key.key_id in ids)

    assert await due(-early, 500) == [1]
    assert await due(timedelta(days=400), 499) == [1]
    assert await due(timedelta(days=-400), 10**9) == [1]
    assert await due(timedelta(0), 500) == [0, 1, 2]
    assert len(await due(timedelta(0), 500, limit=2)) == 2


async def test_observed_time_is_moved_by_one_at_a_time(tmp_path: Path) -> None:
    """Two servers that saw the same count: one of them moves it on; it survives a restart."""
    one, two = await open_store(tmp_path), await open_store(tmp_path)
    assert await one.observed_seconds() == 0
    assert await one.advance_observed(expected=0, seconds=60)
    assert not await two.advance_observed(expected=0, seconds=60)
    assert await two.observed_seconds() == 60
    results = await asyncio.gather(
        *(each.advance_observed(expected=60, seconds=7) for each in (one, two, one, two))
    )
    assert sorted(results) == [False, False, False, True]
    await one.close()
    await two.close()
    again = await open_store(tmp_path)
    assert await again.observed_seconds() == 67
    await again.close()


async def test_an_alias_is_pointed_elsewhere_and_deleted(tmp_path: Path) -> None:
    """The store keeps to what was expected, and a deleted alias can be made again."""
    store = await open_store(tmp_path)
    keys = [make_key(), make_key()]
    for key in keys:
        await store.commit(creation(key))
    await store.commit(new_alias(keys[0], "orders"))
    alias = await store.find_alias(NAME)
    assert alias is not None
    moved = replace(alias, key_id=keys[1].key_id, update_time=LATER)
    with pytest.raises(EtagMismatchError):
        await store.commit(mutation(keys[1], UpdateAlias(moved, keys[1].key_id)))
    await store.commit(mutation(keys[1], UpdateAlias(moved, keys[0].key_id)))
    assert await store.find_alias(NAME) == moved
    assert await store.list_aliases(key_id=keys[0].key_id, after="", limit=9) == []
    assert await store.list_aliases(key_id=keys[1].key_id, after="", limit=9) == [moved]
    with pytest.raises(EtagMismatchError):
        await store.commit(mutation(keys[0], DeleteAlias(NAME, keys[0].key_id)))
    await store.commit(mutation(keys[1], DeleteAlias(NAME, keys[1].key_id)))
    for change in (DeleteAlias(NAME, keys[1].key_id), UpdateAlias(moved, keys[1].key_id)):
        with pytest.raises(EtagMismatchError):
            await store.commit(mutation(keys[1], change))
    assert await store.find_alias(NAME) is None
    assert (await store.recount()).aliases == 0
    await store.close()
    store = await open_store(tmp_path)
    assert await store.find_alias(NAME) is None
    await store.commit(new_alias(keys[0], "orders"))
    with pytest.raises(AliasExistsError):
        await store.commit(new_alias(keys[1], "orders"))
    again = await store.find_alias(NAME)
    assert again is not None
    assert (again.key_id, again.update_time) == (keys[0].key_id, None)
    assert (await store.recount()).aliases == 1
    await store.close()


async def test_aliases_come_by_name_and_pages_survive_changes(store: SqliteKeyStore) -> None:
    """A list goes on after the last name seen, whatever came or went meanwhile."""
    key = make_key()
    await store.commit(creation(key))
    for name in ("d", "a", "c/1", "b", "c"):
        await store.commit(new_alias(key, name))
    page = await store.list_aliases(key_id=None, after="", limit=2)
    assert [alias.name.alias for alias in page] == ["a", "b"]
    await store.commit(mutation(key, DeleteAlias(AliasName(REGION, "c"), key.key_id)))
    await store.commit(new_alias(key, "aa"))
    rest = await store.list_aliases(key_id=key.key_id, after="b", limit=9)
    assert [alias.name.alias for alias in rest] == ["c/1", "d"]


async def test_another_process_lets_go_of_a_deleted_alias(tmp_path: Path) -> None:
    """What it has in memory of an alias that is gone, or elsewhere, it drops."""
    one, two = await open_store(tmp_path), await open_store(tmp_path)
    keys = [make_key(), make_key()]
    for key in keys:
        await one.commit(creation(key))
    for name in ("orders", "moved"):
        await one.commit(new_alias(keys[0], name))
    await two.refresh()
    assert await two.find_alias(NAME) is not None
    moved = await two.find_alias(AliasName(REGION, "moved"))
    assert moved is not None
    await one.commit(mutation(keys[0], DeleteAlias(NAME, keys[0].key_id)))
    elsewhere = replace(moved, key_id=keys[1].key_id, update_time=LATER)
    await one.commit(mutation(keys[1], UpdateAlias(elsewhere, keys[0].key_id)))
    await two.refresh()
    assert await two.find_alias(NAME) is None
    assert await two.find_alias(moved.name) == elsewhere
    await one.close()
    await two.close()


async def test_newest_first_is_the_other_way_round(store: SqliteKeyStore) -> None:
    """Pages in descending order have every key once, in the opposite order."""
    keys = [make_key(create_time=START + timedelta(seconds=n // 2)) for n in range(9)]
    for key in keys:
        await store.commit(creation(key))
    ascending = await all_keys(store)
    found: list[Key] = []
    while True:
        after = (found[-1].create_time, found[-1].key_id) if found else None
        page = await store.list_keys(after=after, limit=4, newest_first=True)
        found += page
        if len(page) < 4:
            break
    assert found == ascending[::-1]


async def test_nothing_changed_is_committed_with_memo_and_record(store: SqliteKeyStore) -> None:
    """A mutation without a change leaves keys and aliases, and keeps its memo and record."""
    key = make_key()
    await store.commit(creation(key))
    kept = Mutation(None, make_draft(key, "EnableKey"), make_memo("r-9"))
    assert await store.commit(kept) == 2
    assert await store.find_key(key.key_id) == key
    assert await store.find_memo(PRINCIPAL, "CreateKey", "r-9") == kept.memo
    assert [row.draft.method for row in await store.outbox_after(1, 9)] == ["EnableKey"]


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE keys SET deletion_time = deletion_time - 1",
        "UPDATE keys SET deletion_mark = 0",
        "UPDATE keys SET deletion_mark = NULL",
        "UPDATE keys SET deletion_time = NULL, deletion_mark = NULL",
        'UPDATE keys SET tags = \'{"team":"mallory"}\'',
        "UPDATE keys SET tags = '[1]'",
        "UPDATE keys SET tags = NULL",
        "UPDATE key_versions SET deletion_mark = 1 WHERE number = 1",
        "UPDATE key_versions SET destroy_time = NULL",
        "UPDATE aliases SET deleted = 0",
        "UPDATE aliases SET update_time = 1",
    ],
)
async def test_edited_rows_are_refused(tmp_path: Path, statement: str) -> None:
    """Nobody makes a deletion come early, or an alias come back, by a careless edit."""
    store = await open_store(tmp_path)
    key = await two_versions(store, is_wrapped=False)
    await store.commit(new_alias(key, "orders"))
    await store.commit(mutation(key, DeleteAlias(NAME, key.key_id)))
    tags = (("team", "payments"),)
    key = await changed(store, key, UpdateKey(key.key_id, "", tags, START, key.revision))
    key = await changed(store, key, DestroyVersion(key.key_id, 2, LATER, key.revision))
    version = SetVersionDeletion(key.key_id, 1, Deletion(LATER, 9), START, key.revision)
    key = await changed(store, key, version)
    await changed(store, key, waiting(key))
    await store.close()
    with closing(sqlite3.connect(tmp_path / "store.db")) as vandal:
        vandal.execute(statement)
        vandal.commit()
    with pytest.raises(StartRefusedError, match="damaged"):
        await open_store(tmp_path)


async def test_an_edited_count_of_time_is_not_believed(tmp_path: Path) -> None:
    """A count that somebody set ahead is damage and not a waiting time that is over."""
    store = await open_store(tmp_path)
    await store.advance_observed(expected=0, seconds=60)
    await store.close()
    with closing(sqlite3.connect(tmp_path / "store.db")) as vandal:
        vandal.execute("UPDATE observed_time SET seconds = 4000000")
        vandal.commit()
    with pytest.raises(StartRefusedError, match="damaged"):
        await open_store(tmp_path)
