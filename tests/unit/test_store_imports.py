"""Import tokens and imported material in the database."""

from __future__ import annotations

import dataclasses
import hashlib
import sqlite3
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from tests.support.store_samples import REGION, SteppingClock, make_draft, make_key

from strongroom_server.domain.imports import IssuedToken, TokenState
from strongroom_server.domain.keys import ExternalMaterial, Key, KeyOrigin, KeyState
from strongroom_server.errors import EtagMismatchError, ShardUnavailableError
from strongroom_server.mutations import (
    BeginMaterialDeletion,
    Change,
    CreateKey,
    DropMaterial,
    ImportMaterial,
    IssueImportToken,
    Mutation,
)
from strongroom_server.store.sqlite_store import SqliteKeyStore

NOW = datetime(2026, 1, 1, tzinfo=UTC)
CLAIM = hashlib.sha256(b"wrapped").digest()
CHECK = b"check value"


@asynccontextmanager
async def _store(path: Path) -> AsyncIterator[SqliteKeyStore]:
    store = await SqliteKeyStore.open(path / "keys.sqlite3", REGION, clock=SteppingClock())
    try:
        yield store
    finally:
        await store.close()


async def _commit(store: SqliteKeyStore, change: Change) -> None:
    await store.commit(Mutation(change, make_draft(make_key())))


async def _make(store: SqliteKeyStore) -> Key:
    key = make_key()
    (version,) = key.versions
    key = dataclasses.replace(
        key,
        state=KeyState.PENDING_IMPORT,
        versions=(dataclasses.replace(version, external=ExternalMaterial()),),
    )
    await _commit(store, CreateKey(key))
    return key


async def _issue(store: SqliteKeyStore, key: Key, days: int = 1) -> IssuedToken:
    digest = hashlib.sha256(uuid.uuid4().bytes).digest()
    token = IssuedToken(digest, key.key_id, uuid.uuid4(), NOW + timedelta(days=days))
    await _commit(store, IssueImportToken(token))
    return token


def _imported(key: Key, token: IssuedToken) -> ImportMaterial:
    external = ExternalMaterial(CHECK, NOW, NOW + timedelta(days=30))
    return ImportMaterial(
        key.key_id, 1, external, None, KeyState.ENABLED, token.token_sha256, NOW, key.revision
    )


async def test_a_token_from_its_issue_to_its_use(tmp_path: Path) -> None:
    """Open, claimed once, used with the material in one transaction; a restart changes nothing."""
    async with _store(tmp_path) as store:
        key = await _make(store)
        token = await _issue(store, key)
        assert await store.find_import(token.token_sha256) == token
        assert await store.find_import(bytes(32)) is None
        assert await store.claim_import(token.token_sha256, CLAIM)
        assert await store.claim_import(token.token_sha256, CLAIM)
        assert not await store.claim_import(token.token_sha256, bytes(32))
        await _commit(store, _imported(key, token))
    async with _store(tmp_path) as store:
        used = await store.find_import(token.token_sha256)
        assert used == dataclasses.replace(token, state=TokenState.USED, claim=CLAIM)
        found = await store.find_key(key.key_id)
        assert found is not None
        assert (found.state, found.origin) == (KeyState.ENABLED, KeyOrigin.EXTERNAL)
        assert found == _imported(key, token).apply(key)
        assert not await store.claim_import(token.token_sha256, CLAIM)
        assert await store.ended_imports(now=NOW, limit=9) == [used]
        assert await store.wrapping_keys() == [token.transfer_id]
        await store.forget_wrapping_key(token.token_sha256)
        await store.forget_wrapping_key(token.token_sha256)
        assert await store.count_imports() == 0
        assert await store.ended_imports(now=NOW, limit=9) == []


async def test_an_import_with_a_used_token_is_refused_as_a_whole(tmp_path: Path) -> None:
    """A token that another server used meanwhile leaves the key as it was."""
    async with _store(tmp_path) as store:
        key = await _make(store)
        token = await _issue(store, key)
        await store.end_import(token.token_sha256)
        with pytest.raises(EtagMismatchError):
            await _commit(store, _imported(key, token))
        assert await store.find_key(key.key_id) == key


