"""Ingestion from real AuditService servers over mTLS: exactly once, or not at all (A6)."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from tests.support.audit_certificates import CertificateAuthority
from tests.support.audit_records import LogHome, batch, record
from tests.support.audit_shard import Shard, message

from strongroom.audit.v1 import audit_service_pb2 as messages
from strongroom_auditlog.committer import Committer
from strongroom_auditlog.direct_source import DirectSource, ShardEndpoint
from strongroom_auditlog.ingest import ShardIngest
from strongroom_auditlog.log import AuditLog
from strongroom_auditlog.metrics import ErrorKind, Metrics
from strongroom_auditlog.verify import verify_log


@dataclass
class Running:
    """A log that ingests from one shard."""

    home: LogHome
    log: AuditLog
    ingest: ShardIngest
    metrics: Metrics
    tasks: list[asyncio.Task[None]] = field(default_factory=list)

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until something has happened, or a task has failed."""
        async with asyncio.timeout(20):
            while not condition():
                for task in self.tasks:
                    if task.done():
                        task.result()
                await asyncio.sleep(0.01)

    async def stopped(self) -> ErrorKind:
        """Wait until the shard was stopped; return why."""
        await self.until(lambda: self.ingest.stopped is not None)
        assert self.ingest.stopped is not None
        return self.ingest.stopped.kind

    def errors(self, kind: ErrorKind) -> float:
        """Return the metric of errors."""
        name = f'strongroom_audit_ingest_errors_total{{kind="{kind}",region="eu-1"}} '
        lines = self.metrics.exposition().decode().splitlines()
        return float(next(line for line in lines if line.startswith(name)).removeprefix(name))


@pytest.fixture
def authority(tmp_path: Path) -> CertificateAuthority:
    """Give a CA."""
    return CertificateAuthority.create(tmp_path / "tls")


@pytest_asyncio.fixture
async def shard() -> AsyncIterator[Shard]:
    """Give a shard that is stopped after the test."""
    shard = Shard()
    yield shard
    await shard.stop()


@pytest.fixture
def home(tmp_path: Path) -> LogHome:
    """Give an empty log."""
    return LogHome.create(tmp_path / "home")


@asynccontextmanager
async def ingesting(
    home: LogHome,
    shard: Shard,
    authority: CertificateAuthority,
    port: int | None = None,
    *,
    principal: str | None = None,
) -> AsyncIterator[Running]:
    """Run an ingestion from `shard`, which is started unless it has a port already."""
    if port is None:
        port = await shard.start(authority, authority.issue("server"))
    log = home.open()
    metrics = Metrics(regions=["eu-1"], version="test")
    committer = Committer(
        log, metrics=metrics, wall_clock=lambda: 1.0, batch_seconds=0.02, batch_records=4096
    )
    ingest = ShardIngest(
        "eu-1",
        DirectSource(
            ShardEndpoint("eu-1", f"127.0.0.1:{port}", None, principal),
            authority.issue("audit-log"),
        ),
        log=log,
        committer=committer,
        metrics=metrics,
        random=random.Random(1).random,  # noqa: S311 - spreads pauses
    )
    running = Running(home, log, ingest, metrics)
    running.tasks = [asyncio.create_task(committer.run()), asyncio.create_task(ingest.run())]
    try:
        yield running
    finally:
        running.tasks[1].cancel()
        await asyncio.gather(running.tasks[1], return_exceptions=True)
        committer.close()
        await running.tasks[0]
        log.close()


