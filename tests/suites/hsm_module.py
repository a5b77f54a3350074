"""What every HSM module must do behind a session pool: one suite, many modules.

An exception is allowed only where the table of quirks says so: `HsmUnderTest.lacks`.
"""

from __future__ import annotations

import hashlib
import os
import signal
import time
from dataclasses import dataclass

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from tests.support.softhsm import new_ref, wait_until

from strongroom_server.domain.algorithms import Algorithm
from strongroom_server.domain.keys import KeyMaterial, KeySpec, KeyUsage, WrappedMaterial
from strongroom_server.errors import (
    CiphertextInvalidError,
    HsmUnavailableError,
    KeySpecUnsupportedError,
    MacInvalidError,
    SignatureInvalidError,
)
from strongroom_server.hsm.key_kinds import KINDS, KeyKind
from strongroom_server.hsm.pool import SessionPool

__all__ = [
    "HsmUnderTest",
    "check_kind",
    "check_lost_worker",
    "check_resident",
    "check_transfer",
    "check_wrapped",
]

AAD = b"\x01context"
TEXT = b"attack at dawn"


@dataclass(frozen=True)
class HsmUnderTest:
    """A running pool, and what the table of quirks says its module lacks."""

    pool: SessionPool
    quirky: frozenset[str]

    def lacks(self, kind: KeyKind) -> bool:
        """Say whether a quirk excuses the module from a kind of key."""
        return f"{kind.spec}-sign" in self.quirky

    def lacks_algorithm(self, algorithm: Algorithm) -> bool:
        """Say whether a quirk excuses the module from an algorithm."""
        return algorithm is Algorithm.RSAES_OAEP_SHA_256 and ("wrap-rsa-oaep-sha256" in self.quirky)

    async def create(
        self,
        spec: KeySpec = KeySpec.AES_256,
        usage: KeyUsage = KeyUsage.ENCRYPT_DECRYPT,
        *,
        root: int | None = None,
    ) -> KeyMaterial:
        """Create a key version."""
        return await self.pool.create_version(
            new_ref(), spec=spec, usage=usage, root=root, deadline=in_seconds(30)
        )


def in_seconds(seconds: float = 10.0) -> float:
    """Return a deadline."""
    return time.monotonic() + seconds


async def check_resident(hsm: HsmUnderTest) -> None:
    """Resident AES keys: every operation, forgeries of every byte, creation that is repeated."""
    first, second = await hsm.create(), await hsm.create()
    again = await hsm.pool.create_version(
        first.ref, spec=first.spec, usage=first.usage, root=None, deadline=in_seconds()
    )
    assert again == first
    await _check_symmetric(hsm, first, second)


async def check_wrapped(hsm: HsmUnderTest) -> None:
    """Wrapped AES keys: every operation, a damaged record, a new root without a pause."""
    pool = hsm.pool
    await pool.create_root(1, deadline=in_seconds())
    await pool.create_root(1, deadline=in_seconds())  # idempotent
    first, second = await hsm.create(root=1), await hsm.create(root=1)
    assert first.wrapped is not None
    assert len(first.wrapped.wrapped) == 40  # RFC 3394, 2.2.1
    await _check_symmetric(hsm, first, second)

    sealed = await pool.encrypt(first, TEXT, AAD, deadline=in_seconds())
    flipped = bytes([first.wrapped.wrapped[0] ^ 1]) + first.wrapped.wrapped[1:]
    damaged = KeyMaterial(
        new_ref(), first.spec, first.usage, WrappedMaterial(first.wrapped.root, flipped)
    )
    with pytest.raises(HsmUnavailableError):
        await pool.decrypt(damaged, sealed, AAD, deadline=in_seconds())

    await pool.create_root(2, deadline=in_seconds())
    moved = KeyMaterial(
        first.ref, first.spec, first.usage, await pool.rewrap(first, 2, deadline=in_seconds())
    )
    assert moved.wrapped is not None
    assert moved.wrapped.root == 2
    assert moved.wrapped.wrapped != first.wrapped.wrapped
    for material in (first, moved):
        assert await pool.decrypt(material, sealed, AAD, deadline=in_seconds()) == TEXT


async def check_kind(hsm: HsmUnderTest, kind: KeyKind) -> None:
    """One kind of key: made and used, checked by another implementation; or a clear refusal."""
    if hsm.lacks(kind):
        with pytest.raises(KeySpecUnsupportedError):
            await hsm.create(kind.spec, kind.usage)
        return
    material = await hsm.create(kind.spec, kind.usage)
    if kind.usage is KeyUsage.GENERATE_VERIFY_MAC:
        await _check_mac(hsm, material, kind)
    elif kind.usage is KeyUsage.SIGN_VERIFY:
        await _check_signatures(hsm, material, kind)
    elif kind.usage is KeyUsage.KEY_AGREEMENT:
        await _check_agreement(hsm, material)
    elif kind.modulus_bits:
        await _check_oaep(hsm, material, kind)


