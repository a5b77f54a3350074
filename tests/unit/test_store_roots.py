"""Wrapping roots and wrapped material in the store: which may follow which, and swapping."""

from __future__ import annotations

import asyncio
import dataclasses
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
    make_material,
    new_root,
    new_version,
    retirement,
    state_change,
)

from strongroom_server.domain.keys import Key, KeyState, KeyStorage, KeyVersionRef
from strongroom_server.errors import EtagMismatchError
from strongroom_server.mutations import RewrappedVersion, RootState, WrappingRoot
from strongroom_server.store import SqliteKeyStore


@pytest_asyncio.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteKeyStore]:
    """An empty store."""
    opened = await _open(tmp_path / "store.db")
    yield opened
    await opened.close()


async def _open(path: Path) -> SqliteKeyStore:
    return await SqliteKeyStore.open(path, REGION, clock=SteppingClock())


async def _wrapped_keys(store: SqliteKeyStore, count: int, *, root: int = 1) -> list[Key]:
    keys = [
        make_key(
            create_time=START + timedelta(seconds=100 * root + n), wrapped=make_material(root, n)
        )
        for n in range(count)
    ]
    for key in keys:
        await store.commit(creation(key))
    return keys


def _rewrapped(key: Key, root: int, filler: int = 7, version: int = 1) -> RewrappedVersion:
    before = key.material(version).wrapped
    assert before is not None
    return RewrappedVersion(key.version_ref(version), before, make_material(root, filler))


async def test_roots_follow_each_other(store: SqliteKeyStore, tmp_path: Path) -> None:
    """One is active, the highest; the others retire when nothing is left under them."""
    assert await store.list_roots() == ()
    assert await store.commit(new_root(1)) == 1
    assert await store.list_roots() == (WrappingRoot(1, RootState.ACTIVE, START),)
    for number in (1, 0):
        with pytest.raises(EtagMismatchError):
            await store.commit(new_root(number))
    for number in (1, 2):  # the active one, and one that is not there
        with pytest.raises(EtagMismatchError):
            await store.commit(retirement(number))
    await store.commit(new_root(5))
    assert [root.state for root in await store.list_roots()] == [
        RootState.RETIRING,
        RootState.ACTIVE,
    ]
    await store.commit(retirement(1))
    with pytest.raises(EtagMismatchError):
        await store.commit(retirement(1))
    await store.close()
    again = await _open(tmp_path / "store.db")
    assert [(root.number, root.state) for root in await again.list_roots()] == [
        (1, RootState.RETIRED),
        (5, RootState.ACTIVE),
    ]
    # Refused changes left no record and took no outbox id.
    assert [row.outbox_id for row in await again.outbox_after(0, 10)] == [1, 2, 3]
    await again.close()


async def test_a_root_with_versions_under_it_is_not_retired(store: SqliteKeyStore) -> None:
    """RETIRED means that no version lies under it, whoever asks."""
    await store.commit(new_root(1))
    (key,) = await _wrapped_keys(store, 1)
    await store.commit(new_root(2))
    with pytest.raises(EtagMismatchError):
        await store.commit(retirement(1))
    assert await store.replace_wrapped([_rewrapped(key, 2)]) == 1
    await store.commit(retirement(1))


async def test_nothing_is_put_under_a_retired_root(store: SqliteKeyStore) -> None:
    """A key wrapped before its root was retired is refused, and can be made again."""
    await store.commit(new_root(1))
    (key,) = await _wrapped_keys(store, 1)
    await store.commit(new_root(2))
    await store.replace_wrapped([_rewrapped(key, 2)])
    await store.commit(retirement(1))
    late = make_key(wrapped=make_material(1))
    for attempt in (
        store.commit(creation(late)),
        store.commit(new_version(key, wrapped=make_material(1))),
        store.replace_wrapped(
            [RewrappedVersion(key.version_ref(1), make_material(2, 7), make_material(1))]
        ),
    ):
        with pytest.raises(EtagMismatchError):
            await attempt
    assert await store.find_key(late.key_id) is None
    await store.commit(creation(make_key(key_id=late.key_id, wrapped=make_material(2))))


