"""Wrapped storage and more kinds of key through the session pool: real workers, real token."""

from __future__ import annotations

import asyncio

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from tests.support.hsm_load import AAD, create_key, in_seconds
from tests.support.pkcs11_shim import Shim
from tests.support.softhsm import RecordingObserver, TestToken, new_ref, running_pool, wait_until

from strongroom_server.domain.algorithms import Algorithm
from strongroom_server.domain.keys import (
    KeyMaterial,
    KeySpec,
    KeyUsage,
    WrappedMaterial,
)
from strongroom_server.errors import (
    ArgumentInvalidError,
    CiphertextInvalidError,
    HsmUnavailableError,
    KeySpecUnsupportedError,
    MacInvalidError,
    SignatureInvalidError,
)
from strongroom_server.hsm.pool import SessionPool

pytestmark = pytest.mark.hsm

ECDSA = Algorithm.ECDSA_SHA_256


async def _create(
    pool: SessionPool, spec: KeySpec, usage: KeyUsage, *, root: int | None = None
) -> KeyMaterial:
    return await pool.create_version(
        new_ref(), spec=spec, usage=usage, root=root, deadline=in_seconds(30)
    )


async def test_wrapped_keys_work_everywhere(token: TestToken) -> None:
    """Every operation takes a wrapped key, in any worker, and after a rewrap and a restart."""
    async with running_pool(token.with_settings(sessions=3)) as pool:
        for root in (1, 2):
            await pool.create_root(root, deadline=in_seconds())
        first, second = await create_key(pool, root=1), await create_key(pool, root=1)
        assert first.wrapped is not None
        assert (first.wrapped.root, len(first.wrapped.wrapped)) == (1, 40)
        sealed = await pool.encrypt(first, b"hello", AAD, deadline=in_seconds())
        moved = await pool.reencrypt(first, sealed, AAD, second, b"b", deadline=in_seconds())
        assert await pool.decrypt(second, moved, b"b", deadline=in_seconds()) == b"hello"
        plain, wrapped = await pool.generate_data_key(first, 32, AAD, deadline=in_seconds())
        results = await asyncio.gather(
            *(pool.decrypt(first, wrapped, AAD, deadline=in_seconds()) for _ in range(100))
        )
        assert set(results) == {plain}
        with pytest.raises(CiphertextInvalidError):
            await pool.decrypt(second, sealed, AAD, deadline=in_seconds())
        after = await pool.rewrap(first, 2, deadline=in_seconds())
        assert after.root == 2
        rewrapped = KeyMaterial(first.ref, wrapped=after)
    async with running_pool(token.settings) as pool:
        for material in (first, rewrapped):
            assert await pool.decrypt(material, sealed, AAD, deadline=in_seconds()) == b"hello"


async def test_a_key_is_unwrapped_by_one_worker(token: TestToken, shim: Shim) -> None:
    """Calls on one key go to the worker that has it unwrapped: about one unwrap for each key.

    A worker that is far behind lets others help out, so a busy machine shows a few more.
    """
    settings = shim.wrap(token.with_settings(sessions=3))
    async with running_pool(settings) as pool:
        await pool.create_root(1, deadline=in_seconds())
        keys = [await create_key(pool, root=1) for _ in range(12)]
        before = shim.calls("C_UnwrapKey")
        for _ in range(10):
            await asyncio.gather(
                *(pool.encrypt(key, b"x", AAD, deadline=in_seconds()) for key in keys)
            )
        assert 12 <= shim.calls("C_UnwrapKey") - before <= 24  # of 36, were there no preference


async def test_a_damaged_record_harms_nobody(token: TestToken) -> None:
    """Damaged material: an alarm of its own, UNAVAILABLE, no worker lost, the breaker closed."""
    observer = RecordingObserver()
    async with running_pool(token.settings, observer) as pool:
        await pool.create_root(1, deadline=in_seconds())
        key = await create_key(pool, root=1)
        assert key.wrapped is not None
        changed = bytes([key.wrapped.wrapped[0] ^ 1]) + key.wrapped.wrapped[1:]
        damaged = KeyMaterial(key.ref, wrapped=WrappedMaterial(1, changed))
        for _ in range(20):
            with pytest.raises(HsmUnavailableError, match="damaged"):
                await pool.encrypt(damaged, b"x", AAD, deadline=in_seconds())
        assert await pool.encrypt(key, b"x", AAD, deadline=in_seconds())
        with pytest.raises(HsmUnavailableError, match="damaged"):
            await pool.rewrap(damaged, 1, deadline=in_seconds())
    assert not observer.lost
    assert observer.breaker_states == []
    assert {category for category, _ in observer.alarms} == {"damaged"}


