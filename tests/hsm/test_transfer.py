"""Keys moved from one token to another: two pools, two tokens, nothing shown between."""

from __future__ import annotations

import hashlib
import hmac
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import hashes, keywrap, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from tests.support.hsm_keys import AES, MAC, new_wrapped
from tests.support.hsm_load import AAD, create_key, in_seconds
from tests.support.hsm_modules import ModuleMissingError, make_module_token
from tests.support.pkcs11_shim import Shim
from tests.support.softhsm import RecordingObserver, TestToken, make_token, new_ref, running_pool

from strongroom_server.domain.algorithms import Algorithm
from strongroom_server.domain.keys import KeyMaterial, KeySpec, KeyUsage, KeyVersionRef
from strongroom_server.errors import (
    ArgumentInvalidError,
    CiphertextInvalidError,
    HsmUnavailableError,
    KeySpecUnsupportedError,
)
from strongroom_server.hsm import ck_mechanisms as ck
from strongroom_server.hsm import transfer_format
from strongroom_server.hsm.key_ring import KeyRing
from strongroom_server.hsm.pool import SessionPool, SessionPoolSettings, TransferKey
from strongroom_server.hsm.token import TokenSession
from strongroom_server.hsm.transfer import Transfer
from strongroom_server.hsm.transfer_keys import TransferKeys
from strongroom_server.hsm.wire_operations import ORIGIN_EXTERNAL

pytestmark = pytest.mark.hsm

OAEP = Algorithm.RSAES_OAEP_SHA_1


@asynccontextmanager
async def _pair(
    token: TestToken, tmp_path: Path, *, target: SessionPoolSettings | None = None
) -> AsyncIterator[tuple[SessionPool, SessionPool, TransferKey]]:
    """Run a source and a target with a root each, and a transfer key on the target."""
    settings = target or make_token(tmp_path / "target").with_settings(sessions=1)
    async with (
        running_pool(token.with_settings(sessions=1)) as source,
        running_pool(settings) as other,
    ):
        await source.create_root(1, deadline=in_seconds())
        await other.create_root(1, deadline=in_seconds())
        yield source, other, await other.create_transfer_key(deadline=in_seconds(30))


async def _import(
    pool: SessionPool,
    material: KeyMaterial,
    blob: bytes,
    transfer_key: TransferKey,
    *,
    root: int | None = 1,
) -> KeyMaterial:
    return await pool.import_material(
        material.ref,
        blob,
        transfer_key=transfer_key.name,
        spec=material.spec,
        usage=material.usage,
        root=root,
        deadline=in_seconds(),
    )


async def _move(
    source: SessionPool, target: SessionPool, transfer_key: TransferKey, root: int | None
) -> None:
    """Move an AES and a MAC key, and use both on either side."""
    key = await create_key(source, root=1)
    sealed = await source.encrypt(key, b"hello", AAD, deadline=in_seconds())
    blob = await source.export_material(
        key, transfer_key.public_key, transfer_key.algorithm, deadline=in_seconds()
    )
    moved = await _import(target, key, blob, transfer_key, root=root)
    assert moved.ref == key.ref
    assert await target.decrypt(moved, sealed, AAD, deadline=in_seconds()) == b"hello"
    back = await target.encrypt(moved, b"back", AAD, deadline=in_seconds())
    assert await source.decrypt(key, back, AAD, deadline=in_seconds()) == b"back"

    key = await source.create_version(
        new_ref(), spec=MAC[0], usage=MAC[1], root=1, deadline=in_seconds()
    )
    mac = await source.generate_mac(key, Algorithm.HMAC_SHA_256, b"x", deadline=in_seconds())
    blob = await source.export_material(
        key, transfer_key.public_key, transfer_key.algorithm, deadline=in_seconds()
    )
    moved = await _import(target, key, blob, transfer_key, root=root)
    await target.verify_mac(moved, Algorithm.HMAC_SHA_256, b"x", mac, deadline=in_seconds())


