"""H5: half of the load is garbage."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from collections.abc import AsyncIterator, Callable, Iterator

import pytest
from tests.support.deployment import Deployment
from tests.support.hsm_load import (
    AAD,
    ROOT,
    PoolLoad,
    create_key,
    in_seconds,
    p99,
    running_pool_load,
)
from tests.support.load import running_load
from tests.support.pkcs11_shim import Shim
from tests.support.soak import factor
from tests.support.softhsm import RecordingObserver, TestToken, running_pool
from tests.support.wire import send_async

from strongroom.kms.v1 import key_service_pb2 as rpc
from strongroom.receipts import Receipt
from strongroom_client import StrongroomError
from strongroom_server.domain.keys import KeyMaterial
from strongroom_server.errors import CiphertextInvalidError
from strongroom_server.hsm.pool import SessionPool

pytestmark = [pytest.mark.hsm, pytest.mark.timeout(600)]

CALLERS, PAUSE = 8, 0.04
TEXT = b"to be tampered with"
EU = "eu-1"
CONTEXT = {"load": "yes"}


def _forgeries(sealed: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield ciphertexts and contexts that were never made, of every kind, without end."""
    while True:
        flipped = bytearray(sealed)
        flipped[secrets.randbelow(len(sealed))] ^= 1 << secrets.randbelow(8)
        yield bytes(flipped), AAD
        yield secrets.token_bytes(len(sealed)), AAD
        yield sealed[: 29 + secrets.randbelow(len(sealed) - 29)], AAD
        yield sealed + bytes(1 + secrets.randbelow(64)), AAD
        yield sealed, AAD + b"another"
        yield sealed[: secrets.randbelow(29)], AAD


class _Forgers:
    """Callers that send what was never made, and remember what they are told."""

    def __init__(self, pool: SessionPool, key: KeyMaterial, sealed: bytes):
        self.pool = pool
        self.key = key
        self.forgeries = _forgeries(sealed)
        self.told: set[tuple[type[Exception], str]] = set()
        self.sent = 0
        self.accepted = 0
        self.is_done = False

    async def call(self) -> None:
        while not self.is_done:
            for _ in range(4):  # as many as the others' turn has
                sealed, aad = next(self.forgeries)
                try:
                    await self.pool.decrypt(self.key, sealed, aad, deadline=in_seconds())
                    self.accepted += 1
                except Exception as exc:  # noqa: BLE001 - whatever it is, is judged below
                    self.told.add((type(exc), str(exc)))
                self.sent += 1
            await asyncio.sleep(PAUSE)


@contextlib.asynccontextmanager
async def _forging(forgers: _Forgers) -> AsyncIterator[None]:
    tasks = [asyncio.create_task(forgers.call()) for _ in range(CALLERS)]
    try:
        yield
    finally:
        forgers.is_done = True
        await asyncio.gather(*tasks)


async def _measured(load: PoolLoad) -> list[float]:
    start = time.monotonic()
    await asyncio.sleep(1.5 * factor())
    return load.between(start, time.monotonic())


@pytest.mark.parametrize("root", [None, ROOT], ids=["resident", "wrapped"])
async def test_tampering_is_nobody_elses_trouble(
    token: TestToken, shim: Shim, figures: Callable[..., None], root: int | None
) -> None:
    """Every forgery gets the one answer; no session, no worker and no breaker moves."""
    observer = RecordingObserver()
    async with running_pool(shim.wrap(token.settings), observer) as pool:
        await pool.create_root(ROOT, deadline=in_seconds())
        key = await create_key(pool, root=root)
        sealed = await pool.encrypt(key, TEXT, AAD, deadline=in_seconds())
        forgers = _Forgers(pool, key, sealed)
        before = {name: shim.calls(name) for name in ("C_OpenSession", "C_Login")}
        async with running_pool_load(pool, key, callers=CALLERS, pause=PAUSE) as load:
            async with running_pool_load(pool, key, callers=CALLERS, pause=PAUSE):
                among_good = await _measured(load)
            async with _forging(forgers):
                among_forgeries = await _measured(load)
        assert not load.refusals
        assert forgers.accepted == 0
        assert forgers.told == {(CiphertextInvalidError, str(CiphertextInvalidError()))}
        assert observer.lost == []
        assert observer.alarms == []
        assert observer.breaker_states == []
        assert {name: shim.calls(name) for name in before} == before
    figures(
        forgeries=forgers.sent,
        session_resets=0,
        workers_lost=0,
        good_p99_milliseconds_among_good=1e3 * p99(among_good),
        good_p99_milliseconds_among_forgeries=1e3 * p99(among_forgeries),
        ratio=p99(among_forgeries) / p99(among_good),
    )


async def test_nothing_but_forgeries(token: TestToken, figures: Callable[..., None]) -> None:
    """Without a single good call between them, forgeries do not open the breaker either."""
    observer = RecordingObserver()
    async with running_pool(token.settings, observer) as pool:
        key = await create_key(pool)
        sealed = await pool.encrypt(key, TEXT, AAD, deadline=in_seconds())
        forgers = _Forgers(pool, key, sealed)
        async with _forging(forgers):
            await asyncio.sleep(1.0 * factor())
        assert await pool.decrypt(key, sealed, AAD, deadline=in_seconds()) == TEXT
        assert observer.lost == []
        assert observer.breaker_states == []
    figures(forgeries=forgers.sent, accepted=forgers.accepted)
    assert forgers.told == {(CiphertextInvalidError, str(CiphertextInvalidError()))}


@pytest.mark.integration
async def test_tampering_with_a_server(
    deployment: Deployment, figures: Callable[..., None]
) -> None:
    """Over the wire: one reason, one text, one worker generation, and the log has them all."""
    with deployment.client() as client:
        key = client.create_key(EU).name
    workers = deployment.worker_pids(EU)
    told: set[tuple[str, str]] = set()
    receipts: list[Receipt] = []
    async with (
        running_load(deployment, EU, key, callers=CALLERS, pause=PAUSE) as load,
        deployment.aio_channel(EU) as channel,
    ):
        encrypt = rpc.EncryptRequest(key=key, plaintext=b"x", encryption_context=CONTEXT)
        blob = (await send_async(channel, "Encrypt", encrypt))[0].ciphertext
        end = time.monotonic() + 1.5 * factor()

        async def forge() -> int:
            sent = 0
            while time.monotonic() < end:
                forged = bytearray(blob)
                at = -1 - secrets.randbelow(28)  # behind the header
                forged[at] ^= 1 << secrets.randbelow(8)
                request = rpc.DecryptRequest(
                    key=key, ciphertext=bytes(forged), encryption_context=CONTEXT
                )
                with pytest.raises(StrongroomError) as refused:
                    await send_async(channel, "Decrypt", request)
                told.add((refused.value.reason, str(refused.value)))
                receipts.extend(refused.value.receipts)
                sent += 1
            return sent

        forgeries = sum(await asyncio.gather(*(forge() for _ in range(CALLERS // 2))))
    assert {reason for reason, _ in told} == {"CIPHERTEXT_INVALID"}
    assert len(told) == 1
    assert load.refusals == {}
    assert load.wrong == []
    assert deployment.worker_pids(EU) == workers
    server = f"server-{EU}"
    assert deployment.metric(server, f'strongroom_hsm_breaker_state{{region="{EU}"}}') == 0
    lost = f'strongroom_hsm_workers_replaced_total{{region="{EU}"}}'
    assert deployment.metric(server, lost) == 0
    figures(forgeries=forgeries, good_answers=load.answered)
    deployment.wait_drained()
    deployment.verify([*load.receipts, *receipts])
