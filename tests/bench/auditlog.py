"""The audit log: ingestion, verification, one proof. And the shard's side: one record."""

from __future__ import annotations

import asyncio
import tempfile
import time
import uuid
from datetime import UTC, datetime
from pathlib import Path

import uvloop
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from tests.bench.measure import Row, repeat_for

from strongroom_auditlog.checkpoint import Signer
from strongroom_auditlog.log import AuditLog, ShardBatch, create_log
from strongroom_auditlog.proofs import prove_inclusion
from strongroom_auditlog.records import Position
from strongroom_auditlog.tiles import LogFiles
from strongroom_auditlog.verify import verify_log
from strongroom_server.audit.limits import SpoolLimits
from strongroom_server.audit.record import encode_record
from strongroom_server.audit.spool import Spool
from strongroom_server.mutations import AuditDraft

__all__ = ["audit_rows", "record_cpu_us"]

RECORDS = 200_000
BATCH = 4_000


def _draft() -> AuditDraft:
    return AuditDraft(
        record_id=uuid.uuid4(),
        time=datetime.now(UTC),
        principal="spiffe://strongroom.dev/orders",
        peer="ipv4:127.0.0.1:50000",
        method="GenerateDataKey",
        outcome="OK",
        request_id=str(uuid.uuid4()),
        key="regions/eu-1/keys/00000000-0000-4000-8000-000000000000",
        key_version=1,
        encryption_context={"tenant": "42"},
        policy="creator",
    )


def audit_rows() -> list[Row]:
    """Measure the consumer on real files."""
    draft = _draft()
    with tempfile.TemporaryDirectory(prefix="strongroom-bench-") as scratch:
        folder = Path(scratch)
        signer = Signer("bench.example/log", Ed25519PrivateKey.generate())
        paths = (folder / "log", folder / "state.sqlite3", folder / "last-checkpoint.sqlite3")
        create_log(*paths, signer)
        log = AuditLog.open(*paths, signer)
        batches = [
            ShardBatch(
                Position("eu-1", 1, start),
                tuple(
                    encode_record(draft, region="eu-1", epoch=1, sequence=start + number)
                    for number in range(BATCH)
                ),
            )
            for start in range(1, RECORDS, BATCH)
        ]
        started = time.perf_counter()
        for batch in batches:
            log.append([batch])
        ingest = time.perf_counter() - started
        started = time.perf_counter()
        verify_log(folder / "log", signer.verifier_key)
        verify = time.perf_counter() - started
        files, checkpoint = LogFiles(folder / "log"), log.checkpoint
        _, proof = repeat_for(
            lambda: prove_inclusion(files, checkpoint, checkpoint.size * 2 // 3), seconds=1
        )
        log.close()
    return [
        Row("audit log: ingest", RECORDS / ingest, "records/s", goal=">= 10,000"),
        Row("audit log: verify all", RECORDS / verify, "leaves/s", goal=">= 200,000"),
        Row("audit log: one inclusion proof", proof * 1e3, "ms", goal="<= 1"),
    ]


def record_cpu_us(*, concurrency: int) -> float:
    """Return CPU microseconds of one durable record, all threads, under `concurrency`."""
    return uvloop.run(_record_cpu_us(concurrency))


async def _record_cpu_us(concurrency: int) -> float:
    class Clock:
        def now(self) -> datetime:
            return datetime.now(UTC)

        def monotonic(self) -> float:
            return asyncio.get_running_loop().time()

    limits = SpoolLimits(2**30, 3600.0, 1000, 0.25)
    with tempfile.TemporaryDirectory(prefix="strongroom-bench-") as scratch:
        spool = await Spool.open(Path(scratch) / "spool", "eu-1", limits=limits, clock=Clock())
        draft = _draft()
        rounds = 20_000 // concurrency
        started = time.process_time()
        for _ in range(rounds):
            await asyncio.gather(*(spool.append(draft) for _ in range(concurrency)))
        cpu = time.process_time() - started
        await spool.close()
    return cpu / (rounds * concurrency) * 1e6
