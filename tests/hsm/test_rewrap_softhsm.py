"""Rotation of a wrapping root on a real token, with the store on disk."""

from __future__ import annotations

import asyncio
import itertools
import os
import sqlite3
import time
import uuid
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.support.softhsm import SystemClock, TestToken, running_pool

from strongroom_server.audit.record import new_record_id
from strongroom_server.cli.hsm_roots import _list_roots, _rotate
from strongroom_server.config import ShardConfig
from strongroom_server.domain.keys import (
    Key,
    KeyManager,
    KeyMaterial,
    KeySpec,
    KeyState,
    KeyStorage,
    KeyUsage,
    KeyVersion,
    KeyVersionRef,
    WrappedMaterial,
)
from strongroom_server.errors import HsmUnavailableError
from strongroom_server.hsm.pool import SessionPool
from strongroom_server.mutations import AuditDraft, CreateKey, Mutation
from strongroom_server.services.records import Recorder
from strongroom_server.services.root_rotation import RewrapProgress, RootRotator
from strongroom_server.store.sqlite_store import SqliteKeyStore

pytestmark = [pytest.mark.hsm, pytest.mark.timeout(120)]
REGION = "eu-test"
KEYS = 70  # more than a batch
AAD = b"where it is"


def deadline() -> float:
    return time.monotonic() + 10


@pytest.fixture
def shard(token: TestToken, tmp_path: Path) -> ShardConfig:
    """Return the configuration of a shard on the token."""
    return ShardConfig(
        region=REGION,
        module=token.settings.module,
        module_environment=dict(token.settings.module_environment),
        token_label=token.settings.token_label,
        pin_file=token.settings.pin_file,
        store=tmp_path / "store.sqlite3",
        spool=tmp_path / "spool",
    )


@pytest.fixture
async def store(shard: ShardConfig) -> AsyncIterator[SqliteKeyStore]:
    opened = await SqliteKeyStore.open(shard.store, REGION, clock=SystemClock())
    opened.start_polling()
    yield opened
    await opened.close()


@pytest.fixture
async def pool(token: TestToken) -> AsyncIterator[SessionPool]:
    async with running_pool(token.settings) as running:
        yield running


def rotator(pool: SessionPool, store: SqliteKeyStore) -> RootRotator:
    clock = SystemClock()
    recorder = Recorder(
        clock=clock,
        new_record_id=lambda: new_record_id(clock.now(), os.urandom(10)),
        on_outcome=lambda *_: None,
    )
    return RootRotator(
        REGION,
        token=pool,
        store=store,
        recorder=recorder,
        clock=clock,
        mutations=asyncio.Lock(),
    )


async def add_keys(pool: SessionPool, store: SqliteKeyStore, count: int) -> dict[uuid.UUID, bytes]:
    """Make wrapped keys under the newest root; return a ciphertext of each."""
    root = (await store.list_roots())[-1].number
    sealed: dict[uuid.UUID, bytes] = {}
    for _ in range(count):
        ref = KeyVersionRef(uuid.uuid4(), 1)
        material = await pool.create_version(
            ref,
            spec=KeySpec.AES_256,
            usage=KeyUsage.ENCRYPT_DECRYPT,
            root=root,
            deadline=deadline(),
        )
        sealed[ref.key_id] = await pool.encrypt(
            material, ref.key_id.bytes, AAD, deadline=deadline()
        )
        now = SystemClock().now()
        draft = AuditDraft(uuid.uuid4(), now, "x", "", "CreateKey", "OK", "")
        await store.commit(Mutation(CreateKey(wrapped_key(material)), draft))
    return sealed


def wrapped_key(material: KeyMaterial) -> Key:
    now = SystemClock().now()
    return Key(
        key_id=material.ref.key_id,
        region=REGION,
        spec=material.spec,
        usage=material.usage,
        state=KeyState.ENABLED,
        manager=KeyManager.CUSTOMER,
        description="",
        primary_version=1,
        creator="spiffe://example.org/orders",
        create_time=now,
        update_time=now,
        revision=1,
        policy="permit (principal, action, resource);",
        versions=(KeyVersion(1, now, 0, material.wrapped),),
        storage=KeyStorage.WRAPPED,
    )


async def check_all_decrypt(
    pool: SessionPool, store: SqliteKeyStore, sealed: dict[uuid.UUID, bytes]
) -> None:
    for key_id, ciphertext in sealed.items():
        key = await store.find_key(key_id)
        assert key is not None
        opened = await pool.decrypt(key.material(1), ciphertext, AAD, deadline=deadline())
        assert opened == key_id.bytes


async def test_re_wrapping_on_a_real_token(pool: SessionPool, store: SqliteKeyStore) -> None:
    """While versions move from root to root every one of them decrypts, and so it does after."""
    roots = rotator(pool, store)
    assert await roots.add() == 1
    sealed = await add_keys(pool, store, KEYS)
    assert await roots.add() == 2
    steps: list[RewrapProgress] = []
    work = asyncio.create_task(roots.settle(steps.append))
    for _ in itertools.count():
        await check_all_decrypt(pool, store, sealed)
        if work.done():
            break
    assert work.result()
    assert sum(step.rewrapped for step in steps) == KEYS
    assert await store.count_stale_versions(2) == 0
    assert [str(root.state) for root in await store.list_roots()] == ["RETIRED", "ACTIVE"]
    await check_all_decrypt(pool, store, sealed)


async def test_a_damaged_version_stays_and_the_others_move(
    pool: SessionPool, store: SqliteKeyStore
) -> None:
    """Bytes that the root did not wrap are told, and stop neither the HSM nor the others."""
    roots = rotator(pool, store)
    await roots.add()
    sealed = await add_keys(pool, store, 5)
    good = await store.find_key(next(iter(sealed)))
    assert good is not None
    wrapped = good.material(1).wrapped
    assert wrapped is not None
    flipped = bytes([wrapped.wrapped[0] ^ 1]) + wrapped.wrapped[1:]
    damaged = KeyMaterial(
        KeyVersionRef(uuid.uuid4(), 1), wrapped=WrappedMaterial(wrapped.root, flipped)
    )
    draft = AuditDraft(uuid.uuid4(), SystemClock().now(), "x", "", "CreateKey", "OK", "")
    await store.commit(Mutation(CreateKey(wrapped_key(damaged)), draft))
    await roots.add()
    with pytest.raises(HsmUnavailableError):
        await roots.settle(lambda _: None)
    assert await store.count_stale_versions(2) == 1
    await check_all_decrypt(pool, store, sealed)
    assert pool.ready


async def test_the_command_beside_a_running_pool(
    shard: ShardConfig, pool: SessionPool, store: SqliteKeyStore
) -> None:
    """The command adds a root and re-wraps; the pool that ran before uses the new root at once."""
    await rotator(pool, store).add()
    sealed = await add_keys(pool, store, 10)
    answer = await _rotate(shard, wait=False, rewrap=True, progress=None)
    assert answer == {"region": REGION, "root": 2, "stale_versions": 0}
    await store.refresh()
    await check_all_decrypt(pool, store, sealed)
    more = await add_keys(pool, store, 3)
    await check_all_decrypt(pool, store, more)
    listed = [(row["root"], row["state"], row["versions"]) for row in await _list_roots(shard)]
    assert listed == [(1, "RETIRED", 0), (2, "ACTIVE", 13)]
    with sqlite3.connect(shard.store) as database:
        rows = database.execute("SELECT draft FROM outbox").fetchall()
    database.close()
    methods = [draft for (draft,) in rows if "WrappingRoot" in str(draft)]
    assert len(methods) == 3
