"""Counting uses: never one twice, never more than 2^32, one announcement (SP 800-38D, 8.3)."""

from __future__ import annotations

import asyncio
import itertools
import random
import uuid
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from tests.support.memory_ports import MemoryStore, MemoryToken, MemoryTrail
from tests.support.memory_service import MemoryService

from strongroom_server.domain.keys import (
    Key,
    KeyManager,
    KeySpec,
    KeyState,
    KeyUsage,
    KeyVersion,
    KeyVersionRef,
)
from strongroom_server.domain.rotation import (
    FIRST_BLOCK_USES,
    MAX_USES,
    ROTATE_AT_USES,
    UseBlock,
)
from strongroom_server.errors import KeyExhaustedError, ShardUnavailableError
from strongroom_server.services.rotation_by_use import RotationByUse
from strongroom_server.services.use_counters import UseCounters
from strongroom_server.shards.topology import Shard

NOW = datetime(2026, 1, 1, tzinfo=UTC)
KEY = Key(
    key_id=uuid.UUID(int=1),
    region="eu-1",
    spec=KeySpec.AES_256,
    usage=KeyUsage.ENCRYPT_DECRYPT,
    state=KeyState.ENABLED,
    manager=KeyManager.CUSTOMER,
    description="",
    primary_version=1,
    creator="spiffe://example.org/orders",
    create_time=NOW,
    update_time=NOW,
    revision=1,
    policy="",
    versions=(KeyVersion(1, NOW, 0),),
)
REF = KeyVersionRef(KEY.key_id, 1)


def shard_of(store: MemoryStore) -> Shard:
    """Return a shard around a store."""
    return Shard("eu-1", MemoryToken("eu-1"), store, MemoryTrail("eu-1", store))


def counters(due: list[Key] | None = None) -> UseCounters:
    """Return new counters, as after a start; `due` collects the announcements."""
    heard: list[Key] = [] if due is None else due
    return UseCounters(on_rotation_due=lambda _, key: heard.append(key))


class Crash(BaseException):
    """The process ends here."""


class CrashingStore(MemoryStore):
    """Reserves, and at some reservations the process ends before or after it is durable."""

    def __init__(self, source: random.Random) -> None:
        super().__init__("eu-1")
        self._source = source
        self.spans: list[tuple[int, int]] = []

    async def reserve_uses(self, ref: KeyVersionRef, uses: int) -> int:
        fate = self._source.random()
        if fate < 0.2:
            raise Crash
        if fate < 0.3:
            raise ShardUnavailableError("eu-1", "the store fails")
        total = await super().reserve_uses(ref, uses)
        if fate < 0.5:
            raise Crash
        self.spans.append((total - uses, total))
        return total


class FailingStore(MemoryStore):
    """Refuses reservations as long as it fails."""

    fails = True

    async def reserve_uses(self, ref: KeyVersionRef, uses: int) -> int:
        await asyncio.sleep(0)
        if self.fails:
            raise ShardUnavailableError("eu-1", "the store fails")
        return await super().reserve_uses(ref, uses)


async def test_no_use_is_handed_out_twice_over_crashes():
    """10,000 lives, each ending anywhere: what was taken never exceeds what was reserved."""
    source = random.Random(20260102)  # noqa: S311 - repeatable, not secret
    store = CrashingStore(source)
    shard = shard_of(store)
    for _ in range(10_000):
        life = counters()
        spans_before = len(store.spans)
        taken = 0
        try:
            for _ in range(source.randrange(5)):
                await life.take(shard, KEY)
                taken += 1
        except (Crash, ShardUnavailableError):
            pass
        # Every use of this life comes out of a block that this life made durable.
        assert taken <= FIRST_BLOCK_USES * (len(store.spans) - spans_before)
    spans = sorted(store.spans)
    assert all(end <= start for (_, end), (start, _) in itertools.pairwise(spans))
    assert store.reserved[REF] >= FIRST_BLOCK_USES * len(spans)


async def test_concurrent_takers_share_one_reservation():
    """Takers at once reserve one block and take their uses of it."""
    store = MemoryStore("eu-1")
    shard = shard_of(store)
    life = counters()
    refs = await asyncio.gather(*(life.take(shard, KEY) for _ in range(FIRST_BLOCK_USES)))
    assert set(refs) == {REF}
    assert store.reserved[REF] == FIRST_BLOCK_USES
    await asyncio.gather(*(life.take(shard, KEY) for _ in range(1000)))
    assert store.reserved[REF] == FIRST_BLOCK_USES * (1 + 16)


async def test_each_of_those_who_wait_for_a_failing_store_is_refused():
    """Nobody waits for ever, nobody is given a use, and each has an error of its own."""
    store = FailingStore("eu-1")
    shard = shard_of(store)
    life = counters()
    refusals = await asyncio.gather(
        *(life.take(shard, KEY) for _ in range(20)), return_exceptions=True
    )
    assert {type(refusal) for refusal in refusals} == {ShardUnavailableError}
    assert len({id(refusal) for refusal in refusals}) == 20
    store.fails = False
    assert await life.take(shard, KEY) == REF
    assert store.reserved[REF] == FIRST_BLOCK_USES


