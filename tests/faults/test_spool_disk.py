"""A3, the spool's part: writes that fail, a disk that is full, and that has room again."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.spool import REGION, MemoryOutbox, make_draft, open_spool, read_all

from strongroom.receipts import Receipt
from strongroom_server.audit.outbox import ShardAuditTrail
from strongroom_server.audit.spool import Spool
from strongroom_server.errors import AuditUnavailableError

ROOT = Path(__file__).parents[2]
CHILD = ROOT / "tests" / "support" / "spool_child.py"
DISK_BYTES = 2**20


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MiB."""
    mount = shutil.which("mount")
    path = tmp_path / "disk"
    path.mkdir()
    command = [mount or "mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", str(path)]
    if mount is None or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("a small file system needs the right to mount a tmpfs")
    yield path
    subprocess.run(["umount", "--lazy", str(path)], check=True)


def fill(ballast: Path) -> None:
    """Write until there is no room."""
    with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(512))


class Receipts:
    """Answers of a spool, checked against what it holds in the end."""

    def __init__(self) -> None:
        self.given: list[Receipt] = []

    async def append(self, trail: ShardAuditTrail, callers: int = 1) -> None:
        """Answer `callers` calls at once; raise the first refusal after all have ended."""
        deadline = asyncio.get_running_loop().time() + 5
        outcomes = await asyncio.gather(
            *(trail.record(make_draft(), deadline=deadline) for _ in range(callers)),
            return_exceptions=True,
        )
        self.given += [outcome for outcome in outcomes if isinstance(outcome, Receipt)]
        for outcome in outcomes:
            if isinstance(outcome, BaseException):
                raise outcome

    async def append_until_refused(self, trail: ShardAuditTrail, callers: int) -> None:
        """Answer calls until one is refused, and see that refusals come at once."""
        loop = asyncio.get_running_loop()
        while True:
            started = loop.time()
            try:
                await self.append(trail, callers)
            except AuditUnavailableError:
                assert loop.time() - started < 1
                return

    async def append_when_it_recovers(self, trail: ShardAuditTrail) -> None:
        """Answer one call as soon as the spool accepts again: within 5 s."""
        async with asyncio.timeout(5):
            while True:
                try:
                    trail.ensure_accepting()
                    return await self.append(trail)
                except AuditUnavailableError:
                    await asyncio.sleep(0.05)

    async def check(self, spool: Spool) -> None:
        """Every answered record is there once, as its receipt says."""
        records = await read_all(spool)
        assert len({receipt.sequence for receipt in self.given}) == len(self.given)
        for receipt in self.given:
            record = records[receipt.sequence - 1]
            assert receipt == Receipt.for_record(
                region=REGION, epoch=spool.epoch, sequence=receipt.sequence, record=record
            )


@pytest.mark.parametrize("callers", [1, 16])
@pytest.mark.parametrize("segment_bytes", [2**16, 8 * 2**20])
async def test_full_disk_refuses_and_recovers(small_disk: Path, callers: int, segment_bytes: int):
    """On a full disk nothing is answered unlogged; with room again it goes on by itself."""
    directory, ballast = small_disk / "spool", small_disk / "ballast"
    receipts = Receipts()
    spool = await open_spool(directory, segment_bytes=segment_bytes)
    trail = ShardAuditTrail(spool, MemoryOutbox(), region=REGION)
    for _ in range(3):
        await receipts.append(trail, callers)
        fill(ballast)
        await receipts.append_until_refused(trail, callers)
        with pytest.raises(AuditUnavailableError, match="cannot be written"):
            trail.ensure_accepting()
        assert not spool.status().is_accepting
        await receipts.check(spool)  # what is durable can be read all the while
        ballast.unlink()
        await receipts.append_when_it_recovers(trail)
        await receipts.check(spool)
    copy = small_disk.parent / "copy"
    shutil.copytree(directory, copy)
    await spool.close()
    # A restart, after a crash and after a clean stop, has the same records.
    for path in (copy, directory):
        spool = await open_spool(path, segment_bytes=segment_bytes)
        await receipts.check(spool)
        await spool.close()


