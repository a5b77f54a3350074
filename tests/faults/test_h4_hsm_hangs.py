"""H4: an HSM call never returns."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Callable

import pytest
from tests.support.deployment import Deployment
from tests.support.hsm_load import ROOT, create_key, in_seconds, p99, running_pool_load
from tests.support.load import running_load
from tests.support.pkcs11_shim import Shim
from tests.support.soak import rounds
from tests.support.softhsm import RecordingObserver, TestToken, running_pool, wait_until

pytestmark = [pytest.mark.integration, pytest.mark.hsm, pytest.mark.timeout(600)]

EU = "eu-1"
SERVER = f"server-{EU}"


async def test_a_hanging_worker_is_replaced(
    deployment: Deployment, figures: Callable[..., None]
) -> None:
    """Callers get an answer by their deadline, the worker is replaced, the other one serves."""
    with deployment.client() as client:
        key = client.create_key(EU).name
    deadline = 1.5
    async with running_load(deployment, EU, key, pause=0.04, seconds=deadline) as load:
        await asyncio.sleep(0.5)
        assert load.refusals == {}
        hung = deployment.worker_pids(EU)[0]
        os.kill(hung, signal.SIGSTOP)
        stopped = time.monotonic()
        try:
            before = load.answered
            await asyncio.sleep(0.5)
            assert load.answered > before, "one of two workers stands still, the other serves"
            while hung in deployment.worker_pids(EU) or len(deployment.worker_pids(EU)) < 2:
                await asyncio.sleep(0.05)
                assert time.monotonic() - stopped < 20
            replaced = time.monotonic() - stopped
        finally:
            # A process that stands still is killed by its server, not by this.
            if hung in deployment.worker_pids(EU):
                os.kill(hung, signal.SIGCONT)
        await load.answers_again()
    figures(replaced_seconds=replaced, refusals=dict(load.refusals), slowest=dict(load.slowest))
    assert load.unexpected("HSM_UNAVAILABLE") == {}
    assert all(seconds < deadline + 0.5 for seconds in load.slowest.values())
    assert load.wrong == []
    deployment.wait_drained()
    deployment.verify(load.receipts)


DEADLINE, CALLERS, PAUSE = 1.0, 8, 0.02


@pytest.mark.parametrize(
    "function", ["C_EncryptInit", "C_Decrypt", "C_GenerateRandom", "C_UnwrapKey"]
)
async def test_a_call_that_never_returns(
    token: TestToken, shim: Shim, figures: Callable[..., None], function: str
) -> None:
    """Callers hear by their deadline, the worker is replaced, the other one serves as before."""
    observer = RecordingObserver()
    lateness, replaced, before, meanwhile = [0.0], [], [0.0], [0.0]
    settings = token.with_settings(unwrapped_keys=1)  # wrapped keys are unwrapped all the time
    async with running_pool(shim.wrap(settings), observer) as pool:
        await pool.create_root(ROOT, deadline=in_seconds())
        keys = [await create_key(pool, root=root) for root in (None, ROOT, ROOT)]
        for _ in range(rounds(1)):
            await wait_until(lambda: pool.status().ready == 2, 10)
            async with running_pool_load(
                pool, *keys, callers=CALLERS, pause=PAUSE, seconds=DEADLINE
            ) as load:
                start = time.monotonic()
                await asyncio.sleep(1.0)
                assert not load.refusals
                lost = len(observer.lost)
                shim.once(function, "hang")
                await wait_until(lambda: not shim.is_pending(function), 10)
                hung = time.monotonic()
                await wait_until(lambda lost=lost: len(observer.lost) > lost, 10)
                await wait_until(lambda: pool.status().ready == 2, 10)
                back = time.monotonic()
                await load.answers_again()
            replaced.append(back - hung)
            before += load.between(start, hung)
            meanwhile += load.between(hung, back)
            lateness += load.lateness
            assert set(load.refusals) <= {"HSM_UNAVAILABLE"}
            assert len(observer.lost) == lost + 1
    figures(
        latest_after_deadline_seconds=max(lateness),
        replaced_seconds=max(replaced),
        p99_seconds_before=p99(before),
        p99_seconds_meanwhile=p99(meanwhile),
        answered_meanwhile=len(meanwhile) - 1,
    )
    assert observer.breaker_states == []  # the other worker serves
    assert max(lateness) < 0.5  # 0.1 s, and a shared machine
    assert max(replaced) < 8.0  # 3 s, and a shared machine


@pytest.mark.parametrize("function", ["C_FindObjectsInit", "C_GenerateKey", "C_WrapKey"])
async def test_a_creation_that_never_returns(
    token: TestToken, shim: Shim, figures: Callable[..., None], function: str
) -> None:
    """A creation that hangs is made by another worker, or refused; one key, or none, is made."""
    observer = RecordingObserver()
    root = ROOT if function == "C_WrapKey" else None
    async with running_pool(shim.wrap(token.settings), observer) as pool:
        await pool.create_root(ROOT, deadline=in_seconds())
        shim.once(function, "hang")
        began = time.monotonic()
        key = await create_key(pool, root=root)
        took = time.monotonic() - began
        sealed = await pool.encrypt(key, b"x", b"\x01", deadline=in_seconds())
        assert await pool.decrypt(key, sealed, b"\x01", deadline=in_seconds()) == b"x"
        assert len(observer.lost) == 1
    figures(answered_after_seconds=took)
