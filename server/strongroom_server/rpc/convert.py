"""Between protobuf messages and plain types. The only place that knows both."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Final

import google_crc32c
from google.protobuf import timestamp_pb2

from strongroom import encryption_context as contexts
from strongroom.resource_names import (
    AliasName,
    KeyName,
    KeyVersionName,
    RegionName,
    ResourceNameError,
    parse_key_or_alias,
)
from strongroom_server.domain.algorithms import Algorithm, algorithms_of
from strongroom_server.domain.keys import (
    Alias,
    AuditMode,
    ExternalMaterial,
    Key,
    KeyManager,
    KeyOrigin,
    KeySpec,
    KeyState,
    KeyStorage,
    KeyUsage,
    KeyVersion,
    VersionState,
)
from strongroom_server.errors import ArgumentInvalidError, ChecksumMismatchError
from strongroom_server.services.key_lists import KeyList

# isort: split
from strongroom.kms.v1 import key_service_pb2 as messages
from strongroom.kms.v1 import resources_pb2 as resources

__all__ = [
    "algorithm_of",
    "algorithm_value",
    "alias",
    "alias_message",
    "alias_name",
    "audit_mode_of",
    "check_crc32c",
    "context_of",
    "crc32c",
    "data_key_bytes",
    "key_list",
    "key_message",
    "key_name",
    "key_or_alias",
    "origin_of",
    "region",
    "spec_of",
    "spec_value",
    "storage_of",
    "timestamp",
    "usage_of",
    "usage_value",
    "version_message",
    "version_name",
]

_SPECS: Final = {spec: resources.KeySpec.Value(f"KEY_SPEC_{spec}") for spec in KeySpec}
_ASKED_SPECS: Final = {number: spec for spec, number in _SPECS.items()}
_USAGES: Final = {usage: resources.KeyUsage.Value(f"KEY_USAGE_{usage}") for usage in KeyUsage}
_ASKED_USAGES: Final = {number: usage for usage, number in _USAGES.items()}
_ALGORITHMS: Final = {
    algorithm: resources.Algorithm.Value(f"ALGORITHM_{algorithm.name}") for algorithm in Algorithm
}
_ASKED_ALGORITHMS: Final = {number: algorithm for algorithm, number in _ALGORITHMS.items()}
_STORAGES: Final = {
    KeyStorage.RESIDENT: resources.KEY_STORAGE_RESIDENT,
    KeyStorage.WRAPPED: resources.KEY_STORAGE_WRAPPED,
}
_AUDIT_MODES: Final = {mode: resources.AuditMode.Value(f"AUDIT_MODE_{mode}") for mode in AuditMode}
_ASKED_AUDIT_MODES: Final = {number: mode for mode, number in _AUDIT_MODES.items()}
_ORIGINS: Final = {
    KeyOrigin.HSM: resources.KEY_ORIGIN_HSM,
    KeyOrigin.EXTERNAL: resources.KEY_ORIGIN_EXTERNAL,
}
_ASKED_ORIGINS: Final = {number: origin for origin, number in _ORIGINS.items()}
_ASKED_STORAGES: Final = {number: storage for storage, number in _STORAGES.items()}
_STATES: Final = {
    KeyState.ENABLED: resources.KEY_STATE_ENABLED,
    KeyState.DISABLED: resources.KEY_STATE_DISABLED,
    KeyState.PENDING_DELETION: resources.KEY_STATE_PENDING_DELETION,
    KeyState.DESTROYED: resources.KEY_STATE_DESTROYED,
    KeyState.PENDING_IMPORT: resources.KEY_STATE_PENDING_IMPORT,
}
_ASKED_STATES: Final = {number: state for state, number in _STATES.items()}
_VERSION_STATES: Final = {
    VersionState.ENABLED: resources.KEY_VERSION_STATE_ENABLED,
    VersionState.PENDING_DELETION: resources.KEY_VERSION_STATE_PENDING_DELETION,
    VersionState.DESTROYED: resources.KEY_VERSION_STATE_DESTROYED,
}
_MANAGERS: Final = {KeyManager.CUSTOMER: resources.KEY_MANAGER_CUSTOMER}
_DATA_KEY_BYTES: Final = {
    messages.DATA_KEY_SPEC_AES_256: 32,
    messages.DATA_KEY_SPEC_AES_128: 16,
}


def region(field: str, text: str) -> str:
    """Parse ``regions/{region}``; raise ArgumentInvalidError naming `field`."""
    try:
        return RegionName.parse(text).region
    except ResourceNameError as exc:
        raise ArgumentInvalidError.of(field, "resource_name", str(exc)) from exc


def key_name(field: str, text: str) -> KeyName:
    """Parse the name of a key; raise ArgumentInvalidError naming `field`."""
    try:
        return KeyName.parse(text)
    except ResourceNameError as exc:
        raise ArgumentInvalidError.of(field, "resource_name", str(exc)) from exc


def version_name(field: str, text: str) -> KeyVersionName:
    """Parse the name of a key version; raise ArgumentInvalidError naming `field`."""
    try:
        return KeyVersionName.parse(text)
    except ResourceNameError as exc:
        raise ArgumentInvalidError.of(field, "resource_name", str(exc)) from exc


def alias(field: str, text: str) -> AliasName:
    """Parse the name of an alias; raise ArgumentInvalidError naming `field`."""
    try:
        return AliasName.parse(text)
    except ResourceNameError as exc:
        raise ArgumentInvalidError.of(field, "resource_name", str(exc)) from exc


def key_list(request: messages.ListKeysRequest) -> KeyList:
    """Return which keys a list is to have, and in which order."""
    wanted = request.filter
    return KeyList(
        states=frozenset(_ASKED_STATES[state] for state in wanted.states) or None,
        tags=frozenset(wanted.tags.items()),
        newest_first=request.order == messages.KEY_ORDER_NEWEST_FIRST,
    )


def key_or_alias(field: str, text: str) -> KeyName | AliasName:
    """Parse the name of a key or alias; raise ArgumentInvalidError naming `field`."""
    try:
        return parse_key_or_alias(text)
    except ResourceNameError as exc:
        raise ArgumentInvalidError.of(field, "resource_name", str(exc)) from exc


def alias_name(parent: str, alias_id: str) -> AliasName:
    """Make the name of an alias; raise ArgumentInvalidError for a malformed one."""
    # The parent is parsed by itself: it cannot bring a part of the alias along.
    shard = region("parent", parent)
    try:
        return AliasName.parse(f"regions/{shard}/aliases/{alias_id}")
    except ResourceNameError as exc:
        raise ArgumentInvalidError.of("alias_id", "resource_name", str(exc)) from exc


def context_of(field: str, pairs: Mapping[str, str]) -> dict[str, str]:
    """Return an encryption context that has a canonical form (at most 8,192 bytes)."""
    context = dict(pairs)
    if context:
        try:
            contexts.encode(context)
        except contexts.EncryptionContextError as exc:
            raise ArgumentInvalidError.of(field, "encryption_context", str(exc)) from exc
    return context


def data_key_bytes(
    request: messages.GenerateDataKeyRequest | messages.GenerateDataKeyWithoutPlaintextRequest,
) -> int:
    """Return the length of the data key asked for; 32 when nothing was said."""
    match request.WhichOneof("length"):
        case "number_of_bytes":
            return request.number_of_bytes
        case "data_key_spec":
            return _DATA_KEY_BYTES[request.data_key_spec]
        case _:
            return 32


def storage_of(value: resources.KeyStorage.ValueType) -> KeyStorage | None:
    """Return the storage asked for; None when nothing was said."""
    # Other numbers are refused before: the field's rule is `defined_only`.
    return _ASKED_STORAGES.get(value)


def origin_of(value: resources.KeyOrigin.ValueType) -> KeyOrigin:
    """Return the origin asked for; the HSM when nothing was said."""
    return _ASKED_ORIGINS.get(value, KeyOrigin.HSM)


def audit_mode_of(value: resources.AuditMode.ValueType) -> AuditMode:
    """Return the audit mode asked for; REQUIRED when nothing was said."""
    return _ASKED_AUDIT_MODES.get(value, AuditMode.REQUIRED)


def spec_of(value: resources.KeySpec.ValueType) -> KeySpec:
    """Return the spec asked for; AES_256 when nothing was said."""
    return _ASKED_SPECS.get(value, KeySpec.AES_256)


def usage_of(value: resources.KeyUsage.ValueType) -> KeyUsage:
    """Return the usage asked for; ENCRYPT_DECRYPT when nothing was said."""
    return _ASKED_USAGES.get(value, KeyUsage.ENCRYPT_DECRYPT)


def algorithm_of(value: resources.Algorithm.ValueType) -> Algorithm | None:
    """Return the algorithm asked for; None when nothing was said."""
    return _ASKED_ALGORITHMS.get(value)


def algorithm_value(algorithm: Algorithm) -> resources.Algorithm.ValueType:
    """Return the number of an algorithm in the API."""
    return _ALGORITHMS[algorithm]


def spec_value(spec: KeySpec) -> resources.KeySpec.ValueType:
    """Return the number of a spec in the API."""
    return _SPECS[spec]


def usage_value(usage: KeyUsage) -> resources.KeyUsage.ValueType:
    """Return the number of a usage in the API."""
    return _USAGES[usage]


def crc32c(data: bytes) -> int:
    """Return the CRC32C (Castagnoli) of `data`."""
    return int(google_crc32c.value(data))


def check_crc32c(field: str, data: bytes, *, given: int | None) -> bool:
    """Compare a checksum when one was given; return whether one was.

    Raises:
        ChecksumMismatchError: It was given and does not match.
    """
    if given is None:
        return False
    if given != crc32c(data):
        raise ChecksumMismatchError(field)
    return True


def timestamp(time: datetime) -> timestamp_pb2.Timestamp:
    """Return the message of a time."""
    message = timestamp_pb2.Timestamp()
    message.FromDatetime(time)
    return message


def _optional(time: datetime | None) -> timestamp_pb2.Timestamp | None:
    return None if time is None else timestamp(time)


def key_message(key: Key) -> resources.Key:
    """Return the message of a key."""
    external = key.versions[-1].external or ExternalMaterial()
    return resources.Key(
        name=str(key.name),
        spec=_SPECS[key.spec],
        usage=_USAGES[key.usage],
        state=_STATES[key.state],
        key_manager=_MANAGERS[key.manager],
        description=key.description,
        primary_version=str(key.version_name(key.primary_version)),
        creator=key.creator,
        create_time=timestamp(key.create_time),
        update_time=timestamp(key.update_time),
        etag=key.etag,
        storage=_STORAGES[key.storage],
        audit_mode=_AUDIT_MODES[key.audit_mode],
        deletion_time=_optional(key.deletion.time if key.deletion else None),
        destroy_time=_optional(key.destroy_time),
        tags=dict(key.tags),
        origin=_ORIGINS[key.origin],
        import_time=_optional(external.import_time),
        material_expire_time=_optional(external.expire_time),
        algorithms=[_ALGORITHMS[each] for each in algorithms_of(key.spec, key.usage)],
    )


def version_message(key: Key, version: KeyVersion) -> resources.KeyVersion:
    """Return the message of a key version."""
    return resources.KeyVersion(
        name=str(key.version_name(version.number)),
        number=version.number,
        is_primary=version.number == key.primary_version,
        create_time=timestamp(version.create_time),
        reserved_uses=version.reserved_uses,
        state=_VERSION_STATES[version.state],
        deletion_time=_optional(version.deletion.time if version.deletion else None),
        destroy_time=_optional(version.destroy_time),
    )


def alias_message(alias: Alias) -> resources.Alias:
    """Return the message of an alias."""
    return resources.Alias(
        name=str(alias.name),
        key=str(KeyName(alias.name.region, alias.key_id)),
        create_time=timestamp(alias.create_time),
        update_time=timestamp(alias.update_time or alias.create_time),
    )
