"""Bad days of the session pool, with real processes and a real token."""

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
    running_pool,
    wait_until,
)

from strongroom_server.errors import HsmUnavailableError, InternalError, StrongroomError
from strongroom_server.hsm.pool import SessionPool

pytestmark = pytest.mark.hsm


async def _is_served(pool: SessionPool) -> bool:
    try:
        await pool.generate_random(1, deadline=in_seconds(1))
    except HsmUnavailableError:
        return False
    return True


async def test_killed_workers_under_load(token: TestToken) -> None:
    """Workers killed under load: every request is answered, and with the right bytes."""
    observer = RecordingObserver()
    async with running_pool(token.settings, observer) as pool:
        ref = await create_key(pool)
        done = asyncio.Event()
        answered = 0

        async def client(number: int) -> None:
            nonlocal answered
            while not done.is_set():
                plaintext = f"{number}".encode()
                sealed = await pool.encrypt(ref, plaintext, AAD, deadline=in_seconds())
                assert await pool.decrypt(ref, sealed, AAD, deadline=in_seconds()) == plaintext
                data_key, wrapped = await pool.generate_data_key(
                    ref, 32, AAD, deadline=in_seconds()
                )
                assert await pool.decrypt(ref, wrapped, AAD, deadline=in_seconds()) == data_key
                answered += 1

        clients = [asyncio.create_task(client(number)) for number in range(16)]
        for _ in range(4):
            await wait_until(lambda: pool.status().ready == 2, 10)
            before = answered
            os.kill(pool.status().pids[0], signal.SIGKILL)
            await wait_until(lambda: answered > before + 20, 10)  # noqa: B023 - awaited here
        done.set()
        await asyncio.gather(*clients)
        await wait_until(lambda: pool.status().ready == 2, 10)
    assert len(observer.lost) == 4
    assert {category for _, category in observer.operations} == {"ok"}


async def test_creation_survives_the_death_of_its_worker(token: TestToken, shim: Shim) -> None:
    """A crash in the middle of a creation is repeated elsewhere and makes one key."""
    observer = RecordingObserver()
    async with running_pool(shim.wrap(token.settings), observer) as pool:
        shim.once("C_GenerateKey", "crash")
        ref = await create_key(pool)
        sealed = await pool.encrypt(ref, b"x", AAD, deadline=in_seconds())
        assert await pool.decrypt(ref, sealed, AAD, deadline=in_seconds()) == b"x"
        assert len(observer.lost) == 1
        await wait_until(lambda: pool.status().ready == 2, 10)


async def test_crash_in_the_module(token: TestToken, shim: Shim) -> None:
    """A module that crashes takes its worker down, not the request."""
    observer = RecordingObserver()
    async with running_pool(shim.wrap(token.settings), observer) as pool:
        ref = await create_key(pool)
        shim.once("C_EncryptInit", "crash")
        results = await asyncio.gather(
            *(pool.encrypt(ref, b"x", AAD, deadline=in_seconds()) for _ in range(40))
        )
        assert len(set(results)) == 40
        assert len(observer.lost) == 1


@pytest.mark.parametrize("code", [0x5, 0x30, 0x101, 0x190, 0x80000001], ids=hex)
async def test_fault_is_tried_elsewhere(token: TestToken, shim: Shim, code: int) -> None:
    """A worker whose session fails is replaced, and its request answered by another."""
    observer = RecordingObserver()
    async with running_pool(shim.wrap(token.settings), observer) as pool:
        ref = await create_key(pool)
        shim.once("C_EncryptInit", code)
        assert await pool.encrypt(ref, b"x", AAD, deadline=in_seconds())
        assert len(observer.lost) == 1
        assert "CK" in observer.lost[0][1]


async def test_lasting_fault_is_answered_at_once(token: TestToken, shim: Shim) -> None:
    """When every worker fails, the caller hears so quickly, and service comes back by itself."""
    async with running_pool(shim.wrap(token.settings)) as pool:
        ref = await create_key(pool)
        shim.always("C_EncryptInit", 0x30)
        began = time.monotonic()
        for _ in range(5):
            with pytest.raises(HsmUnavailableError):
                await pool.encrypt(ref, b"x", AAD, deadline=in_seconds())
        assert time.monotonic() - began < 3
        shim.heal()
        await wait_until(lambda: pool.ready, 5)
        assert await pool.encrypt(ref, b"x", AAD, deadline=in_seconds())


