"""The outbox: rows move once, in order, whatever step a crash comes at."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.support.spool import REGION, MemoryOutbox, make_draft, open_spool, read_all

from strongroom_server.audit.outbox import ShardAuditTrail
from strongroom_server.audit.spool import Spool
from strongroom_server.errors import AuditUnavailableError, ShardUnavailableError


@pytest.fixture
async def spool(tmp_path: Path) -> AsyncIterator[Spool]:
    opened = await open_spool(tmp_path / "spool")
    yield opened
    await opened.close()


@pytest.fixture
async def outbox() -> MemoryOutbox:
    return MemoryOutbox()


@pytest.fixture
async def trail(spool: Spool, outbox: MemoryOutbox) -> AsyncIterator[ShardAuditTrail]:
    made = ShardAuditTrail(spool, outbox, region=REGION)
    await made.recover()
    yield made
    await made.close()


def commit(outbox: MemoryOutbox, count: int) -> list[int]:
    """Commit changes whose records are told apart by their request ids."""
    return [
        outbox.commit(make_draft(request_id=f"change-{outbox.last_id + 1}")) for _ in range(count)
    ]


def soon() -> float:
    return asyncio.get_running_loop().time() + 5


async def request_ids(spool: Spool) -> list[str]:
    return [json.loads(record)["request_id"] for record in await read_all(spool)]


async def wait_until_deleted(outbox: MemoryOutbox) -> None:
    async with asyncio.timeout(5):
        while outbox.rows:  # noqa: ASYNC110 - the port has no event for it
            await asyncio.sleep(0.02)


async def test_rows_move_in_order_whoever_asks_first(
    trail: ShardAuditTrail, spool: Spool, outbox: MemoryOutbox
):
    """Every caller gets the receipt of its own row, rows move by id, and leave the store."""
    ids = commit(outbox, 20)
    last = await trail.record_committed(ids[-1], deadline=soon())
    others = await asyncio.gather(
        *(trail.record_committed(outbox_id, deadline=soon()) for outbox_id in reversed(ids[:-1]))
    )
    assert [receipt.sequence for receipt in [*reversed(others), last]] == list(range(1, 21))
    assert await request_ids(spool) == [f"change-{n}" for n in range(1, 21)]
    await wait_until_deleted(outbox)
    assert spool.durable_outbox_id == 20


async def test_what_another_process_committed_is_moved_without_being_told(
    trail: ShardAuditTrail, spool: Spool, outbox: MemoryOutbox
):
    """A row that nobody of this process asks for reaches the spool and leaves the store."""
    commit(outbox, 3)
    await wait_until_deleted(outbox)
    assert await request_ids(spool) == ["change-1", "change-2", "change-3"]
    (mine,) = commit(outbox, 1)
    receipt = await trail.record_committed(mine, deadline=soon())
    assert receipt.sequence == 4


async def test_changes_and_calls_share_the_sequence(
    trail: ShardAuditTrail, spool: Spool, outbox: MemoryOutbox
):
    """Records of calls and of changes stand in one sequence without gaps."""
    (first,) = commit(outbox, 1)
    receipts = await asyncio.gather(
        trail.record(make_draft(request_id="call"), deadline=soon()),
        trail.record_committed(first, deadline=soon()),
    )
    assert sorted(receipt.sequence for receipt in receipts) == [1, 2]
    assert sorted(await request_ids(spool)) == ["call", "change-1"]


@pytest.mark.parametrize("step", ["committed", "appended", "durable", "deleted"])
async def test_crash_at_each_step_leaves_each_row_once(tmp_path: Path, step: str):
    """A crash after any step of a row's way ends, after the restart, with it logged once."""
    directory, outbox = tmp_path / "spool", MemoryOutbox()
    spool = await open_spool(directory)
    trail = ShardAuditTrail(spool, outbox, region=REGION)
    await trail.recover()
    await trail.record_committed(commit(outbox, 1)[0], deadline=soon())
    ids = commit(outbox, 5)
    if step == "appended":
        futures = [
            spool.append(row.draft, row.outbox_id) for row in outbox.rows if row.outbox_id > 1
        ]
        await asyncio.sleep(0)
    elif step != "committed":
        await trail.record_committed(ids[-1], deadline=soon())
    if step == "deleted":
        await wait_until_deleted(outbox)
    shutil.copytree(directory, tmp_path / "crashed")
    left = outbox.copy()
    if step == "appended":
        await asyncio.gather(*futures)
    await trail.close()
    await spool.close()

    commit(left, 1)
    spool = await open_spool(tmp_path / "crashed")
    trail = ShardAuditTrail(spool, left, region=REGION)
    await trail.recover()
    receipt = await trail.record_committed(commit(left, 1)[0], deadline=soon())
    assert receipt.sequence == 8
    assert await request_ids(spool) == [f"change-{n}" for n in range(1, 9)]
    await wait_until_deleted(left)
    await trail.close()
    await spool.close()