async def test_a_missing_root_harms_nobody(token: TestToken) -> None:
    """A root that the token does not show: UNAVAILABLE and an alarm, never "not found"."""
    observer = RecordingObserver()
    async with running_pool(token.settings, observer) as pool:
        await pool.create_root(1, deadline=in_seconds())
        key = await create_key(pool, root=1)
        assert key.wrapped is not None
        lost = KeyMaterial(key.ref, wrapped=WrappedMaterial(5, key.wrapped.wrapped))
        for _ in range(3):
            with pytest.raises(HsmUnavailableError, match="does not show"):
                await pool.decrypt(lost, bytes(40), AAD, deadline=in_seconds())
        with pytest.raises(HsmUnavailableError, match="does not show"):
            await create_key(pool, root=5)
    assert not observer.lost
    assert {category for category, _ in observer.alarms} == {"key_absent"}


async def test_roots_of_another_process_are_found(token: TestToken) -> None:
    """A root that another pool made is found when it is first needed."""
    async with running_pool(token.settings) as mine, running_pool(token.settings) as other:
        await asyncio.gather(*(other.create_root(1, deadline=in_seconds()) for _ in range(3)))
        key = await create_key(other, root=1)
        sealed = await other.encrypt(key, b"x", AAD, deadline=in_seconds())
        assert await mine.decrypt(key, sealed, AAD, deadline=in_seconds()) == b"x"


async def test_unwrapping_survives_a_killed_worker(token: TestToken, shim: Shim) -> None:
    """A worker that crashes in an unwrap is replaced, and the call answered by another."""
    observer = RecordingObserver()
    async with running_pool(shim.wrap(token.settings), observer) as pool:
        await pool.create_root(1, deadline=in_seconds())
        key = await create_key(pool, root=1)
        shim.once("C_UnwrapKey", "crash")
        assert await pool.encrypt(key, b"x", AAD, deadline=in_seconds())
        assert len(observer.lost) == 1
        await wait_until(lambda: pool.status().ready == 2, 10)


async def test_signatures(token: TestToken) -> None:
    """Sign and verify, message and digest; a bad signature is its own error."""
    async with running_pool(token.settings) as pool:
        key = await _create(pool, KeySpec.EC_P256, KeyUsage.SIGN_VERIFY)
        signature = await pool.sign(key, ECDSA, b"message", deadline=in_seconds())
        await pool.verify(key, ECDSA, b"message", signature, deadline=in_seconds())
        public = serialization.load_der_public_key(
            await pool.public_key(key, deadline=in_seconds())
        )
        assert isinstance(public, ec.EllipticCurvePublicKey)
        public.verify(signature, b"message", ec.ECDSA(hashes.SHA256()))
        for bad in (b"", b"x", bytes(513), signature[:-1]):
            with pytest.raises(SignatureInvalidError):
                await pool.verify(key, ECDSA, b"message", bad, deadline=in_seconds())
        with pytest.raises(SignatureInvalidError):
            await pool.verify(key, ECDSA, b"other", signature, deadline=in_seconds())
        with pytest.raises(ArgumentInvalidError, match="bytes"):
            await pool.sign(key, ECDSA, bytes(33), is_digest=True, deadline=in_seconds())
        with pytest.raises(ArgumentInvalidError, match="is no algorithm of EC_P256"):
            await pool.sign(key, Algorithm.ED25519, b"x", deadline=in_seconds())
        edwards = await _create(pool, KeySpec.ED25519, KeyUsage.SIGN_VERIFY)
        with pytest.raises(ArgumentInvalidError, match="not digests"):
            await pool.sign(
                edwards, Algorithm.ED25519, bytes(32), is_digest=True, deadline=in_seconds()
            )


