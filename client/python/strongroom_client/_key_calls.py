"""Operations that make, show and change keys."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from datetime import UTC, datetime
from typing import Literal, TypeAlias, TypeVar

from google.protobuf.timestamp_pb2 import Timestamp

from strongroom.kms.v1 import key_service_pb2 as rpc
from strongroom.kms.v1 import resources_pb2 as pb
from strongroom.receipts import Receipt
from strongroom_client._core import (
    Call,
    Operation,
    ask,
    parse_key_name,
    parse_name,
    parse_region,
)
from strongroom_client.errors import ArgumentInvalidError, ResponseInvalidError
from strongroom_client.results import (
    Algorithm,
    Alias,
    AuditMode,
    Key,
    KeyManager,
    KeyOrigin,
    KeySpec,
    KeyState,
    KeyStorage,
    KeyUsage,
    KeyVersion,
    KeyVersionState,
    RotatedKey,
)

__all__ = [
    "Page",
    "algorithm_from",
    "algorithm_value",
    "alias_from",
    "create_alias",
    "create_key",
    "disable_key",
    "enable_key",
    "get_key",
    "key_from",
    "list_key_versions",
    "list_keys",
    "rotate_key",
    "same_key",
    "spec_from",
    "time_from",
    "usage_from",
    "version_from",
]

T = TypeVar("T")
#: The items of a page, and the token of the next one; empty on the last.
Page: TypeAlias = tuple[tuple[T, ...], str]

_SPECS = {
    pb.KeySpec.Value(f"KEY_SPEC_{spec}"): spec for spec in KeySpec if spec is not KeySpec.UNKNOWN
}
_ASKED_SPECS = {spec: number for number, spec in _SPECS.items()}
_USAGES = {
    pb.KeyUsage.Value(f"KEY_USAGE_{usage}"): usage
    for usage in KeyUsage
    if usage is not KeyUsage.UNKNOWN
}
_ASKED_USAGES = {usage: number for number, usage in _USAGES.items()}
_ALGORITHMS = {
    pb.Algorithm.Value(f"ALGORITHM_{algorithm}"): algorithm
    for algorithm in Algorithm
    if algorithm is not Algorithm.UNKNOWN
}
_ASKED_ALGORITHMS = {algorithm: number for number, algorithm in _ALGORITHMS.items()}
_STATES = {
    pb.KEY_STATE_ENABLED: KeyState.ENABLED,
    pb.KEY_STATE_DISABLED: KeyState.DISABLED,
    pb.KEY_STATE_PENDING_DELETION: KeyState.PENDING_DELETION,
    pb.KEY_STATE_DESTROYED: KeyState.DESTROYED,
    pb.KEY_STATE_PENDING_IMPORT: KeyState.PENDING_IMPORT,
}
_ASKED_STATES = {state: number for number, state in _STATES.items()}
_VERSION_STATES = {
    pb.KEY_VERSION_STATE_ENABLED: KeyVersionState.ENABLED,
    pb.KEY_VERSION_STATE_PENDING_DELETION: KeyVersionState.PENDING_DELETION,
    pb.KEY_VERSION_STATE_DESTROYED: KeyVersionState.DESTROYED,
}
_STORAGES = {
    pb.KEY_STORAGE_RESIDENT: KeyStorage.RESIDENT,
    pb.KEY_STORAGE_WRAPPED: KeyStorage.WRAPPED,
}
_AUDIT_MODES = {
    pb.AUDIT_MODE_REQUIRED: AuditMode.REQUIRED,
    pb.AUDIT_MODE_BUFFERED: AuditMode.BUFFERED,
}
_ASKED_AUDIT_MODES = {mode: number for number, mode in _AUDIT_MODES.items()}
_ORIGINS = {
    pb.KEY_ORIGIN_HSM: KeyOrigin.HSM,
    pb.KEY_ORIGIN_EXTERNAL: KeyOrigin.EXTERNAL,
}
_ASKED_ORIGINS = {origin: number for number, origin in _ORIGINS.items()}
_ASKED_STORAGES = {storage: number for number, storage in _STORAGES.items()}
_MANAGERS = {pb.KEY_MANAGER_CUSTOMER: KeyManager.CUSTOMER}


def spec_from(value: pb.KeySpec.ValueType) -> KeySpec:
    """Return the spec that a number of the API means."""
    return _SPECS.get(value, KeySpec.UNKNOWN)


def usage_from(value: pb.KeyUsage.ValueType) -> KeyUsage:
    """Return the usage that a number of the API means."""
    return _USAGES.get(value, KeyUsage.UNKNOWN)


def algorithm_from(value: pb.Algorithm.ValueType) -> Algorithm:
    """Return the algorithm that a number of the API means."""
    return _ALGORITHMS.get(value, Algorithm.UNKNOWN)


def algorithm_value(algorithm: Algorithm | None) -> pb.Algorithm.ValueType:
    """Return the number of an algorithm given by the caller, that of "not stated" for None.

    Raises:
        ArgumentInvalidError: It is UNKNOWN.
    """
    if algorithm is None:
        return pb.ALGORITHM_UNSPECIFIED
    if algorithm is Algorithm.UNKNOWN:
        raise ArgumentInvalidError.of("algorithm", "enum.defined_only", "UNKNOWN is none")
    return _ASKED_ALGORITHMS[algorithm]


def create_key(
    region: str,
    *,
    description: str,
    policy: str,
    spec: KeySpec,
    usage: KeyUsage | None,
    storage: KeyStorage | None,
    audit_mode: AuditMode,
    tags: Mapping[str, str] | None = None,
    origin: KeyOrigin = KeyOrigin.HSM,
    request_id: str,
) -> Operation[Key]:
    """Create a key in `region`."""
    parent = parse_region(region)
    if storage is not None and storage not in _ASKED_STORAGES:
        raise ArgumentInvalidError.of("storage", "enum.defined_only", "RESIDENT or WRAPPED")
    if audit_mode not in _ASKED_AUDIT_MODES:
        raise ArgumentInvalidError.of("audit_mode", "enum.defined_only", "REQUIRED or BUFFERED")
    if origin not in _ASKED_ORIGINS:
        raise ArgumentInvalidError.of("origin", "enum.defined_only", "HSM or EXTERNAL")
    if spec not in _ASKED_SPECS or (usage is not None and usage not in _ASKED_USAGES):
        raise ArgumentInvalidError.of("spec", "enum.defined_only", "UNKNOWN is no spec or usage")
    request = rpc.CreateKeyRequest(
        parent=str(parent),
        description=description,
        policy=policy,
        spec=_ASKED_SPECS[spec],
        usage=pb.KEY_USAGE_UNSPECIFIED if usage is None else _ASKED_USAGES[usage],
        storage=pb.KEY_STORAGE_UNSPECIFIED if storage is None else _ASKED_STORAGES[storage],
        audit_mode=_ASKED_AUDIT_MODES[audit_mode],
        tags=tags or {},
        origin=_ASKED_ORIGINS[origin],
        request_id=request_id,
    )
    answer, receipts = yield from ask(Call(region, "CreateKey", request), rpc.CreateKeyResponse)
    return key_from(answer.key, receipts)


def get_key(name: str) -> Operation[Key]:
    """Describe a key, named by itself or by an alias."""
    parsed = parse_name("name", name)
    request = rpc.GetKeyRequest(name=name)
    answer, receipts = yield from ask(Call(parsed.region, "GetKey", request), rpc.GetKeyResponse)
    return key_from(answer.key, receipts)


def list_keys(
    region: str,
    page_token: str,
    page_size: int,
    *,
    states: Collection[KeyState] | None = None,
    tags: Mapping[str, str] | None = None,
    newest_first: bool = False,
) -> Operation[Page[Key]]:
    """Return one page of the keys of `region`."""
    parent = parse_region(region)
    if KeyState.UNKNOWN in (states or ()):
        raise ArgumentInvalidError.of("states", "enum.defined_only", "UNKNOWN is none")
    request = rpc.ListKeysRequest(
        parent=str(parent),
        page_size=page_size,
        page_token=page_token,
        order=rpc.KEY_ORDER_NEWEST_FIRST if newest_first else rpc.KEY_ORDER_UNSPECIFIED,
    )
    if states or tags:
        wanted = rpc.KeyFilter(tags=tags or {}, states=[_ASKED_STATES[s] for s in states or ()])
        request.filter.CopyFrom(wanted)
    answer, receipts = yield from ask(Call(region, "ListKeys", request), rpc.ListKeysResponse)
    return tuple(key_from(key, receipts) for key in answer.keys), answer.next_page_token


def list_key_versions(key: str, page_token: str, page_size: int) -> Operation[Page[KeyVersion]]:
    """Return one page of the versions of `key`."""
    parsed = parse_key_name("key", key)
    request = rpc.ListKeyVersionsRequest(parent=key, page_size=page_size, page_token=page_token)
    answer, receipts = yield from ask(
        Call(parsed.region, "ListKeyVersions", request), rpc.ListKeyVersionsResponse
    )
    versions = tuple(version_from(version, receipts) for version in answer.key_versions)
    return versions, answer.next_page_token


def enable_key(key: str, *, etag: str, request_id: str) -> Operation[Key]:
    """Let a disabled key be used again."""
    parsed = parse_key_name("key", key)
    request = rpc.EnableKeyRequest(name=key, etag=etag, request_id=request_id)
    answer, receipts = yield from ask(
        Call(parsed.region, "EnableKey", request), rpc.EnableKeyResponse
    )
    return same_key(key, key_from(answer.key, receipts))


def disable_key(key: str, *, etag: str, request_id: str) -> Operation[Key]:
    """Stop every use of a key."""
    parsed = parse_key_name("key", key)
    request = rpc.DisableKeyRequest(name=key, etag=etag, request_id=request_id)
    answer, receipts = yield from ask(
        Call(parsed.region, "DisableKey", request), rpc.DisableKeyResponse
    )
    return same_key(key, key_from(answer.key, receipts))


def rotate_key(key: str, *, etag: str, request_id: str) -> Operation[RotatedKey]:
    """Make a new primary version."""
    parsed = parse_key_name("key", key)
    request = rpc.RotateKeyRequest(name=key, etag=etag, request_id=request_id)
    answer, receipts = yield from ask(
        Call(parsed.region, "RotateKey", request), rpc.RotateKeyResponse
    )
    return RotatedKey(
        key=same_key(key, key_from(answer.key, receipts)),
        key_version=version_from(answer.key_version, receipts),
        receipts=receipts,
    )


def create_alias(region: str, *, alias_id: str, key: str, request_id: str) -> Operation[Alias]:
    """Give `key` a second name."""
    parent = parse_region(region)
    parse_key_name("key", key)
    request = rpc.CreateAliasRequest(
        parent=str(parent), alias_id=alias_id, key=key, request_id=request_id
    )
    answer, receipts = yield from ask(Call(region, "CreateAlias", request), rpc.CreateAliasResponse)
    return alias_from(answer.alias, receipts)


def same_key(asked: str, key: Key) -> Key:
    """Refuse an answer about another key."""
    """Require that the answer is about the key that was asked for."""
    if key.name != asked:
        raise ResponseInvalidError(f"asked for {asked}, the answer is about {key.name}")
    return key


def key_from(key: pb.Key, receipts: tuple[Receipt, ...]) -> Key:
    """Return a key of an answer."""
    return Key(
        name=key.name,
        spec=spec_from(key.spec),
        usage=usage_from(key.usage),
        state=_STATES.get(key.state, KeyState.UNKNOWN),
        key_manager=_MANAGERS.get(key.key_manager, KeyManager.UNKNOWN),
        description=key.description,
        primary_version=key.primary_version,
        creator=key.creator,
        create_time=time_from(key.create_time),
        update_time=time_from(key.update_time),
        etag=key.etag,
        storage=_STORAGES.get(key.storage, KeyStorage.UNKNOWN),
        # A service from before there was a choice says nothing, and waits for every record.
        audit_mode=_AUDIT_MODES.get(key.audit_mode, AuditMode.UNKNOWN)
        if key.audit_mode
        else AuditMode.REQUIRED,
        algorithms=tuple(algorithm_from(each) for each in key.algorithms),
        deletion_time=_optional(key, "deletion_time"),
        destroy_time=_optional(key, "destroy_time"),
        tags=dict(key.tags),
        # A service from before there was a choice has keys whose material the HSM made.
        origin=_ORIGINS.get(key.origin, KeyOrigin.UNKNOWN) if key.origin else KeyOrigin.HSM,
        import_time=_optional_of_key(key, "import_time"),
        material_expire_time=_optional_of_key(key, "material_expire_time"),
        receipts=receipts,
    )


def version_from(version: pb.KeyVersion, receipts: tuple[Receipt, ...]) -> KeyVersion:
    """Return a key version of an answer."""
    return KeyVersion(
        name=version.name,
        number=version.number,
        is_primary=version.is_primary,
        create_time=time_from(version.create_time),
        reserved_uses=version.reserved_uses,
        # A service from before there were states has versions that can be used.
        state=_VERSION_STATES.get(version.state, KeyVersionState.UNKNOWN)
        if version.state
        else KeyVersionState.ENABLED,
        deletion_time=_optional(version, "deletion_time"),
        destroy_time=_optional(version, "destroy_time"),
        receipts=receipts,
    )


def alias_from(alias: pb.Alias, receipts: tuple[Receipt, ...]) -> Alias:
    """Return an alias of an answer."""
    return Alias(
        name=alias.name,
        key=alias.key,
        create_time=time_from(alias.create_time),
        update_time=time_from(
            alias.update_time if alias.HasField("update_time") else alias.create_time
        ),
        receipts=receipts,
    )


def time_from(timestamp: Timestamp) -> datetime:
    """Return a time of an answer."""
    try:
        return timestamp.ToDatetime(tzinfo=UTC)
    except ValueError as exc:
        raise ResponseInvalidError("the answer has an impossible time") from exc


def _optional(
    message: pb.Key | pb.KeyVersion, field: Literal["deletion_time", "destroy_time"]
) -> datetime | None:
    return time_from(getattr(message, field)) if message.HasField(field) else None


def _optional_of_key(
    key: pb.Key, field: Literal["import_time", "material_expire_time"]
) -> datetime | None:
    return time_from(getattr(key, field)) if key.HasField(field) else None
