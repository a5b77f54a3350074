"""The session pool on a real token: operations, creation, deadlines, limits."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from tests.support.hsm_keys import new_material
from tests.support.hsm_load import AAD, create_key, in_seconds
from tests.support.pkcs11_shim import Shim
from tests.support.softhsm import (
    RecordingObserver,
    TestToken,
    make_token,
    running_pool,
)

from strongroom_server.domain.keys import KeyMaterial
from strongroom_server.errors import (
    CiphertextInvalidError,
    HsmUnavailableError,
    OverloadedError,
)
from strongroom_server.hsm.pool import SessionPool
from strongroom_server.hsm.wire import WireError
from strongroom_server.services.caller import PRINCIPAL

pytestmark = pytest.mark.hsm


async def _create(
    pool: SessionPool, material: KeyMaterial, *, deadline: float | None = None
) -> None:
    made = await pool.create_version(
        material.ref,
        spec=material.spec,
        usage=material.usage,
        root=None,
        deadline=deadline or in_seconds(),
    )
    assert made == material


async def test_every_operation(token: TestToken) -> None:
    """Each operation of the port does what it says, and the observer hears of it."""
    observer = RecordingObserver()
    async with running_pool(token.settings, observer) as pool:
        first, second = await create_key(pool), await create_key(pool)

        sealed = await pool.encrypt(first, b"hello", AAD, deadline=in_seconds())
        assert await pool.decrypt(first, sealed, AAD, deadline=in_seconds()) == b"hello"

        moved = await pool.reencrypt(first, sealed, AAD, second, b"b", deadline=in_seconds())
        assert await pool.decrypt(second, moved, b"b", deadline=in_seconds()) == b"hello"

        plain, wrapped = await pool.generate_data_key(first, 32, AAD, deadline=in_seconds())
        assert len(plain) == 32
        assert await pool.decrypt(first, wrapped, AAD, deadline=in_seconds()) == plain

        only = await pool.generate_sealed_data_key(first, 64, AAD, deadline=in_seconds())
        assert len(await pool.decrypt(first, only, AAD, deadline=in_seconds())) == 64

        made = {await pool.generate_random(1024, deadline=in_seconds()) for _ in range(3)}
        assert {len(each) for each in made} == {1024}
        assert len(made) == 3
    assert {category for _, category in observer.operations} == {"ok"}
    assert {mechanism for mechanism, _ in observer.operations} >= {
        "encrypt",
        "decrypt",
        "reencrypt",
        "data_key",
        "sealed_data_key",
        "random",
        "create",
        "load",
    }
    assert len(observer.started) == 2
    assert not observer.lost


async def test_limits_are_refused_before_the_hsm(token: TestToken) -> None:
    """Sizes beyond the port's limits are a programming error, bad ciphertext sizes are not."""
    async with running_pool(token.with_settings(sessions=1)) as pool:
        ref = await create_key(pool)
        for plaintext in (b"", bytes(4097)):
            with pytest.raises(WireError):
                await pool.encrypt(ref, plaintext, AAD, deadline=in_seconds())
        for aad in (b"", bytes(8215)):
            with pytest.raises(WireError):
                await pool.encrypt(ref, b"x", aad, deadline=in_seconds())
        for size in (0, 1025):
            with pytest.raises(WireError):
                await pool.generate_random(size, deadline=in_seconds())
        for sealed in (b"", bytes(28), bytes(4125)):
            with pytest.raises(CiphertextInvalidError):
                await pool.decrypt(ref, sealed, AAD, deadline=in_seconds())
        assert await pool.encrypt(ref, bytes(4096), bytes(8214), deadline=in_seconds())


