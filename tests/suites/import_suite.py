"""Keys whose material callers bring: every RPC, its limits and its refusals."""

from __future__ import annotations

import dataclasses
import hmac
import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from tests.suites.under_test import KmsUnderTest, refusal_of

from strongroom import encryption_context as contexts
from strongroom.kms.v1 import import_calls_pb2 as rpc
from strongroom.kms.v1 import key_service_pb2, resources_pb2
from strongroom_client import (
    Algorithm,
    ArgumentInvalidError,
    ChecksumMismatchError,
    CiphertextInvalidError,
    EtagMismatchError,
    ImportParameters,
    ImportTokenInvalidError,
    ImportTokenUsedError,
    Key,
    KeyMaterialMismatchError,
    KeyOrigin,
    KeyOriginMismatchError,
    KeySpec,
    KeyState,
    KeyStateInvalidError,
    KeyStorage,
    KeyUsage,
    RequestIdReusedError,
    WrappingAlgorithm,
    wrap_key_material,
)

__all__ = ["ImportSuite"]

KNOWN = bytes(range(32))
CONTEXT = {"order": "17", "tenant": "acme"}
HEADER_BYTES = 22  # docs/formats/ciphertext-blob-v1.md


def _new_key(kms: KmsUnderTest, **fields: Any) -> Key:
    given: dict[str, Any] = {"origin": KeyOrigin.EXTERNAL} | fields
    return kms.client.create_key(kms.regions[0], description="brought", **given)


def _bring(
    kms: KmsUnderTest, key: Key, made: ImportParameters, material: bytes = KNOWN, **fields: Any
) -> Key:
    return kms.client.import_key_material(
        key.name,
        import_token=made.import_token,
        encrypted_material=wrap_key_material(made, material),
        **fields,
    )


def _open(blob: bytes, material: bytes) -> bytes:
    """Decrypt a blob without the service."""
    aad = blob[:HEADER_BYTES] + contexts.encode(CONTEXT)
    sealed = blob[HEADER_BYTES:]
    return AESGCM(material).decrypt(sealed[:12], sealed[12:], aad)


