"""Operations on keys that are there: deletion, descriptions, tags, aliases."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from google.protobuf.field_mask_pb2 import FieldMask

from strongroom import resource_names
from strongroom.kms.v1 import key_service_pb2 as rpc
from strongroom.kms.v1 import resources_pb2 as pb
from strongroom.resource_names import AliasName, KeyVersionName
from strongroom_client._core import Call, Operation, ask, parse_key_name, parse_region
from strongroom_client._key_calls import Page, alias_from, key_from, same_key, version_from
from strongroom_client.errors import ArgumentInvalidError, ResponseInvalidError
from strongroom_client.results import Alias, Key, KeyVersion

__all__ = [
    "Change",
    "cancel_key_deletion",
    "cancel_key_version_deletion",
    "delete_alias",
    "get_key_version",
    "list_aliases",
    "schedule_key_deletion",
    "schedule_key_version_deletion",
    "tag_key",
    "untag_key",
    "update_alias",
    "update_key",
]


@dataclass(frozen=True, slots=True)
class Change:
    """What every change carries."""

    request_id: str
    etag: str = ""
    validate_only: bool = False


def update_key(key: str, *, description: str, change: Change) -> Operation[Key]:
    """Change the description of a key."""
    parsed = parse_key_name("key", key)
    request = rpc.UpdateKeyRequest(
        key=pb.Key(name=key, description=description),
        update_mask=FieldMask(paths=["description"]),
        etag=change.etag,
        request_id=change.request_id,
        validate_only=change.validate_only,
    )
    answer, receipts = yield from ask(
        Call(parsed.region, "UpdateKey", request), rpc.UpdateKeyResponse
    )
    return same_key(key, key_from(answer.key, receipts))


def schedule_key_deletion(key: str, *, pending_days: int, change: Change) -> Operation[Key]:
    """Have a key destroyed."""
    parsed = parse_key_name("key", key)
    request = rpc.ScheduleKeyDeletionRequest(
        name=key,
        pending_days=pending_days,
        etag=change.etag,
        request_id=change.request_id,
        validate_only=change.validate_only,
    )
    answer, receipts = yield from ask(
        Call(parsed.region, "ScheduleKeyDeletion", request), rpc.ScheduleKeyDeletionResponse
    )
    return same_key(key, key_from(answer.key, receipts))


def cancel_key_deletion(key: str, *, change: Change) -> Operation[Key]:
    """Take that back."""
    parsed = parse_key_name("key", key)
    request = rpc.CancelKeyDeletionRequest(
        name=key,
        etag=change.etag,
        request_id=change.request_id,
        validate_only=change.validate_only,
    )
    answer, receipts = yield from ask(
        Call(parsed.region, "CancelKeyDeletion", request), rpc.CancelKeyDeletionResponse
    )
    return same_key(key, key_from(answer.key, receipts))


def get_key_version(name: str) -> Operation[KeyVersion]:
    """Describe a version."""
    parsed = _parse_version(name)
    request = rpc.GetKeyVersionRequest(name=name)
    answer, receipts = yield from ask(
        Call(parsed.region, "GetKeyVersion", request), rpc.GetKeyVersionResponse
    )
    return _same_version(name, version_from(answer.key_version, receipts))


def schedule_key_version_deletion(
    name: str, *, pending_days: int, change: Change
) -> Operation[KeyVersion]:
    """Have a version destroyed."""
    parsed = _parse_version(name)
    request = rpc.ScheduleKeyVersionDeletionRequest(
        name=name,
        pending_days=pending_days,
        etag=change.etag,
        request_id=change.request_id,
        validate_only=change.validate_only,
    )
    answer, receipts = yield from ask(
        Call(parsed.region, "ScheduleKeyVersionDeletion", request),
        rpc.ScheduleKeyVersionDeletionResponse,
    )
    return _same_version(name, version_from(answer.key_version, receipts))


def cancel_key_version_deletion(name: str, *, change: Change) -> Operation[KeyVersion]:
    """Take that back."""
    parsed = _parse_version(name)
    request = rpc.CancelKeyVersionDeletionRequest(
        name=name,
        etag=change.etag,
        request_id=change.request_id,
        validate_only=change.validate_only,
    )
    answer, receipts = yield from ask(
        Call(parsed.region, "CancelKeyVersionDeletion", request),
        rpc.CancelKeyVersionDeletionResponse,
    )
    return _same_version(name, version_from(answer.key_version, receipts))


def tag_key(key: str, tags: Mapping[str, str], *, change: Change) -> Operation[Key]:
    """Set tags of a key."""
    parsed = parse_key_name("key", key)
    request = rpc.TagResourceRequest(
        name=key,
        tags=tags,
        etag=change.etag,
        request_id=change.request_id,
        validate_only=change.validate_only,
    )
    answer, receipts = yield from ask(
        Call(parsed.region, "TagResource", request), rpc.TagResourceResponse
    )
    return same_key(key, key_from(answer.key, receipts))


def untag_key(key: str, tag_names: Sequence[str], *, change: Change) -> Operation[Key]:
    """Take tags off a key."""
    parsed = parse_key_name("key", key)
    request = rpc.UntagResourceRequest(
        name=key,
        tag_names=tag_names,
        etag=change.etag,
        request_id=change.request_id,
        validate_only=change.validate_only,
    )
    answer, receipts = yield from ask(
        Call(parsed.region, "UntagResource", request), rpc.UntagResourceResponse
    )
    return same_key(key, key_from(answer.key, receipts))


def update_alias(alias: str, *, key: str, change: Change) -> Operation[Alias]:
    """Point an alias to another key."""
    parsed = _parse_alias(alias)
    parse_key_name("key", key)
    request = rpc.UpdateAliasRequest(
        name=alias, key=key, request_id=change.request_id, validate_only=change.validate_only
    )
    answer, receipts = yield from ask(
        Call(parsed.region, "UpdateAlias", request), rpc.UpdateAliasResponse
    )
    return alias_from(answer.alias, receipts)


def delete_alias(alias: str, *, change: Change) -> Operation[Alias]:
    """Take an alias away."""
    parsed = _parse_alias(alias)
    request = rpc.DeleteAliasRequest(
        name=alias, request_id=change.request_id, validate_only=change.validate_only
    )
    answer, receipts = yield from ask(
        Call(parsed.region, "DeleteAlias", request), rpc.DeleteAliasResponse
    )
    return alias_from(answer.alias, receipts)


def list_aliases(region: str, key: str, page_token: str, page_size: int) -> Operation[Page[Alias]]:
    """Return one page of aliases; those of `key`, or with an empty one all."""
    parent = parse_region(region)
    if key:
        parse_key_name("key", key)
    request = rpc.ListAliasesRequest(
        parent=str(parent), key=key, page_size=page_size, page_token=page_token
    )
    answer, receipts = yield from ask(Call(region, "ListAliases", request), rpc.ListAliasesResponse)
    return tuple(alias_from(each, receipts) for each in answer.aliases), answer.next_page_token


def _parse_version(name: str) -> KeyVersionName:
    try:
        return KeyVersionName.parse(name)
    except resource_names.ResourceNameError as exc:
        raise ArgumentInvalidError.of("name", "string.pattern", str(exc)) from None


def _parse_alias(name: str) -> AliasName:
    try:
        return AliasName.parse(name)
    except resource_names.ResourceNameError as exc:
        raise ArgumentInvalidError.of("alias", "string.pattern", str(exc)) from None


def _same_version(asked: str, version: KeyVersion) -> KeyVersion:
    if version.name != asked:
        raise ResponseInvalidError(f"asked for {asked}, the answer is about {version.name}")
    return version