async def test_refused_use_is_internal(token: TestToken, shim: Shim) -> None:
    """A use that the module refuses as such is not retried, replaces nobody, and is reported."""
    observer = RecordingObserver()
    async with running_pool(shim.wrap(token.settings), observer) as pool:
        ref = await create_key(pool)
        shim.once("C_EncryptInit", 0x68)  # CKR_KEY_FUNCTION_NOT_PERMITTED
        with pytest.raises(InternalError):
            await pool.encrypt(ref, b"x", AAD, deadline=in_seconds())
        assert not observer.lost
        assert observer.alarms == [("policy", "encrypt: CKR_KEY_FUNCTION_NOT_PERMITTED (0x68)")]


async def test_silent_corruption_is_never_returned(token: TestToken, shim: Shim) -> None:
    """A ciphertext that the HSMs of all workers get wrong is an error, never an answer."""
    async with running_pool(shim.wrap(token.settings)) as pool:
        ref = await create_key(pool)
        shim.always("C_Encrypt", "corrupt")
        with pytest.raises(HsmUnavailableError):
            await pool.encrypt(ref, b"x", AAD, deadline=in_seconds())
        shim.heal()
        await wait_until(lambda: pool.ready, 5)
        sealed = await pool.encrypt(ref, b"x", AAD, deadline=in_seconds())
        assert await pool.decrypt(ref, sealed, AAD, deadline=in_seconds()) == b"x"


async def test_stopped_worker(token: TestToken) -> None:
    """A worker that stands still: callers hear by their deadline, and it is replaced (H4)."""
    observer = RecordingObserver()
    async with running_pool(token.with_settings(sessions=1), observer) as pool:
        ref = await create_key(pool)
        os.kill(pool.status().pids[0], signal.SIGSTOP)
        began = time.monotonic()
        with pytest.raises(HsmUnavailableError):
            await pool.encrypt(ref, b"x", AAD, deadline=in_seconds(0.5))
        assert 0.4 < time.monotonic() - began < 1.0
        await wait_until(lambda: len(observer.started) == 2 and pool.ready, 6)
        assert await pool.encrypt(ref, b"x", AAD, deadline=in_seconds())
        assert observer.lost[0][1] == "no answer in time"


async def test_hung_call_does_not_hold_up_the_others(token: TestToken, shim: Shim) -> None:
    """With one of two workers hung, its requests are answered by the other within 5 s."""
    observer = RecordingObserver()
    async with running_pool(shim.wrap(token.settings), observer) as pool:
        ref = await create_key(pool)
        shim.once("C_EncryptInit", "hang")
        began = time.monotonic()
        hung = [
            asyncio.create_task(pool.encrypt(ref, b"x", AAD, deadline=in_seconds()))
            for _ in range(4)
        ]
        await wait_until(lambda: not shim.is_pending("C_EncryptInit"), 5)
        for _ in range(50):
            before = time.monotonic()
            await pool.encrypt(ref, b"y", AAD, deadline=in_seconds())
            assert time.monotonic() - before < 1
        assert len(set(await asyncio.gather(*hung))) == 4
        assert time.monotonic() - began < 5
        assert len(observer.lost) == 1


async def test_idle_worker_that_hangs_is_noticed(token: TestToken) -> None:
    """Without any load a worker that stands still is found and replaced."""
    observer = RecordingObserver()
    async with running_pool(token.with_settings(sessions=1), observer) as pool:
        os.kill(pool.status().pids[0], signal.SIGSTOP)
        await wait_until(lambda: len(observer.started) == 2 and pool.ready, 10)
        assert await _is_served(pool)


