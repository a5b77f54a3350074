"""The fake's RPCs: from request to response, one method each."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Final

from google.protobuf.message import Message

from strongroom import resource_names
from strongroom.kms.v1 import key_service_pb2 as rpc
from strongroom.kms.v1 import resources_pb2 as pb
from strongroom.resource_names import RegionName
from strongroom_client._core import crc32c
from strongroom_client._fake_imports import FakeImports
from strongroom_client._fake_lifecycle import FakeLifecycle
from strongroom_client._fake_pair_calls import Answer, FakePairCalls, created_usage
from strongroom_client._fake_permissions import FakePermissions
from strongroom_client._fake_shards import FakeKey, FakeShards, check_checksum, check_size, refuse
from strongroom_client.errors import RequestIdReusedError, WrongRegionError

__all__ = ["FakeService"]

MAX_PLAINTEXT_BYTES: Final = 4096
MAX_CIPHERTEXT_BYTES: Final = 6144
MAX_RANDOM_BYTES: Final = 1024
MAX_PAGE: Final = 1000
DEFAULT_PAGE: Final = 100

_DataKeyRequest = rpc.GenerateDataKeyRequest | rpc.GenerateDataKeyWithoutPlaintextRequest


class FakeService:
    """Answers requests. Not thread-safe: its owner holds a lock."""

    def __init__(
        self,
        *,
        principal: str,
        now: Callable[[], datetime],
        random_bytes: Callable[[int], bytes],
    ):
        self._shards = FakeShards(principal=principal, now=now, random_bytes=random_bytes)
        self._pairs = FakePairCalls(self._shards)
        self._lifecycle = FakeLifecycle(self._shards)
        self._imports = FakeImports(self._shards)
        self._permissions = FakePermissions(self._shards, principal=principal, now=now)
        self._memos: dict[tuple[str, str], tuple[bytes, Message]] = {}
        self._hosted: tuple[str, ...] = ()

    def answer(self, method: str, request: Message, hosted: tuple[str, ...], region: str) -> Answer:
        """Answer one call at a server that hosts the shards `hosted`."""
        self._hosted = hosted
        handlers: Mapping[str, Callable[..., Answer]] = {
            "CreateKey": self._create_key,
            "GetKey": self._get_key,
            "ListKeys": self._list_keys,
            "EnableKey": self._enable_key,
            "DisableKey": self._disable_key,
            "RotateKey": self._rotate_key,
            "ListKeyVersions": self._list_key_versions,
            "CreateAlias": self._create_alias,
            "Encrypt": self._encrypt,
            "Decrypt": self._decrypt,
            "ReEncrypt": self._re_encrypt,
            "GenerateDataKey": self._generate_data_key,
            "GenerateDataKeyWithoutPlaintext": self._generate_wrapped_data_key,
            "GenerateRandom": self._generate_random,
            **self._pairs.handlers(hosted),
            **self._lifecycle.handlers(hosted),
            **self._imports.handlers(hosted),
            **self._permissions.handlers(hosted),
        }
        request_id: str = getattr(request, "request_id", "")
        if not request_id or getattr(request, "validate_only", False):
            return handlers[method](request)
        try:
            uuid.UUID(request_id)
        except ValueError:
            raise refuse("request_id", "string.uuid", "expected a UUID") from None
        digest = request.SerializeToString(deterministic=True)
        memo = self._memos.get((method, request_id))
        if memo is not None:
            if memo[0] != digest:
                raise RequestIdReusedError("request_id was used before with a different request")
            return memo[1], ((region, method),)
        answer = handlers[method](request)
        self._memos[method, request_id] = (digest, answer[0])
        return answer

    def _create_key(self, request: rpc.CreateKeyRequest) -> Answer:
        region = self._region(request.parent)
        storage = request.storage or pb.KEY_STORAGE_RESIDENT
        if storage not in pb.KeyStorage.values():
            raise refuse("storage", "enum.defined_only", "RESIDENT or WRAPPED")
        audit_mode = request.audit_mode or pb.AUDIT_MODE_REQUIRED
        if audit_mode not in pb.AuditMode.values():
            raise refuse("audit_mode", "enum.defined_only", "REQUIRED or BUFFERED")
        if request.origin not in pb.KeyOrigin.values():
            raise refuse("origin", "enum.defined_only", "HSM or EXTERNAL")
        key = self._shards.create_key(
            region,
            request.description,
            storage,
            spec=request.spec or pb.KEY_SPEC_AES_256,
            usage=created_usage(request),
            audit_mode=audit_mode,
            tags=request.tags,
            is_external=request.origin == pb.KEY_ORIGIN_EXTERNAL,
            dry=request.validate_only,
        )
        response = rpc.CreateKeyResponse(key=key.to_proto() if key is not None else None)
        return response, ((region, "CreateKey"),)

    def _get_key(self, request: rpc.GetKeyRequest) -> Answer:
        key = self._shards.find(request.name, "name", self._hosted)
        return rpc.GetKeyResponse(key=key.to_proto()), ((key.name.region, "GetKey"),)

    def _list_keys(self, request: rpc.ListKeysRequest) -> Answer:
        region = self._region(request.parent)
        keys = [key for key in self._shards.keys_of(region) if _is_wanted(key, request.filter)]
        if request.order == rpc.KEY_ORDER_NEWEST_FIRST:
            keys.reverse()
        start, end, token = _page(request.page_token, request.page_size, len(keys))
        response = rpc.ListKeysResponse(
            keys=[key.to_proto() for key in keys[start:end]], next_page_token=token
        )
        return response, ((region, "ListKeys"),)

    def _list_key_versions(self, request: rpc.ListKeyVersionsRequest) -> Answer:
        key = self._shards.find_exact(request.parent, "parent", self._hosted)
        total = len(key.materials)
        start, end, token = _page(request.page_token, request.page_size, total)
        versions = [key.version_to_proto(number) for number in range(start + 1, end + 1)]
        response = rpc.ListKeyVersionsResponse(key_versions=versions, next_page_token=token)
        return response, ((key.name.region, "ListKeyVersions"),)

    def _enable_key(self, request: rpc.EnableKeyRequest) -> Answer:
        key = self._shards.find_exact(request.name, "name", self._hosted)
        dry = request.validate_only
        self._shards.set_enabled(key, request.etag, enabled=True, dry=dry)
        response = rpc.EnableKeyResponse(key=None if dry else key.to_proto())
        return response, ((key.name.region, "EnableKey"),)

    def _disable_key(self, request: rpc.DisableKeyRequest) -> Answer:
        key = self._shards.find_exact(request.name, "name", self._hosted)
        dry = request.validate_only
        self._shards.set_enabled(key, request.etag, enabled=False, dry=dry)
        response = rpc.DisableKeyResponse(key=None if dry else key.to_proto())
        return response, ((key.name.region, "DisableKey"),)

    def _rotate_key(self, request: rpc.RotateKeyRequest) -> Answer:
        key = self._shards.find_exact(request.name, "name", self._hosted)
        dry = request.validate_only
        self._shards.rotate(key, request.etag, dry=dry)
        response = rpc.RotateKeyResponse(
            key=None if dry else key.to_proto(),
            key_version=None if dry else key.version_to_proto(len(key.materials)),
        )
        return response, ((key.name.region, "RotateKey"),)

    def _create_alias(self, request: rpc.CreateAliasRequest) -> Answer:
        region = self._region(request.parent)
        key = self._shards.find_exact(request.key, "key", self._hosted)
        alias = self._shards.create_alias(region, request.alias_id, key, dry=request.validate_only)
        return rpc.CreateAliasResponse(alias=alias), ((region, "CreateAlias"),)

    def _encrypt(self, request: rpc.EncryptRequest) -> Answer:
        check_size("plaintext", request.plaintext, MAX_PLAINTEXT_BYTES)
        verified = check_checksum(
            "plaintext",
            request.plaintext,
            request.plaintext_crc32c if request.HasField("plaintext_crc32c") else None,
        )
        key = self._shards.find(request.key, "key", self._hosted)
        dry = request.validate_only
        algorithm, blob = self._pairs.seal(key, request)
        response = rpc.EncryptResponse(algorithm=algorithm)
        if not dry:
            response.key_version = key.version_name(len(key.materials))
            response.ciphertext = blob
            response.ciphertext_crc32c = crc32c(blob)
            response.verified_plaintext_crc32c = verified
        return response, ((key.name.region, "Encrypt"),)

    def _decrypt(self, request: rpc.DecryptRequest) -> Answer:
        check_size("ciphertext", request.ciphertext, MAX_CIPHERTEXT_BYTES)
        verified = check_checksum(
            "ciphertext",
            request.ciphertext,
            request.ciphertext_crc32c if request.HasField("ciphertext_crc32c") else None,
        )
        named = self._shards.find(request.key, "key", self._hosted) if request.key else None
        key, number, plaintext = self._pairs.open(named, request, self._hosted)
        response = rpc.DecryptResponse(algorithm=self._pairs.algorithm(key, request.algorithm))
        if not request.validate_only:
            response.key_version = key.version_name(number)
            response.plaintext = plaintext
            response.plaintext_crc32c = crc32c(plaintext)
            response.verified_ciphertext_crc32c = verified
            response.used_primary = number == len(key.materials)
        return response, ((key.name.region, "Decrypt"),)

    def _re_encrypt(self, request: rpc.ReEncryptRequest) -> Answer:
        check_size("ciphertext", request.ciphertext, MAX_CIPHERTEXT_BYTES)
        verified = check_checksum(
            "ciphertext",
            request.ciphertext,
            request.ciphertext_crc32c if request.HasField("ciphertext_crc32c") else None,
        )
        find, dry = self._shards.find, request.validate_only
        named = find(request.source_key, "source_key", self._hosted) if request.source_key else None
        destination = find(request.destination_key, "destination_key", self._hosted)
        source, number, plaintext = self._shards.decrypt(
            named,
            request.ciphertext,
            request.source_encryption_context,
            hosted=self._hosted,
            dry=dry,
        )
        blob = self._shards.encrypt(
            destination, plaintext, request.destination_encryption_context, dry=dry
        )
        response = rpc.ReEncryptResponse()
        if not dry:
            response.source_key_version = source.version_name(number)
            response.destination_key_version = destination.version_name(len(destination.materials))
            response.ciphertext = blob
            response.ciphertext_crc32c = crc32c(blob)
            response.verified_ciphertext_crc32c = verified
        return response, (
            (source.name.region, "ReEncryptFrom"),
            (destination.name.region, "ReEncryptTo"),
        )

    def _generate_data_key(self, request: rpc.GenerateDataKeyRequest) -> Answer:
        size = _data_key_bytes(request)
        key = self._shards.find(request.key, "key", self._hosted)
        plaintext = self._shards.random_bytes(size)
        blob = self._shards.encrypt(
            key, plaintext, request.encryption_context, dry=request.validate_only
        )
        response = rpc.GenerateDataKeyResponse()
        if not request.validate_only:
            response.key_version = key.version_name(len(key.materials))
            response.plaintext_data_key = plaintext
            response.wrapped_data_key = blob
            response.plaintext_data_key_crc32c = crc32c(plaintext)
            response.wrapped_data_key_crc32c = crc32c(blob)
        return response, ((key.name.region, "GenerateDataKey"),)

    def _generate_wrapped_data_key(
        self, request: rpc.GenerateDataKeyWithoutPlaintextRequest
    ) -> Answer:
        size = _data_key_bytes(request)
        key = self._shards.find(request.key, "key", self._hosted)
        blob = self._shards.encrypt(
            key,
            self._shards.random_bytes(size),
            request.encryption_context,
            dry=request.validate_only,
        )
        response = rpc.GenerateDataKeyWithoutPlaintextResponse()
        if not request.validate_only:
            response.key_version = key.version_name(len(key.materials))
            response.wrapped_data_key = blob
            response.wrapped_data_key_crc32c = crc32c(blob)
        return response, ((key.name.region, "GenerateDataKeyWithoutPlaintext"),)

    def _generate_random(self, request: rpc.GenerateRandomRequest) -> Answer:
        region = self._region(request.parent)
        _check_count(request.number_of_bytes)
        random = self._shards.random_bytes(request.number_of_bytes)
        response = rpc.GenerateRandomResponse(random=random, random_crc32c=crc32c(random))
        return response, ((region, "GenerateRandom"),)

    def _region(self, parent: str) -> str:
        try:
            region = RegionName.parse(parent).region
        except resource_names.ResourceNameError as exc:
            raise refuse("parent", "string.pattern", str(exc)) from None
        if region not in self._hosted:
            raise WrongRegionError(
                f"region {region} is not hosted here",
                metadata={"region": region, "hostedRegions": ",".join(self._hosted)},
            )
        return region


def _data_key_bytes(request: _DataKeyRequest) -> int:
    if request.WhichOneof("length") == "number_of_bytes":
        _check_count(request.number_of_bytes)
        return request.number_of_bytes
    return 16 if request.data_key_spec == rpc.DATA_KEY_SPEC_AES_128 else 32


def _is_wanted(key: FakeKey, wanted: rpc.KeyFilter) -> bool:
    if wanted.states:
        if key.state not in wanted.states:
            return False
    elif key.state == pb.KEY_STATE_DESTROYED:
        return False
    return wanted.tags.items() <= key.tags.items()


def _check_count(number_of_bytes: int) -> None:
    if not 1 <= number_of_bytes <= MAX_RANDOM_BYTES:
        raise refuse("number_of_bytes", "uint32.range", f"1 to {MAX_RANDOM_BYTES:,}")


def _page(token: str, size: int, total: int) -> tuple[int, int, str]:
    """Return where a page starts and ends, and the token of the next one."""
    if size > MAX_PAGE:
        raise refuse("page_size", "uint32.lte", f"0 to {MAX_PAGE:,}")
    start = 0
    if token:
        if not token.isascii() or not token.isdigit() or int(token) > total:
            raise refuse("page_token", "page_token", "not a token of this call")
        start = int(token)
    end = min(start + (size or DEFAULT_PAGE), total)
    return start, end, str(end) if end < total else ""
