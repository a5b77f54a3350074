"""Records of BUFFERED keys: answered early within bounds; a crash says what it may have lost."""

from __future__ import annotations

import asyncio
import json
import shutil
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from tests.support.spool import REGION, MemoryOutbox, make_draft, open_spool, read_all

from strongroom.receipts import Receipt
from strongroom_server.audit import commits
from strongroom_server.audit.outbox import ShardAuditTrail
from strongroom_server.audit.spool import Spool
from strongroom_server.errors import AuditUnavailableError


async def begin(spool: Spool) -> None:
    """Make the first record of a run, which has the mark written; wait until it is."""
    await _answer(spool)
    while not spool.early.allows(ahead=0, waited_seconds=0):  # noqa: ASYNC110 - no event for it
        await asyncio.sleep(0.001)


async def _answer(spool: Spool) -> Receipt:
    answer = spool.append_buffered(make_draft(mode="BUFFERED"))
    return answer if isinstance(answer, Receipt) else await answer


def mark(directory: Path) -> int:
    return int((directory / "buffered").read_text())


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110 - polls another thread's work
            await asyncio.sleep(0.005)


async def test_the_first_answer_of_a_run_waits_for_the_mark(tmp_path: Path):
    """Nothing is answered early before the disk says that something may be missing."""
    spool = await open_spool(tmp_path / "spool", buffered_records=50)
    first = spool.append_buffered(make_draft(mode="BUFFERED"))
    assert not isinstance(first, Receipt)
    assert not (await first).is_buffered
    await begin(spool)
    assert mark(tmp_path / "spool") == 50
    second = spool.append_buffered(make_draft(mode="BUFFERED"))
    assert isinstance(second, Receipt)
    assert second.is_buffered
    await spool.close()
    assert mark(tmp_path / "spool") == 0


async def test_an_early_receipt_is_kept(tmp_path: Path):
    """Place and bytes are as promised, on disk within the bound without another record."""
    spool = await open_spool(tmp_path / "spool", buffered_seconds=0.1)
    await begin(spool)
    receipt = await _answer(spool)
    assert receipt.is_buffered
    assert spool.status().waiting_records == 1
    await until(lambda: spool.durable.last_sequence == receipt.sequence)
    record = (await read_all(spool))[-1]
    assert json.loads(record)["mode"] == "BUFFERED"
    again = Receipt.for_record(
        region=REGION, epoch=spool.epoch, sequence=receipt.sequence, record=record
    )
    assert again == receipt
    await spool.close()


async def test_a_record_that_waits_takes_the_others_along(tmp_path: Path):
    """Order is that of arrival: a record that is waited for brings those before it to disk."""
    spool = await open_spool(tmp_path / "spool", buffered_seconds=60.0)
    await begin(spool)
    early = [await _answer(spool) for _ in range(10)]
    assert all(receipt.is_buffered for receipt in early)
    commits_before = spool.status().commits_total
    waited = await spool.append(make_draft())
    assert waited.sequence == early[-1].sequence + 1
    assert spool.durable.last_sequence == waited.sequence
    assert spool.status().commits_total == commits_before + 1
    await spool.close()