async def test_macs_in_both_storages(token: TestToken) -> None:
    """A MAC verifies with its key alone; a bad one is its own error."""
    sha256 = Algorithm.HMAC_SHA_256
    async with running_pool(token.settings) as pool:
        await pool.create_root(1, deadline=in_seconds())
        for root in (None, 1):
            key = await _create(pool, KeySpec.HMAC_256, KeyUsage.GENERATE_VERIFY_MAC, root=root)
            mac = await pool.generate_mac(key, sha256, b"message", deadline=in_seconds())
            await pool.verify_mac(key, sha256, b"message", mac, deadline=in_seconds())
            for bad in (b"", bytes(32), mac[:-1], bytes(65)):
                with pytest.raises(MacInvalidError):
                    await pool.verify_mac(key, sha256, b"message", bad, deadline=in_seconds())


async def test_agreement_and_rsa(token: TestToken) -> None:
    """Two keys agree on one secret; RSA decrypts what was encrypted for it, and nothing else."""
    oaep = Algorithm.RSAES_OAEP_SHA_1
    async with running_pool(token.settings) as pool:
        keys = [await _create(pool, KeySpec.EC_P384, KeyUsage.KEY_AGREEMENT) for _ in range(2)]
        publics = [await pool.public_key(key, deadline=in_seconds()) for key in keys]
        secrets = [
            await pool.derive_shared_secret(key, public, deadline=in_seconds())
            for key, public in zip(keys, reversed(publics), strict=True)
        ]
        assert secrets[0] == secrets[1]
        with pytest.raises(ArgumentInvalidError, match="public_key"):
            await pool.derive_shared_secret(keys[0], b"x", deadline=in_seconds())
        key = await _create(pool, KeySpec.RSA_2048, KeyUsage.ENCRYPT_DECRYPT)
        sealed = await pool.rsa_encrypt(key, oaep, b"hello", deadline=in_seconds())
        assert await pool.rsa_decrypt(key, oaep, sealed, deadline=in_seconds()) == b"hello"
        for bad in (b"", sealed[:-1], bytes(256), bytes(513)):
            with pytest.raises(CiphertextInvalidError):
                await pool.rsa_decrypt(key, oaep, bad, deadline=in_seconds())
        with pytest.raises(KeySpecUnsupportedError, match="RSAES_OAEP_SHA_256"):
            await pool.rsa_encrypt(key, Algorithm.RSAES_OAEP_SHA_256, b"x", deadline=in_seconds())


@pytest.mark.parametrize(
    ("spec", "usage", "root"),
    [
        (KeySpec.ED25519, KeyUsage.KEY_AGREEMENT, None),
        (KeySpec.AES_256, KeyUsage.SIGN_VERIFY, None),
        (KeySpec.EC_P256, KeyUsage.SIGN_VERIFY, 1),
        (KeySpec.HMAC_224, KeyUsage.GENERATE_VERIFY_MAC, 1),
    ],
)
async def test_kinds_that_do_not_exist(
    token: TestToken, spec: KeySpec, usage: KeyUsage, root: int | None
) -> None:
    """A kind that there is not, or not in this storage, is a clear refusal and costs nothing."""
    async with running_pool(token.with_settings(sessions=1)) as pool:
        with pytest.raises(KeySpecUnsupportedError, match=f"{spec} keys for {usage}"):
            await _create(pool, spec, usage, root=root)


async def test_a_slow_generation_holds_nobody_up(token: TestToken, shim: Shim) -> None:
    """While one worker makes an RSA key the others serve, and it is not taken for a hung one."""
    observer = RecordingObserver()
    async with running_pool(shim.wrap(token.settings), observer) as pool:
        key = await create_key(pool)
        shim.once("C_GenerateKeyPair", "delay 3500")
        making = asyncio.create_task(_create(pool, KeySpec.RSA_2048, KeyUsage.SIGN_VERIFY))
        await wait_until(lambda: not shim.is_pending("C_GenerateKeyPair"), 5)
        while not making.done():
            await asyncio.wait_for(pool.encrypt(key, b"x", AAD, deadline=in_seconds()), 1.0)
            await asyncio.sleep(0.02)
        made = await making
        assert await pool.public_key(made, deadline=in_seconds())
    assert not observer.lost
    assert observer.breaker_states == []
