"""The spool: order, limits, reading, acknowledging, who may open it."""

from __future__ import annotations

import asyncio
import hashlib
import json
import shutil
from pathlib import Path

import pytest
from tests.support.spool import REGION, MemoryOutbox, make_draft, open_spool, read_all

from strongroom.receipts import Receipt
from strongroom_server.audit.outbox import ShardAuditTrail
from strongroom_server.audit.segment import MAX_FRAME_BYTES
from strongroom_server.audit.spool import Spool
from strongroom_server.errors import (
    ArgumentInvalidError,
    AuditUnavailableError,
    InternalError,
    StartRefusedError,
)


async def append_many(spool: Spool, count: int) -> list[Receipt]:
    return list(await asyncio.gather(*(spool.append(make_draft()) for _ in range(count))))


async def append_many_long(spool: Spool, count: int) -> None:
    for _ in range(count):
        await spool.append(make_draft(encryption_context={"k": "v" * 8000}))


async def append_one_by_one(spool: Spool, count: int) -> list[Receipt]:
    return [await spool.append(make_draft()) for _ in range(count)]


async def test_receipts_match_the_records(tmp_path: Path):
    """Each receipt has the region, epoch, sequence and SHA-256 of its record."""
    spool = await open_spool(tmp_path / "spool")
    receipts = await append_many(spool, 50)
    records = await read_all(spool)
    assert [receipt.sequence for receipt in receipts] == list(range(1, 51))
    for receipt, record in zip(receipts, records, strict=True):
        assert receipt.record_sha256 == hashlib.sha256(record).digest()
        assert (receipt.region, receipt.epoch) == (REGION, spool.epoch)
    assert spool.status().commits_total == 1
    await spool.close()


async def test_records_survive_a_restart(tmp_path: Path):
    """A closed spool opens with the same records, epoch and next sequence."""
    spool = await open_spool(tmp_path / "spool", segment_bytes=4096)
    await append_one_by_one(spool, 30)
    epoch, records = spool.epoch, await read_all(spool)
    await spool.close()
    spool = await open_spool(tmp_path / "spool", segment_bytes=4096)
    assert spool.epoch == epoch
    assert await read_all(spool) == records
    assert (await spool.append(make_draft())).sequence == 31
    await spool.close()


async def test_records_of_one_commit_are_one_write(tmp_path: Path):
    """Records that arrive while a commit is under way form the next one."""
    spool = await open_spool(tmp_path / "spool")
    first = spool.append(make_draft())
    await asyncio.sleep(0)  # the first commit is handed over
    others = [spool.append(make_draft()) for _ in range(20)]
    await asyncio.gather(first, *others)
    assert spool.status().commits_total == 2
    await spool.close()


async def test_second_opener_is_refused(tmp_path: Path):
    """While a spool is open nobody else opens it; afterwards they may."""
    spool = await open_spool(tmp_path / "spool")
    with pytest.raises(StartRefusedError, match="another process"):
        await open_spool(tmp_path / "spool")
    await spool.close()
    await (await open_spool(tmp_path / "spool")).close()


async def test_new_spool_has_another_epoch(tmp_path: Path):
    """A spool made anew in the same place has a later epoch and begins at 1."""
    spool = await open_spool(tmp_path / "spool")
    await append_many(spool, 3)
    epoch = spool.epoch
    await spool.close()
    (tmp_path / "spool").rename(tmp_path / "old")
    spool = await open_spool(tmp_path / "spool")
    assert spool.epoch > epoch
    assert (await spool.append(make_draft())).sequence == 1
    await spool.close()


async def test_spool_of_another_region_is_refused(tmp_path: Path):
    """A shard does not continue the spool of another region."""
    spool = await open_spool(tmp_path / "spool")
    await append_many(spool, 1)
    await spool.close()
    with pytest.raises(StartRefusedError, match="belongs to region eu-1, not us-1"):
        await open_spool(tmp_path / "spool", region="us-1")


async def test_directory_with_other_files_is_refused(tmp_path: Path):
    """A directory that holds something else is not made a spool."""
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(StartRefusedError, match=r"not empty \(notes\.txt\)"):
        await open_spool(tmp_path)