async def test_tampering_is_answered_and_nothing_is_replaced(token: TestToken) -> None:
    """Half the load forged: every forgery gets the one error, every other call its bytes (H5)."""
    observer = RecordingObserver()
    async with running_pool(token.settings, observer) as pool:
        ref = await create_key(pool)
        sealed = await pool.encrypt(ref, b"attack at dawn", AAD, deadline=in_seconds())

        async def good() -> None:
            assert await pool.decrypt(ref, sealed, AAD, deadline=in_seconds()) == b"attack at dawn"

        async def forged(bit: int) -> None:
            changed = bytearray(sealed)
            changed[bit // 8] ^= 1 << bit % 8
            with pytest.raises(CiphertextInvalidError):
                await pool.decrypt(ref, bytes(changed), AAD, deadline=in_seconds())

        async def another_context() -> None:
            with pytest.raises(CiphertextInvalidError):
                await pool.decrypt(ref, sealed, b"other", deadline=in_seconds())

        await asyncio.gather(
            *(
                call
                for bit in range(8 * len(sealed))
                for call in (good(), forged(bit), another_context())
            )
        )
        assert not observer.lost
        assert len(observer.started) == 2
        assert pool.status().ready == 2


async def test_create_twice_keeps_the_material(token: TestToken) -> None:
    """A repeated creation, also at the same time, makes no second key."""
    async with running_pool(token.settings) as pool:
        ref = new_material()
        await asyncio.gather(*(_create(pool, ref) for _ in range(3)))
        sealed = await pool.encrypt(ref, b"x", AAD, deadline=in_seconds())
        await _create(pool, ref)
        results = await asyncio.gather(
            *(pool.decrypt(ref, sealed, AAD, deadline=in_seconds()) for _ in range(20))
        )
        assert results == [b"x"] * 20


async def test_new_key_is_loaded_everywhere(token: TestToken, shim: Shim) -> None:
    """After creation every worker has the handle: none searches on the way of a request."""
    async with running_pool(shim.wrap(token.with_settings(sessions=3))) as pool:
        ref = await create_key(pool)
        shim.always("C_FindObjectsInit", 0x5)
        for _ in range(5):
            results = await asyncio.gather(
                *(pool.encrypt(ref, b"x", AAD, deadline=in_seconds()) for _ in range(30))
            )
            assert len(set(results)) == 30
        assert pool.status().ready == 3


async def test_key_of_another_process_is_found(token: TestToken) -> None:
    """A key that another pool made on the same token is found when it is asked for."""
    async with running_pool(token.settings) as mine, running_pool(token.settings) as other:
        ref = await create_key(other)
        sealed = await other.encrypt(ref, b"x", AAD, deadline=in_seconds())
        results = await asyncio.gather(
            *(mine.decrypt(ref, sealed, AAD, deadline=in_seconds()) for _ in range(8))
        )
        assert results == [b"x"] * 8


async def test_keys_survive_a_restart(token: TestToken) -> None:
    """A new pool on the same token decrypts what an earlier one encrypted."""
    ref = new_material()
    async with running_pool(token.settings) as pool:
        await _create(pool, ref)
        sealed = await pool.encrypt(ref, b"x", AAD, deadline=in_seconds())
    async with running_pool(token.settings) as pool:
        assert await pool.decrypt(ref, sealed, AAD, deadline=in_seconds()) == b"x"


async def test_absent_key_is_unavailable_and_harms_nobody(token: TestToken) -> None:
    """A version that the token does not show is a fault of the shard; the workers stay."""
    observer = RecordingObserver()
    async with running_pool(token.settings, observer) as pool:
        ref = await create_key(pool)
        for _ in range(3):
            with pytest.raises(HsmUnavailableError, match="should hold"):
                await pool.encrypt(new_material(), b"x", AAD, deadline=in_seconds())
        assert await pool.encrypt(ref, b"x", AAD, deadline=in_seconds())
    assert not observer.lost
    assert [category for category, _ in observer.alarms] == ["key_absent"] * 3


async def test_passed_deadline_costs_the_hsm_nothing(token: TestToken) -> None:
    """An operation whose deadline has passed is refused without reaching a worker."""
    observer = RecordingObserver()
    async with running_pool(token.with_settings(sessions=1), observer) as pool:
        ref = await create_key(pool)
        observer.operations.clear()
        for deadline in (in_seconds(0), in_seconds(-10)):
            with pytest.raises(HsmUnavailableError, match="deadline"):
                await pool.encrypt(ref, b"x", AAD, deadline=deadline)
            with pytest.raises(HsmUnavailableError):
                await _create(pool, new_material(), deadline=deadline)
        assert not [each for each in observer.operations if each[0] != "ping"]


async def test_cancelled_callers_are_forgotten(token: TestToken) -> None:
    """Callers that go away leave nothing behind and disturb nobody."""
    async with running_pool(token.with_settings(sessions=1)) as pool:
        ref = await create_key(pool)
        calls = [
            asyncio.create_task(pool.encrypt(ref, b"x", AAD, deadline=in_seconds()))
            for _ in range(200)
        ]
        await asyncio.sleep(0)
        for call in calls[::2]:
            call.cancel()
        results = await asyncio.gather(*calls, return_exceptions=True)
        assert [isinstance(result, bytes) for result in results] == [False, True] * 100
        assert await pool.encrypt(ref, b"x", AAD, deadline=in_seconds())
        assert pool._dispatcher.is_idle


async def test_queue_is_bounded(token: TestToken) -> None:
    """More than a caller's share of the places is refused at once, and another finds room."""
    async with running_pool(token.with_settings(sessions=1, max_queued=50)) as pool:
        ref = await create_key(pool)
        calls = [_encrypt_for("flood", pool, ref) for _ in range(120)]
        calls.append(_encrypt_for("light", pool, ref))
        results = await asyncio.gather(*calls, return_exceptions=True)
        refused = [isinstance(result, OverloadedError) for result in results]
        assert refused == [False] * 38 + [True] * 82 + [False]
        assert await pool.encrypt(ref, b"x", AAD, deadline=in_seconds())


async def test_callers_take_turns(token: TestToken) -> None:
    """A caller with one operation is served before nearly all that another has queued."""
    async with running_pool(token.with_settings(sessions=1)) as pool:
        ref = await create_key(pool)
        ended: list[str] = []

        async def call(who: str) -> None:
            await _encrypt_for(who, pool, ref)
            ended.append(who)

        flood = [asyncio.create_task(call("flood")) for _ in range(400)]
        await asyncio.sleep(0)
        await asyncio.gather(call("light"), *flood)
        # Before it: two batches that were sent already, and one turn of the other.
        assert ended.index("light") <= 3 * 64
        assert len(ended) == 401


async def _encrypt_for(who: str, pool: SessionPool, ref: KeyMaterial) -> bytes:
    async def encrypt() -> bytes:
        PRINCIPAL.set(who)
        return await pool.encrypt(ref, b"x", AAD, deadline=in_seconds())

    return await asyncio.create_task(encrypt())  # a task has a context of its own


async def test_creations_beside_load(token: TestToken) -> None:
    """Keys made under load disturb nobody, and each is usable when its creation returns (H1)."""
    observer = RecordingObserver()
    async with running_pool(token.settings, observer) as pool:
        first = await create_key(pool)
        done = asyncio.Event()

        async def client() -> None:
            while not done.is_set():
                sealed = await pool.encrypt(first, b"x", AAD, deadline=in_seconds())
                assert await pool.decrypt(first, sealed, AAD, deadline=in_seconds()) == b"x"

        async def creator() -> None:
            for _ in range(8):
                ref = await create_key(pool)
                sealed = await pool.encrypt(ref, b"y", AAD, deadline=in_seconds())
                assert await pool.decrypt(ref, sealed, AAD, deadline=in_seconds()) == b"y"

        clients = [asyncio.create_task(client()) for _ in range(8)]
        await asyncio.gather(*(creator() for _ in range(3)))
        done.set()
        await asyncio.gather(*clients)
    assert {category for _, category in observer.operations} == {"ok"}
    assert not observer.lost


async def test_two_pools_side_by_side(token: TestToken, tmp_path: Path) -> None:
    """Two shards with tokens of their own do not see each other's keys."""
    other = make_token(tmp_path / "other")
    async with running_pool(token.settings) as here, running_pool(other.settings) as there:
        ref = await create_key(here)
        await _create(there, ref)
        sealed = await here.encrypt(ref, b"x", AAD, deadline=in_seconds())
        with pytest.raises(CiphertextInvalidError):
            await there.decrypt(ref, sealed, AAD, deadline=in_seconds())
