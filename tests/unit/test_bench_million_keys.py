"""The loader of the million-key benchmark makes keys that the service takes for its own."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.keywrap import aes_key_unwrap
from tests.bench import million_keys
from tests.bench.million_keys import key_id_of, load_keys, wrapper
from tests.support.store_samples import (
    PRINCIPAL,
    REGION,
    SteppingClock,
    all_keys,
    creation,
    make_key,
    make_material,
    state_change,
)

from strongroom_server.domain.keys import KeyState, KeyStorage
from strongroom_server.mutations import RootState
from strongroom_server.store import SqliteKeyStore


async def _open(path: Path) -> SqliteKeyStore:
    return await SqliteKeyStore.open(path, REGION, clock=SteppingClock())


async def test_loaded_keys_pass_the_whole_check_and_their_materials_unwrap(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every key is there with its digest right, an own material under the root, and changeable."""
    monkeypatch.setattr(million_keys, "CHUNK_KEYS", 40)
    path = tmp_path / "store.db"
    store = await _open(path)
    await store.close()
    root = os.urandom(32)
    load_keys(path, REGION, 100, wrapper(root), 1, PRINCIPAL)
    store = await _open(path)
    keys = await all_keys(store)
    assert {key.key_id for key in keys} == {key_id_of(REGION, number) for number in range(100)}
    assert {key.storage for key in keys} == {KeyStorage.WRAPPED}
    materials = [key.material(1).wrapped for key in keys]
    plain = {aes_key_unwrap(root, each.wrapped) for each in materials if each is not None}
    assert len(plain) == 100
    assert {len(material) for material in plain} == {32}
    assert [(r.number, r.state) for r in await store.list_roots()] == [(1, RootState.ACTIVE)]
    await store.commit(state_change(keys[0], KeyState.DISABLED))
    await store.commit(creation(make_key(wrapped=make_material(1))))
    await store.close()
    with pytest.raises(ValueError, match="region"):
        load_keys(path, "us-1", 1, wrapper(root), 1, PRINCIPAL)
