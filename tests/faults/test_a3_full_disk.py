"""A3: the disk takes no more, for a running server and a running audit log."""

from __future__ import annotations

import asyncio
import contextlib
import resource
import time
from collections.abc import Callable, Iterator

import pytest
from tests.support.deployment import AUDIT_LOG, Deployment
from tests.support.load import running_load

from strongroom_client import StrongroomError

pytestmark = [pytest.mark.integration, pytest.mark.hsm, pytest.mark.timeout(120)]

EU = "eu-1"
SERVER = f"server-{EU}"
PAUSE = 0.04


@contextlib.contextmanager
def _no_space(pid: int) -> Iterator[None]:
    """Let every write of a process fail that would make a file longer: its log's too."""
    soft, hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (0, hard))
    try:
        yield
    finally:
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (soft, hard))


async def test_a_server_without_space_answers_nothing_unlogged(
    deployment: Deployment, figures: Callable[..., None]
) -> None:
    """Without space every call is refused at once; with space again, service resumes by itself."""
    with deployment.client() as client:
        key = client.create_key(EU).name
    async with running_load(deployment, EU, key, callers=6, pause=PAUSE) as load:
        await asyncio.sleep(0.5)
        assert load.refusals == {}
        with _no_space(deployment.pid(SERVER)):
            full = time.monotonic()
            await load.refused("AUDIT_UNAVAILABLE", 1)
            first_refusal = time.monotonic() - full
            await asyncio.sleep(1.5)
            before = load.answered
            with (
                deployment.client(max_attempts=1) as client,
                pytest.raises(StrongroomError) as refused,
            ):
                await asyncio.to_thread(client.create_key, EU)
            assert refused.value.code == "UNAVAILABLE"
            assert not await asyncio.to_thread(deployment.is_ready, SERVER)
            assert load.answered == before
        freed = time.monotonic()
        again = await load.answers_again()
        await deployment.ready_after(SERVER)
        ready = time.monotonic() - freed
    figures(
        first_refusal_seconds=first_refusal,
        slowest_refusal_seconds=load.slowest["AUDIT_UNAVAILABLE"],
        answers_after_space_seconds=again,
        ready_after_space_seconds=ready,
    )
    assert set(load.refusals) == {"AUDIT_UNAVAILABLE"}
    assert load.wrong == []
    assert load.slowest["AUDIT_UNAVAILABLE"] < 3.0  # 1 s, and a shared machine
    assert again < 10.0  # 5 s, and a shared machine
    with deployment.client() as client:
        client.create_key(EU)
    deployment.wait_drained()
    deployment.verify(load.receipts)


async def test_an_audit_log_without_space_catches_up(
    deployment: Deployment, figures: Callable[..., None]
) -> None:
    """While the log cannot write, service goes on; with space again the log has everything."""
    with deployment.client() as client:
        key = client.create_key(EU).name
    async with running_load(deployment, EU, key, callers=6, pause=PAUSE) as load:
        with _no_space(deployment.pid(AUDIT_LOG)):
            await asyncio.sleep(2.0)
            behind = await asyncio.to_thread(deployment.spool_status, EU)
            assert behind.acknowledged_sequence < behind.last_sequence
        # It may end itself; then its supervisor starts it.
        await asyncio.sleep(0.5)
        ended = not deployment.fleet.members[AUDIT_LOG].is_running
        if ended:
            deployment.start(AUDIT_LOG)
    assert load.refusals == {}
    figures(drained_seconds=deployment.wait_drained(), log_ended_itself=ended)
    deployment.verify(load.receipts)
