"""A2 through NATS: NATS itself is away for long, and every process is killed in turn."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.support.deployment import AUDIT_LOG, Deployment, running
from tests.support.load import running_load
from tests.support.nats_deployment import nats_between
from tests.support.soak import rounds

pytestmark = [pytest.mark.integration, pytest.mark.hsm, pytest.mark.timeout(900)]

EU = "eu-1"
SERVER = f"server-{EU}"
SPOOL_LIMIT = 2**20  # some 1,600 records
_SPOOL = f'strongroom_audit_spool_bytes{{region="{EU}"}}'
_PUBLISH_ERRORS = f'strongroom_audit_publish_errors_total{{region="{EU}"}}'


async def test_without_nats_the_spool_fills_and_drains_after(
    new_deployment: Deployment, tmp_path: Path, figures: Callable[..., None]
) -> None:
    """NATS away: served to 80 % as ready, to the limit not ready, then refused; then all drains."""
    new_deployment.configure(EU, spool_limit_bytes=SPOOL_LIMIT)
    with (
        nats_between(new_deployment, tmp_path / "nats") as nats,
        running(new_deployment) as deployment,
    ):
        with deployment.client() as client:
            key = client.create_key(EU).name
        deployment.wait_drained()
        nats.kill()
        async with running_load(deployment, EU, key, callers=4, pause=0.015) as load:
            while await asyncio.to_thread(deployment.is_ready, SERVER):
                assert not load.refusals
                await asyncio.sleep(0.01)
            pressure = deployment.metric(SERVER, _SPOOL) / SPOOL_LIMIT
            assert "audit" in deployment.ops(SERVER, "/readyz")[1]
            await load.refused("AUDIT_UNAVAILABLE", 20)
            before = load.answered
            await asyncio.sleep(0.5)
            assert load.answered == before, "an answer without a record"
            nats.start()
            again = await load.answers_again()
            await deployment.ready_after(SERVER)
        assert load.wrong == []
        assert load.unexpected("AUDIT_UNAVAILABLE") == {}
        assert pressure > 0.7
        assert deployment.metric(SERVER, _PUBLISH_ERRORS) >= 1
        drained = deployment.wait_drained()
        deployment.verify(load.receipts)
        figures(
            answers_until_full=before,
            pressure_when_not_ready=pressure,
            answers_after_nats_start_seconds=again,
            drained_seconds=drained,
            receipts=len(load.receipts),
        )


async def test_kills_of_shard_log_and_nats_lose_nothing(
    new_deployment: Deployment, tmp_path: Path, figures: Callable[..., None]
) -> None:
    """Each is killed in turn under load: every answer's record is in the log, once."""
    with (
        nats_between(new_deployment, tmp_path / "nats") as nats,
        running(new_deployment) as deployment,
    ):
        with deployment.client() as client:
            key = client.create_key(EU).name
        async with running_load(deployment, EU, key, callers=4, pause=0.04) as load:
            for number in range(rounds(3)):
                await asyncio.sleep(0.5)
                if number % 3 == 0:
                    nats.kill()
                    await asyncio.sleep(0.3)
                    nats.start()
                else:
                    name = (SERVER, AUDIT_LOG)[number % 2]
                    deployment.kill(name)
                    deployment.start(name)
                    await deployment.ready_after(name)
                await load.answers_again()
        assert load.wrong == []
        drained = deployment.wait_drained(60)
        deployment.verify(load.receipts)
        figures(receipts=len(load.receipts), drained_seconds=drained, lost=0, twice=0)