async def test_material_and_storage_go_together(store: SqliteKeyStore) -> None:
    """A wrapped key has material in each version, a resident one in none, under known roots."""
    wrapped, resident = make_key(wrapped=make_material(1)), make_key()
    with pytest.raises(ValueError, match="wrapping root 1"):
        await store.commit(creation(wrapped))
    await store.commit(new_root(1))
    for wrong in (
        dataclasses.replace(wrapped, storage=KeyStorage.RESIDENT),
        dataclasses.replace(resident, storage=KeyStorage.WRAPPED),
    ):
        with pytest.raises(ValueError, match="wrapped keys"):
            await store.commit(creation(wrong))
    await store.commit(creation(wrapped))
    await store.commit(creation(resident))
    with pytest.raises(ValueError, match="wrapped keys"):
        await store.commit(new_version(wrapped))
    with pytest.raises(ValueError, match="wrapped keys"):
        await store.commit(new_version(resident, wrapped=make_material(1)))
    assert await store.find_key(wrapped.key_id) == wrapped
    await store.commit(new_version(wrapped, wrapped=make_material(1, 2)))
    found = await store.find_key(wrapped.key_id)
    assert found is not None
    assert [found.material(n).wrapped for n in (1, 2)] == [make_material(1), make_material(1, 2)]


async def test_stale_versions_are_those_under_another_root(store: SqliteKeyStore) -> None:
    """Resident versions are never stale; the limit is kept; the count is of all."""
    for number in (1, 2, 3):
        await store.commit(new_root(number))
    keys = {root: await _wrapped_keys(store, 5, root=root) for root in (1, 2, 3)}
    await store.commit(creation(make_key()))
    assert await store.count_stale_versions(3) == 10
    assert await store.count_stale_versions(2) == 10
    assert await store.count_stale_versions(9) == 15
    stale = await store.stale_versions(2, limit=100)
    assert {material.ref for material in stale} == {
        key.version_ref(1) for root in (1, 3) for key in keys[root]
    }
    for material in stale:
        assert material == (await _key(store, material.ref)).material(1)
    assert len(await store.stale_versions(2, limit=7)) == 7
    assert await store.stale_versions(2, limit=0) == ()


async def test_only_what_is_as_it_was_is_replaced(store: SqliteKeyStore, tmp_path: Path) -> None:
    """Compare and swap: a version that changed meanwhile, or is not there, stays."""
    await store.commit(new_root(1))
    keys = await _wrapped_keys(store, 4)
    await store.commit(new_root(2))
    first = [_rewrapped(key, 2, n) for n, key in enumerate(keys)]
    other = _rewrapped(keys[1], 2, 99)
    assert await store.replace_wrapped([other]) == 1
    missing = dataclasses.replace(first[0], ref=KeyVersionRef(uuid.uuid4(), 1))
    no_version = dataclasses.replace(first[0], ref=keys[0].version_ref(2))
    assert await store.replace_wrapped([*first, missing, no_version, first[0]]) == 3
    assert await store.replace_wrapped(first) == 0
    assert await store.replace_wrapped([]) == 0
    expected = [make_material(2, n) for n in (0, 99, 2, 3)]
    for opened in (store, await _open(tmp_path / "store.db")):
        assert [key.material(1).wrapped for key in await all_keys(opened)] == expected
        for key in keys:
            found = await opened.find_key(key.key_id)
            assert found is not None
            assert (found.revision, found.update_time) == (key.revision, key.update_time)
            assert dataclasses.replace(found, versions=key.versions) == key
        if opened is not store:
            await opened.close()


async def test_re_wrapping_and_changes_at_once_lose_nothing(store: SqliteKeyStore) -> None:
    """Whatever comes between, each key ends disabled, re-wrapped and with its uses reserved."""
    await store.commit(new_root(1))
    keys = await _wrapped_keys(store, 10)
    await store.commit(new_root(2))
    await asyncio.gather(
        *(store.commit(state_change(key, KeyState.DISABLED)) for key in keys[::2]),
        *(store.reserve_uses(key.version_ref(1), 16) for key in keys),
        store.replace_wrapped([_rewrapped(key, 2) for key in keys]),
    )
    for number, key in enumerate(keys):
        found = await store.find_key(key.key_id)
        assert found is not None
        assert found == store.cached_key(key.key_id)
        assert found.versions[0].reserved_uses == 16
        assert found.versions[0].wrapped == make_material(2, 7)
        assert found.state is (KeyState.ENABLED if number % 2 else KeyState.DISABLED)
    assert await store.count_stale_versions(2) == 0


async def _key(store: SqliteKeyStore, ref: KeyVersionRef) -> Key:
    found = await store.find_key(ref.key_id)
    assert found is not None
    return found
