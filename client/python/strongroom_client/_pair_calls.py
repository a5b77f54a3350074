"""Operations on MAC keys and key pairs. Every bytes field is checked with CRC32C, both ways."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from strongroom.kms.v1 import key_service_pb2 as rpc
from strongroom.kms.v1 import resources_pb2 as pb
from strongroom_client._core import (
    Call,
    Operation,
    ask_checked,
    check_bytes,
    check_crc32c,
    check_key_version,
    check_verified,
    crc32c,
    encode_context,
    parse_name,
)
from strongroom_client._key_calls import algorithm_from, algorithm_value, spec_from, usage_from
from strongroom_client.errors import ArgumentInvalidError, ResponseInvalidError
from strongroom_client.pair_results import (
    DataKeyPairSpec,
    GeneratedDataKeyPair,
    MacResult,
    PublicKeyResult,
    SharedSecretResult,
    SignResult,
    VerifyResult,
    WrappedDataKeyPair,
)
from strongroom_client.results import Algorithm
from strongroom_client.secret_bytes import SecretBytes

__all__ = [
    "derive_shared_secret",
    "generate_data_key_pair",
    "generate_data_key_pair_without_plaintext",
    "generate_mac",
    "get_public_key",
    "sign",
    "verify",
    "verify_mac",
]

MAX_MESSAGE_BYTES: Final = 4096
MAX_SIGNATURE_BYTES: Final = 6144
MAX_PUBLIC_KEY_BYTES: Final = 600
_PAIR_SPECS: Final = {
    spec: rpc.DataKeyPairSpec.Value(f"DATA_KEY_PAIR_SPEC_{spec}") for spec in DataKeyPairSpec
}


def sign(
    key: str, message: bytes, *, algorithm: Algorithm | None, is_digest: bool
) -> Operation[SignResult]:
    """Sign a message or digest."""
    parsed = parse_name("key", key)
    message = _check_message(message)
    request = rpc.SignRequest(
        key=key,
        message=message,
        message_type=_message_type(is_digest=is_digest),
        algorithm=algorithm_value(algorithm),
        message_crc32c=crc32c(message),
    )

    def check(answer: rpc.SignResponse) -> None:
        check_verified("message", verified=answer.verified_message_crc32c)
        check_crc32c("signature", answer.signature, answer.signature_crc32c)

    answer, receipts = yield from ask_checked(
        Call(parsed.region, "Sign", request), rpc.SignResponse, check
    )
    check_key_version(answer.key_version, parsed)
    return SignResult(
        key_version=answer.key_version,
        algorithm=_same_algorithm(algorithm, answer.algorithm),
        signature=_filled("signature", answer.signature),
        receipts=receipts,
    )


def verify(
    key: str, message: bytes, signature: bytes, *, algorithm: Algorithm | None, is_digest: bool
) -> Operation[VerifyResult]:
    """Verify a signature."""
    parsed = parse_name("key", key)
    message = _check_message(message)
    signature = check_bytes("signature", signature, MAX_SIGNATURE_BYTES)
    request = rpc.VerifyRequest(
        key=key,
        message=message,
        message_type=_message_type(is_digest=is_digest),
        algorithm=algorithm_value(algorithm),
        signature=signature,
        message_crc32c=crc32c(message),
        signature_crc32c=crc32c(signature),
    )

    def check(answer: rpc.VerifyResponse) -> None:
        # What verified must be what was sent, not what arrived.
        check_verified("message", verified=answer.verified_message_crc32c)
        check_verified("signature", verified=answer.verified_signature_crc32c)

    answer, receipts = yield from ask_checked(
        Call(parsed.region, "Verify", request), rpc.VerifyResponse, check
    )
    check_key_version(answer.key_version, parsed)
    return VerifyResult(
        key_version=answer.key_version,
        algorithm=_same_algorithm(algorithm, answer.algorithm),
        receipts=receipts,
    )


def get_public_key(key: str) -> Operation[PublicKeyResult]:
    """Return the public key of a pair."""
    parsed = parse_name("key", key)

    def check(answer: rpc.GetPublicKeyResponse) -> None:
        check_crc32c("public_key", answer.public_key, answer.public_key_crc32c)

    answer, receipts = yield from ask_checked(
        Call(parsed.region, "GetPublicKey", rpc.GetPublicKeyRequest(key=key)),
        rpc.GetPublicKeyResponse,
        check,
    )
    check_key_version(answer.key_version, parsed)
    return PublicKeyResult(
        key_version=answer.key_version,
        public_key=_filled("public key", answer.public_key),
        spec=spec_from(answer.spec),
        usage=usage_from(answer.usage),
        algorithms=tuple(algorithm_from(each) for each in answer.algorithms),
        receipts=receipts,
    )


def generate_mac(key: str, message: bytes, *, algorithm: Algorithm | None) -> Operation[MacResult]:
    """Make the HMAC of a message."""
    parsed = parse_name("key", key)
    message = _check_message(message)
    request = rpc.GenerateMacRequest(
        key=key,
        message=message,
        algorithm=algorithm_value(algorithm),
        message_crc32c=crc32c(message),
    )

    def check(answer: rpc.GenerateMacResponse) -> None:
        check_verified("message", verified=answer.verified_message_crc32c)
        check_crc32c("mac", answer.mac, answer.mac_crc32c)

    answer, receipts = yield from ask_checked(
        Call(parsed.region, "GenerateMac", request), rpc.GenerateMacResponse, check
    )
    check_key_version(answer.key_version, parsed)
    return MacResult(
        key_version=answer.key_version,
        algorithm=_same_algorithm(algorithm, answer.algorithm),
        mac=_filled("MAC", answer.mac),
        receipts=receipts,
    )


def verify_mac(
    key: str, message: bytes, mac: bytes, *, algorithm: Algorithm | None
) -> Operation[VerifyResult]:
    """Verify an HMAC."""
    parsed = parse_name("key", key)
    message = _check_message(message)
    mac = check_bytes("mac", mac, MAX_SIGNATURE_BYTES)
    request = rpc.VerifyMacRequest(
        key=key,
        message=message,
        algorithm=algorithm_value(algorithm),
        mac=mac,
        message_crc32c=crc32c(message),
        mac_crc32c=crc32c(mac),
    )

    def check(answer: rpc.VerifyMacResponse) -> None:
        check_verified("message", verified=answer.verified_message_crc32c)
        check_verified("mac", verified=answer.verified_mac_crc32c)

    answer, receipts = yield from ask_checked(
        Call(parsed.region, "VerifyMac", request), rpc.VerifyMacResponse, check
    )
    check_key_version(answer.key_version, parsed)
    return VerifyResult(
        key_version=answer.key_version,
        algorithm=_same_algorithm(algorithm, answer.algorithm),
        receipts=receipts,
    )


def derive_shared_secret(key: str, public_key: bytes) -> Operation[SharedSecretResult]:
    """Agree with another's public key."""
    parsed = parse_name("key", key)
    public_key = check_bytes("public_key", public_key, MAX_PUBLIC_KEY_BYTES)
    request = rpc.DeriveSharedSecretRequest(
        key=key, public_key=public_key, public_key_crc32c=crc32c(public_key)
    )

    def check(answer: rpc.DeriveSharedSecretResponse) -> None:
        check_verified("public_key", verified=answer.verified_public_key_crc32c)
        check_crc32c("shared_secret", answer.shared_secret, answer.shared_secret_crc32c)

    answer, receipts = yield from ask_checked(
        Call(parsed.region, "DeriveSharedSecret", request), rpc.DeriveSharedSecretResponse, check
    )
    check_key_version(answer.key_version, parsed)
    return SharedSecretResult(
        key_version=answer.key_version,
        algorithm=_same_algorithm(Algorithm.ECDH, answer.algorithm),
        shared_secret=SecretBytes(_filled("shared secret", answer.shared_secret)),
        receipts=receipts,
    )


