"""Run every benchmark: print a table, write .cache/bench/bench.json."""

from __future__ import annotations

import json
import os
import platform
import sys
from datetime import UTC, datetime
from pathlib import Path

import uvloop
from rich.console import Console
from rich.table import Table
from tests.bench.auditlog import audit_rows, record_cpu_us
from tests.bench.auditlog_index import index_rows
from tests.bench.envelopes import envelope_rows
from tests.bench.hsm import raw_data_key_us
from tests.bench.measure import Row
from tests.bench.peers import openbao_figures
from tests.bench.service import CallFigures, create_key, measure_call, running_echo, running_service

CALLS = 4000
CONCURRENCY = 64
OUTPUT = Path(".cache/bench/bench.json")


def service_rows() -> list[Row]:
    """GenerateDataKey with everything on, the no-op echo, raw python-pkcs11, OpenBao."""
    with running_service() as service, running_echo(service) as (echo_address, echo_pid):
        key = uvloop.run(create_key(service))

        def measure(address: str, pid: int, *, workers: bool) -> CallFigures:
            return uvloop.run(
                measure_call(
                    service,
                    address,
                    pid,
                    key=key,
                    calls=CALLS,
                    concurrency=CONCURRENCY,
                    workers=workers,
                )
            )

        echo = measure(echo_address, echo_pid, workers=False)
        ours = measure(service.address, service.server_pid, workers=True)
        certificate, private_key, ca = service.tls("server-eu-1")
        bao = openbao_figures(certificate, private_key, ca, calls=CALLS)
    raw = raw_data_key_us(with_verification=False)
    raw_verified = raw_data_key_us(with_verification=True)
    record = record_cpu_us(concurrency=CONCURRENCY)
    together = ours.server_us + ours.workers_us
    floor = f"echo {echo.server_us:.0f} us"
    rows = [
        Row("no-op grpc.aio echo, same TLS: server", echo.server_us, "us CPU"),
        Row(
            "raw python-pkcs11 data key",
            raw,
            "us CPU",
            note=f"{raw_verified:.0f} with the decryption that verifies it",
        ),
        Row(
            "GenerateDataKey, everything on: server",
            ours.server_us,
            "us CPU",
            floor=floor,
            ratio=ours.server_us / echo.server_us,
            goal="<= 1.5",
        ),
        Row(
            "GenerateDataKey, everything on: workers",
            ours.workers_us,
            "us CPU",
            floor=f"pkcs11 {raw_verified:.0f} us",
            ratio=ours.workers_us / raw_verified,
        ),
        Row(
            "GenerateDataKey, everything on: server + workers",
            together,
            "us CPU",
            floor="" if bao is None else f"OpenBao {bao.datakey_cpu_us:.0f} us",
            ratio=None if bao is None else together / bao.datakey_cpu_us,
            goal="< 1 (OpenBao)",
            note=f"{ours.load.per_second:,.0f}/s, p50 {ours.load.p50_ms:.1f} ms, "
            f"p99 {ours.load.p99_ms:.1f} ms at {CONCURRENCY} at once",
        ),
        Row(
            "durable audit record",
            record,
            "us CPU",
            floor=f"server {ours.server_us:.0f} us",
            ratio=record / ours.server_us,
            goal="<= 0.1",
            note=f"{CONCURRENCY} at once",
        ),
    ]
    if bao is not None:
        rows.append(
            Row("OpenBao encrypt, in batches of 100", bao.batch_cpu_us, "us CPU", note=bao.version)
        )
    return rows


def main() -> int:
    """Measure, print, write."""
    rows = [*service_rows(), *envelope_rows(), *audit_rows(), *index_rows()]
    table = Table(title="Strongroom: floors, us and peers in one run")
    for name in ("work", "value", "unit", "floor", "ratio", "goal", "note"):
        table.add_column(name, justify="right" if name in {"value", "ratio"} else "left")
    for row in rows:
        value = f"{row.value:,.1f}" if row.value < 100 else f"{row.value:,.0f}"
        ratio = "" if row.ratio is None else f"{row.ratio:.2f}"
        table.add_row(row.work, value, row.unit, row.floor, ratio, row.goal, row.note)
    console = Console(width=170 if not sys.stdout.isatty() else None)
    console.print(table)
    OUTPUT.parent.mkdir(parents=True, exist_ok=True)
    document = {
        "time": datetime.now(UTC).isoformat(),
        "python": platform.python_version(),
        "machine": platform.machine(),
        "cpus": os.cpu_count(),
        "load": os.getloadavg(),
        "rows": [row.as_json() for row in rows],
    }
    OUTPUT.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    console.print(f"written to {OUTPUT}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
