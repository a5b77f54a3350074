"""Operations that use keys. Every bytes field is checked with CRC32C, both ways.

The checks catch what TLS cannot: a bit that flips in memory on either side, before it is
encrypted for the wire or after. For a KMS that is data lost for ever.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from strongroom.kms.v1 import key_service_pb2 as rpc
from strongroom_client._core import (
    Call,
    Operation,
    ask_checked,
    check_bytes,
    check_crc32c,
    check_key_version,
    check_range,
    check_verified,
    crc32c,
    encode_context,
    parse_name,
    parse_region,
)
from strongroom_client._key_calls import algorithm_from, algorithm_value
from strongroom_client.errors import ResponseInvalidError
from strongroom_client.results import (
    Algorithm,
    DecryptResult,
    EncryptResult,
    GeneratedDataKey,
    RandomBytes,
    ReEncryptResult,
    WrappedDataKey,
)
from strongroom_client.secret_bytes import SecretBytes

__all__ = [
    "decrypt",
    "decrypt_with_any_key",
    "encrypt",
    "generate_data_key",
    "generate_data_key_without_plaintext",
    "generate_random",
    "re_encrypt",
]

MAX_PLAINTEXT_BYTES: Final = 4096
MAX_CIPHERTEXT_BYTES: Final = 6144
MAX_RANDOM_BYTES: Final = 1024


def encrypt(
    key: str,
    plaintext: bytes,
    *,
    encryption_context: Mapping[str, str],
    algorithm: Algorithm | None = None,
) -> Operation[EncryptResult]:
    """Encrypt 1 to 4,096 bytes."""
    parsed = parse_name("key", key)
    plaintext = check_bytes("plaintext", plaintext, MAX_PLAINTEXT_BYTES)
    encode_context("encryption_context", encryption_context)
    request = rpc.EncryptRequest(
        key=key,
        plaintext=plaintext,
        encryption_context=encryption_context,
        plaintext_crc32c=crc32c(plaintext),
        algorithm=algorithm_value(algorithm),
    )

    def verify(answer: rpc.EncryptResponse) -> None:
        check_verified("plaintext", verified=answer.verified_plaintext_crc32c)
        check_crc32c("ciphertext", answer.ciphertext, answer.ciphertext_crc32c)

    answer, receipts = yield from ask_checked(
        Call(parsed.region, "Encrypt", request), rpc.EncryptResponse, verify
    )
    check_key_version(answer.key_version, parsed)
    return EncryptResult(
        key_version=answer.key_version,
        ciphertext=_blob(answer.ciphertext),
        algorithm=algorithm_from(answer.algorithm),
        receipts=receipts,
    )


def decrypt(
    key: str,
    ciphertext: bytes,
    *,
    encryption_context: Mapping[str, str],
    algorithm: Algorithm | None = None,
    max_attempts: int | None = None,
    time_share: float = 1.0,
) -> Operation[DecryptResult]:
    """Decrypt what `key` encrypted."""
    parsed = parse_name("key", key)
    request = _decrypt_request(key, ciphertext, encryption_context)
    request.algorithm = algorithm_value(algorithm)
    call = Call(parsed.region, "Decrypt", request, max_attempts, time_share)
    result = yield from _decrypt(call)
    check_key_version(result.key_version, parsed)
    return result


def decrypt_with_any_key(
    region: str, ciphertext: bytes, *, encryption_context: Mapping[str, str]
) -> Operation[DecryptResult]:
    """Decrypt with the key that the ciphertext names."""
    parse_region(region)
    request = _decrypt_request("", ciphertext, encryption_context)
    return (yield from _decrypt(Call(region, "Decrypt", request)))


def _decrypt_request(
    key: str, ciphertext: bytes, encryption_context: Mapping[str, str]
) -> rpc.DecryptRequest:
    ciphertext = check_bytes("ciphertext", ciphertext, MAX_CIPHERTEXT_BYTES)
    encode_context("encryption_context", encryption_context)
    return rpc.DecryptRequest(
        key=key,
        ciphertext=ciphertext,
        encryption_context=encryption_context,
        ciphertext_crc32c=crc32c(ciphertext),
    )


def _decrypt(call: Call) -> Operation[DecryptResult]:
    def verify(answer: rpc.DecryptResponse) -> None:
        check_verified("ciphertext", verified=answer.verified_ciphertext_crc32c)
        check_crc32c("plaintext", answer.plaintext, answer.plaintext_crc32c)

    answer, receipts = yield from ask_checked(call, rpc.DecryptResponse, verify)
    return DecryptResult(
        key_version=answer.key_version,
        plaintext=answer.plaintext,
        used_primary=answer.used_primary,
        algorithm=algorithm_from(answer.algorithm),
        receipts=receipts,
    )


def re_encrypt(
    ciphertext: bytes,
    *,
    source_key: str,
    source_encryption_context: Mapping[str, str],
    destination_key: str,
    destination_encryption_context: Mapping[str, str],
) -> Operation[ReEncryptResult]:
    """Decrypt and encrypt inside the service."""
    source = parse_name("source_key", source_key)
    destination = parse_name("destination_key", destination_key)
    ciphertext = check_bytes("ciphertext", ciphertext, MAX_CIPHERTEXT_BYTES)
    encode_context("source_encryption_context", source_encryption_context)
    encode_context("destination_encryption_context", destination_encryption_context)
    request = rpc.ReEncryptRequest(
        source_key=source_key,
        ciphertext=ciphertext,
        source_encryption_context=source_encryption_context,
        destination_key=destination_key,
        destination_encryption_context=destination_encryption_context,
        ciphertext_crc32c=crc32c(ciphertext),
    )

    def verify(answer: rpc.ReEncryptResponse) -> None:
        check_verified("ciphertext", verified=answer.verified_ciphertext_crc32c)
        check_crc32c("ciphertext", answer.ciphertext, answer.ciphertext_crc32c)

    answer, receipts = yield from ask_checked(
        Call(source.region, "ReEncrypt", request), rpc.ReEncryptResponse, verify
    )
    check_key_version(answer.source_key_version, source)
    check_key_version(answer.destination_key_version, destination)
    return ReEncryptResult(
        source_key_version=answer.source_key_version,
        destination_key_version=answer.destination_key_version,
        ciphertext=_blob(answer.ciphertext),
        receipts=receipts,
    )


def generate_data_key(
    key: str, *, encryption_context: Mapping[str, str], number_of_bytes: int
) -> Operation[GeneratedDataKey]:
    """Make a data key, in the clear and wrapped."""
    parsed = parse_name("key", key)
    check_range("number_of_bytes", number_of_bytes, MAX_RANDOM_BYTES)
    encode_context("encryption_context", encryption_context)
    request = rpc.GenerateDataKeyRequest(
        key=key, encryption_context=encryption_context, number_of_bytes=number_of_bytes
    )

    def verify(answer: rpc.GenerateDataKeyResponse) -> None:
        plaintext = answer.plaintext_data_key
        check_crc32c("plaintext_data_key", plaintext, answer.plaintext_data_key_crc32c)
        wrapped = answer.wrapped_data_key
        check_crc32c("wrapped_data_key", wrapped, answer.wrapped_data_key_crc32c)

    answer, receipts = yield from ask_checked(
        Call(parsed.region, "GenerateDataKey", request), rpc.GenerateDataKeyResponse, verify
    )
    check_key_version(answer.key_version, parsed)
    return GeneratedDataKey(
        key_version=answer.key_version,
        plaintext_data_key=_secret(answer.plaintext_data_key, number_of_bytes),
        wrapped_data_key=_blob(answer.wrapped_data_key),
        receipts=receipts,
    )


def generate_data_key_without_plaintext(
    key: str, *, encryption_context: Mapping[str, str], number_of_bytes: int
) -> Operation[WrappedDataKey]:
    """Make a data key, wrapped only."""
    parsed = parse_name("key", key)
    check_range("number_of_bytes", number_of_bytes, MAX_RANDOM_BYTES)
    encode_context("encryption_context", encryption_context)
    request = rpc.GenerateDataKeyWithoutPlaintextRequest(
        key=key, encryption_context=encryption_context, number_of_bytes=number_of_bytes
    )

    def verify(answer: rpc.GenerateDataKeyWithoutPlaintextResponse) -> None:
        wrapped = answer.wrapped_data_key
        check_crc32c("wrapped_data_key", wrapped, answer.wrapped_data_key_crc32c)

    answer, receipts = yield from ask_checked(
        Call(parsed.region, "GenerateDataKeyWithoutPlaintext", request),
        rpc.GenerateDataKeyWithoutPlaintextResponse,
        verify,
    )
    check_key_version(answer.key_version, parsed)
    return WrappedDataKey(
        key_version=answer.key_version,
        wrapped_data_key=_blob(answer.wrapped_data_key),
        receipts=receipts,
    )


def generate_random(region: str, number_of_bytes: int) -> Operation[RandomBytes]:
    """Return random bytes from the HSM of a shard."""
    parent = parse_region(region)
    check_range("number_of_bytes", number_of_bytes, MAX_RANDOM_BYTES)
    request = rpc.GenerateRandomRequest(parent=str(parent), number_of_bytes=number_of_bytes)

    def verify(answer: rpc.GenerateRandomResponse) -> None:
        check_crc32c("random", answer.random, answer.random_crc32c)

    answer, receipts = yield from ask_checked(
        Call(region, "GenerateRandom", request), rpc.GenerateRandomResponse, verify
    )
    return RandomBytes(random=_secret(answer.random, number_of_bytes), receipts=receipts)


def _secret(data: bytes, size: int) -> SecretBytes:
    # A short key would be a weak key: never take what was not asked for.
    if len(data) != size:
        raise ResponseInvalidError(f"asked for {size} bytes, got {len(data)}")
    return SecretBytes(data)


def _blob(data: bytes) -> bytes:
    if not 1 <= len(data) <= MAX_CIPHERTEXT_BYTES:
        raise ResponseInvalidError("the answer has no ciphertext")
    return data