async def test_records_are_ingested_once_and_acknowledged_after_the_checkpoint(
    home: LogHome, shard: Shard, authority: CertificateAuthority
) -> None:
    """Records of before and of during the connection arrive; acknowledgements never run ahead."""
    shard.add(1200)
    async with ingesting(home, shard, authority) as running:
        await running.until(lambda: shard.acknowledged == 1200)
        for _ in range(5):
            shard.add(7)
            await asyncio.sleep(0.02)
            assert shard.acknowledged <= running.log.checkpoint.size
        await running.until(lambda: shard.acknowledged == 1235)
        assert running.log.checkpoint.size == 1235
        text = running.metrics.exposition().decode()
        assert 'strongroom_audit_ingested_records_total{region="eu-1"} 1235.0' in text
        assert "strongroom_audit_tree_size 1235.0" in text
        assert "strongroom_audit_checkpoint_timestamp_seconds 1.0" in text
    assert shard.principals == {"spiffe://example.org/audit-log"}
    assert verify_log(home.directory, home.key).shards == {"eu-1": (5, 1235)}


async def test_a_shard_that_breaks_off_and_goes_away_is_taken_up_again(
    home: LogHome, shard: Shard, authority: CertificateAuthority
) -> None:
    """Streams cut after two messages, then a restart of the server: each record enters once."""
    shard.cut_after, shard.batch_records = 2, 50
    shard.add(500)
    port = await shard.start(authority, authority.issue("server"))
    async with ingesting(home, shard, authority, port) as running:
        await running.until(lambda: shard.acknowledged == 500)
        assert len(shard.requests) >= 5
        before = running.errors(ErrorKind.RPC)
        await shard.stop()
        shard.cut_after = None
        shard.add(100)
        await running.until(lambda: running.errors(ErrorKind.RPC) > before)
        await shard.start(authority, authority.issue("server"), port)
        await running.until(lambda: shard.acknowledged == 600)
    assert verify_log(home.directory, home.key).shards == {"eu-1": (5, 600)}


async def test_a_lost_acknowledgement_is_sent_again_on_connecting(
    home: LogHome, shard: Shard, authority: CertificateAuthority
) -> None:
    """A crash between checkpoint and acknowledgement leaves the shard waiting; not for long."""
    home.fill(batch("eu-1", 5, range(1, 101)))
    shard.add(100)
    async with ingesting(home, shard, authority) as running:
        await running.until(lambda: shard.acknowledged == 100)
    assert shard.acknowledgements == [(5, 100)]
    assert shard.requests[0].from_sequence == 101


async def test_repeats_are_dropped(
    home: LogHome, shard: Shard, authority: CertificateAuthority
) -> None:
    """Batches again, in part again, and old ones replayed change nothing (A6)."""
    shard.add(100)
    records = shard.records
    home.fill(batch("eu-1", 5, range(1, 41)))
    spans = [(40, 60), (40, 60), (50, 70), (0, 10), (0, 70), (69, 70), (65, 90), (0, 100)]

    def script(request: messages.StreamRecordsRequest) -> Sequence[messages.StreamRecordsResponse]:
        del request
        return [message("eu-1", 5, start + 1, records[start:end]) for start, end in spans]

    shard.script = script
    async with ingesting(home, shard, authority) as running:
        await running.until(lambda: shard.acknowledged == 100)
        await asyncio.sleep(0.1)
        assert running.ingest.stopped is None
        assert running.log.checkpoint.size == 100
    assert verify_log(home.directory, home.key).shards == {"eu-1": (5, 100)}


def after(*responses: messages.StreamRecordsResponse) -> Callable[..., Any]:
    """Return a script that first sends records 1 to 10 as they should be."""
    good = message("eu-1", 5, 1, [record("eu-1", 5, n) for n in range(1, 11)])
    return lambda _request: [good, *responses]