async def check_lost_worker(hsm: HsmUnderTest) -> None:
    """A worker is killed: keys made before work in the one that comes after."""
    material = await hsm.create()
    sealed = await hsm.pool.encrypt(material, TEXT, AAD, deadline=in_seconds())
    before = hsm.pool.status().pids
    for pid in before:
        os.kill(pid, signal.SIGKILL)
    await wait_until(lambda: hsm.pool.ready and not set(hsm.pool.status().pids) & set(before), 20.0)
    assert await hsm.pool.decrypt(material, sealed, AAD, deadline=in_seconds()) == TEXT


async def check_transfer(source: HsmUnderTest, target: HsmUnderTest) -> None:
    """Wrapped material moves from one HSM to another, and decrypts there what was sealed here."""
    await source.pool.create_root(1, deadline=in_seconds())
    await target.pool.create_root(7, deadline=in_seconds())
    material = await source.create(root=1)
    sealed = await source.pool.encrypt(material, TEXT, AAD, deadline=in_seconds())
    key = await target.pool.create_transfer_key(deadline=in_seconds(60))
    # The strongest that both have: what the target offers is what it has, with what is below.
    algorithm = (
        Algorithm.RSAES_OAEP_SHA_1 if source.lacks_algorithm(key.algorithm) else key.algorithm
    )
    blob = await source.pool.export_material(
        material, key.public_key, algorithm, deadline=in_seconds()
    )
    arrived = await target.pool.import_material(
        material.ref,
        blob,
        transfer_key=key.name,
        spec=material.spec,
        usage=material.usage,
        root=7,
        deadline=in_seconds(),
    )
    assert await target.pool.decrypt(arrived, sealed, AAD, deadline=in_seconds()) == TEXT
    with pytest.raises(CiphertextInvalidError):
        await target.pool.import_material(
            material.ref,
            blob[:-1] + bytes([blob[-1] ^ 1]),
            transfer_key=key.name,
            spec=material.spec,
            usage=material.usage,
            root=7,
            deadline=in_seconds(),
        )
    await target.pool.destroy_transfer_key(key.name, deadline=in_seconds())


async def _check_symmetric(hsm: HsmUnderTest, first: KeyMaterial, second: KeyMaterial) -> None:
    pool = hsm.pool
    sealed = await pool.encrypt(first, TEXT, AAD, deadline=in_seconds())
    assert await pool.decrypt(first, sealed, AAD, deadline=in_seconds()) == TEXT
    pids = pool.status().pids
    for at in range(len(sealed)):
        forged = sealed[:at] + bytes([sealed[at] ^ 0x80]) + sealed[at + 1 :]
        with pytest.raises(CiphertextInvalidError):
            await pool.decrypt(first, forged, AAD, deadline=in_seconds())
    for key, aad in ((first, b"other"), (second, AAD)):
        with pytest.raises(CiphertextInvalidError):
            await pool.decrypt(key, sealed, aad, deadline=in_seconds())
    assert pool.status().pids == pids, "a forgery costs no worker"

    moved = await pool.reencrypt(first, sealed, AAD, second, b"b", deadline=in_seconds())
    assert await pool.decrypt(second, moved, b"b", deadline=in_seconds()) == TEXT
    plain, wrapped = await pool.generate_data_key(first, 32, AAD, deadline=in_seconds())
    assert await pool.decrypt(first, wrapped, AAD, deadline=in_seconds()) == plain
    only = await pool.generate_sealed_data_key(first, 64, AAD, deadline=in_seconds())
    assert len(await pool.decrypt(first, only, AAD, deadline=in_seconds())) == 64
    made = {await pool.generate_random(1024, deadline=in_seconds()) for _ in range(3)}
    assert len(made) == 3
    largest = await pool.encrypt(first, bytes(4096), bytes(8214), deadline=in_seconds())
    assert await pool.decrypt(first, largest, bytes(8214), deadline=in_seconds()) == bytes(4096)


async def _check_mac(hsm: HsmUnderTest, material: KeyMaterial, kind: KeyKind) -> None:
    (algorithm,) = kind.algorithms
    mac = await hsm.pool.generate_mac(material, algorithm, TEXT, deadline=in_seconds())
    assert len(mac) == kind.key_bytes
    await hsm.pool.verify_mac(material, algorithm, TEXT, mac, deadline=in_seconds())
    for message, wrong in ((b"x", mac), (TEXT, mac[:-1]), (TEXT, bytes([mac[0] ^ 1]) + mac[1:])):
        with pytest.raises(MacInvalidError):
            await hsm.pool.verify_mac(material, algorithm, message, wrong, deadline=in_seconds())


