"""The fake's imports: real RSA and AES key wrap, no HSM. See testing.py for its limits."""

from __future__ import annotations

import hmac
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final, TypeAlias

from cryptography.hazmat.primitives import hashes, keywrap, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from google.protobuf.message import Message

from strongroom.kms.v1 import import_calls_pb2 as rpc
from strongroom.kms.v1 import resources_pb2 as pb
from strongroom_client._core import crc32c
from strongroom_client._fake_ends import state_invalid
from strongroom_client._fake_shards import (
    MATERIAL_BYTES,
    FakeExternal,
    FakeKey,
    FakeShards,
    check_checksum,
    check_etag,
    check_size,
    ciphertext_invalid,
    refuse,
    require_changeable,
)
from strongroom_client.errors import (
    ImportTokenExpiredError,
    ImportTokenInvalidError,
    ImportTokenUsedError,
    KeyMaterialMismatchError,
    KeyOriginMismatchError,
    KeySpecUnsupportedError,
    StrongroomError,
)

__all__ = ["FakeImports"]

#: The answer, and which records it leaves: region and method of each.
Answer: TypeAlias = tuple[Message, tuple[tuple[str, str], ...]]

TOKEN_LIFETIME: Final = timedelta(hours=24)
MAX_DAYS: Final = 365
MODULUS_BITS: Final = 3072
# As SoftHSM, on which development deployments run: OAEP with SHA-1 alone.
ALGORITHMS: Final = (
    rpc.WRAPPING_ALGORITHM_RSA_AES_KW_SHA_1,
    rpc.WRAPPING_ALGORITHM_RSAES_OAEP_SHA_1,
)


@dataclass(slots=True)
class _Token:
    key_id: uuid.UUID
    algorithm: rpc.WrappingAlgorithm.ValueType
    private: rsa.RSAPrivateKey
    expire_time: datetime
    used: bool = False
    replaced: bool = False


