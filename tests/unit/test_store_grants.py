"""Grants and past policies in the database: found fast, followed, bounded, never misread."""

from __future__ import annotations

import asyncio
import dataclasses
import sqlite3
import time
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import pytest
from tests.support.store_samples import REGION, START, SteppingClock, creation, make_key, mutation

from strongroom_server.domain import grants as domain
from strongroom_server.domain.grants import Constraint, ConstraintKind, Grant, PrincipalGrants
from strongroom_server.domain.keys import Key
from strongroom_server.domain.policy import Action
from strongroom_server.errors import (
    EtagMismatchError,
    GrantNotFoundError,
    KeyNotFoundError,
    LimitExceededError,
    ShardUnavailableError,
)
from strongroom_server.mutations import CreateGrant, EndGrant, SetPolicy
from strongroom_server.store import SqliteKeyStore, grant_changes
from strongroom_server.store.grant_cache import GrantCache

WORKER = "spiffe://example.org/worker"
CONSTRAINT = Constraint(ConstraintKind.EQUALS, (("a", "é\n"), ("b", "")))


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteKeyStore]:
    """Give an empty store."""
    store = await _open(tmp_path)
    yield store
    await store.close()


async def _open(tmp_path: Path) -> SqliteKeyStore:
    return await SqliteKeyStore.open(tmp_path / "store.db", REGION, clock=SteppingClock())


def make_grant(key: Key, number: int = 0, **fields: object) -> Grant:
    """Make a grant; `number` moves its time."""
    grant = Grant(
        grant_id=uuid.uuid4(),
        region=REGION,
        key_id=key.key_id,
        grantee=WORKER,
        operations=(Action.DECRYPT, Action.ENCRYPT),
        constraint=None,
        retiring="",
        name="",
        issuer=key.creator,
        create_time=START + timedelta(microseconds=number),
    )
    return dataclasses.replace(grant, **fields)  # type: ignore[arg-type] # tests name fields


async def _made(store: SqliteKeyStore, key: Key, number: int = 0, **fields: object) -> Grant:
    grant = make_grant(key, number, **fields)
    await store.commit(mutation(key, CreateGrant(grant)))
    return grant


async def _key(store: SqliteKeyStore) -> Key:
    key = make_key()
    await store.commit(creation(key))
    return key


async def test_a_grant_comes_back_as_it_was(store: SqliteKeyStore, tmp_path: Path) -> None:
    """All its fields, from memory, from the database, and after a restart."""
    key = await _key(store)
    grant = await _made(
        store, key, constraint=CONSTRAINT, retiring="spiffe://a/b", name="x", issuer="spiffe://c"
    )
    plain = await _made(store, key, 1)
    permissions = store.permissions
    assert (await permissions.find_grants(key.key_id, WORKER)).grants == (grant, plain)
    assert await permissions.find_grant(grant.grant_id) == grant
    assert await permissions.find_grant(uuid.uuid4()) is None
    assert await permissions.find_repeat(make_grant(key)) is None
    repeat = dataclasses.replace(grant, grant_id=uuid.uuid4(), issuer="spiffe://d")
    assert await permissions.find_repeat(repeat) == grant
    again = await _open(tmp_path)
    assert (await again.permissions.find_grants(key.key_id, WORKER)).grants == (grant, plain)
    await again.close()


async def test_what_is_known_goes_with_a_change(store: SqliteKeyStore) -> None:
    """Absence is kept in memory and let go of by a grant; a grant by its end."""
    key = await _key(store)
    permissions = store.permissions
    assert permissions.cached_grants(key.key_id, WORKER) is None
    assert (await permissions.find_grants(key.key_id, WORKER)).grants == ()
    assert permissions.cached_grants(key.key_id, WORKER) is not None
    other = await permissions.find_grants(key.key_id, "spiffe://other")
    grant = await _made(store, key)
    assert permissions.cached_grants(key.key_id, WORKER) is None
    assert permissions.cached_grants(key.key_id, "spiffe://other") is other
    assert (await permissions.find_grants(key.key_id, WORKER)).grants == (grant,)
    await store.commit(mutation(key, EndGrant(grant)))
    assert (await permissions.find_grants(key.key_id, WORKER)).grants == ()
    with pytest.raises(GrantNotFoundError):
        await store.commit(mutation(key, EndGrant(grant)))