def generate_data_key_pair(
    key: str, spec: DataKeyPairSpec, *, encryption_context: Mapping[str, str]
) -> Operation[GeneratedDataKeyPair]:
    """Make a key pair: its private key in the clear, and wrapped."""
    parsed = parse_name("key", key)
    encode_context("encryption_context", encryption_context)
    request = rpc.GenerateDataKeyPairRequest(
        key=key, encryption_context=encryption_context, spec=_PAIR_SPECS[spec]
    )

    def check(answer: rpc.GenerateDataKeyPairResponse) -> None:
        check_crc32c("public_key", answer.public_key, answer.public_key_crc32c)
        plaintext = answer.plaintext_private_key
        check_crc32c("plaintext_private_key", plaintext, answer.plaintext_private_key_crc32c)
        wrapped = answer.wrapped_private_key
        check_crc32c("wrapped_private_key", wrapped, answer.wrapped_private_key_crc32c)

    answer, receipts = yield from ask_checked(
        Call(parsed.region, "GenerateDataKeyPair", request), rpc.GenerateDataKeyPairResponse, check
    )
    check_key_version(answer.key_version, parsed)
    return GeneratedDataKeyPair(
        key_version=answer.key_version,
        spec=_same_spec(spec, answer.spec),
        public_key=_filled("public key", answer.public_key),
        plaintext_private_key=SecretBytes(_filled("private key", answer.plaintext_private_key)),
        wrapped_private_key=_filled("wrapped private key", answer.wrapped_private_key),
        receipts=receipts,
    )


