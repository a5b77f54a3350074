"""H4: an HSM call never returns."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Callable

import pytest
from tests.support.deployment import Deployment
from tests.support.load import running_load

pytestmark = [pytest.mark.integration, pytest.mark.hsm, pytest.mark.timeout(300)]

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