@pytest.mark.parametrize("root", [1, None], ids=["wrapped", "resident"])
async def test_from_softhsm_to_softhsm(token: TestToken, tmp_path: Path, root: int | None) -> None:
    """A key made on one token works on another, in either storage there."""
    async with _pair(token, tmp_path) as (source, target, transfer_key):
        await _move(source, target, transfer_key, root)


@pytest.mark.parametrize("name", ["nss", "kryoptic"])
async def test_from_softhsm_to_another_module(token: TestToken, tmp_path: Path, name: str) -> None:
    """A key made on SoftHSM works on a module of somebody else."""
    try:
        made = make_module_token(name, tmp_path / "target")
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
    async with _pair(token, tmp_path, target=settings) as (source, target, transfer_key):
        # What both sides can do: SoftHSM has OAEP with SHA-1 alone.
        for root in (1, None):
            key = TransferKey(transfer_key.name, transfer_key.public_key, OAEP)
            await _move(source, target, key, root)


async def test_a_moved_key_survives_a_restart(token: TestToken, tmp_path: Path) -> None:
    """A key that was brought here as a token object is found again, and is no weaker."""
    target_token = make_token(tmp_path / "target")
    async with _pair(token, tmp_path, target=target_token.settings) as (source, target, transfer):
        key = await create_key(source, root=1)
        blob = await source.export_material(
            key, transfer.public_key, transfer.algorithm, deadline=in_seconds()
        )
        moved = await _import(target, key, blob, transfer, root=None)
        assert await _import(target, key, blob, transfer, root=None) == moved  # idempotent
        sealed = await target.encrypt(moved, b"x", AAD, deadline=in_seconds())
    async with running_pool(target_token.settings) as target:
        assert await target.decrypt(moved, sealed, AAD, deadline=in_seconds()) == b"x"
        with pytest.raises(HsmUnavailableError):  # the transfer key lives on, this ref does not
            await target.decrypt(KeyMaterial(new_ref(), *AES), sealed, AAD, deadline=in_seconds())


async def test_every_change_of_a_blob_is_refused(token: TestToken, tmp_path: Path) -> None:
    """A flip in any byte, a cut, a byte more: one error, nothing imported, nobody replaced."""
    observer = RecordingObserver()
    target_token = make_token(tmp_path / "target")
    async with (
        running_pool(token.with_settings(sessions=1)) as source,
        running_pool(target_token.with_settings(sessions=1), observer) as target,
    ):
        await source.create_root(1, deadline=in_seconds())
        await target.create_root(1, deadline=in_seconds())
        transfer = await target.create_transfer_key(deadline=in_seconds(30))
        key = await create_key(source, root=1)
        blob = await source.export_material(
            key, transfer.public_key, transfer.algorithm, deadline=in_seconds()
        )
        bad = [blob[:-1], blob + b"\0", blob[1:], blob[:56], b"x"]
        # Every byte of the header and of the last parts, some of the long one between.
        bad += [
            blob[:at] + bytes([blob[at] ^ 1]) + blob[at + 1 :]
            for at in (*range(56), *range(56, 440, 24), *range(440, len(blob), 3))
        ]
        for each in bad:
            for root in (1, None):
                with pytest.raises(CiphertextInvalidError):
                    await _import(target, key, each, transfer, root=root)
        assert not observer.lost
        assert not observer.alarms
        moved = await _import(target, key, blob, transfer)
        assert moved.ref == key.ref


async def test_a_blob_is_for_one_key_and_one_target(token: TestToken, tmp_path: Path) -> None:
    """A blob names what it holds and for whom: as something else, or elsewhere, it is refused."""
    async with _pair(token, tmp_path) as (source, target, transfer):
        key = await create_key(source, root=1)
        blob = await source.export_material(
            key, transfer.public_key, transfer.algorithm, deadline=in_seconds()
        )
        other_version = KeyVersionRef(key.ref.key_id, 2)
        for material in (
            KeyMaterial(new_ref(), *AES),
            KeyMaterial(other_version, *AES),
            KeyMaterial(key.ref, *MAC),  # the same 32 bytes, for something else
        ):
            with pytest.raises(CiphertextInvalidError):
                await _import(target, material, blob, transfer)
        another = await target.create_transfer_key(deadline=in_seconds(30))
        with pytest.raises(CiphertextInvalidError):
            await _import(target, key, blob, another)
        unknown = TransferKey(str(uuid.uuid4()), b"", OAEP)
        with pytest.raises(HsmUnavailableError, match="should hold"):
            await _import(target, key, blob, unknown)
        await target.destroy_transfer_key(transfer.name, deadline=in_seconds())
        await target.destroy_transfer_key(transfer.name, deadline=in_seconds())
        with pytest.raises(HsmUnavailableError, match="should hold"):
            await _import(target, key, blob, transfer)


