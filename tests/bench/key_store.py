"""The metadata store with many keys: opening, misses, reservations, memory.

    python -m tests.bench.key_store [KEYS [DATABASE]]

A database that is there already is taken as it is, with so many loaded keys.
Without an HSM: what `tests/bench/million_keys.py` loads is read as the server reads it.
"""

from __future__ import annotations

import asyncio
import os
import random
import sys
import tempfile
import time
import tracemalloc
import uuid
from datetime import UTC, datetime
from pathlib import Path

import psutil
from rich.console import Console
from rich.table import Table
from tests.bench.measure import Row
from tests.bench.million_keys import key_id_of, load_keys, wrapper

from strongroom_server.store import SqliteKeyStore

__all__ = ["store_rows"]

REGION = "eu-1"
CREATOR = "spiffe://example.org/orders"
ASKED = 5_000


class _Clock:
    def now(self) -> datetime:
        return datetime.now(UTC)

    def monotonic(self) -> float:
        return time.monotonic()


async def store_rows(path: Path, count: int) -> list[Row]:
    """Measure a store with `count` loaded keys."""
    process = psutil.Process()
    before = process.memory_info().rss
    began = time.perf_counter()
    store = await SqliteKeyStore.open(path, REGION, clock=_Clock())
    opened = time.perf_counter() - began
    store.start_polling()
    await asyncio.sleep(0)
    choose = random.Random(5)  # noqa: S311 - which keys are asked for
    ids = [key_id_of(REGION, number) for number in choose.sample(range(count), min(ASKED, count))]
    rows = [Row(f"open a store of {count:,} keys", opened, "s", goal="< 5")]
    with_check = await _misses(store, ids[: len(ids) // 4])
    rows.append(Row("a miss, during the check", with_check, "us"))
    began = time.perf_counter()
    while store.is_checking:  # noqa: ASYNC110 - it has no event to wait for
        await asyncio.sleep(0.5)
    rows.append(Row("check of all rows behind the calls", time.perf_counter() - began, "s"))
    rows.append(Row("a miss", await _misses(store, ids[len(ids) // 4 : len(ids) // 2]), "us"))
    rows.append(Row("a miss, 64 at once", await _misses(store, ids[len(ids) // 2 :], 64), "us"))
    began = time.perf_counter()
    for _ in range(20):
        for key_id in ids[-100:]:
            store.cached_key(key_id)
    rows.append(Row("a hit", (time.perf_counter() - began) / 2000 * 1e6, "us"))
    rows += await _reservations(store, count)
    began = time.perf_counter()
    await store.recount()
    rows.append(Row("count all rows", (time.perf_counter() - began) * 1e3, "ms"))
    began = time.perf_counter()
    await store.list_keys(after=None, limit=50)
    rows.append(Row("a page of 50 keys", (time.perf_counter() - began) * 1e3, "ms"))
    grown = process.memory_info().rss - before
    rows.append(Row("resident memory since before it was opened", grown / 2**20, "MiB"))
    await store.close()
    rows.append(Row("memory of a cached key", await _bytes_of_a_key(path, count), "bytes"))
    return rows


async def _misses(store: SqliteKeyStore, ids: list[uuid.UUID], together: int = 1) -> float:
    store._memory.cache.drop_everything()
    began = time.perf_counter()
    for start in range(0, len(ids), together):
        found = await asyncio.gather(
            *(store.find_key(key_id) for key_id in ids[start : start + together])
        )
        if None in found:
            raise RuntimeError("a loaded key is missing")
    return (time.perf_counter() - began) / len(ids) * 1e6


async def _reservations(store: SqliteKeyStore, count: int) -> list[Row]:
    rows = []
    for together in (1, 64):
        refs = []
        for number in range(min(512, count)):
            key = await store.find_key(key_id_of(REGION, number))
            if key is None:
                raise RuntimeError("a loaded key is missing")
            refs.append(key.version_ref(1))
        began = time.perf_counter()
        for start in range(0, len(refs), together):
            await asyncio.gather(
                *(store.reserve_uses(ref, 256) for ref in refs[start : start + together])
            )
        each = (time.perf_counter() - began) / len(refs) * 1e6
        rows.append(Row(f"a durable reservation of uses, {together} at once", each, "us"))
    return rows


async def _bytes_of_a_key(path: Path, count: int) -> float:
    store = await SqliteKeyStore.open(path, REGION, clock=_Clock(), check_before_start_bytes=0)
    number = min(10_000, count)
    await store.find_key(key_id_of(REGION, 0))
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    for each in range(number):
        await store.find_key(key_id_of(REGION, each))
    used = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    await store.close()
    return used / number


async def _measure(count: int, given: Path | None) -> list[Row]:
    with tempfile.TemporaryDirectory() as folder:
        path = given or Path(folder) / "store.db"
        if path.exists():
            return await store_rows(path, count)
        store = await SqliteKeyStore.open(path, REGION, clock=_Clock())
        await store.close()
        began = time.perf_counter()
        load_keys(path, REGION, count, wrapper(os.urandom(32)), 1, CREATOR)
        seconds = time.perf_counter() - began
        size = path.stat().st_size / 2**20
        loaded = Row(f"load {count:,} keys", seconds, "s", note=f"database {size:,.0f} MiB")
        return [loaded, *await store_rows(path, count)]


def main() -> int:
    """Load, measure, print."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
    given = Path(sys.argv[2]) if len(sys.argv) > 2 else None
    table = Table(title=f"metadata store, {count:,} keys in wrapped storage")
    for name in ("work", "value", "unit", "goal", "note"):
        table.add_column(name, justify="right" if name == "value" else "left")
    for row in asyncio.run(_measure(count, given)):
        table.add_row(row.work, f"{row.value:,.2f}", row.unit, row.goal, row.note)
    Console().print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