class FakeImports:
    """Answers requests about imports into the keys of `FakeShards`."""

    def __init__(self, shards: FakeShards):
        self._shards = shards
        self._hosted: tuple[str, ...] = ()
        self._tokens: dict[bytes, _Token] = {}

    def handlers(self, hosted: tuple[str, ...]) -> Mapping[str, Callable[..., Answer]]:
        """Return what answers each method, at a server that hosts the shards `hosted`."""
        self._hosted = hosted
        return {
            "GetImportParameters": self._get_parameters,
            "ImportKeyMaterial": self._import,
            "DeleteImportedKeyMaterial": self._delete,
        }

    def _get_parameters(self, request: rpc.GetImportParametersRequest) -> Answer:
        asked = request.wrapping_algorithm
        if asked not in rpc.WrappingAlgorithm.values():
            raise refuse("wrapping_algorithm", "enum.defined_only", "a wrapping algorithm")
        key = self._shards.find_exact(request.name, "name", self._hosted)
        require_changeable(key)
        _external(key, "GetImportParameters")
        algorithm = asked or ALGORITHMS[0]
        expire_time = (self._shards.now() + TOKEN_LIFETIME).replace(microsecond=0)
        response = rpc.GetImportParametersResponse(
            key_version=key.version_name(1), material_bytes=MATERIAL_BYTES[key.spec]
        )
        response.expire_time.FromDatetime(expire_time)
        record = ((key.name.region, "GetImportParameters"),)
        if request.validate_only:
            response.wrapping_algorithm = asked
            return response, record
        if algorithm not in ALGORITHMS:
            raise KeySpecUnsupportedError(f"region {key.name.region}: RSAES_OAEP_SHA_256")
        for token in self._tokens.values():
            token.replaced |= token.key_id == key.name.key_id and not token.used
        private = rsa.generate_private_key(65537, MODULUS_BITS)
        response.public_key = private.public_key().public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        response.public_key_crc32c = crc32c(response.public_key)
        response.wrapping_algorithm = algorithm
        response.import_token = self._shards.random_bytes(78)
        made = _Token(key.name.key_id, algorithm, private, expire_time)
        self._tokens[response.import_token] = made
        return response, record

    def _import(self, request: rpc.ImportKeyMaterialRequest) -> Answer:
        check_size("import_token", request.import_token, 256)
        check_size("encrypted_material", request.encrypted_material, 1024)
        expires = request.expiration_model == rpc.EXPIRATION_MODEL_EXPIRES
        if not request.expiration_model or expires != request.HasField("valid_to"):
            raise refuse("", "import_key_material.valid_to", "valid_to goes with EXPIRES")
        verified = check_checksum(
            "encrypted_material",
            request.encrypted_material,
            request.encrypted_material_crc32c
            if request.HasField("encrypted_material_crc32c")
            else None,
        )
        key = self._shards.find_exact(request.name, "name", self._hosted)
        check_etag(key, request.etag)
        require_changeable(key)
        external = _external(key, "ImportKeyMaterial")
        now = self._shards.now()
        ends = request.valid_to.ToDatetime(tzinfo=UTC) if expires else None
        if ends is not None and not now < ends <= now + timedelta(days=MAX_DAYS):
            raise refuse("valid_to", "valid_to.range", f"at most {MAX_DAYS} days ahead")
        token = self._tokens.get(request.import_token)
        if token is None or token.key_id != key.name.key_id or token.replaced:
            raise ImportTokenInvalidError("not the import token that this key has open")
        if token.used:
            raise ImportTokenUsedError("the import token was presented before")
        if token.expire_time <= now:
            raise ImportTokenExpiredError("the import token has ended")
        if not request.validate_only:
            self._bring_in(key, external, token, request.encrypted_material)
            external.import_time, external.expire_time = now, ends
            self._shards.touch(key)
        response = rpc.ImportKeyMaterialResponse(
            key=key.to_proto(),
            key_version=key.version_to_proto(1),
            verified_encrypted_material_crc32c=verified,
        )
        if request.validate_only and response.key.state == pb.KEY_STATE_PENDING_IMPORT:
            response.key.state = pb.KEY_STATE_ENABLED
        return response, ((key.name.region, "ImportKeyMaterial"),)

    def _bring_in(
        self, key: FakeKey, external: FakeExternal, token: _Token, encrypted: bytes
    ) -> None:
        token.used = True
        material = _unwrap(token, encrypted)
        if len(material) != MATERIAL_BYTES[key.spec]:
            raise ciphertext_invalid()
        if external.first and not hmac.compare_digest(material, external.first):
            raise KeyMaterialMismatchError(f"{key.name} takes what was imported first")
        if external.import_time is None:
            key.enabled = True
        external.first = key.materials[0] = material

    def _delete(self, request: rpc.DeleteImportedKeyMaterialRequest) -> Answer:
        key = self._shards.find_exact(request.name, "name", self._hosted)
        check_etag(key, request.etag)
        if key.state == pb.KEY_STATE_DESTROYED:
            raise state_invalid(str(key.name))
        external = _external(key, "DeleteImportedKeyMaterial")
        had = external.import_time is not None
        if had and not request.validate_only:
            key.drop_material()
            self._shards.touch(key)
        response = rpc.DeleteImportedKeyMaterialResponse(key=key.to_proto())
        if had and request.validate_only and key.state != pb.KEY_STATE_PENDING_DELETION:
            response.key.state = pb.KEY_STATE_PENDING_IMPORT
        return response, ((key.name.region, "DeleteImportedKeyMaterial"),)


def _external(key: FakeKey, call: str) -> FakeExternal:
    if key.external is None:
        raise _origin_mismatch(key, call)
    return key.external


def _origin_mismatch(key: FakeKey, call: str) -> StrongroomError:
    return KeyOriginMismatchError(f"{key.name} was made in the HSM; {call} is not for it")


def _unwrap(token: _Token, data: bytes) -> bytes:
    oaep = padding.OAEP(padding.MGF1(hashes.SHA1()), hashes.SHA1(), label=None)  # noqa: S303 - RFC 8017, B.1
    size = MODULUS_BITS // 8
    try:
        first = token.private.decrypt(data[:size], oaep)
        if token.algorithm == rpc.WRAPPING_ALGORITHM_RSA_AES_KW_SHA_1:
            return keywrap.aes_key_unwrap(first, data[size:])
    except (ValueError, keywrap.InvalidUnwrap):
        raise ciphertext_invalid() from None
    return first if len(data) == size else b""
