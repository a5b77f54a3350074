"""Uses of keys: every RPC, its limits and its refusals."""

from __future__ import annotations

import functools
import uuid
from typing import Any

import pytest
from google.protobuf.message import Message
from tests.suites.under_test import KmsUnderTest, refusal_of

from strongroom.kms.v1 import key_service_pb2 as rpc
from strongroom_client import (
    ArgumentInvalidError,
    ChecksumMismatchError,
    CiphertextInvalidError,
    Key,
    KeyNotFoundError,
    WrongKeyError,
    WrongRegionError,
)
from strongroom_client._core import crc32c

__all__ = ["CryptoSuite"]

CONTEXT = {"order": "17", "tenant": "acme"}
MISSING_KEY = "00000000-0000-4000-8000-000000000000"


def _new_key(kms: KmsUnderTest, region: int = 0) -> Key:
    return kms.client.create_key(kms.regions[region], description="acceptance")


def _encrypt_request(key: str, **fields: Any) -> rpc.EncryptRequest:
    return rpc.EncryptRequest(**({"key": key, "plaintext": b"x"} | fields))


class CryptoSuite:
    """Uses of keys: every RPC, its limits and its refusals."""

    @pytest.mark.parametrize("size", [1, 15, 16, 17, 4095, 4096])
    def test_what_is_encrypted_decrypts(self, kms: KmsUnderTest, size: int) -> None:
        """A plaintext of 1 to 4,096 bytes comes back, with the key named and without."""
        client, key, plaintext = kms.client, _new_key(kms), bytes(range(256)) * 16
        made = client.encrypt(key.name, plaintext[:size], encryption_context=CONTEXT)
        assert len(made.ciphertext) == 50 + size
        opened = client.decrypt(key.name, made.ciphertext, encryption_context=CONTEXT)
        assert opened.plaintext == plaintext[:size]
        assert opened.used_primary
        assert opened.key_version == made.key_version
        anyhow = client.decrypt_with_any_key(
            kms.regions[0], made.ciphertext, encryption_context=CONTEXT
        )
        assert anyhow == opened

    def test_two_encryptions_differ(self, kms: KmsUnderTest) -> None:
        """The same plaintext never gives the same ciphertext."""
        key = _new_key(kms)
        blobs = {
            kms.client.encrypt(key.name, b"x", encryption_context={}).ciphertext for _ in range(5)
        }
        assert len(blobs) == 5

    def test_sizes_beyond_the_limits_are_refused(self, kms: KmsUnderTest) -> None:
        """Plaintexts of 0 and 4,097 bytes and ciphertexts of 0 and 6,145 are ARGUMENT_INVALID."""
        key, region = _new_key(kms).name, kms.regions[0]
        for size in (0, 4097):
            with pytest.raises(ArgumentInvalidError) as refused:
                kms.raw(region, "Encrypt", _encrypt_request(key, plaintext=bytes(size)))
            assert [violation.field for violation in refused.value.violations] == ["plaintext"]
        for size in (0, 6145):
            request = rpc.DecryptRequest(key=key, ciphertext=bytes(size))
            with pytest.raises(ArgumentInvalidError):
                kms.raw(region, "Decrypt", request)

    def test_a_context_has_limits(self, kms: KmsUnderTest) -> None:
        """8,192 bytes of context work; one more, 257 pairs or an empty key are ARGUMENT_INVALID."""
        key, region = _new_key(kms).name, kms.regions[0]
        longest = {"k": "v" * (8192 - 3 - 4 - 1)}
        blob = kms.client.encrypt(key, b"x", encryption_context=longest).ciphertext
        assert kms.client.decrypt(key, blob, encryption_context=longest).plaintext == b"x"
        for context in (
            {"k": longest["k"] + "v"},
            {str(number): "" for number in range(257)},
            {"": "v"},
        ):
            with pytest.raises(ArgumentInvalidError):
                kms.raw(region, "Encrypt", _encrypt_request(key, encryption_context=context))

    def test_another_context_does_not_decrypt(self, kms: KmsUnderTest) -> None:
        """Anything but the very same context is CIPHERTEXT_INVALID, with one text."""
        key = _new_key(kms).name
        blob = kms.client.encrypt(key, b"x", encryption_context=CONTEXT).ciphertext
        texts = set()
        for context in (
            {},
            {"order": "17"},
            CONTEXT | {"more": ""},
            CONTEXT | {"order": "18"},
            {"Order": "17", "tenant": "acme"},
            {"order": "acme", "tenant": "17"},
        ):
            with pytest.raises(CiphertextInvalidError) as refused:
                kms.client.decrypt(key, blob, encryption_context=context)
            texts.add(str(refused.value))
        assert len(texts) == 1

    def test_any_flipped_bit_is_refused(self, kms: KmsUnderTest) -> None:
        """A flip in the key id is WRONG_KEY, any other CIPHERTEXT_INVALID, all with one text."""
        key = _new_key(kms).name
        blob = kms.client.encrypt(key, b"x", encryption_context=CONTEXT).ciphertext
        texts: dict[str, set[str]] = {}
        for bit in range(0, 8 * len(blob), kms.bit_step):
            flipped = bytearray(blob)
            flipped[bit // 8] ^= 1 << bit % 8
            decrypt = functools.partial(kms.client.decrypt, key, bytes(flipped))
            error = refusal_of(functools.partial(decrypt, encryption_context=CONTEXT))
            expected = WrongKeyError if 2 <= bit // 8 < 18 else CiphertextInvalidError
            assert type(error) is expected, f"bit {bit}"
            texts.setdefault(error.reason, set()).add(str(error))
        assert all(len(each) == 1 for each in texts.values())

    def test_a_cut_or_grown_blob_is_refused(self, kms: KmsUnderTest) -> None:
        """A blob of any other length is CIPHERTEXT_INVALID."""
        key = _new_key(kms).name
        blob = kms.client.encrypt(key, b"xyz", encryption_context={}).ciphertext
        for wrong in (blob[:1], blob[:21], blob[:50], blob[:-1], blob + b"\0", bytes(6144)):
            with pytest.raises(CiphertextInvalidError):
                kms.client.decrypt(key, wrong, encryption_context={})

    def test_a_blob_of_another_key_is_told_apart(self, kms: KmsUnderTest) -> None:
        """A blob of another key is WRONG_KEY; of an unknown one, without a name, KEY_NOT_FOUND."""
        client, one, two = kms.client, _new_key(kms).name, _new_key(kms).name
        blob = client.encrypt(one, b"x", encryption_context={}).ciphertext
        with pytest.raises(WrongKeyError):
            client.decrypt(two, blob, encryption_context={})
        unknown = blob[:2] + uuid.UUID(MISSING_KEY).bytes + blob[18:]
        with pytest.raises(KeyNotFoundError):
            client.decrypt_with_any_key(kms.regions[0], unknown, encryption_context={})

    def test_a_wrong_checksum_is_refused(self, kms: KmsUnderTest) -> None:
        """A CRC32C that does not fit is CHECKSUM_MISMATCH; one that does is confirmed."""
        key, region = _new_key(kms).name, kms.regions[0]
        with pytest.raises(ChecksumMismatchError):
            kms.raw(region, "Encrypt", _encrypt_request(key, plaintext_crc32c=crc32c(b"y")))
        answer = kms.raw(
            region, "Encrypt", _encrypt_request(key, plaintext_crc32c=crc32c(b"x"))
        ).message
        assert isinstance(answer, rpc.EncryptResponse)
        assert answer.verified_plaintext_crc32c
        assert answer.ciphertext_crc32c == crc32c(answer.ciphertext)
        request = rpc.DecryptRequest(key=key, ciphertext=answer.ciphertext)
        opened = kms.raw(region, "Decrypt", request).message
        assert isinstance(opened, rpc.DecryptResponse)
        assert not opened.verified_ciphertext_crc32c
        request.ciphertext_crc32c = crc32c(answer.ciphertext) ^ 1
        with pytest.raises(ChecksumMismatchError):
            kms.raw(region, "Decrypt", request)

    def test_re_encryption_changes_key_version_and_context(self, kms: KmsUnderTest) -> None:
        """ReEncrypt moves a blob to another key and context of its region, or to a new version."""
        client, one, two = kms.client, _new_key(kms).name, _new_key(kms).name
        blob = client.encrypt(one, b"x", encryption_context=CONTEXT).ciphertext
        moved = client.re_encrypt(
            blob,
            source_key=one,
            source_encryption_context=CONTEXT,
            destination_key=two,
            destination_encryption_context={"new": "context"},
        )
        assert moved.source_key_version == f"{one}/versions/1"
        assert moved.destination_key_version == f"{two}/versions/1"
        opened = client.decrypt(two, moved.ciphertext, encryption_context={"new": "context"})
        assert opened.plaintext == b"x"
        client.rotate_key(one)
        renewed = client.re_encrypt(
            blob,
            source_key=one,
            source_encryption_context=CONTEXT,
            destination_key=one,
            destination_encryption_context=CONTEXT,
        )
        assert renewed.destination_key_version == f"{one}/versions/2"
        with pytest.raises(CiphertextInvalidError):
            client.re_encrypt(
                blob,
                source_key=one,
                source_encryption_context={},
                destination_key=two,
                destination_encryption_context={},
            )

    def test_re_encryption_across_regions(self, kms: KmsUnderTest) -> None:
        """ReEncrypt to another region works where one server has both, else WRONG_REGION."""
        client, here, there = kms.client, _new_key(kms).name, _new_key(kms, 1).name
        blob = client.encrypt(here, b"x", encryption_context=CONTEXT).ciphertext
        arguments: dict[str, Any] = {
            "source_key": here,
            "source_encryption_context": CONTEXT,
            "destination_key": there,
            "destination_encryption_context": CONTEXT,
        }
        if not kms.one_server:
            with pytest.raises(WrongRegionError):
                client.re_encrypt(blob, **arguments)
            return
        moved = client.re_encrypt(blob, **arguments)
        assert [receipt.region for receipt in moved.receipts] == list(kms.regions)
        opened = client.decrypt(there, moved.ciphertext, encryption_context=CONTEXT)
        assert opened.plaintext == b"x"

    @pytest.mark.parametrize("size", [1, 16, 32, 1024])
    def test_a_data_key_unwraps_to_itself(self, kms: KmsUnderTest, size: int) -> None:
        """Decrypt of the wrapped data key gives the plaintext one, of the length asked for."""
        client, key = kms.client, _new_key(kms).name
        made = client.generate_data_key(key, encryption_context=CONTEXT, number_of_bytes=size)
        assert len(made.plaintext_data_key) == size
        opened = client.decrypt(key, made.wrapped_data_key, encryption_context=CONTEXT)
        assert opened.plaintext == bytes(made.plaintext_data_key)
        blind = client.generate_data_key_without_plaintext(
            key, encryption_context=CONTEXT, number_of_bytes=size
        )
        opened = client.decrypt(key, blind.wrapped_data_key, encryption_context=CONTEXT)
        assert len(opened.plaintext) == size

    def test_a_data_key_has_the_length_of_its_spec(self, kms: KmsUnderTest) -> None:
        """AES_128 is 16 bytes, AES_256 and nothing said are 32."""
        key, region = _new_key(kms).name, kms.regions[0]
        requests = (
            (rpc.GenerateDataKeyRequest(key=key, data_key_spec=rpc.DATA_KEY_SPEC_AES_128), 16),
            (rpc.GenerateDataKeyRequest(key=key, data_key_spec=rpc.DATA_KEY_SPEC_AES_256), 32),
            (rpc.GenerateDataKeyRequest(key=key), 32),
        )
        for request, size in requests:
            answer = kms.raw(region, "GenerateDataKey", request).message
            assert isinstance(answer, rpc.GenerateDataKeyResponse)
            assert len(answer.plaintext_data_key) == size

    @pytest.mark.parametrize("size", [1, 31, 1024])
    def test_random_bytes_have_the_length_asked_for(self, kms: KmsUnderTest, size: int) -> None:
        """GenerateRandom returns 1 to 1,024 bytes from either region."""
        for region in kms.regions:
            assert len(kms.client.generate_random(region, size).random) == size

    @pytest.mark.parametrize("size", [0, 1025])
    def test_lengths_beyond_the_limits_are_refused(self, kms: KmsUnderTest, size: int) -> None:
        """0 and 1,025 bytes of a data key or of random bytes are ARGUMENT_INVALID."""
        key, region = _new_key(kms).name, kms.regions[0]
        requests: list[tuple[str, Message]] = [
            ("GenerateDataKey", rpc.GenerateDataKeyRequest(key=key, number_of_bytes=size)),
            (
                "GenerateDataKeyWithoutPlaintext",
                rpc.GenerateDataKeyWithoutPlaintextRequest(key=key, number_of_bytes=size),
            ),
            (
                "GenerateRandom",
                rpc.GenerateRandomRequest(parent=f"regions/{region}", number_of_bytes=size),
            ),
        ]
        for method, request in requests:
            with pytest.raises(ArgumentInvalidError):
                kms.raw(region, method, request)
