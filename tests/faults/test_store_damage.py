"""D1, damaged files: detected before use, no policy widened, no wrong row believed."""

from __future__ import annotations

import asyncio
import random
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import pytest
from tests.support.store_samples import (
    REGION,
    START,
    SteppingClock,
    all_keys,
    creation,
    make_key,
    make_material,
    make_memo,
    new_alias,
    new_root,
    new_version,
    state_change,
)

from strongroom.resource_names import AliasName
from strongroom_server.domain.keys import Alias, Key, KeyState
from strongroom_server.errors import ShardUnavailableError, StartRefusedError
from strongroom_server.mutations import OutboxRow, RequestMemo
from strongroom_server.store import SqliteKeyStore
from strongroom_server.store.checking import marker_of

_PAGE_BYTES = 4096
_KEYS = 40


@dataclass(frozen=True)
class Content:
    """All that a store answers."""

    keys: list[Key]
    aliases: list[Alias]
    outbox: list[OutboxRow]


async def _content(store: SqliteKeyStore) -> Content:
    listed = await all_keys(store)
    assert [await store.find_key(key.key_id) for key in listed] == listed
    names = [AliasName(REGION, f"alias-{number}") for number in range(_KEYS)]
    aliases = [alias for name in names if (alias := await store.find_alias(name)) is not None]
    assert len(aliases) == (await store.recount()).aliases
    return Content(listed, aliases, await store.outbox_after(0, 10_000))


async def _open(path: Path, *, check_first: bool = True) -> SqliteKeyStore:
    return await SqliteKeyStore.open(
        path,
        REGION,
        clock=SteppingClock(),
        check_before_start_bytes=2**30 if check_first else 0,
    )


async def _until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 - the store has no event to wait for
            await asyncio.sleep(0.01)


def _flip_a_bit(path: Path, position: int, choose: random.Random) -> None:
    with path.open("r+b") as file:
        file.seek(position)
        byte = file.read(1)[0]
        file.seek(-1, 1)
        file.write(bytes([byte ^ (1 << choose.randrange(8))]))


async def _fill(path: Path, count: int) -> tuple[Content, list[RequestMemo]]:
    store = await _open(path)
    memos = []
    await store.commit(new_root(1))
    for number in range(count):
        is_wrapped = number % 2 == 1
        key = make_key(
            create_time=START + timedelta(seconds=number),
            wrapped=make_material(1, number) if is_wrapped else None,
        )
        memos.append(make_memo(f"r-{number}", answer=str(key.name)))
        await store.commit(creation(key, memos[-1]))
        if number % 3 == 0:
            await store.commit(new_alias(key, f"alias-{number}"))
        if number % 4 == 0:
            await store.commit(state_change(key, KeyState.DISABLED))
        if number % 5 == 0:
            await store.commit(
                new_version(
                    key,
                    revision=2 if number % 4 == 0 else 1,
                    wrapped=make_material(1, 1000 + number) if is_wrapped else None,
                )
            )
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
            _flip_a_bit(path, page * _PAGE_BYTES + offset, choose)
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
    # The rest hit free space, of which small tables have most, and memos.
    assert refused > (size // _PAGE_BYTES) / 2
    assert refused + harmless + late == 2 * (size // _PAGE_BYTES)


async def test_a_flipped_byte_gives_no_wrong_key_before_the_check_is_done(tmp_path: Path) -> None:
    """A database that is checked behind the calls answers right or not; no key is "not there"."""
    original = tmp_path / "original.db"
    content, _ = await _fill(original, _KEYS)
    size = original.stat().st_size
    choose = random.Random(20260305)  # noqa: S311 - which bytes are hit
    unavailable = 0
    for page in range(size // _PAGE_BYTES):
        path = tmp_path / "damaged.db"
        shutil.copy(original, path)
        _flip_a_bit(path, page * _PAGE_BYTES + choose.randrange(_PAGE_BYTES), choose)
        try:
            store = await _open(path, check_first=False)
        except StartRefusedError:
            continue
        try:
            for key in content.keys:
                try:
                    assert await store.find_key(key.key_id) == key
                except ShardUnavailableError:
                    unavailable += 1
            for alias in content.aliases:
                try:
                    found = await store.find_alias(alias.name)
                except ShardUnavailableError:
                    unavailable += 1
                else:
                    # Of an alias there is one row and one index; keys have three of each.
                    assert found in {alias, None}
        finally:
            await store.close()
    assert unavailable > 0


async def test_damage_found_behind_the_calls_stops_the_shard_and_the_next_start(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """From then on every read and change is refused, and the database is not taken again."""
    path = tmp_path / "store.db"
    content, _ = await _fill(path, 8)
    with closing(sqlite3.connect(path)) as vandal:
        vandal.execute("UPDATE policies SET cedar = replace(cedar, 'orders', 'mallory')")
        vandal.commit()
    store = await _open(path, check_first=False)
    assert store.counts().versions > 0
    store.start_polling()
    await _until(lambda: not store.is_current)
    key = content.keys[0]
    with pytest.raises(ShardUnavailableError, match="damaged"):
        store.cached_key(key.key_id)
    for attempt in (
        store.find_key(key.key_id),
        store.find_alias(content.aliases[0].name),
        store.list_keys(after=None, limit=1),
        store.list_roots(),
        store.commit(creation(make_key())),
        store.reserve_uses(key.version_ref(1), 1),
        store.replace_wrapped([]),
    ):
        with pytest.raises(ShardUnavailableError, match="damaged"):
            await attempt
    # Records that wait for the audit log are not withheld.
    assert await store.outbox_after(0, 10_000) == content.outbox
    await store.close()
    assert "restore the database from a backup" in capsys.readouterr().out
    with pytest.raises(StartRefusedError, match="damaged"):
        await _open(path, check_first=False)
    # A good copy in its place is looked at once, and then taken as any other.
    await _fill(tmp_path / "good.db", 8)
    shutil.copy(tmp_path / "good.db", path)
    for _ in range(2):
        restored = await _open(path, check_first=False)
        assert len(await all_keys(restored)) == 8
        await restored.close()
    assert not marker_of(path).exists()


async def test_a_check_behind_the_calls_ends_by_itself_or_when_it_is_told(tmp_path: Path) -> None:
    """A whole database stays in use after the check; closing does not wait for its end."""
    path = tmp_path / "store.db"
    await _fill(path, _KEYS)
    store = await _open(path, check_first=False)
    store.start_polling()
    await _until(lambda: not store.is_checking)
    assert store.is_current
    assert len(await all_keys(store)) == _KEYS
    await store.close()
    again = await _open(path, check_first=False)
    again.start_polling()
    async with asyncio.timeout(5):
        await again.close()
    assert not again.is_checking
    assert not marker_of(path).exists()


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
        listed = await all_keys(found)
        lengths.add(len(listed))
        assert listed == keys[: len(listed)]
        outbox = await found.outbox_after(0, 100)
        assert [row.draft.key for row in outbox] == [str(key.name) for key in listed]
        # This is how a spool that knows more finds out that commits are missing.
        assert await found.last_outbox_id() == len(listed)
        await found.close()
    assert len(lengths) > 2
