"""H7: sessions are closed, and the login is lost, behind the pool's back."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from tests.support.hsm_load import AAD, ROOT, create_key, in_seconds
from tests.support.pkcs11_shim import Shim
from tests.support.soak import rounds
from tests.support.softhsm import RecordingObserver, TestToken, running_pool, wait_until

pytestmark = [pytest.mark.hsm, pytest.mark.timeout(300)]

#: What is done to a worker's sessions, and whether the process outlives it: the keeper
#: holds the login (session 1), the other one works (2 after the start, a new one after
#: each loss).
LOSSES = [
    ("drop-sessions 1", True),
    ("drop-sessions 2", True),
    ("drop-sessions", False),
    ("lose-login", False),
]


@pytest.mark.parametrize(("loss", "survives"), LOSSES)
@pytest.mark.parametrize("function", ["C_EncryptInit", "C_DecryptInit", "C_GenerateRandom"])
async def test_the_next_call_succeeds(
    token: TestToken,
    shim: Shim,
    figures: Callable[..., None],
    function: str,
    loss: str,
    *,
    survives: bool,
) -> None:
    """Whichever session goes, the next call is answered, and rightly, after one retry at most."""
    observer = RecordingObserver()
    async with running_pool(shim.wrap(token.settings), observer) as pool:
        await pool.create_root(ROOT, deadline=in_seconds())
        keys = [await create_key(pool), await create_key(pool, root=ROOT)]
        sealed = [await pool.encrypt(key, b"x", AAD, deadline=in_seconds()) for key in keys]
        most = 0
        for turn in range(rounds(1)):
            await wait_until(lambda: pool.status().ready == 2, 10)
            key, blob = keys[turn % 2], sealed[turn % 2]
            logins, sessions = shim.logins, shim.calls("C_OpenSession")
            before, lost = shim.calls(function), len(observer.lost)
            shim.once(function, loss)
            if function == "C_DecryptInit":
                assert await pool.decrypt(key, blob, AAD, deadline=in_seconds()) == b"x"
            elif function == "C_EncryptInit":
                blob = await pool.encrypt(key, b"x", AAD, deadline=in_seconds())
            else:
                assert len(await pool.generate_random(16, deadline=in_seconds())) == 16
            assert not shim.is_pending(function)
            assert len(observer.lost) - lost <= 1
            if survives and turn == 0:
                # In the same process: one session more at most, and no login.
                assert len(observer.lost) == lost
                assert shim.logins == logins
                assert shim.calls("C_OpenSession") - sessions <= 1
                most = shim.calls(function) - before - 1
            # Whoever serves now, in whatever state its session is, has the key.
            for _ in range(4):
                assert await pool.decrypt(key, blob, AAD, deadline=in_seconds()) == b"x"
        figures(loss=loss, function=function, most_retries=most, workers_lost=len(observer.lost))
        assert most <= 1
        assert {category for _, category in observer.operations} == {"ok"}
        assert observer.breaker_states == []
