"""Material of callers: unwrapped inside the HSM, compared with what was there first."""

from __future__ import annotations

import hashlib
import hmac
import os
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from tests.support.hsm_keys import AES, MAC, new_material
from tests.support.hsm_load import AAD, create_key, in_seconds
from tests.support.hsm_modules import ModuleMissingError, make_module_token
from tests.support.softhsm import RecordingObserver, TestToken, running_pool
from tests.support.wrap_material import wrap_material

from strongroom_server.domain.algorithms import Algorithm
from strongroom_server.domain.imports import WrappingAlgorithm
from strongroom_server.domain.keys import KeyMaterial, KeyOrigin, KeySpec, KeyUsage
from strongroom_server.errors import (
    CiphertextInvalidError,
    HsmUnavailableError,
    InternalError,
    KeySpecUnsupportedError,
)
from strongroom_server.hsm.pool import SessionPool, SessionPoolSettings
from strongroom_server.import_ports import ImportedMaterial, WrappingKey

pytestmark = pytest.mark.hsm

SHA_1 = [WrappingAlgorithm.RSAES_OAEP_SHA_1, WrappingAlgorithm.RSA_AES_KW_SHA_1]
STORAGES = pytest.mark.parametrize("root", [1, None], ids=["wrapped", "resident"])
KNOWN = bytes(range(32))


class Importer:
    """A pool, and a wrapping key in it."""

    def __init__(self, pool: SessionPool, name: uuid.UUID, key: WrappingKey) -> None:
        self.pool = pool
        self.name = name
        self.key = key

    async def send(
        self,
        version: KeyMaterial,
        encrypted: bytes,
        *,
        root: int | None,
        check: bytes = b"",
        keep: bool = True,
    ) -> ImportedMaterial | None:
        """Import what was wrapped already."""
        return await self.pool.import_external(
            version,
            encrypted,
            transfer_id=self.name,
            algorithm=self.key.algorithm,
            root=root,
            check=check,
            keep=keep,
            deadline=in_seconds(),
        )

    def wrap(self, value: bytes) -> bytes:
        """Wrap material."""
        return wrap_material(self.key.public_key, self.key.algorithm, value)


@asynccontextmanager
async def _importer(
    settings: SessionPoolSettings,
    algorithm: WrappingAlgorithm | None = None,
    observer: RecordingObserver | None = None,
) -> AsyncIterator[Importer]:
    async with running_pool(settings, observer) as pool:
        await pool.create_root(1, deadline=in_seconds())
        name = uuid.uuid4()
        key = await pool.create_wrapping_key(name, algorithm, deadline=in_seconds(30))
        yield Importer(pool, name, key)


def _in_use(version: KeyMaterial, made: ImportedMaterial | None) -> KeyMaterial:
    assert made is not None
    return KeyMaterial(
        version.ref, version.spec, version.usage, made.wrapped, origin=KeyOrigin.EXTERNAL
    )


async def _prove(pool: SessionPool, key: KeyMaterial, value: bytes) -> None:
    """What the HSM encrypts, whoever has the material decrypts, and the other way round."""
    sealed = await pool.encrypt(key, b"hello", AAD, deadline=in_seconds())
    assert AESGCM(value).decrypt(sealed[:12], sealed[12:], AAD) == b"hello"
    theirs = bytes(12) + AESGCM(value).encrypt(bytes(12), b"theirs", AAD)
    assert await pool.decrypt(key, theirs, AAD, deadline=in_seconds()) == b"theirs"


@STORAGES
@pytest.mark.parametrize("algorithm", SHA_1)
async def test_known_material_is_what_the_hsm_uses(
    token: TestToken, algorithm: WrappingAlgorithm, root: int | None
) -> None:
    """A caller's 32 bytes become the key, in each form and either storage, in every worker."""
    async with _importer(token.with_settings(sessions=2), algorithm) as importer:
        version = new_material()
        made = await importer.send(version, importer.wrap(KNOWN), root=root)
        key = _in_use(version, made)
        for _ in range(4):
            await _prove(importer.pool, key, KNOWN)


@pytest.mark.parametrize("name", ["nss", "kryoptic"])
@STORAGES
async def test_other_modules(tmp_path: Path, name: str, root: int | None) -> None:
    """Modules of others take material in, with the best algorithm that they have."""
    try:
        made = make_module_token(name, tmp_path)
    except ModuleMissingError as exc:
        pytest.skip(str(exc))
    settings = SessionPoolSettings(
        module=made.module,
        token_label=made.label,
        pin_file=made.pin_file,
        module_environment=made.environment,
        module_parameters=made.parameters,
        sessions=1,
    )
    async with _importer(settings) as importer:
        assert importer.key.algorithm is WrappingAlgorithm.RSA_AES_KW_SHA_256
        version = new_material()
        first = await importer.send(version, importer.wrap(KNOWN), root=root)
        await _prove(importer.pool, _in_use(version, first), KNOWN)
        assert first is not None
        assert (
            await importer.send(
                version, importer.wrap(os.urandom(32)), root=root, check=first.check
            )
            is None
        )
        good = importer.wrap(KNOWN)
        for bad in (good[:-1] + bytes([good[-1] ^ 1]), b"\0" + good[1:], bytes(len(good))):
            with pytest.raises(CiphertextInvalidError):
                await importer.send(version, bad, root=root)


