"""D1, damaged files: detected before use, no policy widened, no wrong row believed."""

from __future__ import annotations

import random
import shutil
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import pytest
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
from strongroom_server.domain.keys import Alias, Key, KeyState
from strongroom_server.errors import ShardUnavailableError, StartRefusedError
from strongroom_server.ports import OutboxRow, RequestMemo
from strongroom_server.store import SqliteKeyStore

_PAGE_BYTES = 4096
_KEYS = 40


@dataclass(frozen=True)
class Content:
    """All that a store answers."""

    keys: list[Key]
    aliases: list[Alias]
    outbox: list[OutboxRow]


async def _content(store: SqliteKeyStore) -> Content:
    listed = list(store.list_keys(after=None))
    assert [store.find_key(key.key_id) for key in listed] == listed
    names = [AliasName(REGION, f"alias-{number}") for number in range(_KEYS)]
    aliases = [alias for name in names if (alias := store.find_alias(name)) is not None]
    assert len(aliases) == store.counts().aliases
    return Content(listed, aliases, await store.outbox_after(0, 10_000))


async def _open(path: Path) -> SqliteKeyStore:
    return await SqliteKeyStore.open(path, REGION, clock=SteppingClock())


async def _fill(path: Path, count: int) -> tuple[Content, list[RequestMemo]]:
    store = await _open(path)
    memos = []
    for number in range(count):
        key = make_key(create_time=START + timedelta(seconds=number))
        memos.append(make_memo(f"r-{number}", answer=str(key.name)))
        await store.commit(creation(key, memos[-1]))
        if number % 3 == 0:
            await store.commit(new_alias(key, f"alias-{number}"))
        if number % 4 == 0:
            await store.commit(state_change(key, KeyState.DISABLED))
        if number % 5 == 0:
            await store.commit(new_version(key, revision=2 if number % 4 == 0 else 1))
            await store.reserve_uses(key.version_ref(2), 65536)
    content = await _content(store)
    await store.close()
    return content, memos


async def _check_memos(store: SqliteKeyStore, memos: list[RequestMemo]) -> int:
    """Memos are checked when they are asked for; return how many were refused."""
    refused = 0
    for memo in memos:
        try:
            found = await store.find_memo(memo.principal, memo.method, memo.request_id)
        except ShardUnavailableError:
            refused += 1
        else:
            assert found == memo
    return refused


async def test_a_flipped_byte_anywhere_is_refused_or_harmless(tmp_path: Path) -> None:
    """With any byte of any page changed, the start is refused or every answer is still right."""
    original = tmp_path / "original.db"
    content, memos = await _fill(original, _KEYS)
    size = original.stat().st_size
    choose = random.Random(20260304)  # noqa: S311 - which bytes are hit
    refused = harmless = late = 0
    for page in range(size // _PAGE_BYTES):
        for offset in (choose.randrange(100), choose.randrange(_PAGE_BYTES)):
            path = tmp_path / "damaged.db"
            shutil.copy(original, path)
            with path.open("r+b") as file:
                file.seek(page * _PAGE_BYTES + offset)
                byte = file.read(1)[0]
                file.seek(-1, 1)
                file.write(bytes([byte ^ (1 << choose.randrange(8))]))
            try:
                store = await _open(path)
            except StartRefusedError:
                refused += 1
                continue
            try:
                assert await _content(store) == content
                assert await store.last_outbox_id() == len(content.outbox)
                damaged_memos = await _check_memos(store, memos)
                late += damaged_memos > 0
                harmless += damaged_memos == 0
            finally:
                await store.close()
    assert refused > harmless
    assert refused + harmless + late == 2 * (size // _PAGE_BYTES)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"permit(principal == User", b"permit(principal /* User"),
        (b"example.org/orders", b"example.org/0rders"),
        (b"ENABLED", b"ENABLES"),
        (b"DISABLED", b" ENABLED"),
        (b"alias-3", b"alias-1"),
        (b"orders at rest", b"orders at west"),
    ],
)
async def test_text_changed_in_place_is_refused(tmp_path: Path, old: bytes, new: bytes) -> None:
    """Changes inside values, which integrity_check cannot see, stop the start."""
    path = tmp_path / "store.db"
    await _fill(path, 8)
    data = path.read_bytes()
    # One by one: pages keep stale copies of cells in their free space, which nobody reads.
    at = [i for i in range(len(data)) if data.startswith(old, i)]
    assert at
    for position in at:
        path.write_bytes(data[:position] + new + data[position + len(old) :])
        try:
            store = await _open(path)
        except StartRefusedError:
            break
        await store.close()
    else:
        pytest.fail("no change of this text was noticed")


@pytest.mark.parametrize("kind", ["cut", "flipped"])
async def test_a_damaged_wal_leaves_a_prefix_of_the_commits(tmp_path: Path, kind: str) -> None:
    """Whatever is cut from or changed in the WAL, what is read is a state that once was."""
    path = tmp_path / "store.db"
    store = await _open(path)
    keys = [make_key(create_time=START + timedelta(seconds=number)) for number in range(12)]
    for key in keys:
        await store.commit(creation(key, make_memo(str(key.key_id))))
    copy = tmp_path / "crashed"
    copy.mkdir()
    wal_path = path.with_name("store.db-wal")
    database, wal = path.read_bytes(), wal_path.read_bytes()
    await store.close()
    choose = random.Random(7)  # noqa: S311 - where the WAL is hit
    lengths = set()
    for _ in range(24):
        for leftover in copy.iterdir():
            leftover.unlink()
        position = choose.randrange(len(wal))
        if kind == "cut":
            hit = wal[:position]
        else:
            hit = wal[:position] + bytes([wal[position] ^ 1]) + wal[position + 1 :]
        (copy / "store.db").write_bytes(database)
        (copy / "store.db").chmod(0o600)
        (copy / "store.db-wal").write_bytes(hit)
        found = await _open(copy / "store.db")
        listed = list(found.list_keys(after=None))
        lengths.add(len(listed))
        assert listed == keys[: len(listed)]
        outbox = await found.outbox_after(0, 100)
        assert [row.draft.key for row in outbox] == [str(key.name) for key in listed]
        # This is how a spool that knows more finds out that commits are missing.
        assert await found.last_outbox_id() == len(listed)
        await found.close()
    assert len(lengths) > 2
