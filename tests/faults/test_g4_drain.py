"""G4: SIGTERM under load."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Callable

import pytest
from tests.support.deployment import Deployment
from tests.support.soak import rounds

from strongroom.receipts import Receipt
from strongroom_client import AsyncKmsClient, StrongroomError

pytestmark = [pytest.mark.integration, pytest.mark.hsm, pytest.mark.timeout(600)]

EU = "eu-1"
SERVER = f"server-{EU}"
DRAIN_SECONDS = 10.0  # the default of [server] drain_seconds
CALLERS = 8


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=["drain", "crash"])
async def test_a_restart_loses_no_call(
    deployment: Deployment, figures: Callable[..., None], number: signal.Signals
) -> None:
    """Restarted under load, a server fails no call of a client with default options."""
    with deployment.client() as client:
        key = client.create_key(EU).name
    options = deployment.options()
    assert (options.timeout_seconds, options.max_attempts) == (20.0, 100)
    slowest = 0.0
    receipts: list[Receipt] = []
    failures: list[StrongroomError] = []
    stopping = False
    exits: list[float] = []

    async def caller(client: AsyncKmsClient) -> None:
        nonlocal slowest
        while not stopping:
            began = time.monotonic()
            try:
                made = await client.encrypt(key, b"x", encryption_context={})
                opened = await client.decrypt(key, made.ciphertext, encryption_context={})
            except StrongroomError as error:
                failures.append(error)
                continue
            assert opened.plaintext == b"x"
            slowest = max(slowest, time.monotonic() - began)
            receipts.extend((*made.receipts, *opened.receipts))
            await asyncio.sleep(0.02)

    async with AsyncKmsClient(options) as retrying:
        tasks = [asyncio.create_task(caller(retrying)) for _ in range(CALLERS)]
        for _ in range(rounds(2)):
            await asyncio.sleep(1.0)
            process = deployment.fleet.members[SERVER].process
            assert process is not None
            began = time.monotonic()
            process.send_signal(number)
            code = await asyncio.to_thread(process.wait, DRAIN_SECONDS + 10)
            exits.append(time.monotonic() - began)
            assert code == (0 if number == signal.SIGTERM else -number)
            deployment.start(SERVER)
            await deployment.ready_after(SERVER)
        await asyncio.sleep(1.0)
        stopping = True
        await asyncio.gather(*tasks)
    figures(exit_seconds=exits, calls=len(receipts), failed=len(failures), slowest_seconds=slowest)
    assert failures == []
    assert max(exits) < DRAIN_SECONDS + 1
    deployment.wait_drained()
    deployment.verify(receipts)


def test_an_idle_server_ends_at_once(deployment: Deployment, figures: Callable[..., None]) -> None:
    """The audit log's open stream does not keep a server from ending."""
    deployment.wait_drained()
    began = time.monotonic()
    assert deployment.stop(SERVER) == 0
    figures(exit_seconds=time.monotonic() - began)
    assert time.monotonic() - began < DRAIN_SECONDS / 2
    assert '"event":"stopped"' in deployment.log_text(SERVER)
    assert deployment.is_ready("server-us-1")
