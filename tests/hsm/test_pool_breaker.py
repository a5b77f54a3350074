"""The circuit breaker of a pool, with a real HSM behind it that fails on demand."""

from __future__ import annotations

import asyncio
import os
import signal
import time

import pytest
from tests.support.hsm_load import AAD, create_key, in_seconds
from tests.support.pkcs11_shim import Shim
from tests.support.softhsm import (
    RecordingObserver,
    TestToken,
    new_ref,
    running_pool,
    wait_until,
)

from strongroom_server.domain.algorithms import Algorithm
from strongroom_server.domain.keys import KeyMaterial, KeySpec, KeyUsage
from strongroom_server.errors import (
    HsmUnavailableError,
    InternalError,
    LimitExceededError,
    OverloadedError,
    StrongroomError,
)
from strongroom_server.hsm.breaker import BreakerState
from strongroom_server.hsm.pool import SessionPool

pytestmark = pytest.mark.hsm


async def _mac_key(pool: SessionPool) -> KeyMaterial:
    return await pool.create_version(
        new_ref(),
        spec=KeySpec.HMAC_256,
        usage=KeyUsage.GENERATE_VERIFY_MAC,
        root=None,
        deadline=in_seconds(),
    )


async def _mac(pool: SessionPool, key: KeyMaterial) -> bytes:
    return await pool.generate_mac(key, Algorithm.HMAC_SHA_256, b"message", deadline=in_seconds())


async def _break(pool: SessionPool, key: KeyMaterial) -> HsmUnavailableError:
    """Call until the breaker is open; no call that a worker's start makes fails."""
    began = time.monotonic()
    while pool.status().breaker is not BreakerState.OPEN:
        assert time.monotonic() - began < 20
        with pytest.raises(HsmUnavailableError):
            await _mac(pool, key)
        await asyncio.sleep(0.02)
    with pytest.raises(HsmUnavailableError) as refused:
        await _mac(pool, key)
    return refused.value


async def test_an_hsm_that_starts_well_and_fails(token: TestToken, shim: Shim) -> None:
    """Faults without end open the breaker; each probe that fails keeps it open for longer."""
    observer = RecordingObserver()
    async with running_pool(shim.wrap(token.with_settings(sessions=6)), observer) as pool:
        key = await _mac_key(pool)
        assert await _mac(pool, key)
        shim.always("C_Sign", 0x30)
        refused = await _break(pool, key)
        assert refused.retry_after_seconds
        assert 0 < refused.retry_after_seconds <= 0.5
        assert pool.status().ready >= 1  # workers are there, and are not asked
        assert not pool.ready
        before = shim.calls("C_SignInit")
        began = time.monotonic()
        for _ in range(50):
            with pytest.raises(HsmUnavailableError, match="the HSM fails"):
                await _mac(pool, key)
            with pytest.raises(HsmUnavailableError):
                await create_key(pool)
        assert time.monotonic() - began < 0.25
        assert shim.calls("C_SignInit") == before
        await wait_until(lambda: pool.ready, 5)
        # The probe fails: one operation, and the one that repeats it elsewhere.
        results = await asyncio.gather(
            *(_mac(pool, key) for _ in range(20)), return_exceptions=True
        )
        assert {type(result) for result in results} == {HsmUnavailableError}
        assert shim.calls("C_SignInit") - before <= 2
        assert pool.status().breaker is BreakerState.OPEN
        waits = [result.retry_after_seconds for result in results]  # type: ignore[union-attr]  # all of them are
        assert all(waits)
        shim.heal()
        await wait_until(lambda: pool.ready, 10)
        assert await _mac(pool, key)
        assert len(await asyncio.gather(*(_mac(pool, key) for _ in range(20)))) == 20
    assert observer.breaker_states[:3] == ["open", "half_open", "open"]
    assert observer.breaker_states[-1] == "closed"


async def test_other_operations_keep_it_closed(token: TestToken, shim: Shim) -> None:
    """An HSM that fails in one thing and does all others is not taken for dead."""
    observer = RecordingObserver()
    async with running_pool(shim.wrap(token.with_settings(sessions=4)), observer) as pool:
        mac_key, key = await _mac_key(pool), await create_key(pool)
        shim.always("C_Sign", 0x30)
        for _ in range(6):
            await wait_until(lambda: pool.status().ready >= 3, 15)
            with pytest.raises(HsmUnavailableError):
                await _mac(pool, mac_key)
            assert await pool.encrypt(key, b"x", AAD, deadline=in_seconds())
        assert len(observer.lost) >= 6
        assert observer.breaker_states == []