async def test_only_a_good_public_key_is_wrapped_under(token: TestToken) -> None:
    """A short or odd RSA key, another kind of key, or none at all is refused."""
    async with running_pool(token.with_settings(sessions=1)) as source:
        await source.create_root(1, deadline=in_seconds())
        key = await create_key(source, root=1)
        good = rsa.generate_private_key(65537, 3072).public_key()
        for public_key in (
            rsa.generate_private_key(65537, 2048).public_key(),
            rsa.generate_private_key(3, 3072).public_key(),
            ec.generate_private_key(ec.SECP256R1()).public_key(),
        ):
            with pytest.raises(ArgumentInvalidError, match="public_key"):
                await source.export_material(key, _spki(public_key), OAEP, deadline=in_seconds())
        for encoded in (b"", b"x", bytes(601), _spki(good)[:-1], _spki(good) + b"\0"):
            with pytest.raises(ArgumentInvalidError, match="public_key"):
                await source.export_material(key, encoded, OAEP, deadline=in_seconds())
        with pytest.raises(KeySpecUnsupportedError, match="RSAES_OAEP_SHA_256"):
            await source.export_material(
                key, _spki(good), Algorithm.RSAES_OAEP_SHA_256, deadline=in_seconds()
            )
        resident = await create_key(source)
        with pytest.raises(ArgumentInvalidError, match="never leaves"):
            await source.export_material(resident, _spki(good), OAEP, deadline=in_seconds())


async def test_what_cannot_be_moved_says_so(token: TestToken, tmp_path: Path) -> None:
    """Pairs and HMAC_224 have no transfer form: a clear refusal."""
    async with _pair(token, tmp_path) as (_, target, transfer):
        for kind in (
            (KeySpec.EC_P256, KeyUsage.SIGN_VERIFY),
            (KeySpec.HMAC_224, KeyUsage.GENERATE_VERIFY_MAC),
        ):
            with pytest.raises(KeySpecUnsupportedError, match="transfer of"):
                await _import(target, KeyMaterial(new_ref(), *kind), b"x", transfer)


async def test_the_format_is_as_its_page_says(token: TestToken) -> None:
    """A blob for a key that this test holds opens by `cryptography`, by the page alone."""
    private = rsa.generate_private_key(65537, 3072)
    public_key = _spki(private.public_key())
    async with running_pool(token.with_settings(sessions=1)) as source:
        await source.create_root(1, deadline=in_seconds())
        key = await create_key(source, root=1)
        sealed = await source.encrypt(key, b"hello", AAD, deadline=in_seconds())
        blob = await source.export_material(key, public_key, OAEP, deadline=in_seconds())
    assert len(blob) == 56 + 384 + 40 + 40 + 32
    header, rest = blob[:56], blob[56:]
    assert header == b"\1\1\1\1" + key.ref.to_bytes() + hashlib.sha256(public_key).digest()
    sha1 = hashes.SHA1()  # noqa: S303 - docs/formats/key-transfer-v1.md
    session_key = private.decrypt(rest[:384], padding.OAEP(padding.MGF1(sha1), sha1, None))
    assert len(session_key) == 32
    mac_key = keywrap.aes_key_unwrap(session_key, rest[384:424])
    material = keywrap.aes_key_unwrap(session_key, rest[424:464])
    assert hmac.digest(mac_key, blob[:-32], "sha256") == blob[-32:]
    assert AESGCM(material).decrypt(sealed[:12], sealed[12:], AAD) == b"hello"
    parsed = transfer_format.parse(blob)
    assert parsed.header.to_bytes() == header
    assert parsed.authenticated + parsed.tag == blob


