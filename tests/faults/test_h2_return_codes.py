"""H2: every return code, from every call, does what the table says and nothing worse.

A code is returned once. Whatever it is, the pool goes on without a restart; no answer is
wrong, no key is "not found", and what the worker does is what the code's action says.
"""

from __future__ import annotations

import collections
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import pytest
from tests.support.hsm_load import AAD, ROOT, create_key, in_seconds
from tests.support.pkcs11_shim import Shim
from tests.support.soak import factor
from tests.support.softhsm import RecordingObserver, TestToken, running_pool, wait_until

from strongroom_server.domain.keys import KeyMaterial
from strongroom_server.errors import (
    CiphertextInvalidError,
    HsmUnavailableError,
    InternalError,
    StrongroomError,
)
from strongroom_server.hsm import watch, workforce
from strongroom_server.hsm.pool import SessionPool
from strongroom_server.hsm.return_codes import TABLE, Action, action_for, name_of

pytestmark = [pytest.mark.hsm, pytest.mark.timeout(1800)]

SESSIONS = 2
VENDOR = 0x80000001
PLAINTEXT = b"what is to be protected"


@pytest.fixture(autouse=True)
def _only_the_calls_of_the_test(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no ping take a code that is meant for a call, and replace workers without pauses."""
    monkeypatch.setattr(watch, "_IDLE_PING_SECONDS", 3600.0)
    monkeypatch.setattr(workforce, "_FIRST_PAUSE_SECONDS", 0.01)
    monkeypatch.setattr(workforce, "_LAST_PAUSE_SECONDS", 0.01)


def _codes() -> list[int]:
    """Return every code; in the short form two of each action."""
    if factor() > 1:
        return [*TABLE, VENDOR]
    by_action: dict[Action, list[int]] = collections.defaultdict(list)
    for code in TABLE:
        by_action[action_for(code)].append(code)
    return [*(code for codes in by_action.values() for code in (codes[0], codes[-1])), VENDOR]


@dataclass
class Stage:
    """A pool behind the shim, with a key, something that it sealed, and a fresh wrapped key."""

    pool: SessionPool
    shim: Shim
    key: KeyMaterial
    sealed: bytes
    fresh: KeyMaterial

    async def encrypt(self) -> None:
        sealed = await self.pool.encrypt(self.key, PLAINTEXT, AAD, deadline=in_seconds())
        opened = await self.pool.decrypt(self.key, sealed, AAD, deadline=in_seconds())
        assert opened == PLAINTEXT

    async def decrypt(self) -> None:
        opened = await self.pool.decrypt(self.key, self.sealed, AAD, deadline=in_seconds())
        assert opened == PLAINTEXT

    async def use_wrapped(self) -> None:
        await self._use(self.fresh)

    async def random(self) -> None:
        assert len(await self.pool.generate_random(32, deadline=in_seconds())) == 32

    async def create(self) -> None:
        await self._use(await create_key(self.pool))

    async def create_wrapped(self) -> None:
        await self._use(await create_key(self.pool, root=ROOT))

    async def _use(self, key: KeyMaterial) -> None:
        sealed = await self.pool.encrypt(key, PLAINTEXT, AAD, deadline=in_seconds())
        assert await self.pool.decrypt(key, sealed, AAD, deadline=in_seconds()) == PLAINTEXT


CALLS: dict[str, Callable[[Stage], Awaitable[None]]] = {
    "C_EncryptInit": Stage.encrypt,
    "C_Encrypt": Stage.encrypt,
    "C_DecryptInit": Stage.decrypt,
    "C_Decrypt": Stage.decrypt,
    "C_GenerateRandom": Stage.random,
    "C_FindObjectsInit": Stage.create,
    "C_FindObjects": Stage.create,
    "C_FindObjectsFinal": Stage.create,
    "C_GetAttributeValue": Stage.create,
    "C_GenerateKey": Stage.create,
    "C_WrapKey": Stage.create_wrapped,
    "C_UnwrapKey": Stage.use_wrapped,
}
Outcome = tuple[type[StrongroomError] | None, int]
"""The error that the caller sees, if any, and how many workers it costs."""

UNSEEN: Outcome = (None, 0)
REPLACED: Outcome = (None, 1)
REFUSED: Outcome = (InternalError, 0)
BY_ACTION: dict[Action, Outcome] = {
    Action.CALLER: REFUSED,  # for calls on input of our own
    Action.AMBIGUOUS: REPLACED,
    Action.RETRY: UNSEEN,
    Action.REFIND: UNSEEN,
    Action.REOPEN: UNSEEN,
    Action.RELIEVE: UNSEEN,
    Action.REPLACE: REPLACED,
    Action.STOP: REPLACED,  # another login, if any, is in a fresh process, and the last
    Action.POLICY: REFUSED,
}
ON_CIPHERTEXT = {Action.CALLER: (CiphertextInvalidError, 0), Action.AMBIGUOUS: UNSEEN}
SEARCH = {
    Action.AMBIGUOUS: UNSEEN,  # SoftHSM's race of search and generation: patience
    Action.REFIND: REPLACED,  # a search has no handle that could be stale
}
OTHERWISE: dict[str, dict[Action, Outcome]] = {
    "C_DecryptInit": ON_CIPHERTEXT,
    "C_Decrypt": ON_CIPHERTEXT,
    # The store's own material is damaged: that is no caller's ciphertext.
    "C_UnwrapKey": {Action.CALLER: (HsmUnavailableError, 0), Action.AMBIGUOUS: UNSEEN},
    # No module can do without its generator.
    "C_GenerateRandom": {
        Action.CALLER: REPLACED,
        Action.POLICY: REPLACED,
        Action.REFIND: REPLACED,
    },
    "C_FindObjectsInit": SEARCH,
    "C_FindObjects": SEARCH,
    "C_FindObjectsFinal": SEARCH,
    "C_GetAttributeValue": {Action.REFIND: REPLACED},
    "C_GenerateKey": {Action.REFIND: REPLACED},
}


def _expected(function: str, code: int) -> Outcome:
    action = action_for(code)
    return OTHERWISE.get(function, {}).get(action) or BY_ACTION[action]


@pytest.mark.parametrize("function", CALLS)
async def test_a_code_met_once(
    token: TestToken, shim: Shim, figures: Callable[..., None], function: str
) -> None:
    """Each code, met once, costs what its action says; the next call is answered rightly."""
    observer = RecordingObserver()
    settings = token.with_settings(sessions=SESSIONS)
    async with running_pool(shim.wrap(settings), observer) as pool:
        await pool.create_root(ROOT, deadline=in_seconds())
        key = await create_key(pool)
        sealed = await pool.encrypt(key, PLAINTEXT, AAD, deadline=in_seconds())
        stage = Stage(pool, shim, key, sealed, key)
        seen: collections.Counter[str] = collections.Counter()
        slowest, wrong = 0.0, []
        for code in _codes():
            await wait_until(lambda: pool.status().ready == SESSIONS, 15)
            stage.fresh = await create_key(pool, root=ROOT)  # nobody has unwrapped it yet
            lost, logins = len(observer.lost), shim.logins
            shim.once(function, code)
            began = time.monotonic()
            try:
                await CALLS[function](stage)
                met: type[StrongroomError] | None = None
            except StrongroomError as exc:
                met = type(exc)
            slowest = max(slowest, time.monotonic() - began)
            outcome = (met, len(observer.lost) - lost)
            if outcome != _expected(function, code):
                wrong.append(f"{name_of(code)}: {outcome}, {observer.lost[lost:]}")
            assert not shim.is_pending(function), name_of(code)
            assert shim.logins - logins <= 1, name_of(code)
            seen[action_for(code).value] += 1
            await CALLS[function](stage)  # whatever it was, it is over
        assert wrong == []
        assert not pool.status().stopped
        assert observer.breaker_states == []
        figures(
            codes=sum(seen.values()),
            by_action=dict(seen),
            workers_replaced=len(observer.lost),
            slowest_seconds=slowest,
        )


STARTS = [
    "C_Initialize",
    "C_GetSlotList",
    "C_GetTokenInfo",
    "C_OpenSession",
    "C_Login",
    "C_GetMechanismList",
    "C_GetMechanismInfo",
    "C_GenerateKey",
    "C_CreateObject",
    "C_FindObjectsInit",
    "C_GetAttributeValue",
    "C_DestroyObject",
]


@pytest.mark.parametrize("function", STARTS)
async def test_a_code_met_at_a_start(
    token: TestToken, shim: Shim, figures: Callable[..., None], function: str
) -> None:
    """A code at a worker's start delays it, whatever it is; only at the login it may stop it."""
    observer = RecordingObserver()
    # The library opens the first session and logs in in one step.
    is_login = function in {"C_OpenSession", "C_Login"}
    codes = [code for code in _codes() if not (is_login and action_for(code) is Action.STOP)]
    async with running_pool(shim.wrap(token.with_settings(sessions=2)), observer) as pool:
        key = await create_key(pool)
        sealed = await pool.encrypt(key, PLAINTEXT, AAD, deadline=in_seconds())
        logins = shim.logins
        for code in codes[:: 1 if factor() > 1 else 3]:
            worker = next(iter(pool._workforce.workers))
            shim.once(function, code)
            worker.lose("the test replaces it")
            opened = await pool.decrypt(key, sealed, AAD, deadline=in_seconds())
            assert opened == PLAINTEXT
            await wait_until(lambda: pool.status().ready == 2, 20)
            assert not pool.status().stopped, name_of(code)
            shim.heal()
        figures(
            starts=len(observer.started), failed=len(observer.lost), logins=shim.logins - logins
        )
    assert {category for _, category in observer.operations} == {"ok"}
