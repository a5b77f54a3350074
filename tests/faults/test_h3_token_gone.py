"""H3: the HSM's token goes away under load, and comes back."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import pytest
from tests.support.deployment import Deployment, running
from tests.support.load import running_load

pytestmark = [pytest.mark.integration, pytest.mark.hsm, pytest.mark.timeout(300)]

EU, US = "eu-1", "us-1"
SERVER = f"server-{EU}"
PAUSE = 0.04


async def test_a_lost_token_is_unavailable_and_comes_back(
    new_deployment: Deployment, figures: Callable[..., None]
) -> None:
    """Without its token a shard is UNAVAILABLE at once and nothing else; the other shard serves."""
    new_deployment.host_all_in_first()
    with running(new_deployment) as deployment:
        with deployment.client() as client:
            key, other_key = client.create_key(EU).name, client.create_key(US).name
        tokens = deployment.layout.shard(EU) / "tokens"
        away = tokens.with_name("tokens-away")
        async with (
            running_load(deployment, EU, key, callers=6, pause=PAUSE) as load,
            running_load(deployment, US, other_key, callers=6, pause=PAUSE) as other,
        ):
            await asyncio.sleep(0.5)
            assert load.refusals == {}
            tokens.rename(away)
            gone = time.monotonic()
            await load.refused("HSM_UNAVAILABLE", 1)
            first_refusal = time.monotonic() - gone
            await asyncio.sleep(2.0)
            assert not await asyncio.to_thread(deployment.is_ready, SERVER)
            assert f"hsm-{EU}" in deployment.ops(SERVER, "/readyz")[1]
            last_answer = load.last_answer - gone
            before = load.answered
            others = other.answered
            await asyncio.sleep(1.5)
            assert load.answered == before
            assert other.answered > others
            away.rename(tokens)
            back = time.monotonic()
            await load.answers_again()
            again = time.monotonic() - back
            await deployment.ready_after(SERVER)
            ready = time.monotonic() - back
        figures(
            first_refusal_seconds=first_refusal,
            last_answer_without_token_seconds=last_answer,
            slowest_refusal_seconds=load.slowest["HSM_UNAVAILABLE"],
            answers_after_return_seconds=again,
            ready_after_return_seconds=ready,
            refusals=load.refusals["HSM_UNAVAILABLE"],
        )
        # Neither NOT_FOUND nor CIPHERTEXT_INVALID: the keys exist, the HSM is away.
        assert set(load.refusals) == {"HSM_UNAVAILABLE"}
        assert {error.code for error in load.errors} == {"UNAVAILABLE"}
        assert all(error.metadata == {"region": EU} for error in load.errors)
        assert load.slowest["HSM_UNAVAILABLE"] < 3.0  # 1 s, and a shared machine
        assert again < 10.0  # 5 s, and a shared machine
        assert load.wrong == other.wrong == []
        assert other.refusals == {}
        deployment.wait_drained()
        deployment.verify([*load.receipts, *other.receipts])
