"""Keys that are not in memory: read when they are asked for, checked, and kept in bounds."""

from __future__ import annotations

import asyncio
import dataclasses
import random
import sqlite3
import uuid
from collections.abc import AsyncIterator
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import pytest
import pytest_asyncio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.support.store_samples import (
    REGION,
    START,
    SteppingClock,
    all_keys,
    creation,
    make_key,
    new_alias,
    state_change,
)

from strongroom.resource_names import AliasName
from strongroom_server.domain.keys import Key, KeyState
from strongroom_server.domain.rotation import MAX_USES
from strongroom_server.errors import KeyExhaustedError, ShardUnavailableError
from strongroom_server.store import SqliteKeyStore, reading

LIMIT = 4


async def _open(path: Path, *, check_first: bool = False) -> SqliteKeyStore:
    return await SqliteKeyStore.open(
        path,
        REGION,
        clock=SteppingClock(),
        key_cache_keys=LIMIT,
        check_before_start_bytes=2**30 if check_first else 0,
    )


@pytest_asyncio.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteKeyStore]:
    """A store with room for four keys in memory."""
    opened = await _open(tmp_path / "store.db")
    yield opened
    await opened.close()


async def _make_keys(store: SqliteKeyStore, count: int) -> list[Key]:
    keys = [make_key(create_time=START + timedelta(seconds=n)) for n in range(count)]
    for key in keys:
        await store.commit(creation(key))
    return keys


def _sql(path: Path, statement: str, *values: object) -> None:
    with closing(sqlite3.connect(path)) as vandal:
        vandal.execute("PRAGMA foreign_keys = OFF")
        vandal.execute(statement, values)
        vandal.commit()


async def test_every_key_is_found_and_few_are_in_memory(store: SqliteKeyStore) -> None:
    """Whatever the order they are asked for in, the bound holds and every answer is right."""
    keys = await _make_keys(store, 30)
    choose = random.Random(3)  # noqa: S311 - the order of asking
    for _ in range(200):
        key = choose.choice(keys)
        assert await store.find_key(key.key_id) == key
        assert store.cached_key(key.key_id) == key
        assert len(store._memory.cache) <= LIMIT
    assert sum(store.cached_key(key.key_id) is not None for key in keys) == LIMIT
    assert await all_keys(store) == keys
    assert await store.find_key(uuid.uuid4()) is None


async def test_a_start_brings_the_newest_keys_into_memory(tmp_path: Path) -> None:
    """What the check before the start has read is not read again."""
    store = await _open(tmp_path / "store.db")
    keys = await _make_keys(store, 10)
    await store.close()
    again = await _open(tmp_path / "store.db", check_first=True)
    cached = [key for key in keys if again.cached_key(key.key_id) is not None]
    assert cached == keys[-LIMIT:]
    assert again.counts().versions == 10
    await again.close()