async def test_blocks_grow_and_are_used_up_before_the_next_is_reserved():
    """The first block is small; from the third on they have 65,536 uses."""
    store = MemoryStore("eu-1")
    shard = shard_of(store)
    life = counters()
    expected = 0
    for size in (2**8, 2**12, 2**16, 2**16):
        expected += size
        for _ in range(size):
            await life.take(shard, KEY)
            assert store.reserved[REF] == expected


async def test_the_last_uses_are_handed_out_and_then_the_version_is_exhausted():
    """What is left when no large block fits is handed out; then every use is refused."""
    left = 2**8 + 2**12 + 3 * 2**8 + 7
    store = MemoryStore("eu-1", reserved={REF: MAX_USES - left})
    shard = shard_of(store)
    life = counters()
    for _ in range(left - 7):
        await life.take(shard, KEY)
    for counter in (life, life, counters()):
        with pytest.raises(KeyExhaustedError) as refusal:
            await counter.take(shard, KEY)
        assert f"{KEY.name}/versions/1" in refusal.value.message
    assert store.reserved[REF] == MAX_USES - 7


async def test_blocks_of_few_versions_are_kept_and_none_is_used_twice():
    """Beyond the bound the block not used for longest is lost, and its uses with it."""
    store = MemoryStore("eu-1")
    shard = shard_of(store)
    life = UseCounters(on_rotation_due=lambda _, __: None, max_versions=3)
    keys = [replace(KEY, key_id=uuid.UUID(int=number)) for number in range(1, 6)]
    for _ in range(4):
        for key in keys:
            await life.take(shard, key)
    assert len(life._blocks) == 3
    assert life._reserving == {}
    # Five in turn with room for three: each use came from a new block.
    assert set(store.reserved.values()) == {4 * FIRST_BLOCK_USES}
    for _ in range(4):
        await life.take(shard, keys[-1])
    assert store.reserved[keys[-1].version_ref(1)] == 4 * FIRST_BLOCK_USES


async def test_rotation_is_announced_once_at_2_to_the_30():
    """The announcement comes with the block that reaches 2^30, once, and again after a start."""
    store = MemoryStore("eu-1", reserved={REF: ROTATE_AT_USES - 2**8 - 2**12})
    shard = shard_of(store)
    due: list[Key] = []
    life = counters(due)
    for _ in range(2**8):
        await life.take(shard, KEY)
    assert not due
    for _ in range(2**12 + 1):
        await life.take(shard, KEY)
    assert due == [KEY]
    await counters(due).take(shard, KEY)
    assert due == [KEY, KEY]


async def test_versions_and_regions_are_counted_apart():
    """A new version, and the same key id in another region, have uses of their own."""
    store, other = MemoryStore("eu-1"), MemoryStore("us-1")
    life = counters()
    rotated = replace(KEY, primary_version=2, versions=(*KEY.versions, KeyVersion(2, NOW, 0)))
    abroad = Shard("us-1", MemoryToken("us-1"), other, MemoryTrail("us-1", other))
    assert await life.take(shard_of(store), KEY) == REF
    assert await life.take(shard_of(store), rotated) == KeyVersionRef(KEY.key_id, 2)
    assert await life.take(abroad, KEY) == REF
    first = FIRST_BLOCK_USES
    assert store.reserved == {REF: first, KeyVersionRef(KEY.key_id, 2): first}
    assert other.reserved == {REF: first}


def test_a_block_gives_no_more_than_it_was_given():
    """An empty block gives nothing; a filled one exactly its uses."""
    block = UseBlock()
    assert not block.take()
    block.add(uses=3, reserved_total=3)
    assert [block.take() for _ in range(4)] == [True, True, True, False]
    assert block.left == 0
    assert not block.wants_rotation


async def test_a_rotation_under_way_is_not_begun_again():
    """A key that is announced twice, its block forgotten in between, is rotated once."""
    service = MemoryService("eu-1")
    key = await service.create_key()
    rotation = RotationByUse(lifecycle=service.lifecycle, clock=service.clock)
    shard = service.topology.shard("eu-1")
    for _ in range(3):
        rotation.due(shard, key)
    async with asyncio.timeout(5):
        while rotation._tasks:  # noqa: ASYNC110 - it has no event to wait for
            await asyncio.sleep(0)
    rotation.due(shard, key)  # late: the version is not primary any more
    async with asyncio.timeout(5):
        while rotation._tasks:  # noqa: ASYNC110
            await asyncio.sleep(0)
    assert len(service.eu.store.keys[key.key_id].versions) == 2
    await rotation.close()
