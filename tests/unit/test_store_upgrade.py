"""Databases of earlier releases are brought up to date in place and go on working."""

from __future__ import annotations

import sqlite3
import uuid
from contextlib import closing
from pathlib import Path

import pytest
from tests.support.store_0001 import CREATED, POLICY, make_database_0001
from tests.support.store_samples import (
    PRINCIPAL,
    REGION,
    SteppingClock,
    all_keys,
    creation,
    make_key,
    make_material,
    new_root,
    state_change,
)

from strongroom.resource_names import AliasName
from strongroom_server.domain.keys import KeyState, KeyStorage
from strongroom_server.errors import StartRefusedError
from strongroom_server.store import SqliteKeyStore
from strongroom_server.store.micros import to_micros

IDS = [uuid.UUID(int=number) for number in range(1, 8)]


async def _open(path: Path, *, check_before_start_bytes: int = 2**30) -> SqliteKeyStore:
    return await SqliteKeyStore.open(
        path,
        REGION,
        clock=SteppingClock(),
        check_before_start_bytes=check_before_start_bytes,
    )


@pytest.mark.parametrize("check_before_start_bytes", [0, 2**30])
async def test_a_database_of_the_first_release_keeps_all_it_had(
    tmp_path: Path, check_before_start_bytes: int
) -> None:
    """Keys, versions, aliases, memos and records are as they were, and resident."""
    path = tmp_path / "store.db"
    make_database_0001(path, IDS)
    store = await _open(path, check_before_start_bytes=check_before_start_bytes)
    keys = await all_keys(store)
    assert [key.key_id for key in keys] == IDS
    for number, key in enumerate(keys):
        assert await store.find_key(key.key_id) == key
        assert key.storage is KeyStorage.RESIDENT
        assert key.state is (KeyState.DISABLED if number % 2 else KeyState.ENABLED)
        assert to_micros(key.create_time) == CREATED + number
        assert (key.policy, key.creator) == (POLICY, PRINCIPAL)
        assert [(v.number, v.reserved_uses, v.wrapped) for v in key.versions] == [
            (n, 65536 * n, None) for n in range(1, 3 if number % 3 == 0 else 2)
        ]
    alias = await store.find_alias(AliasName(REGION, "old"))
    assert alias is not None
    assert alias.key_id == IDS[0]
    assert await store.find_memo(PRINCIPAL, "CreateKey", "r-1") is not None
    assert [row.outbox_id for row in await store.outbox_after(0, 10)] == [1]
    assert await store.list_roots() == ()
    await store.close()


async def test_it_goes_on_working(tmp_path: Path) -> None:
    """Old keys change, new ones of both kinds are made, and all is there after a restart."""
    path = tmp_path / "store.db"
    make_database_0001(path, IDS)
    store = await _open(path)
    old = await store.find_key(IDS[2])
    assert old is not None
    assert await store.commit(state_change(old, KeyState.DISABLED)) == 2
    assert await store.reserve_uses(old.version_ref(1), 16) == 65536 + 16
    wrapped, resident = make_key(wrapped=make_material(1)), make_key()
    await store.commit(new_root(1))
    await store.commit(creation(wrapped))
    await store.commit(creation(resident))
    before = await all_keys(store)
    await store.close()
    again = await _open(path)
    assert await all_keys(again) == before
    assert len(before) == len(IDS) + 2
    await again.close()


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE policies SET cedar = 'permit(principal, action, resource);'",
        "UPDATE keys SET state = 'ENABLED'",
        "UPDATE key_versions SET reserved_uses = 0",
    ],
)
async def test_an_edited_old_database_is_refused(tmp_path: Path, statement: str) -> None:
    """An upgrade gives no damaged row a new digest."""
    path = tmp_path / "store.db"
    make_database_0001(path, IDS)
    with closing(sqlite3.connect(path)) as vandal:
        vandal.execute(statement)
        vandal.commit()
    with pytest.raises(StartRefusedError, match="digest"):
        await _open(path)


async def test_a_broken_old_database_is_refused_before_it_is_changed(tmp_path: Path) -> None:
    """No migration builds on a file that SQLite finds damaged, however large it is."""
    path = tmp_path / "store.db"
    make_database_0001(path, IDS)
    with closing(sqlite3.connect(path)) as vandal:
        vandal.execute("PRAGMA foreign_keys = OFF")
        vandal.execute("DELETE FROM keys WHERE key_id = ?", (IDS[1].bytes,))
        vandal.commit()
    with pytest.raises(StartRefusedError, match="belongs to nothing"):
        await _open(path, check_before_start_bytes=0)
    with closing(sqlite3.connect(path)) as database:
        found = database.execute("SELECT version_num FROM alembic_version").fetchall()
    assert found == [("0001",)]