async def test_workers_killed_without_load(token: TestToken) -> None:
    """A pool whose workers all die is open until one is back, and closed by the first call."""
    observer = RecordingObserver()
    async with running_pool(token.settings, observer) as pool:
        key = await create_key(pool)
        for pid in pool.status().pids:
            os.kill(pid, signal.SIGKILL)
        await wait_until(lambda: not pool.ready, 5)
        with pytest.raises(HsmUnavailableError) as refused:
            await pool.encrypt(key, b"x", AAD, deadline=in_seconds())
        assert refused.value.retry_after_seconds
        assert 0 < refused.value.retry_after_seconds <= 2.0
        await wait_until(lambda: pool.ready, 5)
        assert pool.status().breaker is BreakerState.HALF_OPEN
        await asyncio.sleep(1.2)  # pings alone do not close it, nor open it
        assert pool.status().breaker is BreakerState.HALF_OPEN
        assert await pool.encrypt(key, b"x", AAD, deadline=in_seconds())
        assert observer.breaker_states == ["open", "half_open", "closed"]


@pytest.mark.parametrize("function", ["C_EncryptInit", "C_GenerateKey"])
async def test_refusals_never_open_it(token: TestToken, shim: Shim, function: str) -> None:
    """Uses that the module refuses, of any number, are no faults."""
    observer = RecordingObserver()
    async with running_pool(shim.wrap(token.settings), observer) as pool:
        key = await create_key(pool)
        shim.always(function, 0x68)
        for _ in range(20):
            call = (
                create_key(pool)
                if function == "C_GenerateKey"
                else pool.encrypt(key, b"x", AAD, deadline=in_seconds())
            )
            with pytest.raises(InternalError):
                await call
        shim.heal()
        await pool.encrypt(key, b"x", AAD, deadline=in_seconds())
        assert observer.breaker_states == []
        assert observer.lost == []


async def test_short_deadlines_never_open_it(token: TestToken, shim: Shim) -> None:
    """Callers that give the HSM no time are no faults of it, however slow it is.

    They hear that it did not answer in time, or that it would not: others wait already.
    """
    observer = RecordingObserver()
    async with running_pool(shim.wrap(token.with_settings(sessions=1)), observer) as pool:
        key = await create_key(pool)
        shim.always("C_Encrypt", "delay 20")
        for _ in range(30):
            with pytest.raises((HsmUnavailableError, OverloadedError)):
                await pool.encrypt(key, b"x", AAD, deadline=in_seconds(0.005))
        shim.heal()
        assert await pool.encrypt(key, b"x", AAD, deadline=in_seconds())
        assert observer.breaker_states == []
        assert observer.lost == []


async def test_a_hidden_key_is_absent_and_no_fault(token: TestToken, shim: Shim) -> None:
    """A key that the token does not show is UNAVAILABLE with an alarm, and never "not found"."""
    observer = RecordingObserver()
    async with running_pool(shim.wrap(token.with_settings(sessions=1)), observer) as pool:
        key, other = await create_key(pool), await create_key(pool)
        shim.always("C_FindObjects", "hide-objects")
        shim.once("C_EncryptInit", 0x60)  # CKR_KEY_HANDLE_INVALID: search again
        for _ in range(10):
            with pytest.raises(StrongroomError) as absent:
                await pool.encrypt(key, b"x", AAD, deadline=in_seconds())
            assert type(absent.value) is HsmUnavailableError
            assert "does not show" in str(absent.value)
        assert await pool.encrypt(other, b"x", AAD, deadline=in_seconds())
        assert {category for category, _ in observer.alarms} == {"key_absent"}
        assert observer.breaker_states == []
        assert observer.lost == []
        shim.heal()
        assert await pool.encrypt(key, b"x", AAD, deadline=in_seconds())


async def test_a_full_token_costs_no_worker(token: TestToken, shim: Shim) -> None:
    """When there is no room for another key, creating is refused and everything else goes on."""
    observer = RecordingObserver()
    async with running_pool(shim.wrap(token.settings), observer) as pool:
        key = await create_key(pool)
        for _ in range(3):
            shim.rule("C_GenerateKey", 0x31, times=2)  # CKR_DEVICE_MEMORY, after a clean-up too
            with pytest.raises(LimitExceededError, match="no room"):
                await create_key(pool)
            assert not shim.is_pending("C_GenerateKey")
            assert await pool.encrypt(key, b"x", AAD, deadline=in_seconds())
        shim.once("C_GenerateKey", 0x31)  # unwrapped keys were what filled it
        await create_key(pool)
        assert observer.lost == []
        assert observer.breaker_states == []
        assert {category for category, _ in observer.alarms} == {"policy"}
