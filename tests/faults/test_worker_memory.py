"""An HSM worker's memory is flat, but for what its module leaks; and that has an end."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable

import psutil
import pytest
from tests.support.hsm_load import ROOT, create_key, in_seconds, running_pool_load
from tests.support.softhsm import RecordingObserver, TestToken, running_pool

from strongroom_server.hsm.pool import SessionPool

pytestmark = [pytest.mark.hsm, pytest.mark.soak, pytest.mark.timeout(0)]

SECONDS = float(os.environ.get("STRONGROOM_MEMORY_SECONDS", "20"))
"""How long each test runs: 3600 for the hour of a release."""

WARM_UP_SECONDS = 5.0
KIB = 2**10
#: For the allocator: arenas and caches still settle after the warm-up.
SLACK_BYTES = 2 * KIB * KIB
#: SoftHSM 2.6.1 leaks about 350 bytes with each C_UnwrapKey.
MAX_LEAK_BYTES = 700


def _resident(pool: SessionPool) -> dict[int, int]:
    return {pid: psutil.Process(pid).memory_info().rss for pid in pool.status().pids}


def _descriptors(pool: SessionPool) -> dict[int, int]:
    return {pid: psutil.Process(pid).num_fds() for pid in pool.status().pids}


async def test_memory_is_flat(token: TestToken, figures: Callable[..., None]) -> None:
    """Encryption, decryption and data keys leave nothing behind in a worker."""
    async with running_pool(token.settings) as pool:
        keys = [await create_key(pool) for _ in range(4)]
        async with running_pool_load(pool, *keys, callers=16) as load:
            await asyncio.sleep(WARM_UP_SECONDS)
            before, descriptors, answered = _resident(pool), _descriptors(pool), load.answered
            await asyncio.sleep(SECONDS)
            after = _resident(pool)
            calls = load.answered - answered
            load.latencies.clear()
        assert _descriptors(pool) == descriptors
    assert after.keys() == before.keys()
    growth = {pid: after[pid] - before[pid] for pid in before}
    figures(
        calls=calls,
        seconds=SECONDS,
        resident_mebibytes=[round(each / KIB / KIB, 1) for each in after.values()],
        growth_kibibytes=[round(each / KIB) for each in growth.values()],
    )
    assert max(growth.values()) < SLACK_BYTES + SECONDS * KIB


async def test_leaks_of_unwrapping_end(token: TestToken, figures: Callable[..., None]) -> None:
    """Each unwrap leaks what SoftHSM leaks and no more, until the worker has a successor."""
    observer = RecordingObserver()
    # What the start left free in the heap takes up the first 10,000 or so.
    recycle_after = 15_000 if SECONDS < 300 else 100_000
    settings = token.with_settings(
        sessions=1, unwrapped_keys=1, recycle_after_unwraps=recycle_after
    )
    largest: dict[int, int] = {}
    smallest: dict[int, int] = {}
    async with running_pool(settings, observer) as pool:
        await pool.create_root(ROOT, deadline=in_seconds())
        keys = [await create_key(pool, root=ROOT) for _ in range(4)]
        async with running_pool_load(pool, *keys, callers=8) as load:
            end = time.monotonic() + SECONDS
            while time.monotonic() < end or len(observer.retired) < 2:
                await asyncio.sleep(0.05)
                for pid in pool.status().pids:
                    try:
                        resident = psutil.Process(pid).memory_info().rss
                    except psutil.NoSuchProcess:
                        continue
                    largest[pid] = max(resident, largest.get(pid, 0))
                    smallest.setdefault(pid, resident)
        assert not load.refusals
    assert observer.lost == []
    retired = [pid for pid, _ in observer.retired if pid in largest]
    growth = [largest[pid] - smallest[pid] for pid in retired]
    figures(
        calls=load.answered,
        workers_retired=len(observer.retired),
        growth_kibibytes_each=[round(each / KIB) for each in growth[:20]],
        most_bytes_per_unwrap=max(growth) / recycle_after,
        largest_resident_mebibytes=round(max(largest.values()) / KIB / KIB, 1),
    )
    assert max(growth) < SLACK_BYTES + recycle_after * MAX_LEAK_BYTES
