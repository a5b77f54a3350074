"""Workers that are worn have successors, and nobody notices."""

from __future__ import annotations

import asyncio
import os
import signal

import pytest
from tests.support.hsm_load import ROOT, create_key, in_seconds, running_pool_load
from tests.support.pkcs11_shim import Shim
from tests.support.softhsm import RecordingObserver, TestToken, running_pool, wait_until

pytestmark = pytest.mark.hsm


async def test_worn_workers_are_replaced_under_load(token: TestToken, shim: Shim) -> None:
    """The successor serves first, then the worn one finishes: no call fails, no place is empty."""
    observer = RecordingObserver()
    settings = shim.wrap(token.with_settings(unwrapped_keys=1, recycle_after_unwraps=200))
    async with running_pool(settings, observer) as pool:
        await pool.create_root(ROOT, deadline=in_seconds())
        keys = [await create_key(pool, root=ROOT) for _ in range(8)]
        fewest, most = 9, 0
        first = pool.status().pids
        async with running_pool_load(pool, *keys, callers=12, pause=0.01) as load:
            while len(observer.retired) < 4:
                await asyncio.sleep(0.01)
                ready = pool.status().ready
                fewest, most = min(fewest, ready), max(most, ready)
        assert not load.refusals
        assert fewest == 2
        assert most <= 3  # one at a time
        assert not set(first) & set(pool.status().pids)
        await wait_until(lambda: not pool._workforce._retiring, 10)
        assert pool.status().ready == 2
    assert observer.lost == []
    assert observer.alarms == []
    assert observer.breaker_states == []
    assert len(observer.started) == len(observer.retired) + 2
    assert 0 <= shim.logins - len(observer.started) <= 1  # one may have been starting


async def test_a_worn_worker_without_a_successor_goes_on(token: TestToken, shim: Shim) -> None:
    """While no successor can start, the worn worker serves; its death is a death like any."""
    observer = RecordingObserver()
    settings = shim.wrap(token.with_settings(sessions=1, unwrapped_keys=1))
    async with running_pool(settings, observer) as pool:
        key = await create_key(pool)
        worker = pool._workforce.workers[0]
        shim.always("C_OpenSession", 0xB1)  # CKR_SESSION_COUNT: there is no room for two
        pool._workforce.recycle(worker, "worn")
        pool._workforce.recycle(worker, "told twice")
        await wait_until(lambda: len(observer.lost) >= 1, 10)
        assert pool.status().pids == (worker.pid,)
        async with running_pool_load(pool, key, callers=2) as load:
            await asyncio.sleep(0.2)
        assert not load.refusals
        os.kill(worker.pid, signal.SIGKILL)
        await wait_until(lambda: not pool.ready, 5)
        shim.heal()
        await wait_until(lambda: pool.ready, 10)
        async with running_pool_load(pool, key, callers=2):
            pass
    assert observer.retired == []


async def test_a_retiring_worker_that_hangs_is_killed(token: TestToken, shim: Shim) -> None:
    """What a worn worker leaves unanswered is answered by its successor."""
    observer = RecordingObserver()
    async with running_pool(shim.wrap(token.with_settings(sessions=1)), observer) as pool:
        key = await create_key(pool)
        worker = pool._workforce.workers[0]
        shim.once("C_EncryptInit", "hang")
        call = asyncio.create_task(pool.encrypt(key, b"x", b"\x01", deadline=in_seconds()))
        await wait_until(lambda: not shim.is_pending("C_EncryptInit"), 5)
        pool._workforce.recycle(worker, "worn")
        await wait_until(lambda: observer.retired, 5)
        assert await call
        assert pool.status().ready == 1
        await wait_until(lambda: not pool._workforce._retiring, 10)
    assert observer.breaker_states == []