async def test_interrupted_creation_is_completed(tmp_path: Path):
    """A crash while the spool is made leaves nothing that stops the next start."""
    (tmp_path / "acknowledged").write_text(f"{0:020d}\n")
    (tmp_path / "epoch.new").write_text("17")
    spool = await open_spool(tmp_path)
    assert spool.epoch > 1_600_000_000_000
    await spool.close()


async def test_limit_refuses_at_once_and_acknowledging_ends_it(tmp_path: Path):
    """At the limit records are refused at once; after an acknowledgement they are taken."""
    spool = await open_spool(tmp_path / "spool", limit_bytes=2**17)
    context = {"k": "v" * 8000}
    assert spool.pressure == 0
    while spool.pressure <= 1 - MAX_FRAME_BYTES / 2**17:
        spool.ensure_accepting()
        await spool.append(make_draft(encryption_context=context))
    with pytest.raises(AuditUnavailableError, match="full"):
        spool.ensure_accepting()
    # The last room is for calls that are under way.
    with pytest.raises(AuditUnavailableError, match="full"):
        await append_many_long(spool, 10)
    assert not spool.is_ready
    assert spool.pressure <= 1
    last = spool.durable.last_sequence
    await spool.durable.acknowledge(last)
    spool.ensure_accepting()
    assert spool.status().unacknowledged_bytes == 0
    assert (await spool.append(make_draft())).sequence == last + 1
    await spool.close()


async def test_acknowledged_segments_are_deleted(tmp_path: Path):
    """A segment goes when all of it is acknowledged and a newer one exists; not before."""
    spool = await open_spool(tmp_path / "spool", segment_bytes=2048)
    await append_one_by_one(spool, 40)
    firsts = sorted(int(path.stem) for path in (tmp_path / "spool").glob("*.seg"))
    assert len(firsts) > 4
    await spool.durable.acknowledge(firsts[2] - 2)
    assert [int(p.stem) for p in sorted((tmp_path / "spool").glob("*.seg"))] == firsts[1:]
    await spool.durable.acknowledge(firsts[2] - 1)
    assert [int(p.stem) for p in sorted((tmp_path / "spool").glob("*.seg"))] == firsts[2:]
    await spool.durable.acknowledge(40)
    assert [int(p.stem) for p in sorted((tmp_path / "spool").glob("*.seg"))] == firsts[-1:]
    with pytest.raises(ArgumentInvalidError, match="acknowledged and deleted"):
        await spool.durable.read(1, max_records=1, max_bytes=1)
    await spool.close()
    spool = await open_spool(tmp_path / "spool", segment_bytes=2048)
    assert (await spool.append(make_draft())).sequence == 41
    await read_all(spool, firsts[-1])
    await spool.close()


async def test_status_counts_what_is_not_acknowledged(tmp_path: Path):
    """Bytes and age are those of the unacknowledged frames, also after a restart."""
    spool = await open_spool(tmp_path / "spool", segment_bytes=2048)
    await append_one_by_one(spool, 20)
    records = await read_all(spool)
    for acknowledged in (0, 7, 13, 19, 20):
        await spool.durable.acknowledge(acknowledged)
        for _ in range(2):
            status = spool.status()
            rest = records[acknowledged:]
            assert status.acknowledged_sequence == acknowledged
            assert status.unacknowledged_bytes == sum(len(record) + 68 for record in rest)
            oldest = status.oldest_unacknowledged_time
            if rest:
                assert oldest is not None
                time = oldest.isoformat(timespec="microseconds").replace("+00:00", "Z")
                assert json.loads(rest[0])["time"] == time
            else:
                assert oldest is None
            await spool.close()
            spool = await open_spool(tmp_path / "spool", segment_bytes=2048)
    await spool.append(make_draft())
    assert spool.status().oldest_unacknowledged_time is not None
    await spool.close()