async def _check_signatures(hsm: HsmUnderTest, material: KeyMaterial, kind: KeyKind) -> None:
    der = await hsm.pool.public_key(material, deadline=in_seconds())
    public = serialization.load_der_public_key(der)
    pids = hsm.pool.status().pids
    for algorithm in sorted(kind.algorithms):
        signature = await hsm.pool.sign(material, algorithm, TEXT, deadline=in_seconds())
        _verify(public, algorithm, signature)
        await hsm.pool.verify(material, algorithm, TEXT, signature, deadline=in_seconds())
        if algorithm.hash_name:
            name = algorithm.hash_name.replace("_", "")
            digest = hashlib.new(name, TEXT).digest()
            await hsm.pool.verify(
                material, algorithm, digest, signature, is_digest=True, deadline=in_seconds()
            )
        wrong = signature[:-1] + bytes([signature[-1] ^ 1])
        for message, forged in ((b"x", signature), (TEXT, wrong), (TEXT, b"\x30\x00")):
            with pytest.raises(SignatureInvalidError):
                await hsm.pool.verify(material, algorithm, message, forged, deadline=in_seconds())
    assert hsm.pool.status().pids == pids, "a forgery costs no worker"


def _verify(public: object, algorithm: Algorithm, signature: bytes) -> None:
    """Verify with `cryptography`; raises InvalidSignature."""
    chosen = {"256": hashes.SHA256(), "384": hashes.SHA384(), "512": hashes.SHA512()}.get(
        algorithm.name.rpartition("_")[2], hashes.SHA256()
    )
    if isinstance(public, ed25519.Ed25519PublicKey):
        public.verify(signature, TEXT)
    elif isinstance(public, ec.EllipticCurvePublicKey):
        public.verify(signature, TEXT, ec.ECDSA(chosen))
    elif isinstance(public, rsa.RSAPublicKey) and "PSS" in algorithm.name:
        form = padding.PSS(padding.MGF1(chosen), chosen.digest_size)
        public.verify(signature, TEXT, form, chosen)
    elif isinstance(public, rsa.RSAPublicKey):
        public.verify(signature, TEXT, padding.PKCS1v15(), chosen)
    else:
        pytest.fail(f"not a key to verify with: {public!r}")


async def _check_agreement(hsm: HsmUnderTest, material: KeyMaterial) -> None:
    der = await hsm.pool.public_key(material, deadline=in_seconds())
    public = serialization.load_der_public_key(der)
    assert isinstance(public, ec.EllipticCurvePublicKey)
    mine = ec.generate_private_key(public.curve)
    theirs = mine.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    secret = await hsm.pool.derive_shared_secret(material, theirs, deadline=in_seconds())
    assert secret == mine.exchange(ec.ECDH(), public)


async def _check_oaep(hsm: HsmUnderTest, material: KeyMaterial, kind: KeyKind) -> None:
    der = await hsm.pool.public_key(material, deadline=in_seconds())
    public = serialization.load_der_public_key(der)
    assert isinstance(public, rsa.RSAPublicKey)
    for algorithm in sorted(kind.algorithms):
        if hsm.lacks_algorithm(algorithm):
            with pytest.raises(KeySpecUnsupportedError):
                await hsm.pool.rsa_encrypt(material, algorithm, TEXT, deadline=in_seconds())
            continue
        chosen = hashes.SHA1() if algorithm is Algorithm.RSAES_OAEP_SHA_1 else hashes.SHA256()  # noqa: S303 - in OAEP
        sealed = public.encrypt(TEXT, padding.OAEP(padding.MGF1(chosen), chosen, None))
        pids = hsm.pool.status().pids
        plain = await hsm.pool.rsa_decrypt(material, algorithm, sealed, deadline=in_seconds())
        assert plain == TEXT
        mine = await hsm.pool.rsa_encrypt(material, algorithm, TEXT, deadline=in_seconds())
        assert await hsm.pool.rsa_decrypt(material, algorithm, mine, deadline=in_seconds()) == TEXT
        # Another number, one beyond the modulus, none at all.
        for forged in (bytes([1]) + sealed[1:], b"\xff" * len(sealed), bytes(len(sealed))):
            with pytest.raises(CiphertextInvalidError):
                await hsm.pool.rsa_decrypt(material, algorithm, forged, deadline=in_seconds())
        assert hsm.pool.status().pids == pids, "a forgery costs no worker"


def kinds_to_check() -> list[KeyKind]:
    """Return the kinds worth their time: the larger RSA keys differ in nothing but that."""
    return [
        kind
        for kind in KINDS.values()
        if kind.spec not in {KeySpec.AES_256, KeySpec.RSA_3072, KeySpec.RSA_4096}
    ]
