"""H3: the HSM's token goes away under load, and comes back."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import pytest
from tests.support.deployment import Deployment, running
from tests.support.hsm_load import ROOT, create_key, in_seconds, running_pool_load
from tests.support.load import running_load
from tests.support.pkcs11_shim import Shim
from tests.support.soak import rounds
from tests.support.softhsm import RecordingObserver, TestToken, running_pool, wait_until

pytestmark = [pytest.mark.integration, pytest.mark.hsm, pytest.mark.timeout(600)]

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


CALLERS, TURN_SECONDS = 8, 0.16  # four calls a turn: 200 a second
AWAY_SECONDS = 2.5


@pytest.mark.parametrize("how", ["the token's directory is away", "CKR_DEVICE_REMOVED"])
async def test_a_pool_without_its_token(
    token: TestToken, shim: Shim, figures: Callable[..., None], how: str
) -> None:
    """The token goes and comes back, again and again: refusals at once, and no wrong answer."""
    observer = RecordingObserver()
    away = token.directory / "away"
    first, slowest, again, ready = [], [], [], []
    async with running_pool(shim.wrap(token.settings), observer) as pool:
        await pool.create_root(ROOT, deadline=in_seconds())
        keys = [await create_key(pool), await create_key(pool, root=ROOT)]
        for _ in range(rounds(1)):
            await wait_until(lambda: pool.status().ready == 2, 10)
            async with running_pool_load(pool, *keys, callers=CALLERS, pause=TURN_SECONDS) as load:
                await asyncio.sleep(0.5)
                assert not load.refusals
                gone = time.monotonic()
                if how == "CKR_DEVICE_REMOVED":
                    shim.always("*", 0x32)
                else:
                    token.tokens.rename(away)
                await wait_until(lambda load=load: load.refusals, 5)
                first.append(time.monotonic() - gone)
                await asyncio.sleep(AWAY_SECONDS)
                assert not pool.ready
                assert load.last_answer - gone < 1.5
                back = time.monotonic()
                if how == "CKR_DEVICE_REMOVED":
                    shim.heal()
                else:
                    away.rename(token.tokens)
                ready.append(await wait_until(lambda: pool.ready, 15))
                await load.answers_again()
                again.append(time.monotonic() - back)
                await wait_until(lambda: pool.status().ready == 2, 15)
            slowest.append(load.slowest_refusal)
            assert set(load.refusals) == {"HSM_UNAVAILABLE"}
            assert all(error.retry_after_seconds for error in load.errors)
        await create_key(pool)
    figures(
        first_refusal_seconds=max(first),
        slowest_refusal_seconds=max(slowest),
        ready_after_return_seconds=max(ready),
        answers_after_return_seconds=max(again),
    )
    assert {"open", "half_open", "closed"} == set(observer.breaker_states)
    assert max(slowest) < 3.0  # 1 s, and a shared machine
    assert max(again) < 10.0  # 5 s, and a shared machine
