"""A1, the spool's part: kill -9 while records are answered at full speed."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.spool import REGION, open_spool, read_all

from strongroom.receipts import Receipt
from strongroom_server.audit.record import SCHEMA

ROOT = Path(__file__).parents[2]
CHILD = ROOT / "tests" / "support" / "spool_child.py"
ROUNDS = 6
CALLERS = 64


@contextmanager
def appending(directory: Path, mode: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run the process that appends; it is killed at the end."""
    child = subprocess.Popen(
        [sys.executable, str(CHILD), str(directory), str(CALLERS), "0", mode],
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    try:
        yield child
    finally:
        child.kill()
        child.communicate()


def kill_while_appending(directory: Path, seconds: float, mode: str = "REQUIRED") -> list[Receipt]:
    """Let it append for a while, kill it, return the receipts that it gave out."""
    with appending(directory, mode) as child:
        assert child.stdout is not None
        os.set_blocking(child.stdout.fileno(), False)
        output, until = b"", time.monotonic() + 30
        while time.monotonic() < until:
            chunk = child.stdout.read(2**20)
            if chunk and not output:
                until = time.monotonic() + seconds  # it has begun
            output += chunk or b""
            if not chunk:
                time.sleep(0.002)
        child.send_signal(signal.SIGKILL)
        child.wait()
        os.set_blocking(child.stdout.fileno(), True)
        output += child.stdout.read()
    # The last line may be half: nobody was answered.
    lines = output.decode().split("\n")[:-1]
    return [Receipt.parse(line.removeprefix("receipt ")) for line in lines]


def test_kill_loses_no_answered_record(tmp_path: Path):
    """After each kill every receipt that was given out is of a record that is there once."""
    seed = time.time_ns()
    choose = random.Random(seed)  # noqa: S311 - chooses moments, not keys
    answered: dict[int, Receipt] = {}

    async def check() -> None:
        started = time.monotonic()
        spool = await open_spool(tmp_path / "spool")
        assert time.monotonic() - started < 3
        records = await read_all(spool)
        for receipt in answered.values():
            again = Receipt.for_record(
                region=REGION,
                epoch=spool.epoch,
                sequence=receipt.sequence,
                record=records[receipt.sequence - 1],
            )
            assert again == receipt, f"seed {seed}"
        # The next round goes on behind them; the chain is checked at every start.
        assert all(SCHEMA.encode() in record for record in records)
        await spool.close()
        (tmp_path / "spool" / "durable").unlink()

    for _ in range(ROUNDS):
        receipts = kill_while_appending(tmp_path / "spool", choose.uniform(0.02, 0.3))
        assert receipts
        for receipt in receipts:
            assert receipt.sequence not in answered, "a sequence was given out twice"
            answered[receipt.sequence] = receipt
        asyncio.run(check())
    assert len(answered) > ROUNDS * CALLERS


def test_kill_loses_no_more_buffered_records_than_it_says(
    tmp_path: Path, figures: Callable[..., None]
) -> None:
    """After each kill a receipt is of its record, or marked and covered by a record of the loss."""
    seed = time.time_ns()
    choose = random.Random(seed)  # noqa: S311 - chooses moments, not keys
    directory = tmp_path / "spool"
    given: list[Receipt] = []
    for _ in range(ROUNDS):
        given += kill_while_appending(directory, choose.uniform(0.05, 0.3), "BUFFERED")

    async def read() -> list[bytes]:
        spool = await open_spool(directory)
        records = await read_all(spool)
        if lost := spool.early.lost_records:
            covered.append(range(len(records) + 1, len(records) + 1 + lost))
        await spool.close()
        return records

    covered: list[range] = []
    records = asyncio.run(read())
    for record in map(json.loads, records):
        if record["method"] == "BufferedRecordsLost":
            first = record["sequence"]
            covered.append(range(first, first + record["count"]))
    missing = 0
    for receipt in given:
        at = receipt.sequence - 1
        found = at < len(records) and (
            hashlib.sha256(records[at]).digest() == receipt.record_sha256
        )
        if not found:
            missing += 1
            assert receipt.is_buffered, f"seed {seed}"
            assert any(receipt.sequence in lost for lost in covered), f"seed {seed}"
    assert any(receipt.is_buffered for receipt in given)
    assert len(covered) == ROUNDS, f"seed {seed}"
    figures(answered=len(given), missing=missing, bound_of_all_kills=sum(map(len, covered)))
    assert missing <= sum(map(len, covered))