@pytest.mark.parametrize(
    ("bad", "kind"),
    [
        (message("eu-1", 5, 12, [record("eu-1", 5, 12)]), ErrorKind.GAP),
        (message("eu-1", 6, 2, [record("eu-1", 6, 2)]), ErrorKind.GAP),
        (message("eu-1", 4, 1, [record("eu-1", 4, 1)]), ErrorKind.EPOCH),
        (message("us-1", 5, 11, [record("us-1", 5, 11)]), ErrorKind.FORGED),
        (message("eu-1", 5, 11, [record("us-1", 5, 11)]), ErrorKind.FORGED),
        (message("eu-1", 5, 11, [record("eu-1", 5, 12)]), ErrorKind.FORGED),
        (message("eu-1", 5, 11, [record("eu-1", 6, 11)]), ErrorKind.FORGED),
        # Two records in the wrong order: the batch is taken whole or not at all.
        (
            message("eu-1", 5, 11, [record("eu-1", 5, 12), record("eu-1", 5, 11)]),
            ErrorKind.FORGED,
        ),
        (
            message("eu-1", 5, 11, [record("eu-1", 5, 11), record("eu-1", 5, 13)]),
            ErrorKind.FORGED,
        ),
        (message("eu-1", 5, 10, [record("eu-1", 5, 10, outcome="DENIED")]), ErrorKind.CONFLICT),
        (message("eu-1", 5, 11, [b"not a record"]), ErrorKind.MALFORMED),
        (message("eu-1", 5, 11, []), ErrorKind.MALFORMED),
        (message("eu-1", 5, 11, [record("eu-1", 5, 11, policy="p" * 65535)]), ErrorKind.MALFORMED),
        (message("eu-1", 5, 0, [record("eu-1", 5, 0)]), ErrorKind.MALFORMED),
        (message("eu-1", 2**64 - 1, 1, [b"{}"]), ErrorKind.MALFORMED),
    ],
)
async def test_what_may_not_enter_stops_the_shard(
    home: LogHome,
    shard: Shard,
    authority: CertificateAuthority,
    bad: messages.StreamRecordsResponse,
    kind: ErrorKind,
) -> None:
    """Gap, forgery, conflict, malformed: counted, stopped, and what came before stands (A6)."""
    shard.add(10)
    shard.script = after(bad, message("eu-1", 5, 11, [record("eu-1", 5, 11)]))
    async with ingesting(home, shard, authority) as running:
        assert await running.stopped() is kind
        assert running.errors(kind) == 1
        assert 'strongroom_audit_shard_stopped{region="eu-1"} 1.0' in (
            running.metrics.exposition().decode()
        )
    assert verify_log(home.directory, home.key).shards == {"eu-1": (5, 10)}


async def test_a_reordering_window_is_a_gap(
    home: LogHome, shard: Shard, authority: CertificateAuthority
) -> None:
    """Batches out of order are not sorted: the first that runs ahead stops the shard."""
    shard.add(100)
    shard.script = after(
        *(
            message("eu-1", 5, start, [record("eu-1", 5, start + i) for i in range(10)])
            for start in (11, 31, 21, 41)
        )
    )
    async with ingesting(home, shard, authority) as running:
        assert await running.stopped() is ErrorKind.GAP
    assert verify_log(home.directory, home.key).shards == {"eu-1": (5, 20)}


async def test_a_new_spool_begins_anew(
    home: LogHome, shard: Shard, authority: CertificateAuthority
) -> None:
    """A later epoch is taken from its sequence 1 on, and then acknowledged."""
    home.fill(batch("eu-1", 4, range(1, 101)))
    shard.add(30)
    async with ingesting(home, shard, authority) as running:
        await running.until(lambda: shard.acknowledged == 30)
    assert shard.acknowledgements == [(5, 30)]
    assert verify_log(home.directory, home.key).shards == {"eu-1": (5, 30)}


@pytest.mark.parametrize(
    ("spool", "kind"),  # epoch, records and acknowledged records of the spool
    [
        ((4, 100, 0), ErrorKind.EPOCH),  # an older spool came back
        ((5, 99, 0), ErrorKind.ROLLED_BACK),  # the same spool, from a backup
        ((5, 200, 150), ErrorKind.GAP),  # the log is from a backup, or another one took records
        ((6, 10, 3), ErrorKind.GAP),  # another log took the beginning of the new spool
    ],
)
async def test_a_spool_that_does_not_fit_the_log_is_not_read(
    home: LogHome,
    shard: Shard,
    authority: CertificateAuthority,
    spool: tuple[int, int, int],
    kind: ErrorKind,
) -> None:
    """Restored spools and logs are noticed before a record is taken or acknowledged."""
    home.fill(batch("eu-1", 5, range(1, 101)))
    shard.epoch, records, shard.acknowledged = spool
    shard.add(records)
    async with ingesting(home, shard, authority) as running:
        assert await running.stopped() is kind
    assert shard.requests == []
    assert shard.acknowledgements == []


