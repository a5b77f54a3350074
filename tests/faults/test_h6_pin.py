"""H6 within a pool: whatever the token says about the PIN is said once."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable

import pytest
from tests.support.hsm_load import AAD, create_key, in_seconds
from tests.support.pkcs11_shim import Shim
from tests.support.softhsm import (
    RecordingObserver,
    SystemClock,
    TestToken,
    running_pool,
    wait_until,
)

from strongroom_server.errors import HsmUnavailableError, StartRefusedError
from strongroom_server.hsm.pool import SessionPool
from strongroom_server.hsm.return_codes import TABLE, Action, name_of

pytestmark = [pytest.mark.hsm, pytest.mark.timeout(120)]

PIN_CODES = [code for code, row in TABLE.items() if row.action is Action.STOP]


@pytest.mark.parametrize("code", PIN_CODES, ids=name_of)
async def test_a_start_is_refused(
    token: TestToken, shim: Shim, figures: Callable[..., None], code: int
) -> None:
    """One login, and the start is refused with the code and the cure."""
    shim.always("C_Login", code)
    pool = SessionPool("eu-test", shim.wrap(token.settings), SystemClock())
    with pytest.raises(StartRefusedError, match="no other will be") as refusal:
        await pool.start()
    assert TABLE[code].name in str(refusal.value)
    assert token.pin not in str(refusal.value)
    await pool.close(0)
    assert shim.logins == 1
    figures(code=name_of(code), logins=shim.logins)


@pytest.mark.parametrize("code", PIN_CODES, ids=name_of)
async def test_a_replacement_is_refused(
    token: TestToken, shim: Shim, figures: Callable[..., None], code: int
) -> None:
    """A replacement whose login is refused is the last; who is logged in goes on serving."""
    observer = RecordingObserver()
    async with running_pool(shim.wrap(token.settings), observer) as pool:
        key = await create_key(pool)
        logins = shim.logins
        shim.always("C_Login", code)
        os.kill(pool.status().pids[0], signal.SIGKILL)
        await wait_until(lambda: pool.status().stopped, 10)
        assert await pool.encrypt(key, b"x", AAD, deadline=in_seconds())
        os.kill(pool.status().pids[0], signal.SIGKILL)
        await wait_until(lambda: not pool.ready, 10)
        await asyncio.sleep(1.0)
        with pytest.raises(HsmUnavailableError, match="operator") as refused:
            await pool.encrypt(key, b"x", AAD, deadline=in_seconds())
        assert refused.value.retry_after_seconds
        assert shim.logins - logins == 1
        assert [category for category, _ in observer.alarms] == ["pin_refused"]
        figures(code=name_of(code), further_logins=shim.logins - logins)