def generate_data_key_pair_without_plaintext(
    key: str, spec: DataKeyPairSpec, *, encryption_context: Mapping[str, str]
) -> Operation[WrappedDataKeyPair]:
    """Make a key pair and return its private key wrapped only."""
    parsed = parse_name("key", key)
    encode_context("encryption_context", encryption_context)
    request = rpc.GenerateDataKeyPairWithoutPlaintextRequest(
        key=key, encryption_context=encryption_context, spec=_PAIR_SPECS[spec]
    )

    def check(answer: rpc.GenerateDataKeyPairWithoutPlaintextResponse) -> None:
        check_crc32c("public_key", answer.public_key, answer.public_key_crc32c)
        wrapped = answer.wrapped_private_key
        check_crc32c("wrapped_private_key", wrapped, answer.wrapped_private_key_crc32c)

    answer, receipts = yield from ask_checked(
        Call(parsed.region, "GenerateDataKeyPairWithoutPlaintext", request),
        rpc.GenerateDataKeyPairWithoutPlaintextResponse,
        check,
    )
    check_key_version(answer.key_version, parsed)
    return WrappedDataKeyPair(
        key_version=answer.key_version,
        spec=_same_spec(spec, answer.spec),
        public_key=_filled("public key", answer.public_key),
        wrapped_private_key=_filled("wrapped private key", answer.wrapped_private_key),
        receipts=receipts,
    )


def _check_message(message: bytes) -> bytes:
    if len(message) > MAX_MESSAGE_BYTES:
        raise ArgumentInvalidError.of(
            "message",
            "bytes.len",
            f"{len(message)} bytes, it takes at most {MAX_MESSAGE_BYTES:,}: sign its digest",
        )
    return bytes(message)


def _message_type(*, is_digest: bool) -> rpc.MessageType.ValueType:
    return rpc.MESSAGE_TYPE_DIGEST if is_digest else rpc.MESSAGE_TYPE_RAW


def _same_algorithm(asked: Algorithm | None, value: pb.Algorithm.ValueType) -> Algorithm:
    used = algorithm_from(value)
    if asked is not None and used is not asked:
        raise ResponseInvalidError(f"asked for {asked}, the answer used {used}")
    return used


def _same_spec(asked: DataKeyPairSpec, value: rpc.DataKeyPairSpec.ValueType) -> DataKeyPairSpec:
    if value != _PAIR_SPECS[asked]:
        raise ResponseInvalidError(f"asked for a pair {asked}, got another")
    return asked


def _filled(what: str, data: bytes) -> bytes:
    if not data:
        raise ResponseInvalidError(f"the answer has no {what}")
    return data
