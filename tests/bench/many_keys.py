"""GenerateDataKey with 1,000 and with 1,000,000 keys in wrapped storage, side by side.

    python -m tests.bench.many_keys [KEYS]

Two development deployments of one region run at once, with the default configuration but
for `default_storage`; rounds alternate between them, so that the machine's mood falls on
both. Material is born in the token (SoftHSM) and wrapped by its root, as the service does
it: 10,000 times, which the rows, written in bulk (`million_keys`), repeat. Each key is
unwrapped for itself all the same: caches know keys, not materials.

    working set   1,000 keys, drawn once from all of them, used again and again: what fits
                  the caches of the server (`key_cache_keys`) and workers (`unwrapped_keys`);
                  first while the server still checks all rows behind the calls, then after
    uniform       every call another key of all: each misses both caches, and reserves uses
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

import psutil
from rich.console import Console
from rich.table import Table
from tests.bench.measure import LoadResult, Row, run_load
from tests.bench.million_keys import key_id_of, load_keys
from tests.bench.service import REGION, SERVER, Service

from strongroom.kms.v1 import key_service_pb2, key_service_pb2_grpc
from strongroom_server.cli.dev_fleet import Fleet
from strongroom_server.cli.dev_layout import Layout
from strongroom_server.config import load_config
from strongroom_server.domain.keys import KeySpec, KeyUsage
from strongroom_server.hsm.conformance import check_module
from strongroom_server.hsm.key_kinds import kind_of
from strongroom_server.hsm.key_ring import KeyRing
from strongroom_server.hsm.token import TokenSession
from strongroom_server.hsm.worker import read_pin

__all__ = ["many_keys_rows"]

FEW: Final = 1_000
WORKING_SET: Final = 1_000
ROUNDS: Final = 5
CALLS: Final = 2_000
BORN: Final = 10_000
CONCURRENCY: Final = 8
CHECKED: Final = "working set, rows being checked"
WORKING: Final = "working set"
UNIFORM: Final = "uniform"
OPERATOR: Final = "spiffe://example.org/operator"
OUTPUT: Final = Path(".cache/bench/many_keys.json")


@dataclass
class Deployment:
    """One region, with so many keys."""

    count: int
    fleet: Fleet
    layout: Layout

    def start(self) -> float:
        """Start the server; return the seconds until it is ready."""
        began = time.perf_counter()
        self.fleet.start(SERVER)
        self.fleet.wait_ready(120)
        return time.perf_counter() - began

    @property
    def service(self) -> Service:
        """The running server."""
        member = self.fleet.members[SERVER]
        if member.process is None:
            raise RuntimeError("the server does not run")
        return Service(self.layout.root, member.address, member.process.pid)

    def wait_checked(self) -> None:
        """Wait until all rows have been checked in the background, as the log tells."""
        log = self.fleet.members[SERVER].log
        while "store_check_began" in (text := log.read_text()) and "store_checked" not in text:
            time.sleep(1)

    def memory_mib(self) -> tuple[float, float]:
        """Return the resident memory of the server, and of its largest worker."""
        service = self.service
        server = psutil.Process(service.server_pid).memory_info().rss
        workers = [psutil.Process(pid).memory_info().rss for pid in service.worker_pids]
        return server / 2**20, max(workers) / 2**20


@contextmanager
def running(count: int, directory: Path) -> Iterator[Deployment]:
    """Run a region with `count` wrapped keys."""
    strongroom = Path(sys.executable).parent / "strongroom"
    subprocess.run(
        [strongroom, "dev", "init", "--dir", directory, "--region", REGION, "--port-base", "0"],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    layout = Layout(directory)
    config_file = layout.server_config(REGION)
    text = config_file.read_text()
    config_file.write_text(
        text.replace("[[shards]]\n", '[[shards]]\ndefault_storage = "wrapped"\n')
    )
    deployment = Deployment(count, Fleet(layout), layout)
    try:
        deployment.fleet.start_all()
        deployment.fleet.wait_ready()
        asyncio.run(_create_key(deployment.service))  # and with it wrapping root 1
        deployment.fleet.stop(SERVER)
        subprocess.run(
            [sys.executable, "-m", "tests.bench.many_keys", "--load", config_file, str(count)],
            check=True,
        )
        yield deployment
    finally:
        deployment.fleet.stop_all()


def load(config_file: Path, count: int) -> None:
    """Fill the store of a stopped server; in a process of its own, which loads the module."""
    shard = load_config(config_file).shards[0]
    os.environ.update(shard.module_environment)
    session = TokenSession.open(
        str(shard.module),
        shard.token_label,
        read_pin(shard.pin_file),
        parameters=shard.module_parameters,
    )
    ring = KeyRing(session, *check_module(session), verify_after_encrypt=False)
    ring.load_all()
    kind = kind_of(KeySpec.AES_256, KeyUsage.ENCRYPT_DECRYPT)
    if kind is None:
        raise RuntimeError("there is no such kind of key")

    born = [ring.wrapping.create(kind, 1) for _ in range(min(count, BORN))]
    ring.close()
    materials = itertools.cycle(born)
    load_keys(shard.store, REGION, count, lambda _: next(materials), 1, OPERATOR)


async def _create_key(service: Service) -> None:
    async with service.channel(service.address) as channel:
        stub = key_service_pb2_grpc.KeyServiceStub(channel)
        await stub.CreateKey(key_service_pb2.CreateKeyRequest(parent=f"regions/{REGION}"))


async def generate(service: Service, choose: Callable[[], int], calls: int) -> LoadResult:
    """Call GenerateDataKey so often with the keys that `choose` numbers."""
    async with service.channel(service.address) as channel:
        stub = key_service_pb2_grpc.KeyServiceStub(channel)

        async def call() -> None:
            await stub.GenerateDataKey(
                key_service_pb2.GenerateDataKeyRequest(
                    key=f"regions/{REGION}/keys/{key_id_of(REGION, choose())}",
                    encryption_context={"tenant": "42"},
                    number_of_bytes=32,
                )
            )

        return await run_load(call, calls=calls, concurrency=CONCURRENCY)


def many_keys_rows(count: int) -> list[Row]:
    """Measure both sizes; return the table's rows."""
    choose = random.Random(7)  # noqa: S311 - which keys are asked for
    with tempfile.TemporaryDirectory(prefix="strongroom-bench-") as scratch, ExitStack() as stack:
        few = stack.enter_context(running(FEW, Path(scratch) / "few"))
        many = stack.enter_context(running(count, Path(scratch) / "many"))
        rows = []
        for deployment in (few, many):
            goal = "< 5" if deployment is many else ""
            seconds = deployment.start()
            rows.append(Row(f"start-up, {deployment.count:,} keys", seconds, "s", goal=goal))
        working = {
            deployment.count: choose.sample(range(deployment.count), WORKING_SET)
            for deployment in (few, many)
        }
        measured: dict[tuple[str, int], list[LoadResult]] = {}

        def measure(way: str, choosers: Mapping[int, Callable[[], int]]) -> None:
            for _ in range(ROUNDS):
                for deployment in (few, many):
                    result = asyncio.run(
                        generate(deployment.service, choosers[deployment.count], CALLS)
                    )
                    measured.setdefault((way, deployment.count), []).append(result)

        for deployment in (few, many):  # both caches, and a block of uses for each key
            for _ in range(2):
                each = iter(working[deployment.count])
                asyncio.run(generate(deployment.service, each.__next__, WORKING_SET))
        in_use = {count: partial(choose.choice, keys) for count, keys in working.items()}
        measure(CHECKED, in_use)
        many.wait_checked()
        measure(WORKING, in_use)
        measure(UNIFORM, {count: partial(choose.randrange, count) for count in working})
        for way in (CHECKED, WORKING, UNIFORM):
            floor = statistics.median(r.p50_ms for r in measured[way, FEW])
            for deployment in (few, many):
                results = measured[way, deployment.count]
                p50 = statistics.median(r.p50_ms for r in results)
                p99 = statistics.median(r.p99_ms for r in results)
                rate = statistics.median(r.per_second for r in results)
                is_floor = deployment is few
                rows.append(
                    Row(
                        f"GenerateDataKey p50, {way}, {deployment.count:,} keys",
                        p50,
                        "ms",
                        floor="" if is_floor else f"{FEW:,} keys {floor:.2f} ms",
                        ratio=None if is_floor else p50 / floor,
                        goal="<= 1.10" if deployment is many and way == WORKING else "",
                        note=f"p99 {p99:.1f} ms, {rate:,.0f}/s",
                    )
                )
        for deployment in (few, many):
            server, worker = deployment.memory_mib()
            rows.append(
                Row(
                    f"resident memory afterwards, {deployment.count:,} keys: server",
                    server,
                    "MiB",
                    note=f"largest worker {worker:.0f} MiB",
                )
            )
    return rows


def main(arguments: list[str]) -> int:
    """Measure and print, or load (the child of `running`)."""
    if arguments[:1] == ["--load"]:
        load(Path(arguments[1]), int(arguments[2]))
        return 0
    count = int(arguments[0]) if arguments else 1_000_000
    rows = many_keys_rows(count)
    table = Table(title=f"wrapped storage, {CONCURRENCY} calls at a time, {ROUNDS} rounds, medians")
    for name in ("work", "value", "unit", "floor", "ratio", "goal", "note"):
        table.add_column(name, justify="right" if name in {"value", "ratio"} else "left")
    for row in rows:
        ratio = "" if row.ratio is None else f"{row.ratio:.2f}"
        table.add_row(row.work, f"{row.value:,.2f}", row.unit, row.floor, ratio, row.goal, row.note)
    Console(width=160).print(table)
    OUTPUT.parent.mkdir(parents=True, exist_ok=True)
    OUTPUT.write_text(json.dumps([row.as_json() for row in rows], indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
