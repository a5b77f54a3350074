"""G3: more calls than the server takes, and one caller who sends them."""

from __future__ import annotations

import asyncio
import time
import tomllib
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from tests.support.deployment import Deployment, running
from tests.support.open_loop import Outcome, start_open_loop
from tests.support.pkcs11_shim import Shim
from tests.support.wire import send_async

from strongroom.kms.v1 import key_service_pb2 as rpc
from strongroom.receipts import Receipt
from strongroom_client import StrongroomError

pytestmark = [pytest.mark.integration, pytest.mark.hsm, pytest.mark.timeout(120)]

EU = "eu-1"
SERVER = f"server-{EU}"
FLOOD, LIGHT = "orders", "payments"
LIMIT = 16
CALLERS = 5 * LIMIT
SECONDS = 2.0
SLOW_MILLISECONDS = 15  # an HSM in the network, far below what the server itself can do
LIGHT_RATE = 50.0
DEADLINES = {FLOOD: 1.0, LIGHT: 5.0}


async def test_excess_is_refused_at_once(
    new_deployment: Deployment, figures: Callable[..., None]
) -> None:
    """Five times too many callers: the excess is RESOURCE_EXHAUSTED, nothing INTERNAL or late."""
    # One of the places is taken by the audit log's stream.
    new_deployment.configure(EU, server={"max_concurrent_calls": LIMIT + 1})
    with running(new_deployment) as deployment:
        with deployment.client() as client:
            key = client.create_key(EU).name
        request = rpc.EncryptRequest(key=key, plaintext=b"x")
        outcomes: Counter[str] = Counter()
        receipts: list[Receipt] = []
        hints: set[float | None] = set()
        slowest = 0.0
        async with deployment.aio_channel(EU) as one, deployment.aio_channel(EU) as two:

            async def caller(number: int) -> None:
                nonlocal slowest
                end = time.monotonic() + SECONDS
                while time.monotonic() < end:
                    began = time.monotonic()
                    try:
                        _, got = await send_async((one, two)[number % 2], "Encrypt", request)
                    except StrongroomError as error:
                        outcomes[f"{error.code} {error.reason}"] += 1
                        slowest = max(slowest, time.monotonic() - began)
                        hints.add(error.retry_after_seconds)
                    else:
                        outcomes["OK"] += 1
                        receipts.extend(got)

            await asyncio.gather(*(caller(number) for number in range(CALLERS)))
        figures(outcomes=dict(outcomes), slowest_refusal_seconds=slowest)
        assert set(outcomes) == {"OK", "RESOURCE_EXHAUSTED OVERLOADED"}
        assert hints == {0.1}
        assert slowest < 2.0
        deployment.wait_drained()
        deployment.verify(receipts)
        assert deployment.is_ready(f"server-{EU}")


async def test_one_caller_cannot_starve_another(
    new_deployment: Deployment,
    shim_module: Path,
    tmp_path: Path,
    figures: Callable[..., None],
) -> None:
    """Under five times what the HSM can do, by one caller, another is served as before."""
    shard = tomllib.loads(new_deployment.layout.server_config(EU).read_text())["shards"][0]
    shim = Shim(shim_module, tmp_path, Path(shard["module"]))
    shim.always("C_Encrypt", f"delay {SLOW_MILLISECONDS}")
    new_deployment.configure(
        EU,
        module=str(shim.module),
        module_environment={**shard["module_environment"], **shim.environment},
    )
    with running(new_deployment) as deployment:
        keys = {}
        for who in (FLOOD, LIGHT):
            with deployment.client(who) as client:
                keys[who] = client.create_key(EU).name

        async def run(who: str, rate: float, seconds: float) -> Outcome:
            loop = await start_open_loop(
                deployment.address(EU),
                deployment.tls_of(who),
                keys[who],
                rate=rate,
                seconds=seconds,
                deadline=DEADLINES[who],
            )
            return await loop.outcome()

        await run(LIGHT, LIGHT_RATE, 1.0)
        quiet = await run(LIGHT, LIGHT_RATE, 4.0)
        peak = await run(FLOOD, 2000.0 / SLOW_MILLISECONDS, 3.0)
        hsm_calls = shim.calls("C_Encrypt")
        rate = 5 * peak.per_second
        flood, light = await asyncio.gather(
            run(FLOOD, rate, 6.0), _later(1.0, lambda: run(LIGHT, LIGHT_RATE, 4.0))
        )
        hsm_calls = shim.calls("C_Encrypt") - hsm_calls
        late = deployment.metric(
            SERVER, f'strongroom_hsm_errors_total{{category="deadline",region="{EU}"}}'
        )
        answered = len(flood.answered) + len(light.answered)
        goodput = (len(flood.answered) + len(light.answered)) / flood.seconds
        figures(
            quiet_p50_p99_seconds=[quiet.percentile(0.5), quiet.percentile(0.99)],
            light_p50_p99_seconds=[light.percentile(0.5), light.percentile(0.99)],
            light_refused=light.reasons,
            peak_per_second=peak.per_second,
            offered_per_second=rate,
            goodput_per_second=goodput,
            flood_refused=flood.reasons,
            refusal_p50_p99_seconds=[
                flood.refused_percentile(0.5),
                flood.refused_percentile(0.99),
            ],
            hsm_calls_without_answer=hsm_calls - answered,
            expired_waiting_for_the_hsm=late,
        )
        # Times are figures: where the processor is short as well, refusing takes most of
        # it, and everybody waits for that. What callers are told does not depend on it.
        assert light.reasons == {}
        assert goodput > 0.4 * peak.per_second
        late_reasons = {"DEADLINE_EXCEEDED", "HSM_UNAVAILABLE", "AUDIT_UNAVAILABLE", "UNREACHABLE"}
        assert set(flood.reasons) <= {"OVERLOADED", *late_reasons}
        assert flood.reasons["OVERLOADED"] > len(flood.answered)
        assert hsm_calls - answered < 0.3 * answered
        deployment.wait_drained()
        deployment.verify()


async def _later(seconds: float, start: Callable[[], Awaitable[Outcome]]) -> Outcome:
    await asyncio.sleep(seconds)
    return await start()