async def test_the_bound_on_records_is_exact(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Behind the last durable record as many are answered early as configured, and no more."""
    spool = await open_spool(tmp_path / "spool", buffered_records=20, buffered_seconds=60.0)
    await begin(spool)
    started, go = asyncio.Event(), asyncio.Event()
    _hold_commits(spool, started, go, monkeypatch)
    answers = [spool.append_buffered(make_draft(mode="BUFFERED")) for _ in range(25)]
    early = [answer for answer in answers if isinstance(answer, Receipt)]
    assert len(early) == 20
    assert [receipt.sequence for receipt in early] == list(
        range(spool.durable.last_sequence + 1, spool.durable.last_sequence + 21)
    )
    go.set()
    for waiting in answers[20:]:
        assert not isinstance(waiting, Receipt)
        assert not (await waiting).is_buffered
    assert isinstance(spool.append_buffered(make_draft()), Receipt)
    await spool.close()


async def test_the_bound_on_age_ends_early_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """While the disk keeps a record waiting for longer than configured, calls wait with it."""
    spool = await open_spool(tmp_path / "spool", buffered_seconds=0.05)
    await begin(spool)
    started, go = asyncio.Event(), asyncio.Event()
    _hold_commits(spool, started, go, monkeypatch)
    assert isinstance(spool.append_buffered(make_draft()), Receipt)
    await started.wait()
    await asyncio.sleep(0.06)
    late = spool.append_buffered(make_draft())
    assert not isinstance(late, Receipt)
    go.set()
    assert not (await late).is_buffered
    await spool.close()


def _hold_commits(
    spool: Spool, started: asyncio.Event, go: asyncio.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Keep the next commit from the writer until `go`."""
    queue: commits.Commits = spool._commits
    submit = queue._writer.submit

    def hold(*job: object) -> None:
        async def later() -> None:
            started.set()
            await go.wait()
            submit(*job)  # type: ignore[arg-type]

        held.append(asyncio.ensure_future(later()))

    held: list[asyncio.Future[None]] = []
    monkeypatch.setattr(queue._writer, "submit", hold)


async def test_a_crash_is_told_to_the_next_start(tmp_path: Path):
    """The spool opens behind the last durable record and knows how many may be missing."""
    directory, copy = tmp_path / "spool", tmp_path / "copy"
    spool = await open_spool(directory, buffered_records=30, buffered_seconds=60.0)
    await begin(spool)
    durable = spool.durable.last_sequence
    lost = [await _answer(spool) for _ in range(5)]
    shutil.copytree(directory, copy)
    await spool.close()

    crashed = await open_spool(copy)
    assert crashed.early.lost_records == 30
    assert crashed.durable.last_sequence == durable
    # Nothing is answered early until the loss is on record, in the first lost place.
    assert not isinstance(crashed.append_buffered(make_draft()), Receipt)
    receipt = await crashed.append(make_draft(method="BufferedRecordsLost", count=30))
    assert receipt.sequence == lost[0].sequence + 1
    assert mark(copy) == 30
    await crashed.early.note_loss_recorded()
    assert mark(copy) == 0
    await begin(crashed)
    await crashed.close()
    again = await open_spool(copy)
    assert again.early.lost_records == 0
    await again.close()


async def test_a_start_that_crashes_before_it_said_so_leaves_it_to_the_next(tmp_path: Path):
    """The mark stays until the loss is on record, also over a clean stop."""
    directory = tmp_path / "spool"
    spool = await open_spool(directory)
    await _answer(spool)
    await spool.close()
    (directory / "buffered").write_text(f"{7:020d}\n")
    for _ in range(2):
        spool = await open_spool(directory)
        assert spool.early.lost_records == 7
        await spool.close()


async def test_without_early_answers_there_is_no_mark(tmp_path: Path):
    """With a bound of 0 records, keys of that mode are recorded as all others."""
    spool = await open_spool(tmp_path / "spool", buffered_records=0)
    for _ in range(3):
        assert not (await _answer(spool)).is_buffered
    await spool.close()
    assert not (tmp_path / "spool" / "buffered").exists()


async def test_a_spool_that_fails_answers_nothing_early(tmp_path: Path):
    """A disk that takes no mark leaves every call waiting for its record."""
    spool = await open_spool(tmp_path / "spool")
    (tmp_path / "spool" / "buffered.new").mkdir()
    for _ in range(5):
        assert not (await _answer(spool)).is_buffered
        await asyncio.sleep(0.01)
    (tmp_path / "spool" / "buffered.new").rmdir()
    await spool.close()


async def test_the_trail_answers_as_the_spool_does(tmp_path: Path):
    """The port gives early receipts within the bound, and waits beyond it."""
    spool = await open_spool(tmp_path / "spool", buffered_seconds=60.0)
    trail = ShardAuditTrail(spool, MemoryOutbox(), region=REGION)
    deadline = asyncio.get_running_loop().time() + 5
    assert not (await trail.record_buffered(make_draft(), deadline=deadline)).is_buffered
    await begin(spool)
    assert (await trail.record_buffered(make_draft(), deadline=deadline)).is_buffered
    await spool.close()


class MovedClock:
    """A wall clock that is ahead by as much as the test says."""

    def __init__(self) -> None:
        self.ahead = timedelta(0)

    def now(self) -> datetime:
        return datetime.now(UTC) + self.ahead

    def monotonic(self) -> float:
        return time.monotonic()


async def test_the_limit_by_age_refuses_and_acknowledging_ends_it(tmp_path: Path):
    """From 80 % of the age the spool is not ready, at the limit it refuses; bytes do not matter."""
    clock = MovedClock()
    spool = await open_spool(tmp_path / "spool", limit_seconds=100.0, clock=clock)
    clock.ahead = timedelta(days=1)
    assert spool.pressure == 0  # nothing waits for the audit log
    clock.ahead = timedelta(0)
    await spool.append(make_draft())
    assert spool.pressure < 0.1
    clock.ahead = timedelta(seconds=85)
    assert not spool.is_ready
    spool.ensure_accepting()
    clock.ahead = timedelta(seconds=101)
    with pytest.raises(AuditUnavailableError, match="too old"):
        spool.ensure_accepting()
    assert not spool.status().is_accepting
    await spool.append(make_draft(), of_service=True)  # what the service does is recorded
    await spool.durable.acknowledge(spool.durable.last_sequence)
    spool.ensure_accepting()
    await spool.close()


async def test_records_of_the_service_may_go_beyond_the_limit(tmp_path: Path):
    """A reserve is kept for them, and it is bounded."""
    spool = await open_spool(tmp_path / "spool", limit_bytes=2**17)
    draft = make_draft(encryption_context={"k": "v" * 8000})

    async def fill(*, of_service: bool) -> int:
        for written in range(100):
            try:
                await spool.append(draft, of_service=of_service)
            except AuditUnavailableError:
                return written
        raise AssertionError("there is no limit")

    assert await fill(of_service=False) == 15
    assert await fill(of_service=True) in {7, 8}
    assert spool.pressure <= 1.5
    await spool.close()