async def test_a_transfer_key_unwraps_only(token: TestToken, session: TokenSession) -> None:
    """A transfer key's private half unwraps and does nothing else; it does not get out (H8)."""
    async with running_pool(token.with_settings(sessions=1)) as pool:
        await pool.create_transfer_key(deadline=in_seconds(30))
        await pool.create_transfer_key(modulus_bits=4096, deadline=in_seconds(60))
    privates = session.find({"CLASS": ck.CKO_PRIVATE_KEY})
    assert len(privates) == 2
    for handle in privates:
        names = ("DECRYPT", "SIGN", "DERIVE", "UNWRAP", "SENSITIVE", "EXTRACTABLE", "MODIFIABLE")
        assert session.attributes(handle, names) == {
            "DECRYPT": False,
            "SIGN": False,
            "DERIVE": False,
            "UNWRAP": True,
            "SENSITIVE": True,
            "EXTRACTABLE": False,
            "MODIFIABLE": False,
        }


def test_half_a_transfer_key_is_made_whole(ring: KeyRing, session: TokenSession) -> None:
    """What a crash amid the generation of a pair leaves does not hinder the next try."""
    keys = TransferKeys(ring)
    transfer_id = uuid.uuid4().bytes + bytes(4)
    keys.create(transfer_id, 3072)
    for object_class in (ck.CKO_PUBLIC_KEY, ck.CKO_PRIVATE_KEY):
        (half,) = session.find({"CLASS": object_class, "ID": transfer_id})
        session.destroy(half)
        made = keys.create(transfer_id, 3072)
        assert keys.load(transfer_id) == made
        assert len(session.find({"ID": transfer_id})) == 2


def test_an_import_is_done_once_whichever_call_fails(faulty_ring: KeyRing, shim: Shim) -> None:
    """A session that is lost at any call of an import leaves one token object, not two."""
    transfer = Transfer(faulty_ring)
    transfer_id = uuid.uuid4().bytes + bytes(4)
    public_key, algorithm = transfer.create_key(transfer_id, 3072)

    def import_one() -> bytes:
        source = new_wrapped(faulty_ring)
        blob = transfer.export(source, algorithm, public_key)
        key = source._replace(root=0, wrapped=b"", origin=ORIGIN_EXTERNAL)
        transfer.import_(key, transfer_id, blob)
        return key.ref

    for function in ("C_UnwrapKey", "C_GetAttributeValue", "C_FindObjectsInit", "C_SignInit"):
        before = shim.calls(function)
        import_one()
        for nth in range(1, shim.calls(function) - before + 1):
            shim.rule(function, 0xB3, nth=nth)  # CKR_SESSION_HANDLE_INVALID
            ref = import_one()
            shim.heal()
            assert len(faulty_ring.session.find({"ID": ref})) == 1, (function, nth)


async def test_an_import_does_not_pass_for_another_key(token: TestToken, tmp_path: Path) -> None:
    """A blob with other material than the key that is there is refused, and a bad one as well."""
    async with _pair(token, tmp_path) as (source, target, transfer):
        for kind in (AES, MAC):
            ref = new_ref()
            blobs = []
            for _ in range(2):
                key = await source.create_version(
                    ref, spec=kind[0], usage=kind[1], root=1, deadline=in_seconds()
                )
                blobs.append(
                    await source.export_material(
                        key, transfer.public_key, transfer.algorithm, deadline=in_seconds()
                    )
                )
            moved = await _import(target, key, blobs[0], transfer, root=None)
            assert await _import(target, key, blobs[0], transfer, root=None) == moved
            with pytest.raises(CiphertextInvalidError):
                await _import(target, key, blobs[1], transfer, root=None)
            forged = blobs[0][:-1] + bytes([blobs[0][-1] ^ 1])
            with pytest.raises(CiphertextInvalidError):
                await _import(target, key, forged, transfer, root=None)


def _spki(key: rsa.RSAPublicKey | ec.EllipticCurvePublicKey) -> bytes:
    return key.public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