async def test_token_gone_and_back(token: TestToken) -> None:
    """Token away under load: UNAVAILABLE within 1 s, nothing else; back within 5 s (H3)."""
    async with running_pool(token.settings) as pool:
        ref = await create_key(pool)
        sealed = await pool.encrypt(ref, b"x", AAD, deadline=in_seconds())
        done = asyncio.Event()
        errors: list[StrongroomError] = []
        slowest = 0.0

        async def client() -> None:
            nonlocal slowest
            while not done.is_set():
                began = time.monotonic()
                try:
                    assert await pool.decrypt(ref, sealed, AAD, deadline=in_seconds()) == b"x"
                    await pool.encrypt(ref, b"x", AAD, deadline=in_seconds())
                except StrongroomError as exc:
                    errors.append(exc)
                slowest = max(slowest, time.monotonic() - began)
                await asyncio.sleep(0.02)

        clients = [asyncio.create_task(client()) for _ in range(8)]
        await asyncio.sleep(0.3)
        assert not errors
        token.tokens.rename(token.directory / "away")
        await wait_until(lambda: len(errors) >= 8, 1.5)
        await asyncio.sleep(3.0)
        assert not pool.ready
        (token.directory / "away").rename(token.tokens)
        await wait_until(lambda: pool.ready, 5)
        done.set()
        await asyncio.gather(*clients)
        assert {type(error) for error in errors} == {HsmUnavailableError}
        assert slowest < 1.5
        assert await pool.decrypt(ref, sealed, AAD, deadline=in_seconds()) == b"x"


async def test_token_gone_is_noticed_without_load(token: TestToken) -> None:
    """Readiness falls by itself when the token goes, and returns with it."""
    async with running_pool(token.settings) as pool:
        token.tokens.rename(token.directory / "away")
        await wait_until(lambda: not pool.ready, 5)
        assert pool.status().problem
        (token.directory / "away").rename(token.tokens)
        await wait_until(lambda: pool.ready, 5)
        assert await _is_served(pool)


async def test_no_worker_means_no_waiting(token: TestToken) -> None:
    """With no worker alive the answer is immediate."""
    async with running_pool(token.with_settings(sessions=1)) as pool:
        ref = await create_key(pool)
        token.tokens.rename(token.directory / "away")
        os.kill(pool.status().pids[0], signal.SIGKILL)
        await wait_until(lambda: not pool.ready, 2)
        began = time.monotonic()
        for _ in range(20):
            with pytest.raises(HsmUnavailableError, match="does not answer"):
                await pool.encrypt(ref, b"x", AAD, deadline=in_seconds())
            with pytest.raises(HsmUnavailableError):
                await create_key(pool)
        assert time.monotonic() - began < 1
        (token.directory / "away").rename(token.tokens)
        await wait_until(lambda: pool.ready, 5)


async def test_pin_changed_under_a_running_pool(token: TestToken, shim: Shim) -> None:
    """A replacement whose PIN is refused is the last one: one login, an alarm, no loop."""
    observer = RecordingObserver()
    async with running_pool(shim.wrap(token.settings), observer) as pool:
        assert shim.logins == 2
        token.settings.pin_file.write_text("another-pin\n")
        for pid in pool.status().pids:
            os.kill(pid, signal.SIGKILL)
        await wait_until(lambda: pool.status().stopped, 5)
        await asyncio.sleep(1.5)
        assert shim.logins == 3
        assert [category for category, _ in observer.alarms] == ["pin_refused"]
        with pytest.raises(HsmUnavailableError, match="operator"):
            await pool.generate_random(1, deadline=in_seconds())


async def test_locked_pin_is_not_tried(token: TestToken, shim: Shim) -> None:
    """A token that refuses every login with PIN_LOCKED stops the start like a wrong PIN."""
    observer = RecordingObserver()
    async with running_pool(shim.wrap(token.settings), observer) as pool:
        shim.always("C_Login", 0xA4)
        os.kill(pool.status().pids[0], signal.SIGKILL)
        await wait_until(lambda: pool.status().stopped, 5)
        assert shim.logins == 3
        assert pool.ready  # the other session is still logged in, and serves
        assert await _is_served(pool)
        assert "CKR_PIN_LOCKED" in pool.status().problem


async def test_failed_starts_are_tried_again(token: TestToken, shim: Shim) -> None:
    """Starts that fail for another reason than the PIN are tried again until they work."""
    observer = RecordingObserver()
    async with running_pool(shim.wrap(token.with_settings(sessions=1)), observer) as pool:
        shim.always("C_OpenSession", 0xB1)  # CKR_SESSION_COUNT
        os.kill(pool.status().pids[0], signal.SIGKILL)
        await wait_until(lambda: len(observer.lost) >= 3, 10)
        assert not pool.status().stopped
        assert "CKR_SESSION_COUNT" in pool.status().problem
        shim.heal()
        await wait_until(lambda: pool.ready, 5)
