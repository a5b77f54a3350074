"""Asking the audit log: how fast its index is built, and how fast it answers."""

from __future__ import annotations

import json
import tempfile
import time
from pathlib import Path

from tests.bench.measure import Row, repeat_for

from strongroom_auditlog.edge import Edge
from strongroom_auditlog.metrics import Metrics
from strongroom_auditlog.record_filter import RecordFilter
from strongroom_auditlog.record_index import RecordIndex
from strongroom_auditlog.record_search import RecordSearch
from strongroom_auditlog.tiles import LogFiles, write_files

__all__ = ["index_rows"]

RECORDS = 200_000
BATCH = 20_000
KEYS = 500
RARE = "regions/eu-1/keys/ffffffff-5d0d-4f5e-9a75-1a2b3c4d5e6f"


def _record(number: int) -> bytes:
    key = RARE if number == RECORDS // 3 else f"regions/eu-1/keys/{number % KEYS:08x}"
    members = {
        "encryption_context": {"tenant": "acme"},
        "epoch": 1,
        "id": f"01900000-0000-7000-8000-{number:012d}",
        "key": key,
        "key_version": 1,
        "method": "Decrypt",
        "outcome": "OK",
        "peer": "ipv4:192.0.2.7:40000",
        "policy": "owner",
        "principal": f"spiffe://example.org/team-{number % 40}",
        "region": "eu-1",
        "schema": "strongroom.audit.v1",
        "sequence": number + 1,
        "time": f"2026-01-02T{number // 3600 % 24:02d}:{number // 60 % 60:02d}:"
        f"{number % 60:02d}.000000Z",
        "validate_only": False,
    }
    return json.dumps(members, sort_keys=True, separators=(",", ":")).encode()


def index_rows() -> list[Row]:
    """Build an index over real files and find one record with it."""
    with tempfile.TemporaryDirectory(prefix="strongroom-bench-") as scratch:
        folder = Path(scratch)
        edge = Edge()
        for start in range(0, RECORDS, BATCH):
            edge, files = edge.extend([_record(n) for n in range(start, start + BATCH)])
            write_files(folder, files)
        log = LogFiles(folder)
        path = folder / "index.sqlite3"
        index = RecordIndex(
            path,
            origin="bench.example/log",
            files=log,
            size=lambda: RECORDS,
            metrics=Metrics(regions=("eu-1",), version="0"),
        )
        started = time.perf_counter()
        index.start()
        while index.leaves < RECORDS:
            time.sleep(0.01)
        build = time.perf_counter() - started
        wanted = RecordFilter(keys=frozenset([RARE]))
        search = RecordSearch(log, index)
        _, one = repeat_for(
            lambda: search.ascending(wanted, size=RECORDS, start=0, limit=100), seconds=1
        )
        index.close()
        size = path.stat().st_size
    return [
        Row("audit log: index, built", RECORDS / build, "records/s"),
        Row("audit log: index, size", size / RECORDS, "bytes/record"),
        Row("audit log: one record found among 200,000", one * 1e3, "ms"),
    ]