async def test_highest_outbox_id_survives_the_deletion_of_its_segment(tmp_path: Path):
    """Rows are not moved twice when the segment that had them is acknowledged and deleted."""
    outbox = MemoryOutbox()
    spool = await open_spool(tmp_path / "spool", segment_bytes=1024)
    trail = ShardAuditTrail(spool, outbox, region=REGION)
    await trail.recover()
    for outbox_id in commit(outbox, 3):
        await trail.record_committed(outbox_id, deadline=soon())
    left = MemoryOutbox(outbox.rows, last_id=3)
    await trail.close()
    for _ in range(10):
        await spool.append(make_draft(request_id="call"))
    await spool.durable.acknowledge(12)
    await spool.close()
    assert len(list((tmp_path / "spool").glob("*.seg"))) == 1
    spool = await open_spool(tmp_path / "spool", segment_bytes=1024)
    assert spool.durable_outbox_id == 3
    trail = ShardAuditTrail(spool, left, region=REGION)
    await trail.recover()
    assert not left.rows
    assert spool.durable.last_sequence == 13
    await trail.close()
    await spool.close()


async def test_full_spool_keeps_rows_and_moves_them_later(tmp_path: Path):
    """While the spool is full a change's row stays; it moves by itself after an acknowledgement."""
    outbox = MemoryOutbox()
    spool = await open_spool(tmp_path / "spool", limit_bytes=2**17)
    trail = ShardAuditTrail(spool, outbox, region=REGION)
    await trail.recover()
    for _ in range(2):
        await spool.append(make_draft(peer="p" * 64_000))
    outbox_id = outbox.commit(make_draft(request_id="change", peer="p" * 10_000))
    started = asyncio.get_running_loop().time()
    with pytest.raises(AuditUnavailableError, match="full"):
        await trail.record_committed(outbox_id, deadline=soon())
    assert asyncio.get_running_loop().time() - started < 1
    assert [row.outbox_id for row in outbox.rows] == [outbox_id]
    await spool.durable.acknowledge(2)
    await wait_until_deleted(outbox)
    assert (await request_ids(spool))[2:] == ["change"]
    await trail.close()
    await spool.close()


async def test_full_spool_does_not_stop_the_start(tmp_path: Path):
    """A shard starts on a full spool with rows to move: its consumer has to drain it."""
    outbox = MemoryOutbox()
    outbox.commit(make_draft(request_id="change", peer="p" * 10_000))
    spool = await open_spool(tmp_path / "spool", limit_bytes=2**17)
    for _ in range(2):
        await spool.append(make_draft(peer="p" * 64_000))
    trail = ShardAuditTrail(spool, outbox, region=REGION)
    await trail.recover()
    assert len(outbox.rows) == 1
    await spool.durable.acknowledge(2)
    await wait_until_deleted(outbox)
    await trail.close()
    await spool.close()


async def test_failing_store_delays_and_loses_nothing(
    trail: ShardAuditTrail, spool: Spool, outbox: MemoryOutbox
):
    """A store that fails refuses the call; the row moves when the store is back."""
    (outbox_id,) = commit(outbox, 1)
    outbox.is_failing = True
    with pytest.raises(AuditUnavailableError, match="database"):
        await trail.record_committed(outbox_id, deadline=soon())
    outbox.is_failing = False
    await wait_until_deleted(outbox)
    assert await request_ids(spool) == ["change-1"]


async def test_row_without_encoding_is_refused_and_blocks_nothing_else(
    trail: ShardAuditTrail, spool: Spool, outbox: MemoryOutbox
):
    """A row that has no encoding is refused at once; calls go on being recorded."""
    outbox_id = outbox.commit(make_draft(peer="p" * 2**16))
    with pytest.raises(AuditUnavailableError):
        await trail.record_committed(outbox_id, deadline=soon())
    assert (await trail.record(make_draft(), deadline=soon())).sequence == 1
    assert len(outbox.rows) == 1
    assert spool.durable_outbox_id == 0


async def test_failing_store_stops_the_start(spool: Spool, outbox: MemoryOutbox):
    """The trail does not start on a store that it cannot read."""
    outbox.is_failing = True
    with pytest.raises(ShardUnavailableError):
        await ShardAuditTrail(spool, outbox, region=REGION).recover()


async def test_row_that_never_comes_ends_at_the_deadline(trail: ShardAuditTrail):
    """An outbox id that is not there is refused at the deadline, not later."""
    loop = asyncio.get_running_loop()
    started = loop.time()
    with pytest.raises(AuditUnavailableError, match="deadline"):
        await trail.record_committed(99, deadline=started + 0.1)
    assert loop.time() - started < 2


async def test_closing_answers_who_waits(trail: ShardAuditTrail):
    """Closing refuses the calls that still wait for their row."""
    waiting = asyncio.create_task(trail.record_committed(99, deadline=soon()))
    await asyncio.sleep(0.01)
    await trail.close()
    with pytest.raises(AuditUnavailableError, match="stopping"):
        await waiting