async def test_a_key_has_one_open_token(tmp_path: Path) -> None:
    """A second one is refused until the first is replaced, used or ended."""
    async with _store(tmp_path) as store:
        key = await _make(store)
        first = await _issue(store, key)
        with pytest.raises(EtagMismatchError):
            await _issue(store, key)
        replaced = dataclasses.replace(first, state=TokenState.REPLACED)
        assert await store.replace_imports(key.key_id) == [replaced]
        second = await _issue(store, key)
        assert await store.count_imports() == 2
        assert await store.ended_imports(now=NOW, limit=9) == [replaced]
        later = NOW + timedelta(days=1)
        assert await store.ended_imports(now=later, limit=9) == [replaced, second]
        assert await store.replace_imports(uuid.uuid4()) == []


async def test_old_tokens_go(tmp_path: Path) -> None:
    """A week after its end a token whose wrapping key is gone is forgotten, no other."""
    async with _store(tmp_path) as store:
        key = await _make(store)
        gone, kept = await _issue(store, key), None
        await store.end_import(gone.token_sha256)
        await store.forget_wrapping_key(gone.token_sha256)
        kept = await _issue(store, key)
        await store.end_import(kept.token_sha256)
        await _issue(store, key, days=9)
        assert await store.find_import(gone.token_sha256) is None
        assert await store.find_import(kept.token_sha256) is not None


async def test_material_that_has_ended(tmp_path: Path) -> None:
    """It is found from its end on, until what is left of it is erased; the check value stays."""
    async with _store(tmp_path) as store:
        key = await _make(store)
        change = _imported(key, await _issue(store, key))
        await _commit(store, change)
        key = change.apply(key)
        ends = NOW + timedelta(days=30)
        assert await store.expired_materials(now=ends - timedelta(seconds=1), limit=9) == []
        assert await store.expired_materials(now=ends, limit=9) == [key]
        begin = BeginMaterialDeletion(key.key_id, 1, KeyState.PENDING_IMPORT, NOW, key.revision)
        await _commit(store, begin)
        key = begin.apply(key)
        assert await store.expired_materials(now=NOW, limit=9) == [key]
        drop = DropMaterial(key.key_id, 1, KeyState.PENDING_IMPORT, NOW, key.revision)
        await _commit(store, drop)
        assert await store.expired_materials(now=ends, limit=9) == []
    async with _store(tmp_path) as store:
        found = await store.find_key(key.key_id)
        assert found == drop.apply(key)
        assert found is not None
        assert found.versions[0].external == ExternalMaterial(CHECK)


@pytest.mark.parametrize(
    "damage",
    ["state = 'OPEN'", "expire_time = expire_time + 1", "claim = x'00'", "wrapping_key_gone = 1"],
)
async def test_a_token_that_was_edited_is_damage(tmp_path: Path, damage: str) -> None:
    """A row that does not fit its digest is never used."""
    async with _store(tmp_path) as store:
        token = await _issue(store, await _make(store))
        await store.end_import(token.token_sha256)
    database = sqlite3.connect(tmp_path / "keys.sqlite3")
    with database:
        database.execute(f"UPDATE import_tokens SET {damage}")  # noqa: S608 - a constant
    database.close()
    async with _store(tmp_path) as store:
        with pytest.raises(ShardUnavailableError):
            await store.find_import(token.token_sha256)


async def test_an_origin_that_was_edited_is_damage(tmp_path: Path) -> None:
    """A key made in the HSM cannot be passed off as one that was brought, nor the reverse."""
    async with _store(tmp_path) as store:
        made = make_key()
        await _commit(store, CreateKey(made))
        brought = await _make(store)
    for key, value in ((made, "x''"), (brought, "NULL")):
        database = sqlite3.connect(tmp_path / "keys.sqlite3")
        with database:
            database.execute(
                f"UPDATE key_versions SET import_check = {value} WHERE key_id = ?",  # noqa: S608 - constants
                (key.key_id.bytes,),
            )
        database.close()
    async with _store_unchecked(tmp_path) as store:
        for key in (made, brought):
            with pytest.raises(ShardUnavailableError):
                await store.find_key(key.key_id)


@asynccontextmanager
async def _store_unchecked(path: Path) -> AsyncIterator[SqliteKeyStore]:
    """Open a database that is not checked before the start, as a large one is not."""
    store = await SqliteKeyStore.open(
        path / "keys.sqlite3",
        REGION,
        clock=SteppingClock(),
        check_before_start_bytes=0,
        key_cache_keys=1,
    )
    try:
        yield store
    finally:
        await store.close()
