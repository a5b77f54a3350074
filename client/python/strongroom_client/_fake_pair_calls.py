"""The fake's RPCs for MAC keys, key pairs and RSA encryption: from request to response."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final, TypeAlias

from google.protobuf.message import Message

from strongroom.kms.v1 import key_service_pb2 as rpc
from strongroom.kms.v1 import resources_pb2 as pb
from strongroom_client import _fake_pairs as pairs
from strongroom_client._core import crc32c
from strongroom_client._fake_shards import (
    FakeKey,
    FakeShards,
    check_checksum,
    check_size,
    encode_context,
    refuse,
    require_enabled,
    require_symmetric,
)
from strongroom_client.errors import KeyUsageMismatchError

__all__ = ["Answer", "FakePairCalls", "created_usage"]

#: The answer, and which records it leaves: region and method of each.
Answer: TypeAlias = tuple[Message, tuple[tuple[str, str], ...]]
_Named: TypeAlias = (
    rpc.SignRequest
    | rpc.VerifyRequest
    | rpc.GenerateMacRequest
    | rpc.VerifyMacRequest
    | rpc.DeriveSharedSecretRequest
)

MAX_MESSAGE_BYTES: Final = 4096
MAX_SIGNATURE_BYTES: Final = 6144
MAX_PUBLIC_KEY_BYTES: Final = 600
_DIGEST_BYTES: Final = {"256": 32, "384": 48, "512": 64}


def created_usage(request: rpc.CreateKeyRequest) -> pb.KeyUsage.ValueType:
    """Return the usage of a new key: that of an AES key need not be said."""
    if request.spec <= pb.KEY_SPEC_AES_256 and not request.usage:
        return pb.KEY_USAGE_ENCRYPT_DECRYPT
    return request.usage


class FakePairCalls:
    """Answers requests over the keys of `FakeShards`."""

    def __init__(self, shards: FakeShards):
        self._shards = shards
        self._hosted: tuple[str, ...] = ()

    def handlers(self, hosted: tuple[str, ...]) -> Mapping[str, Callable[..., Answer]]:
        """Return what answers each method, at a server that hosts the shards `hosted`."""
        self._hosted = hosted
        return {
            "Sign": self._sign,
            "Verify": self._verify,
            "GetPublicKey": self._get_public_key,
            "GenerateMac": self._generate_mac,
            "VerifyMac": self._verify_mac,
            "DeriveSharedSecret": self._derive_shared_secret,
            "GenerateDataKeyPair": self._generate_data_key_pair,
            "GenerateDataKeyPairWithoutPlaintext": self._generate_wrapped_pair,
        }

    def algorithm(self, key: FakeKey, asked: int) -> pb.Algorithm.ValueType:
        """Return what to do with a key: what was asked for, or the only thing there is."""
        takes = pairs.algorithms_of(key.spec, key.usage)
        if not asked and len(takes) == 1:
            return takes[0]
        for each in takes:
            if each == asked:
                return each
        raise refuse("algorithm", "algorithm.of_key", "not one that this key takes")

    def seal(
        self, key: FakeKey, request: rpc.EncryptRequest
    ) -> tuple[pb.Algorithm.ValueType, bytes]:
        """Encrypt with any key; return the algorithm and the ciphertext."""
        dry = request.validate_only
        if not pairs.is_pair(key.spec):
            require_enabled(key)
            require_symmetric(key, "Encrypt")
            algorithm = self.algorithm(key, request.algorithm)
            context = request.encryption_context
            return algorithm, self._shards.encrypt(key, request.plaintext, context, dry=dry)
        _require(key, pb.KEY_USAGE_ENCRYPT_DECRYPT, "Encrypt")
        algorithm = self.algorithm(key, request.algorithm)
        _check_no_context(request.encryption_context)
        sealed = pairs.oaep_encrypt(key.materials[0], algorithm, request.plaintext)
        return algorithm, b"" if dry else sealed

    def open(
        self, named: FakeKey | None, request: rpc.DecryptRequest, hosted: tuple[str, ...]
    ) -> tuple[FakeKey, int, bytes]:
        """Decrypt with any key; return key, version and plaintext."""
        dry = request.validate_only
        if named is None or not pairs.is_pair(named.spec):
            key, number, plaintext = self._shards.decrypt(
                named, request.ciphertext, request.encryption_context, hosted=hosted, dry=dry
            )
            self.algorithm(key, request.algorithm)
            return key, number, plaintext
        _require(named, pb.KEY_USAGE_ENCRYPT_DECRYPT, "Decrypt")
        algorithm = self.algorithm(named, request.algorithm)
        _check_no_context(request.encryption_context)
        if dry:
            return named, 1, b""
        return named, 1, pairs.oaep_decrypt(named.materials[0], algorithm, request.ciphertext)

    def _sign(self, request: rpc.SignRequest) -> Answer:
        verified = _check_message(request)
        key, algorithm = self._key(request, pb.KEY_USAGE_SIGN_VERIFY, "Sign")
        is_digest = _check_digest(request, algorithm)
        response = rpc.SignResponse(
            key_version=key.version_name(1), verified_message_crc32c=verified, algorithm=algorithm
        )
        if not request.validate_only:
            response.signature = pairs.sign(
                key.materials[0], algorithm, request.message, is_digest=is_digest
            )
            response.signature_crc32c = crc32c(response.signature)
        return response, ((key.name.region, "Sign"),)

    def _verify(self, request: rpc.VerifyRequest) -> Answer:
        verified = _check_message(request)
        check_size("signature", request.signature, MAX_SIGNATURE_BYTES)
        given = request.signature_crc32c if request.HasField("signature_crc32c") else None
        verified_signature = check_checksum("signature", request.signature, given)
        key, algorithm = self._key(request, pb.KEY_USAGE_SIGN_VERIFY, "Verify")
        is_digest = _check_digest(request, algorithm)
        if not request.validate_only:
            pairs.verify(
                key.materials[0],
                algorithm,
                request.message,
                request.signature,
                is_digest=is_digest,
            )
        response = rpc.VerifyResponse(
            key_version=key.version_name(1),
            verified_message_crc32c=verified,
            verified_signature_crc32c=verified_signature,
            algorithm=algorithm,
        )
        return response, ((key.name.region, "Verify"),)

    def _get_public_key(self, request: rpc.GetPublicKeyRequest) -> Answer:
        key = self._shards.find(request.key, "key", self._hosted)
        require_enabled(key)
        if not pairs.is_pair(key.spec):
            raise KeyUsageMismatchError(f"{key.name} has no public key")
        data = pairs.public_key(key.materials[0])
        response = rpc.GetPublicKeyResponse(
            key_version=key.version_name(1),
            public_key=data,
            public_key_crc32c=crc32c(data),
            spec=key.spec,
            usage=key.usage,
            algorithms=pairs.algorithms_of(key.spec, key.usage),
        )
        return response, ((key.name.region, "GetPublicKey"),)

    def _generate_mac(self, request: rpc.GenerateMacRequest) -> Answer:
        verified = _check_message(request)
        key, algorithm = self._key(request, pb.KEY_USAGE_GENERATE_VERIFY_MAC, "GenerateMac")
        response = rpc.GenerateMacResponse(
            key_version=key.version_name(1), verified_message_crc32c=verified, algorithm=algorithm
        )
        if not request.validate_only:
            response.mac = pairs.generate_mac(key.materials[0], algorithm, request.message)
            response.mac_crc32c = crc32c(response.mac)
        return response, ((key.name.region, "GenerateMac"),)

    def _verify_mac(self, request: rpc.VerifyMacRequest) -> Answer:
        verified = _check_message(request)
        check_size("mac", request.mac, MAX_SIGNATURE_BYTES)
        given = request.mac_crc32c if request.HasField("mac_crc32c") else None
        verified_mac = check_checksum("mac", request.mac, given)
        key, algorithm = self._key(request, pb.KEY_USAGE_GENERATE_VERIFY_MAC, "VerifyMac")
        if not request.validate_only:
            pairs.verify_mac(key.materials[0], algorithm, request.message, request.mac)
        response = rpc.VerifyMacResponse(
            key_version=key.version_name(1),
            verified_message_crc32c=verified,
            verified_mac_crc32c=verified_mac,
            algorithm=algorithm,
        )
        return response, ((key.name.region, "VerifyMac"),)

    def _derive_shared_secret(self, request: rpc.DeriveSharedSecretRequest) -> Answer:
        check_size("public_key", request.public_key, MAX_PUBLIC_KEY_BYTES)
        given = request.public_key_crc32c if request.HasField("public_key_crc32c") else None
        verified = check_checksum("public_key", request.public_key, given)
        key, algorithm = self._key(request, pb.KEY_USAGE_KEY_AGREEMENT, "DeriveSharedSecret")
        response = rpc.DeriveSharedSecretResponse(
            key_version=key.version_name(1),
            verified_public_key_crc32c=verified,
            algorithm=algorithm,
        )
        if not request.validate_only:
            response.shared_secret = pairs.agree(key.materials[0], request.public_key)
            response.shared_secret_crc32c = crc32c(response.shared_secret)
        return response, ((key.name.region, "DeriveSharedSecret"),)

    def _generate_data_key_pair(self, request: rpc.GenerateDataKeyPairRequest) -> Answer:
        key, public, private, blob = self._make_pair(request)
        response = rpc.GenerateDataKeyPairResponse(spec=request.spec)
        response.key_version = key.version_name(len(key.materials))
        if not request.validate_only:
            response.public_key = public
            response.plaintext_private_key = private
            response.wrapped_private_key = blob
            response.public_key_crc32c = crc32c(public)
            response.plaintext_private_key_crc32c = crc32c(private)
            response.wrapped_private_key_crc32c = crc32c(blob)
        return response, ((key.name.region, "GenerateDataKeyPair"),)

    def _generate_wrapped_pair(
        self, request: rpc.GenerateDataKeyPairWithoutPlaintextRequest
    ) -> Answer:
        key, public, _, blob = self._make_pair(request)
        response = rpc.GenerateDataKeyPairWithoutPlaintextResponse(spec=request.spec)
        response.key_version = key.version_name(len(key.materials))
        if not request.validate_only:
            response.public_key = public
            response.wrapped_private_key = blob
            response.public_key_crc32c = crc32c(public)
            response.wrapped_private_key_crc32c = crc32c(blob)
        return response, ((key.name.region, "GenerateDataKeyPairWithoutPlaintext"),)

    def _make_pair(
        self,
        request: rpc.GenerateDataKeyPairRequest | rpc.GenerateDataKeyPairWithoutPlaintextRequest,
    ) -> tuple[FakeKey, bytes, bytes, bytes]:
        if not request.spec or request.spec not in rpc.DataKeyPairSpec.values():
            raise refuse("spec", "enum.defined_only", "a kind of pair")
        key = self._shards.find(request.key, "key", self._hosted)
        encode_context(request.encryption_context)
        dry = request.validate_only
        name = rpc.DataKeyPairSpec.Name(request.spec).removeprefix("DATA_KEY_PAIR_SPEC_")
        spec = pb.KeySpec.Value(f"KEY_SPEC_{name}")
        private = b"" if dry else pairs.make_material(spec, self._shards.random_bytes)
        blob = self._shards.encrypt(key, private, request.encryption_context, dry=dry)
        return key, b"" if dry else pairs.public_key(private), private, blob

    def _key(
        self, request: _Named, usage: pb.KeyUsage.ValueType, call: str
    ) -> tuple[FakeKey, pb.Algorithm.ValueType]:
        key = self._shards.find(request.key, "key", self._hosted)
        _require(key, usage, call)
        return key, self.algorithm(key, request.algorithm)


def _require(key: FakeKey, usage: int, call: str) -> None:
    require_enabled(key)
    if key.usage != usage:
        raise KeyUsageMismatchError(f"{key.name} is a key of another kind; {call} is not for it")


def _check_message(
    request: rpc.SignRequest | rpc.VerifyRequest | rpc.GenerateMacRequest | rpc.VerifyMacRequest,
) -> bool:
    if len(request.message) > MAX_MESSAGE_BYTES:
        raise refuse("message", "bytes.max_len", f"at most {MAX_MESSAGE_BYTES:,} bytes")
    given = request.message_crc32c if request.HasField("message_crc32c") else None
    return check_checksum("message", request.message, given)


def _check_digest(request: rpc.SignRequest | rpc.VerifyRequest, algorithm: int) -> bool:
    if request.message_type != rpc.MESSAGE_TYPE_DIGEST:
        return False
    if algorithm == pb.ALGORITHM_ED25519:
        raise refuse("message_type", "message.digest", "Ed25519 signs messages, not digests")
    size = _DIGEST_BYTES[pb.Algorithm.Name(algorithm).rpartition("_")[2]]  # type: ignore[arg-type]  # a number of the enum
    if len(request.message) != size:
        raise refuse("message", "message.digest", f"a digest has {size} bytes")
    return True


def _check_no_context(context: Mapping[str, str]) -> None:
    if context:
        raise refuse("encryption_context", "encryption_context.rsa", "none with an RSA key")