async def test_mac_keys(token: TestToken) -> None:
    """MAC keys come in as well, and make the MACs that their makers expect."""
    async with _importer(token.with_settings(sessions=1)) as importer:
        for bits, root in ((256, None), (384, 1), (512, 1), (512, None)):
            value = os.urandom(bits // 8)
            version = new_material((KeySpec[f"HMAC_{bits}"], KeyUsage.GENERATE_VERIFY_MAC))
            made = await importer.send(version, importer.wrap(value), root=root)
            mac = await importer.pool.generate_mac(
                _in_use(version, made),
                Algorithm[f"HMAC_SHA_{bits}"],
                b"hello",
                deadline=in_seconds(),
            )
            assert mac == hmac.digest(value, b"hello", f"sha{bits}")


@STORAGES
async def test_only_the_first_material_comes_again(token: TestToken, root: int | None) -> None:
    """Once destroyed, a version takes the same material again and no other."""
    async with _importer(token.with_settings(sessions=2)) as importer:
        pool, version = importer.pool, new_material()
        first = await importer.send(version, importer.wrap(KNOWN), root=root)
        assert first is not None
        key = _in_use(version, first)
        sealed = await pool.encrypt(key, b"x", AAD, deadline=in_seconds())
        await pool.destroy_version(key, deadline=in_seconds())
        other = await importer.send(version, importer.wrap(bytes(32)), root=root, check=first.check)
        assert other is None
        if root is None:
            with pytest.raises(HsmUnavailableError, match="does not show"):
                await pool.encrypt(key, b"x", AAD, deadline=in_seconds())
        again = await importer.send(version, importer.wrap(KNOWN), root=root, check=first.check)
        assert again is not None
        assert again.check == first.check
        for _ in range(4):
            opened = await pool.decrypt(_in_use(version, again), sealed, AAD, deadline=in_seconds())
            assert opened == b"x"


@STORAGES
async def test_a_comparison_keeps_nothing(token: TestToken, root: int | None) -> None:
    """Material that is only compared becomes no key."""
    async with _importer(token.with_settings(sessions=1)) as importer:
        version = new_material()
        first = await importer.send(version, importer.wrap(KNOWN), root=root, keep=False)
        assert first is not None
        assert first.wrapped is None
        with pytest.raises(HsmUnavailableError):
            await importer.pool.encrypt(_in_use(version, first), b"x", AAD, deadline=in_seconds())


@pytest.mark.parametrize("algorithm", SHA_1)
@STORAGES
async def test_what_does_not_unwrap_gets_one_answer(
    token: TestToken, algorithm: WrappingAlgorithm, root: int | None
) -> None:
    """Altered bytes, other lengths and other keys are CIPHERTEXT_INVALID, and the HSM serves on."""
    observer = RecordingObserver()
    async with _importer(token.with_settings(sessions=1), algorithm, observer) as importer:
        version = new_material()
        good = importer.wrap(KNOWN)
        bad = [
            good[:-1],
            good + b"\0",
            b"\0" + good[1:],
            good[:-1] + bytes([good[-1] ^ 1]),
            bytes(len(good)),
            b"\xff" * len(good),
            os.urandom(len(good)),
            importer.wrap(KNOWN)[:384] + good[384:] if len(good) > 384 else good[:383],
        ]
        if not algorithm.has_key_wrap:
            bad += [importer.wrap(os.urandom(n)) for n in (0, 1, 8, 16, 24, 31, 33, 40, 64)]
        for each in bad:
            if each == good:
                continue
            with pytest.raises(CiphertextInvalidError):
                await importer.send(version, each, root=root)
        key = _in_use(version, await importer.send(version, good, root=root))
        await _prove(importer.pool, key, KNOWN)
    assert observer.lost == []
    assert observer.alarms == []


async def test_material_for_another_wrapping_key_is_refused(token: TestToken) -> None:
    """What was wrapped under one key does not come in by another, nor after its destruction."""
    async with _importer(token.with_settings(sessions=1)) as importer:
        pool, version = importer.pool, new_material()
        second = uuid.uuid4()
        other = Importer(
            pool, second, await pool.create_wrapping_key(second, None, deadline=in_seconds(30))
        )
        with pytest.raises(CiphertextInvalidError):
            await importer.send(version, other.wrap(KNOWN), root=1)
        await pool.destroy_wrapping_key(second, deadline=in_seconds())
        await pool.destroy_wrapping_key(second, deadline=in_seconds())
        with pytest.raises(HsmUnavailableError):
            await other.send(version, other.wrap(KNOWN), root=1)


async def test_a_key_made_here_is_not_replaced(token: TestToken) -> None:
    """An import never destroys material that the HSM generated."""
    async with _importer(token.with_settings(sessions=1)) as importer:
        key = await create_key(importer.pool)
        with pytest.raises(InternalError):
            await importer.send(key, importer.wrap(KNOWN), root=None)
        assert await importer.pool.encrypt(key, b"x", AAD, deadline=in_seconds())


async def test_an_algorithm_that_the_hsm_lacks(token: TestToken) -> None:
    """SoftHSM takes SHA-1 alone for OAEP: SHA-256 is refused before a key is made."""
    async with running_pool(token.with_settings(sessions=1)) as pool:
        with pytest.raises(KeySpecUnsupportedError, match="RSAES_OAEP_SHA_256"):
            await pool.create_wrapping_key(
                uuid.uuid4(), WrappingAlgorithm.RSA_AES_KW_SHA_256, deadline=in_seconds()
            )


async def test_the_check_value_tells_nothing_of_the_material(token: TestToken) -> None:
    """Of the same material under two versions it has no part in common, nor with the material."""
    async with _importer(token.with_settings(sessions=1)) as importer:
        checks = []
        for kind in (AES, AES, MAC, MAC):
            made = await importer.send(new_material(kind), importer.wrap(KNOWN), root=1)
            assert made is not None
            checks.append(made.check)
    assert len(set(checks)) == len(checks)
    assert all(KNOWN not in check for check in checks)
    assert hashlib.sha256(KNOWN).digest() not in checks