async def test_a_read_that_began_before_a_commit_is_not_kept(store: SqliteKeyStore) -> None:
    """Whatever the order in which threads end, memory does not have less than was committed."""
    key = await _key(store)
    permissions = store.permissions
    for number in range(40):
        reads = [
            asyncio.ensure_future(permissions.find_grants(key.key_id, WORKER)) for _ in range(3)
        ]
        if number % 2:
            await asyncio.sleep(0)
        grant = await _made(store, key, number)
        after = await permissions.find_grants(key.key_id, WORKER)
        assert grant in after.grants
        await asyncio.gather(*reads)
        cached = permissions.cached_grants(key.key_id, WORKER)
        assert cached is None or grant in cached.grants


async def test_other_processes_hear_of_it_within_a_second(tmp_path: Path) -> None:
    """Grants and their ends, policies: of another store on the same file."""
    one, two = await _open(tmp_path), await _open(tmp_path)
    two.start_polling()
    key = await _key(one)
    permissions = two.permissions

    async def until(holds: Callable[[PrincipalGrants], bool]) -> float:
        start = time.monotonic()
        while not holds(await permissions.find_grants(key.key_id, WORKER)):
            assert time.monotonic() - start < 5
            await asyncio.sleep(0.02)
        return time.monotonic() - start

    assert (await permissions.find_grants(key.key_id, WORKER)).grants == ()
    grant = await _made(one, key)
    assert await until(lambda found: found.grants == (grant,)) < 1.0
    await one.commit(mutation(key, EndGrant(grant)))
    assert await until(lambda found: not found.grants) < 1.0
    for store in (one, two):
        await store.close()


async def test_lists_are_by_age_and_complete(store: SqliteKeyStore) -> None:
    """Pages of any size, for a key, for a principal, and for who retires, leave nothing out."""
    key, other = await _key(store), await _key(store)
    made = [
        await _made(
            store,
            key if number % 3 else other,
            number // 2,  # pairs of the same time
            grantee=f"{WORKER}/{number % 4}",
            retiring="spiffe://r" if number % 2 else "",
        )
        for number in range(24)
    ]

    def place(grant: Grant) -> tuple[object, uuid.UUID]:
        return grant.create_time, grant.grant_id

    for size in (1, 5, 100):
        for grantee in ("", f"{WORKER}/1"):
            found: list[Grant] = []
            while True:
                after = (found[-1].create_time, found[-1].grant_id) if found else None
                page = await store.permissions.list_grants(
                    key.key_id, grantee=grantee, after=after, limit=size
                )
                found += page
                if len(page) < size:
                    break
            expected = [g for g in made if g.key_id == key.key_id and grantee in ("", g.grantee)]
            assert found == sorted(expected, key=place)
    retirable = await store.permissions.list_retirable_grants("spiffe://r", after=None, limit=100)
    assert list(retirable) == sorted((g for g in made if g.retiring), key=place)