async def test_acknowledging_frees_a_disk_full_of_records(small_disk: Path):
    """When the records themselves fill the disk, their acknowledgement makes room."""
    receipts = Receipts()
    spool = await open_spool(small_disk / "spool", segment_bytes=2**16)
    trail = ShardAuditTrail(spool, MemoryOutbox(), region=REGION)
    for _ in range(3):
        await receipts.append_until_refused(trail, 16)
        await spool.durable.acknowledge(spool.durable.last_sequence)
        await receipts.append_when_it_recovers(trail)
    await spool.close()
    spool = await open_spool(small_disk / "spool", segment_bytes=2**16)
    assert spool.durable.last_sequence >= max(receipt.sequence for receipt in receipts.given)
    await spool.close()


async def test_outbox_rows_survive_a_full_disk_once(small_disk: Path):
    """Rows whose move failed half-way are logged once, and leave the store afterwards."""
    ballast = small_disk / "ballast"
    outbox = MemoryOutbox()
    spool = await open_spool(small_disk / "spool")
    trail = ShardAuditTrail(spool, outbox, region=REGION)
    await trail.recover()
    deadline = asyncio.get_running_loop().time() + 60
    ids = [outbox.commit(make_draft(request_id=f"change-{n}")) for n in range(3)]
    await trail.record_committed(ids[-1], deadline=deadline)
    fill(ballast)
    refused = 0
    for n in range(3, 20):  # some still fit into the last page
        outbox_id = outbox.commit(make_draft(request_id=f"change-{n}"))
        try:
            await trail.record_committed(outbox_id, deadline=deadline)
        except AuditUnavailableError:
            refused += 1
    assert refused
    ballast.unlink()
    async with asyncio.timeout(5):
        while outbox.rows:  # noqa: ASYNC110 - the port has no event for it
            await asyncio.sleep(0.02)
    records = await read_all(spool)
    assert len(records) == 20
    for n, record in enumerate(records):
        assert f'"request_id":"change-{n}"'.encode() in record
    await trail.close()
    await spool.close()


class Child:
    """The process that appends, and the receipts that it gave out."""

    def __init__(self, directory: Path):
        self.receipts: list[Receipt] = []
        self._process = subprocess.Popen(
            [sys.executable, str(CHILD), str(directory), "4", "0.005"],
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
        )
        if self._process.stdout is None:
            raise AssertionError
        self._lines = self._process.stdout

    def read_until(self, word: str, *, times: int = 1) -> int:
        """Read up to the line that begins with `word`; return how many receipts came."""
        seen = 0
        while times:
            line = self._lines.readline()
            assert line, "the process ended"
            if line.startswith("receipt "):
                self.receipts.append(Receipt.parse(line.split()[1]))
                seen += 1
            times -= line.startswith(word)
        return seen

    def limit_file_bytes(self, limit: int) -> None:
        """Make every write beyond `limit` bytes of a file fail with EFBIG."""
        _, hard = resource.prlimit(self._process.pid, resource.RLIMIT_FSIZE)
        resource.prlimit(self._process.pid, resource.RLIMIT_FSIZE, (limit, hard))

    def kill(self) -> None:
        """End it."""
        self._process.kill()
        self._process.communicate()


def test_failing_writes_refuse_and_recover_without_restart(tmp_path: Path):
    """With every write failing nothing is answered; when writes work again it goes on.

    This needs no right to mount.
    """
    child = Child(tmp_path / "spool")
    try:
        child.read_until("receipt", times=20)
        for _ in range(2):
            child.limit_file_bytes(16)
            child.read_until("refused")
            answers = child.read_until("refused", times=40)
            assert answers == 0, "an answer while nothing can be written"
            child.limit_file_bytes(resource.RLIM_INFINITY)
            child.read_until("accepted")
            child.read_until("receipt", times=20)
        # Now only long files fail: the segment is retired, a new one takes its records.
        size = max(path.stat().st_size for path in (tmp_path / "spool").glob("*.seg"))
        child.limit_file_bytes(size + 2000)
        child.read_until("receipt", times=60)
    finally:
        child.kill()
    assert len(list((tmp_path / "spool").glob("*.seg"))) > 2

    async def check() -> None:
        spool = await open_spool(tmp_path / "spool")
        answers = Receipts()
        answers.given = child.receipts
        await answers.check(spool)
        await spool.close()

    asyncio.run(check())
