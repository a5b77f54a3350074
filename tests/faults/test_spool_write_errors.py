"""A4, the spool's part: writes and syncs that fail at random, at every step of a commit."""

from __future__ import annotations

import asyncio
import errno
import os
import random
import shutil
import time
from pathlib import Path

from tests.support import spool as support

from strongroom.receipts import Receipt
from strongroom_server.audit.journal import Journal, Placement
from strongroom_server.audit.recovery import open_spool
from strongroom_server.audit.segment import SegmentHeader
from strongroom_server.audit.spool import Spool
from strongroom_server.errors import AuditUnavailableError

SECONDS = 4.0
CALLERS = 8


class FaultyJournal(Journal):
    """A journal on a bad disk: fails before, amid or after the write, or after all of it."""

    def __init__(self, directory: Path, choose: random.Random, probability: float):
        super().__init__(directory, segment_bytes=20_000)
        self.choose = choose
        self.probability = probability
        self.faults = 0

    def _append(self, frames: bytes) -> Placement:
        self._maybe_fail()
        if self._chance():
            part = frames[: self.choose.randrange(len(frames))]
            os.pwrite(self._fd, part, self._end)
            self._fail()
        placement = super()._append(frames)
        self._maybe_fail()  # as a sync that wrote everything and reports an error
        return placement

    def begin_segment(self, header: SegmentHeader, frames: bytes) -> Placement:
        self._maybe_fail()
        placement = super().begin_segment(header, frames)
        self._maybe_fail()  # as a directory sync that fails: the segment is there
        return placement

    def _chance(self) -> bool:
        return self.choose.random() < self.probability

    def _maybe_fail(self) -> None:
        if self._chance():
            self._fail()

    def _fail(self) -> None:
        self.faults += 1
        raise OSError(errno.EIO, os.strerror(errno.EIO))


async def test_random_write_errors_lose_no_answer(tmp_path: Path):
    """With 15 % of the steps failing, answered records are there once, at every moment."""
    seed = time.time_ns()
    choose = random.Random(seed)  # noqa: S311 - chooses faults, not keys
    directory = tmp_path / "spool"
    journal = FaultyJournal(directory, choose, 0.15)
    opened = open_spool(directory, support.REGION, 1_700_000_000_000, journal)
    spool = Spool(opened, support.REGION, limits=support.LIMITS, clock=support.SystemClock())
    answered: dict[int, Receipt] = {}
    until = time.monotonic() + SECONDS

    async def call() -> None:
        while time.monotonic() < until:
            try:
                receipt = await spool.append(support.make_draft())
            except AuditUnavailableError:
                await asyncio.sleep(0.05)
            else:
                assert receipt.sequence not in answered
                answered[receipt.sequence] = receipt
            await asyncio.sleep(0)

    async def check(checked: Spool) -> None:
        records = await support.read_all(checked)
        for sequence, receipt in list(answered.items()):
            if sequence <= len(records):
                assert receipt == Receipt.for_record(
                    region=support.REGION,
                    epoch=checked.epoch,
                    sequence=sequence,
                    record=records[sequence - 1],
                ), f"seed {seed}"

    async def crash_now_and_then() -> None:
        count = 0
        while time.monotonic() < until:
            await asyncio.sleep(0.3)
            # Copied between two turns of the loop: the writer may be amid a commit, and its
            # temporary file may vanish under the copy.
            known, count = max(answered, default=0), count + 1
            copy = tmp_path / f"crashed-{count}"
            shutil.copytree(directory, copy, ignore=shutil.ignore_patterns("*.seg.new"))
            crashed = await support.open_spool(copy)
            assert crashed.durable.last_sequence >= known, f"seed {seed}"
            await check(crashed)
            await crashed.close()

    await asyncio.gather(crash_now_and_then(), *(call() for _ in range(CALLERS)))
    journal.probability = 0
    await asyncio.sleep(1.2)  # the last failed commit, if any, is written now
    await check(spool)
    assert len(answered) <= spool.durable.last_sequence
    assert journal.faults
    await spool.close()
    reopened = await support.open_spool(directory)
    await check(reopened)
    await reopened.close()