class ImportSuite:
    """Keys whose material callers bring: every RPC, its limits and its refusals."""

    @pytest.mark.parametrize("storage", [KeyStorage.RESIDENT, KeyStorage.WRAPPED])
    def test_a_key_is_what_was_brought(self, kms: KmsUnderTest, storage: KeyStorage) -> None:
        """Ciphertexts of the service open with the caller's material; it goes and comes again."""
        client = kms.client
        key = _new_key(kms, storage=storage)
        assert (key.state, key.origin) == (KeyState.PENDING_IMPORT, KeyOrigin.EXTERNAL)
        assert key.import_time is None
        waits = refusal_of(lambda: client.encrypt(key.name, b"x", encryption_context={}))
        assert isinstance(waits, KeyStateInvalidError)
        for switch in (client.enable_key, client.disable_key):
            assert isinstance(refusal_of(lambda f=switch: f(key.name)), KeyStateInvalidError)  # type: ignore[misc]  # bound per round
        made = client.get_import_parameters(key.name)
        assert made.key_version == key.primary_version
        assert made.material_bytes == len(KNOWN)
        assert timedelta(hours=23) < made.expire_time - datetime.now(UTC) <= timedelta(hours=24)
        enabled = _bring(kms, key, made)
        assert enabled.state is KeyState.ENABLED
        assert enabled.import_time is not None
        assert enabled.material_expire_time is None
        assert client.get_key(key.name) == enabled
        blob = client.encrypt(key.name, b"hello", encryption_context=CONTEXT).ciphertext
        assert _open(blob, KNOWN) == b"hello"
        used = refusal_of(lambda: _bring(kms, key, made))
        assert isinstance(used, ImportTokenUsedError)

        gone = client.delete_imported_key_material(key.name)
        assert gone.state is KeyState.PENDING_IMPORT
        assert client.delete_imported_key_material(key.name) == gone
        lost = refusal_of(lambda: client.decrypt(key.name, blob, encryption_context=CONTEXT))
        assert isinstance(lost, KeyStateInvalidError)
        other = client.get_import_parameters(key.name)
        assert isinstance(
            refusal_of(lambda: _bring(kms, key, other, bytes(32))), KeyMaterialMismatchError
        )
        ends = datetime.now(UTC).replace(microsecond=0) + timedelta(days=365)
        back = _bring(kms, key, client.get_import_parameters(key.name), valid_to=ends)
        assert back.state is KeyState.ENABLED
        assert back.material_expire_time == ends
        assert client.decrypt(key.name, blob, encryption_context=CONTEXT).plaintext == b"hello"

    def test_a_mac_key_and_the_other_form(self, kms: KmsUnderTest) -> None:
        """An HMAC key comes in directly under RSA, and makes the MACs that its maker expects."""
        client = kms.client
        key = _new_key(kms, spec=KeySpec.HMAC_512, usage=KeyUsage.GENERATE_VERIFY_MAC)
        made = client.get_import_parameters(
            key.name, wrapping_algorithm=WrappingAlgorithm.RSAES_OAEP_SHA_1
        )
        material = bytes(range(64))
        _bring(kms, key, made, material)
        mac = client.generate_mac(key.name, b"hello", algorithm=Algorithm.HMAC_SHA_512).mac
        assert mac == hmac.digest(material, b"hello", "sha512")

    def test_what_does_not_unwrap(self, kms: KmsUnderTest) -> None:
        """Altered material is CIPHERTEXT_INVALID and uses the token up; a wrong token does not."""
        client, key = kms.client, _new_key(kms)
        made = client.get_import_parameters(key.name)
        wrapped = wrap_key_material(made, KNOWN)

        def send(token: bytes, encrypted: bytes, **fields: Any) -> Key:
            return client.import_key_material(
                key.name, import_token=token, encrypted_material=encrypted, **fields
            )

        altered = made.import_token[:-1] + bytes([made.import_token[-1] ^ 1])
        for token in (altered, b"x"):
            refusal = refusal_of(lambda token=token: send(token, wrapped))  # type: ignore[misc]  # bound per round
            assert isinstance(refusal, ImportTokenInvalidError)
        assert isinstance(
            refusal_of(lambda: send(made.import_token, wrapped, etag="r999")), EtagMismatchError
        )
        for days in (-1, 366):
            ends = datetime.now(UTC) + timedelta(days=days)
            with pytest.raises(ArgumentInvalidError):
                send(made.import_token, wrapped, valid_to=ends)
        broken = wrapped[:-1] + bytes([wrapped[-1] ^ 1])
        for encrypted in (broken, wrapped):
            refusal = refusal_of(lambda encrypted=encrypted: send(made.import_token, encrypted))  # type: ignore[misc]  # bound per round
            expected = CiphertextInvalidError if encrypted is broken else ImportTokenUsedError
            assert isinstance(refusal, expected)
            assert len(refusal.receipts) == 1
        assert client.get_key(key.name).state is KeyState.PENDING_IMPORT

    def test_only_keys_of_origin_external(self, kms: KmsUnderTest) -> None:
        """Calls of imports are for these keys alone, and RotateKey is not for them."""
        client = kms.client
        made_here = client.create_key(kms.regions[0])
        assert made_here.origin is KeyOrigin.HSM
        for call in (
            lambda: client.get_import_parameters(made_here.name),
            lambda: client.delete_imported_key_material(made_here.name),
        ):
            assert isinstance(refusal_of(call), KeyOriginMismatchError)
        key = _new_key(kms)
        _bring(kms, key, client.get_import_parameters(key.name))
        assert isinstance(refusal_of(lambda: client.rotate_key(key.name)), KeyOriginMismatchError)
        for spec, usage in (
            (KeySpec.EC_P256, KeyUsage.SIGN_VERIFY),
            (KeySpec.HMAC_224, KeyUsage.GENERATE_VERIFY_MAC),
        ):
            with pytest.raises(ArgumentInvalidError):
                _new_key(kms, spec=spec, usage=usage)

    def test_repeats_and_rehearsals_of_imports(self, kms: KmsUnderTest) -> None:
        """A request id makes a call once, and validate_only makes nothing."""
        client, region = kms.client, kms.regions[0]
        again = str(uuid.uuid4())
        key = _new_key(kms, request_id=again)
        assert _new_key(kms, request_id=again) == key
        rehearsal = kms.raw(
            region,
            "GetImportParameters",
            rpc.GetImportParametersRequest(name=key.name, validate_only=True),
        )
        answer = rehearsal.message
        assert isinstance(answer, rpc.GetImportParametersResponse)
        assert (answer.public_key, answer.import_token) == (b"", b"")
        made = client.get_import_parameters(key.name, request_id=again)
        assert client.get_import_parameters(key.name, request_id=again) == made
        wrapped = wrap_key_material(made, KNOWN)
        would = kms.raw(
            region,
            "ImportKeyMaterial",
            rpc.ImportKeyMaterialRequest(
                name=key.name,
                import_token=made.import_token,
                encrypted_material=wrapped,
                expiration_model=rpc.EXPIRATION_MODEL_DOES_NOT_EXPIRE,
                validate_only=True,
            ),
        ).message
        assert isinstance(would, rpc.ImportKeyMaterialResponse)
        assert would.key.state == resources_pb2.KEY_STATE_ENABLED
        assert client.get_key(key.name).state is KeyState.PENDING_IMPORT
        imported = [
            client.import_key_material(
                key.name,
                import_token=made.import_token,
                encrypted_material=wrapped,
                request_id=again,
            )
            for _ in range(2)
        ]
        assert imported[0] == imported[1]
        with pytest.raises(RequestIdReusedError):
            _bring(kms, key, made, request_id=again)

    def test_limits_of_imports(self, kms: KmsUnderTest) -> None:
        """Fields out of their limits are ARGUMENT_INVALID, checksums CHECKSUM_MISMATCH."""
        key, region = _new_key(kms), kms.regions[0]
        good: dict[str, Any] = {
            "name": key.name,
            "import_token": b"t",
            "encrypted_material": b"m",
            "expiration_model": rpc.EXPIRATION_MODEL_DOES_NOT_EXPIRE,
        }
        bad: list[dict[str, Any]] = [
            {"import_token": b""},
            {"import_token": bytes(257)},
            {"encrypted_material": b""},
            {"encrypted_material": bytes(1025)},
            {"expiration_model": rpc.EXPIRATION_MODEL_UNSPECIFIED},
            {"expiration_model": rpc.EXPIRATION_MODEL_EXPIRES},
            {"valid_to": {"seconds": 1}},
            {"name": f"regions/{region}/aliases/x"},
        ]
        for fields in bad:
            with pytest.raises(ArgumentInvalidError):
                kms.raw(region, "ImportKeyMaterial", rpc.ImportKeyMaterialRequest(**good | fields))
        wrong = rpc.ImportKeyMaterialRequest(**good, encrypted_material_crc32c=1)
        with pytest.raises(ChecksumMismatchError):
            kms.raw(region, "ImportKeyMaterial", wrong)
        unknown = rpc.GetImportParametersRequest(name=key.name)
        unknown.ParseFromString(unknown.SerializeToString() + b"\x10\x63")  # field 2 = 99
        with pytest.raises(ArgumentInvalidError):
            kms.raw(region, "GetImportParameters", unknown)
        request = key_service_pb2.CreateKeyRequest(parent=f"regions/{region}")
        request.ParseFromString(request.SerializeToString() + b"\xf0\x01\x63")  # field 30 = 99
        with pytest.raises(ArgumentInvalidError):
            kms.raw(region, "CreateKey", request)

    def test_a_key_without_material_can_be_deleted(self, kms: KmsUnderTest) -> None:
        """Its deletion is scheduled and taken back as any key's; then it waits again."""
        client, key = kms.client, _new_key(kms)
        assert client.schedule_key_deletion(key.name).state is KeyState.PENDING_DELETION
        with pytest.raises(KeyStateInvalidError):
            client.get_import_parameters(key.name)
        assert client.cancel_key_deletion(key.name).state is KeyState.PENDING_IMPORT
        assert dataclasses.asdict(client.get_key(key.name))["origin"] is KeyOrigin.EXTERNAL