async def test_there_are_only_so_many(
    store: SqliteKeyStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a principal on a key, and of a key; an end makes room; other keys are not concerned."""
    monkeypatch.setattr(grant_changes, "MAX_GRANTS_PER_GRANTEE", 2)
    monkeypatch.setattr(grant_changes, "MAX_GRANTS_PER_KEY", 3)
    key, other = await _key(store), await _key(store)
    first = await _made(store, key)
    await _made(store, key)
    with pytest.raises(LimitExceededError, match="this principal"):
        await _made(store, key)
    await _made(store, key, grantee="spiffe://b")
    with pytest.raises(LimitExceededError, match="the key"):
        await _made(store, key, grantee="spiffe://c")
    await _made(store, other)
    await store.commit(mutation(key, EndGrant(first)))
    await _made(store, key, grantee="spiffe://c")


async def test_a_grant_needs_its_key_and_its_name_to_itself(store: SqliteKeyStore) -> None:
    """A key that is there, and no other grant of the same name and content."""
    with pytest.raises(KeyNotFoundError):
        await _made(store, make_key())
    key = await _key(store)
    await _made(store, key, name="x")
    with pytest.raises(EtagMismatchError):
        await _made(store, key, name="x")
    await _made(store, key, name="x", operations=(Action.DECRYPT,))
    await _made(store, key, name="y")


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE grants SET grantee = 'spiffe://thief'",
        'UPDATE grants SET operations = \'["CreateGrant","Decrypt","Encrypt"]\'',
        "UPDATE grants SET context = NULL",
        "UPDATE grants SET context = '[\"SUBSET\",[]]'",
        "UPDATE grants SET context = '[]'",
        "UPDATE grants SET operations = 'x'",
        "UPDATE grants SET create_time = create_time + 1",
        "UPDATE grants SET retiring = 'spiffe://thief'",
        "DELETE FROM grants",
        "UPDATE grant_books SET grants = grants + 1",
        "DELETE FROM grant_books",
    ],
)
async def test_a_row_that_was_altered_allows_nothing(
    store: SqliteKeyStore, tmp_path: Path, statement: str
) -> None:
    """Damage is an error of the shard, never another permission."""
    key = await _key(store)
    grant = await _made(store, key, constraint=CONSTRAINT)
    with closing(sqlite3.connect(tmp_path / "store.db")) as vandal:
        vandal.execute(statement)
        vandal.commit()
    for grantee in (WORKER, "spiffe://thief"):
        try:
            found = await store.permissions.find_grants(key.key_id, grantee)
        except ShardUnavailableError:
            continue
        assert found.grants == ()
        assert grantee != WORKER
    if "grant_books" not in statement and "DELETE" not in statement:
        with pytest.raises(ShardUnavailableError):
            await store.permissions.find_grant(grant.grant_id)


async def _put(store: SqliteKeyStore, key: Key, number: int) -> Key:
    change = SetPolicy(
        key.key_id,
        f"{key.policy}// {number}",
        number,
        f"spiffe://author/{number}",
        START + timedelta(hours=number),
        key.revision,
    )
    await store.commit(mutation(key, change))
    return change.apply(key)


async def test_policies_are_kept_with_their_authors(store: SqliteKeyStore) -> None:
    """By number, by time, and in order; the first one is that of the key's maker."""
    key = await _key(store)
    permissions = store.permissions
    first = await permissions.policy_revision(key, None)
    assert first is not None
    assert (first.number, first.author, first.time) == (1, key.creator, key.create_time)
    assert await permissions.list_policy_revisions(key, after=0, limit=9) == [first]
    now = key
    for number in range(2, 6):
        now = await _put(store, now, number)
    found = await store.find_key(key.key_id)
    assert found == now
    every = await permissions.list_policy_revisions(key, after=0, limit=9)
    assert [each.number for each in every] == [1, 2, 3, 4, 5]
    assert (every[0], every[-1].text) == (first, now.policy)
    assert await permissions.list_policy_revisions(key, after=2, limit=2) == every[2:4]
    for number in range(7):
        one = await permissions.policy_revision(key, number)
        assert one == (every[number - 1] if 1 <= number <= 5 else None)
    for hours, number in ((0, 1), (1, 1), (2, 2), (2.5, 2), (5, 5), (99, 5)):
        held = await permissions.policy_at(key, START + timedelta(hours=hours))
        assert held == every[number - 1]
    assert await permissions.policy_at(key, START - timedelta(seconds=1)) is None
    with pytest.raises(EtagMismatchError):
        await _put(store, now, 5)


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM policy_revisions WHERE number = 2",
        "DELETE FROM policy_revisions WHERE number = 3",
        "UPDATE policy_revisions SET author = 'x' WHERE number = 2",
        "UPDATE policy_revisions SET cedar = cedar || ' ' WHERE number = 2",
    ],
)
async def test_an_altered_history_is_noticed(
    store: SqliteKeyStore, tmp_path: Path, statement: str
) -> None:
    """A policy that is missing or another one is not passed over."""
    key = await _key(store)
    await _put(store, await _put(store, key, 2), 3)
    with closing(sqlite3.connect(tmp_path / "store.db")) as vandal:
        vandal.execute(statement)
        vandal.commit()
    with pytest.raises(ShardUnavailableError):
        await store.permissions.list_policy_revisions(key, after=0, limit=9)


def test_the_cache_is_bounded() -> None:
    """By grants and principals together; who was asked for last stays."""
    cache = GrantCache(limit=10)
    key = make_key()
    for number in range(20):
        grants = PrincipalGrants(make_grant(key) for _ in range(number % 4))
        cache.put((key.key_id, str(number)), grants, number)
        assert cache.held <= 10
        assert cache.get((key.key_id, str(number))) is grants
    cache.drop_older([((key.key_id, "19"), 19), ((key.key_id, "18"), 19)])
    assert cache.get((key.key_id, "19")) is not None
    assert cache.get((key.key_id, "18")) is None
    cache.drop_everything()
    assert cache.held == 0
    too_many = PrincipalGrants(make_grant(key) for _ in range(11))
    cache.put((key.key_id, "a"), too_many, 1)
    assert (cache.held, cache.get((key.key_id, "a"))) == (0, None)
    assert domain.MAX_GRANTS_PER_GRANTEE < 50_000