async def test_acknowledging_beyond_the_end_is_refused(tmp_path: Path):
    """Nothing that is not durable can be acknowledged; older acknowledgements are fine."""
    spool = await open_spool(tmp_path / "spool")
    await append_many(spool, 3)
    with pytest.raises(ArgumentInvalidError, match="the last record is 3"):
        await spool.durable.acknowledge(4)
    await spool.durable.acknowledge(2)
    await spool.durable.acknowledge(1)
    assert spool.status().acknowledged_sequence == 2
    await spool.close()


async def test_batches_keep_their_limits(tmp_path: Path):
    """A batch has at least one record and otherwise stays below both limits."""
    directory = tmp_path / "spool"
    spool = await open_spool(directory, segment_bytes=2**16)
    await append_many(spool, 200)
    await append_one_by_one(spool, 100)
    records = await read_all(spool)
    for _ in range(2):  # from memory, then from files
        for first in (1, 2, 150, 199, 200, 201, 299, 300):
            batch = await spool.durable.read(first, max_records=3, max_bytes=2**20)
            assert 1 <= len(batch) <= 3  # a batch may end with its segment
            assert batch == records[first - 1 : first - 1 + len(batch)]
            assert await spool.durable.read(first, max_records=500, max_bytes=1) == [
                records[first - 1]
            ]
            size = len(records[first - 1]) * 2 + 10
            batch = await spool.durable.read(first, max_records=500, max_bytes=size)
            assert batch == records[first - 1 : first - 1 + len(batch)]
            assert len(batch) <= 2
        assert await spool.durable.read(301, max_records=1, max_bytes=1) == []
        await spool.close()
        spool = await open_spool(directory, segment_bytes=2**16)
    await spool.close()


async def test_readers_wake_for_new_records(tmp_path: Path):
    """A reader that waits for a sequence goes on when it is durable, and not before."""
    spool = await open_spool(tmp_path / "spool")
    readers = [asyncio.create_task(spool.durable.wait_for(2)) for _ in range(3)]
    await spool.append(make_draft())
    await asyncio.sleep(0.01)
    assert not any(reader.done() for reader in readers)
    await spool.append(make_draft())
    await asyncio.wait_for(asyncio.gather(*readers), 5)
    await spool.close()


async def test_closed_spool_refuses(tmp_path: Path):
    """Closing commits what waits and refuses what comes after."""
    spool = await open_spool(tmp_path / "spool")
    waiting = spool.append(make_draft())
    await spool.close()
    assert (await waiting).sequence == 1
    with pytest.raises(AuditUnavailableError, match="stopping"):
        spool.append(make_draft())
    with pytest.raises(AuditUnavailableError, match="stopping"):
        spool.ensure_accepting()


async def test_draft_without_encoding_leaves_no_gap(tmp_path: Path):
    """A draft that cannot be encoded is refused and takes no sequence."""
    spool = await open_spool(tmp_path / "spool")
    with pytest.raises(InternalError):
        spool.append(make_draft(peer="p" * 2**16))
    assert (await spool.append(make_draft())).sequence == 1
    await spool.close()


async def test_deadline_ends_the_wait_and_not_the_record(tmp_path: Path):
    """At its deadline, or cancelled, a caller goes; its record is written all the same."""
    spool = await open_spool(tmp_path / "spool")
    trail = ShardAuditTrail(spool, MemoryOutbox(), region=REGION)
    now = asyncio.get_running_loop().time()
    with pytest.raises(AuditUnavailableError, match="deadline"):
        await trail.record(make_draft(), deadline=now - 1)
    cancelled = asyncio.create_task(trail.record(make_draft(), deadline=now + 60))
    await asyncio.sleep(0)
    cancelled.cancel()
    await asyncio.wait([cancelled])
    assert (await trail.record(make_draft(), deadline=now + 60)).sequence == 3
    assert len(await read_all(spool)) == 3
    await spool.close()


async def test_unclosed_spool_opens_from_a_copy(tmp_path: Path):
    """What was answered is in the files at that moment, without a close."""
    spool = await open_spool(tmp_path / "spool")
    await append_many(spool, 5)
    shutil.copytree(tmp_path / "spool", tmp_path / "copy")
    copy = await open_spool(tmp_path / "copy")
    assert await read_all(copy) == await read_all(spool)
    await copy.close()
    await spool.close()