async def test_a_spool_that_was_consumed_does_not_enter_an_empty_log(
    home: LogHome, shard: Shard, authority: CertificateAuthority
) -> None:
    """A new log cannot begin in the middle."""
    shard.add(10)
    shard.acknowledged = 4
    async with ingesting(home, shard, authority) as running:
        assert await running.stopped() is ErrorKind.GAP


async def test_a_shard_of_another_authority_is_not_believed(
    home: LogHome, shard: Shard, authority: CertificateAuthority, tmp_path: Path
) -> None:
    """A server whose certificate is not of our CA delivers nothing."""
    other = CertificateAuthority.create(tmp_path / "other")
    shard.add(10)
    port = await shard.start(other, other.issue("server"))
    async with ingesting(home, shard, authority, port) as running:
        await running.until(lambda: running.errors(ErrorKind.RPC) >= 2)
        assert running.ingest.stopped is None
    assert shard.requests == []


async def test_only_the_principal_of_the_configuration_delivers(
    home: LogHome, shard: Shard, authority: CertificateAuthority
) -> None:
    """A server of the same CA and host, but of another principal, is asked for nothing."""
    shard.add(10)
    port = await shard.start(authority, authority.issue("server"))
    async with ingesting(
        home, shard, authority, port, principal="spiffe://example.org/another"
    ) as running:
        await running.until(lambda: running.errors(ErrorKind.RPC) >= 2)
        assert running.ingest.stopped is None
    assert shard.requests == []
    async with ingesting(
        home, shard, authority, port, principal="spiffe://example.org/server"
    ) as running:
        await running.until(lambda: shard.acknowledged == 10)


async def test_a_log_that_cannot_be_written_is_written_later(
    home: LogHome,
    shard: Shard,
    authority: CertificateAuthority,
) -> None:
    """While appends fail nothing is acknowledged; afterwards nothing is missing (A3)."""
    shard.add(10)
    async with ingesting(home, shard, authority) as running:
        await running.until(lambda: shard.acknowledged == 10)
        blocked = home.directory / "tile/entries/000.p"
        moved = home.root / "moved"
        blocked.rename(moved)
        blocked.write_bytes(b"in the way")
        shard.add(10)
        await running.until(lambda: running.errors(ErrorKind.COMMIT) >= 1)
        assert shard.acknowledged == 10
        blocked.unlink()
        moved.rename(blocked)
        await running.until(lambda: shard.acknowledged == 20)
    assert verify_log(home.directory, home.key).shards == {"eu-1": (5, 20)}


async def test_a_checkpoint_that_cannot_be_published_is_published_later(
    home: LogHome, shard: Shard, authority: CertificateAuthority
) -> None:
    """Records that are in the log already wait for their checkpoint, and enter once (A3)."""
    shard.add(10)
    async with ingesting(home, shard, authority) as running:
        await running.until(lambda: shard.acknowledged == 10)
        blocked = home.directory / ".checkpoint.tmp"
        blocked.mkdir()
        shard.add(10)
        await running.until(lambda: running.errors(ErrorKind.COMMIT) >= 1)
        shard.add(10)
        await running.until(lambda: running.log.size == 30)
        assert (shard.acknowledged, running.log.checkpoint.size) == (10, 10)
        blocked.rmdir()
        await running.until(lambda: shard.acknowledged == 30)
    assert verify_log(home.directory, home.key).shards == {"eu-1": (5, 30)}
