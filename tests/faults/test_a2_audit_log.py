"""A2: the audit log is killed, stands still, or is away for long."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.support.deployment import AUDIT_LOG, Deployment, running
from tests.support.load import running_load
from tests.support.nats_deployment import nats_between
from tests.support.soak import rounds

from strongroom_server.cli.root import run as run_command

pytestmark = [pytest.mark.integration, pytest.mark.hsm, pytest.mark.timeout(900)]

EU = "eu-1"
SERVER = f"server-{EU}"
PAUSE = 0.04  # between a caller's turns; some 700 calls a second in all
SPOOL_LIMIT = 2**20  # some 1,600 records; refused when the longest record would not fit


@pytest.fixture(params=["direct", "nats"])
def new_deployment(
    request: pytest.FixtureRequest, softhsm: None, tmp_path: Path
) -> Iterator[Deployment]:
    """Make a deployment that does not run yet, for each way from shards to the log."""
    del softhsm
    made = Deployment.create(tmp_path / "dev")
    if request.param == "direct":
        yield made
        return
    with nats_between(made, tmp_path / "nats"):
        yield made


async def test_a_killed_audit_log_loses_and_repeats_nothing(
    deployment: Deployment, figures: Callable[..., None]
) -> None:
    """Killed in the middle of appending, the log goes on where it was: each record once."""
    with deployment.client() as client:
        key = client.create_key(EU).name
    ready = []
    async with running_load(deployment, EU, key, pause=PAUSE) as load:
        for number in range(rounds(5)):
            # Some rounds end while the log is still catching up.
            await asyncio.sleep(0.3 + 0.25 * (number % 3))
            killed = time.monotonic()
            deployment.kill(AUDIT_LOG)
            deployment.start(AUDIT_LOG)
            await deployment.ready_after(AUDIT_LOG)
            ready.append(time.monotonic() - killed)
    assert load.wrong == []
    assert load.refusals == {}
    drained = deployment.wait_drained()
    verified = deployment.verify(load.receipts)
    figures(ready_seconds=ready, answers=load.answered, drained_seconds=drained)
    assert verified.checkpoint.size >= load.answered
    data = deployment.layout.audit_log
    command = ["audit", "verify", "--log", str(data / "log"), "--vkey", str(data / "log.vkey")]
    assert run_command(command) == 0


async def test_a_log_that_stands_still_catches_up(
    deployment: Deployment, figures: Callable[..., None]
) -> None:
    """A log that is stopped for a while costs no answer, and has everything when it goes on."""
    with deployment.client() as client:
        key = client.create_key(EU).name
    async with running_load(deployment, EU, key, pause=PAUSE) as load:
        os.kill(deployment.pid(AUDIT_LOG), signal.SIGSTOP)
        try:
            await asyncio.sleep(2.0 * rounds(1))
        finally:
            os.kill(deployment.pid(AUDIT_LOG), signal.SIGCONT)
    assert load.refusals == {}
    figures(answers=load.answered, drained_seconds=deployment.wait_drained())
    deployment.verify(load.receipts)


async def test_a_full_spool_fails_closed_and_drains(
    new_deployment: Deployment, figures: Callable[..., None]
) -> None:
    """Without the log, service goes on to the spool's limit, then refuses; it resumes by itself."""
    new_deployment.configure(EU, spool_limit_bytes=SPOOL_LIMIT)
    with running(new_deployment) as deployment:
        with deployment.client() as client:
            key = client.create_key(EU).name
        deployment.wait_drained()
        deployment.kill(AUDIT_LOG)
        async with running_load(deployment, EU, key, callers=4, pause=0.015) as load:
            # Not ready from 80 % on, while calls are still answered.
            while await asyncio.to_thread(deployment.is_ready, SERVER):
                assert not load.refusals
                await asyncio.sleep(0.01)
            at_eighty_percent = load.answered
            pressure = deployment.metric(SERVER, _SPOOL) / SPOOL_LIMIT
            assert "audit" in deployment.ops(SERVER, "/readyz")[1]
            await load.refused("AUDIT_UNAVAILABLE", 20)
            assert load.answered > at_eighty_percent
            before = load.answered
            await asyncio.sleep(0.5)
            assert load.answered == before, "an answer without a record"
            deployment.start(AUDIT_LOG)
            started = time.monotonic()
            await deployment.ready_after(AUDIT_LOG)
            again = await load.answers_again()
            after_start = time.monotonic() - started
            await deployment.ready_after(SERVER)
        assert load.wrong == []
        assert load.unexpected("AUDIT_UNAVAILABLE") == {}
        refused = [e for e in load.errors if e.reason == "AUDIT_UNAVAILABLE"]
        assert {error.code for error in refused} == {"UNAVAILABLE"}
        assert pressure > 0.7
        assert all(error.metadata == {"region": EU} for error in refused)
        assert all(error.retry_after_seconds for error in refused)
        # Well within the deadline of 5 s: refused, not timed out.
        assert load.slowest["AUDIT_UNAVAILABLE"] < 2.5
        figures(
            answers_until_full=before,
            pressure_when_not_ready=pressure,
            slowest_refusal_seconds=load.slowest["AUDIT_UNAVAILABLE"],
            answers_after_log_ready_seconds=again,
            answers_after_log_start_seconds=after_start,
            drained_seconds=deployment.wait_drained(),
        )
        deployment.verify(load.receipts)
        assert deployment.metric(SERVER, _FAILURES) >= len(refused)


_SPOOL = f'strongroom_audit_spool_bytes{{region="{EU}"}}'
_FAILURES = f'strongroom_audit_failures_total{{region="{EU}"}}'