async def test_callers_that_want_the_same_share_one_read(
    store: SqliteKeyStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A hundred callers of one key that is not in memory read it once, and all have it."""
    keys = await _make_keys(store, LIMIT + 1)
    await store.commit(new_alias(keys[0], "orders"))
    reads = 0
    original = reading.read_key

    def counting(connection: object, region: str, key_id: uuid.UUID) -> object:
        nonlocal reads
        reads += 1
        return original(connection, region, key_id)  # type: ignore[arg-type] # passed on

    monkeypatch.setattr(reading, "read_key", counting)
    assert store.cached_key(keys[0].key_id) is None
    found = await asyncio.gather(*(store.find_key(keys[0].key_id) for _ in range(100)))
    assert found == [keys[0]] * 100
    assert reads == 1
    name = AliasName(REGION, "orders")
    assert len(set(await asyncio.gather(*(store.find_alias(name) for _ in range(10))))) == 1


async def test_a_caller_that_gives_up_ends_nobody_elses_read(store: SqliteKeyStore) -> None:
    """Cancelling the first of several callers leaves the others their answer."""
    keys = await _make_keys(store, LIMIT + 1)
    first = asyncio.create_task(store.find_key(keys[0].key_id))
    await asyncio.sleep(0)
    others = [asyncio.create_task(store.find_key(keys[0].key_id)) for _ in range(3)]
    await asyncio.sleep(0)
    first.cancel()
    assert await asyncio.gather(*others) == [keys[0]] * 3


async def test_a_read_that_a_commit_overtakes_has_the_commit(
    store: SqliteKeyStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A row that was read before a commit of this process does not hide it afterwards."""
    keys = await _make_keys(store, 2 * LIMIT)
    key = keys[0]
    loop = asyncio.get_running_loop()
    has_read, may_return = asyncio.Event(), asyncio.Event()
    original = reading.read_key

    def slow(connection: object, region: str, key_id: uuid.UUID) -> object:
        stored = original(connection, region, key_id)  # type: ignore[arg-type] # passed on
        if key_id == key.key_id:
            loop.call_soon_threadsafe(has_read.set)
            asyncio.run_coroutine_threadsafe(may_return.wait(), loop).result()
        return stored

    monkeypatch.setattr(reading, "read_key", slow)
    asked = asyncio.create_task(store.find_key(key.key_id))
    await has_read.wait()
    await store.commit(state_change(key, KeyState.DISABLED))
    store._memory.cache.drop_everything()  # so full of others that it is put out at once
    may_return.set()
    found = await asked
    assert found is not None
    assert (found.state, found.revision) == (KeyState.DISABLED, 2)
    assert store.cached_key(key.key_id) == found


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE policies SET cedar = 'permit(principal, action, resource);' WHERE key_id = ?",
        "UPDATE keys SET state = 'DISABLED' WHERE key_id = ?",
        "UPDATE keys SET state = 'OPEN' WHERE key_id = ?",
        "UPDATE key_versions SET reserved_uses = 1 WHERE key_id = ?",
        "UPDATE key_versions SET create_time = 9223372036854775807 WHERE key_id = ?",
        "DELETE FROM key_versions WHERE key_id = ?",
        "DELETE FROM policies WHERE key_id = ?",
        "DELETE FROM keys WHERE key_id = ?",
        "UPDATE keys SET key_id = zeroblob(16) WHERE key_id = ?",
    ],
)
async def test_a_damaged_row_is_refused_when_it_is_read(
    store: SqliteKeyStore,
    tmp_path: Path,
    statement: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """It is never "not there", each caller has an error of its own, and others are served."""
    keys = await _make_keys(store, LIMIT + 1)
    _sql(tmp_path / "store.db", statement, keys[0].key_id.bytes)
    refusals = await asyncio.gather(
        *(store.find_key(keys[0].key_id) for _ in range(5)), return_exceptions=True
    )
    assert {type(refusal) for refusal in refusals} == {ShardUnavailableError}
    assert len({id(refusal) for refusal in refusals}) == 5
    assert all("damaged" in str(refusal) for refusal in refusals)
    assert await store.find_key(keys[1].key_id) == keys[1]
    assert await store.find_key(uuid.uuid4()) is None
    shown = capsys.readouterr().out
    assert shown.count("restore the database") == 1
    assert "mallory" not in shown


async def test_an_index_that_leads_elsewhere_gives_nobody_another_key(
    store: SqliteKeyStore, tmp_path: Path
) -> None:
    """Two keys whose rows were exchanged are damaged, both."""
    keys = await _make_keys(store, LIMIT + 2)
    one, two = keys[0].key_id.bytes, keys[1].key_id.bytes
    path = tmp_path / "store.db"
    for table in ("keys", "policies", "key_versions"):
        for old, new in ((one, b"\x00" * 16), (two, one), (b"\x00" * 16, two)):
            _sql(path, f"UPDATE {table} SET key_id = ? WHERE key_id = ?", new, old)  # noqa: S608 - our names
    for key in keys[:2]:
        with pytest.raises(ShardUnavailableError, match="damaged"):
            await store.find_key(key.key_id)


async def test_reservations_at_once_are_few_commits_and_all_right(store: SqliteKeyStore) -> None:
    """Many keys' first uses gather; what one may not have leaves the others theirs."""
    keys = await _make_keys(store, 50)
    last = keys[-1].version_ref(1)
    await store.reserve_uses(last, MAX_USES - 8)
    before = await _change_number(store)
    outcomes = await asyncio.gather(
        *(store.reserve_uses(key.version_ref(1), 16) for key in keys), return_exceptions=True
    )
    assert outcomes[:-1] == [16] * 49
    assert isinstance(outcomes[-1], KeyExhaustedError)
    assert await _change_number(store) - before <= 2
    for key in keys[:-1]:
        found = await store.find_key(key.key_id)
        assert found is not None
        assert [version.reserved_uses for version in found.versions] == [16]
        assert dataclasses.replace(found, versions=key.versions) == key
    # The same version twice in one commit: two blocks, one after the other.
    ref = keys[0].version_ref(1)
    totals = await asyncio.gather(*(store.reserve_uses(ref, 16) for _ in range(10)))
    assert totals == [16 + 16 * n for n in range(1, 11)]


async def test_a_damaged_key_costs_the_reservations_beside_it_nothing(
    store: SqliteKeyStore, tmp_path: Path
) -> None:
    """The damaged one is refused, the others that came with it are made."""
    keys = await _make_keys(store, 8)
    _sql(
        tmp_path / "store.db",
        "UPDATE keys SET description = 'x' WHERE key_id = ?",
        keys[3].key_id.bytes,
    )
    outcomes = await asyncio.gather(
        *(store.reserve_uses(key.version_ref(1), 16) for key in keys), return_exceptions=True
    )
    assert isinstance(outcomes.pop(3), ShardUnavailableError)
    assert outcomes == [16] * 7


async def _change_number(store: SqliteKeyStore) -> int:
    meta = await store._database.reader.run(reading.read_meta)
    return meta.change_number


_Doing = tuple[str, int]


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    doings=st.lists(
        st.tuples(
            st.sampled_from(["find", "cached", "reserve", "disable", "elsewhere", "list", "new"]),
            st.integers(0, 30),
        ),
        max_size=40,
    )
)
def test_whatever_is_done_the_bound_holds_and_answers_are_right(
    doings: list[_Doing], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Two processes on one database, against a model: nothing old, nothing lost, few in memory."""
    asyncio.run(_against_a_model(tmp_path_factory.mktemp("store") / "store.db", doings))


async def _against_a_model(path: Path, doings: list[_Doing]) -> None:
    here, there = await _open(path), await _open(path)
    model: dict[uuid.UUID, Key] = {key.key_id: key for key in await _make_keys(here, LIMIT + 2)}
    for doing, which in doings:
        key = list(model.values())[which % len(model)]
        match doing:
            case "find":
                assert await here.find_key(key.key_id) == key
            case "cached":
                assert here.cached_key(key.key_id) in {None, key}
            case "list":
                assert set(await here.list_keys(after=None, limit=99)) == set(model.values())
            case "new":
                key = make_key(create_time=START + timedelta(minutes=len(model)))
                await here.commit(creation(key))
                model[key.key_id] = key
            case "reserve":
                total = await here.reserve_uses(key.version_ref(1), 1)
                used = dataclasses.replace(key.versions[0], reserved_uses=total)
                model[key.key_id] = dataclasses.replace(key, versions=(used,))
            case _:
                store = there if doing == "elsewhere" else here
                await store.commit(state_change(key, KeyState.DISABLED))
                await here.refresh()
                model[key.key_id] = dataclasses.replace(
                    key,
                    state=KeyState.DISABLED,
                    update_time=START + timedelta(seconds=1),
                    revision=key.revision + 1,
                )
        assert len(here._memory.cache) <= LIMIT
    for key in model.values():
        assert await here.find_key(key.key_id) == key
    await here.close()
    await there.close()
