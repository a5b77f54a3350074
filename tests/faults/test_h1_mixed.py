"""H1: everything at once, on an HSM that is well."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable

import pytest
from tests.support.hsm_load import ROOT, create_key, in_seconds, p99
from tests.support.soak import factor
from tests.support.softhsm import RecordingObserver, TestToken, running_pool

from strongroom_server.domain.keys import KeyMaterial
from strongroom_server.hsm.pool import SessionPool

pytestmark = [pytest.mark.hsm, pytest.mark.timeout(300)]

CALLERS = 16
MAX_RESIDENT_KEYS = 48  # generation slows with the number of objects: this is not its test
Sealed = tuple[KeyMaterial, bytes, bytes, bytes]


class _Callers:
    """Callers that encrypt, decrypt, generate and create, and remember every answer."""

    def __init__(self, pool: SessionPool, keys: list[KeyMaterial]):
        self.pool = pool
        self.keys = keys
        self.sealed: list[Sealed] = []
        self.seconds: dict[str, list[float]] = {}
        self.resident_keys = len(keys)
        self.is_done = False

    async def call(self, number: int) -> None:
        turn = number
        while not self.is_done:
            turn += 1
            began = time.monotonic()
            name = await self._turn(turn)
            self.seconds.setdefault(name, []).append(time.monotonic() - began)

    async def _turn(self, turn: int) -> str:
        pool, key, deadline = self.pool, secrets.choice(self.keys), in_seconds(10)
        if turn % 40 == 0:
            is_resident = turn % 80 == 0 and self.resident_keys < MAX_RESIDENT_KEYS
            self.resident_keys += is_resident
            self.keys.append(await create_key(pool, root=None if is_resident else ROOT))
            return "create"
        if turn % 4 == 0 or not self.sealed:
            plaintext, aad = secrets.token_bytes(turn % 1000 + 1), b"\x01" + secrets.token_bytes(8)
            sealed = await pool.encrypt(key, plaintext, aad, deadline=deadline)
            self.sealed.append((key, plaintext, sealed, aad))
            return "encrypt"
        if turn % 4 == 1:
            data_key, sealed = await pool.generate_data_key(key, 32, b"\x01", deadline=deadline)
            self.sealed.append((key, data_key, sealed, b"\x01"))
            return "data_key"
        if turn % 16 == 2:
            assert len(await pool.generate_random(64, deadline=deadline)) == 64
            return "random"
        await self.check(*secrets.choice(self.sealed))
        return "decrypt"

    async def check(self, key: KeyMaterial, plaintext: bytes, sealed: bytes, aad: bytes) -> None:
        assert await self.pool.decrypt(key, sealed, aad, deadline=in_seconds(10)) == plaintext


async def test_mixed_operations(token: TestToken, figures: Callable[..., None]) -> None:
    """Sixteen callers at once: no error, no crash, no wrong byte, and all of it opens later."""
    observer = RecordingObserver()
    settings = token.with_settings(unwrapped_keys=16)  # fewer than there are: they come and go
    async with running_pool(settings, observer) as pool:
        await pool.create_root(ROOT, deadline=in_seconds())
        keys = [await create_key(pool, root=root) for root in (None, ROOT) * 4]
        callers = _Callers(pool, keys)
        tasks = [asyncio.create_task(callers.call(number)) for number in range(CALLERS)]
        began = time.monotonic()
        await asyncio.wait(tasks, timeout=3.0 * factor(), return_when=asyncio.FIRST_EXCEPTION)
        callers.is_done = True
        await asyncio.gather(*tasks)
        took = time.monotonic() - began
    assert observer.lost == []
    assert {category for _, category in observer.operations} == {"ok"}
    assert observer.breaker_states == []
    # Every answer opens in processes that have never seen it.
    async with running_pool(settings) as pool:
        later = _Callers(pool, callers.keys)
        for sealed in callers.sealed[:: max(1, len(callers.sealed) // 2000)]:
            await later.check(*sealed)
    operations = sum(map(len, callers.seconds.values()))
    figures(
        operations=operations,
        operations_per_second=operations / took,
        keys=len(callers.keys),
        errors=0,
        p99_milliseconds={
            name: round(1e3 * p99(each), 2) for name, each in sorted(callers.seconds.items())
        },
    )
