"""What the fake service does: KeyService in memory. See testing.py for its limits.

The rules are those of protos/strongroom/kms/v1/key_service.proto and docs/formats; the
acceptance suite (tests/suites/kms_suite.py) runs over this and over the real service.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from strongroom import encryption_context as contexts
from strongroom import resource_names
from strongroom.kms.v1 import resources_pb2 as pb
from strongroom.resource_names import AliasName, KeyName, KeyVersionName
from strongroom_client._core import crc32c
from strongroom_client._fake_ends import FakeAlias, FakeEnd, state_invalid
from strongroom_client._fake_pairs import algorithms_of, can_be_wrapped, is_pair, make_material
from strongroom_client.errors import (
    AliasExistsError,
    ArgumentInvalidError,
    ChecksumMismatchError,
    CiphertextInvalidError,
    EtagMismatchError,
    KeyDisabledError,
    KeyNotFoundError,
    KeyOriginMismatchError,
    KeySpecUnsupportedError,
    KeyUsageMismatchError,
    WrongKeyError,
    WrongRegionError,
)

__all__ = [
    "MATERIAL_BYTES",
    "FakeExternal",
    "FakeKey",
    "FakeShards",
    "check_checksum",
    "check_etag",
    "check_size",
    "check_tags",
    "check_text",
    "ciphertext_invalid",
    "encode_context",
    "refuse",
    "require_changeable",
    "require_enabled",
    "require_symmetric",
]

BLOB_START: Final = b"\x01\x01"  # version 1, AES-256-GCM
HEADER_BYTES: Final = 22
MIN_BLOB_BYTES: Final = 51
MAX_BLOB_BYTES: Final = 4146
MAX_TAGS: Final = 50
MAX_TAG_NAME: Final = 128
MAX_TAG_VALUE: Final = 256
MATERIAL_BYTES: Final[Mapping[int, int]] = {
    pb.KEY_SPEC_AES_256: 32,
    pb.KEY_SPEC_HMAC_256: 32,
    pb.KEY_SPEC_HMAC_384: 48,
    pb.KEY_SPEC_HMAC_512: 64,
}
_ALIAS_ID: Final = re.compile(r"[a-zA-Z0-9_-]+(/[a-zA-Z0-9_-]+)*", re.ASCII)


@dataclass(slots=True)
class FakeExternal:
    """Material that is brought: what came first, and since when and until when it is there."""

    first: bytes = field(default=b"", repr=False)
    import_time: datetime | None = None
    expire_time: datetime | None = None


@dataclass(slots=True)
class FakeKey:
    """A key with its material, the first version at index 0."""

    name: KeyName
    description: str
    creator: str
    storage: pb.KeyStorage.ValueType
    create_time: datetime
    update_time: datetime
    spec: pb.KeySpec.ValueType = pb.KEY_SPEC_AES_256
    usage: pb.KeyUsage.ValueType = pb.KEY_USAGE_ENCRYPT_DECRYPT
    audit_mode: pb.AuditMode.ValueType = pb.AUDIT_MODE_REQUIRED
    enabled: bool = True
    revision: int = 1
    materials: list[bytes] = field(default_factory=list, repr=False)
    version_times: list[datetime] = field(default_factory=list)
    uses: list[int] = field(default_factory=list)
    tags: dict[str, str] = field(default_factory=dict)
    end: FakeEnd = field(default_factory=FakeEnd)
    version_ends: dict[int, FakeEnd] = field(default_factory=dict)
    external: FakeExternal | None = None

    @property
    def state(self) -> pb.KeyState.ValueType:
        """The state as the API shows it."""
        if self.end.destroyed is not None:
            return pb.KEY_STATE_DESTROYED
        if self.end.due is not None:
            return pb.KEY_STATE_PENDING_DELETION
        if self.external is not None and self.external.import_time is None:
            return pb.KEY_STATE_PENDING_IMPORT
        return pb.KEY_STATE_ENABLED if self.enabled else pb.KEY_STATE_DISABLED

    def settle(self, now: datetime) -> None:
        """Destroy what is due."""
        if self.end.settle(now):
            for number in range(1, len(self.materials) + 1):
                self.version_ends.setdefault(number, FakeEnd()).destroy(now)
            self.revision += 1
        for end in self.version_ends.values():
            self.revision += end.settle(now)
        external = self.external
        if (
            external is not None
            and external.expire_time is not None
            and external.expire_time <= now
        ):
            self.drop_material()
            self.revision += 1

    def drop_material(self) -> None:
        """Forget imported material but for what tells it from other."""
        if self.external is not None:
            self.external.import_time = self.external.expire_time = None
            self.materials[0] = b""

    def version_name(self, number: int) -> str:
        """Return the resource name of version `number`."""
        return str(KeyVersionName(self.name.region, self.name.key_id, number))

    def add_version(self, material: bytes, now: datetime) -> None:
        """Append a version and make it primary."""
        self.materials.append(material)
        self.version_times.append(now)
        self.uses.append(0)

    def to_proto(self) -> pb.Key:
        """Return the key as the API shows it."""
        key = pb.Key(
            name=str(self.name),
            spec=self.spec,
            usage=self.usage,
            algorithms=algorithms_of(self.spec, self.usage),
            state=self.state,
            key_manager=pb.KEY_MANAGER_CUSTOMER,
            description=self.description,
            primary_version=self.version_name(len(self.materials)),
            creator=self.creator,
            etag=f"r{self.revision}",
            storage=self.storage,
            audit_mode=self.audit_mode,
            tags=self.tags,
        )
        self.end.show(key)
        key.origin = pb.KEY_ORIGIN_HSM if self.external is None else pb.KEY_ORIGIN_EXTERNAL
        if self.external is not None and self.external.import_time is not None:
            key.import_time.FromDatetime(self.external.import_time)
        if self.external is not None and self.external.expire_time is not None:
            key.material_expire_time.FromDatetime(self.external.expire_time)
        key.create_time.FromDatetime(self.create_time)
        key.update_time.FromDatetime(self.update_time)
        return key

    def version_to_proto(self, number: int) -> pb.KeyVersion:
        """Return a version as the API shows it."""
        version = pb.KeyVersion(
            name=self.version_name(number),
            number=number,
            is_primary=number == len(self.materials),
            reserved_uses=self.uses[number - 1],
        )
        version.create_time.FromDatetime(self.version_times[number - 1])
        end = self.version_ends.get(number, FakeEnd())
        version.state = end.state
        end.show(version)
        return version


def refuse(field_name: str, rule: str, description: str) -> ArgumentInvalidError:
    """Make the error for an argument that breaks its rule."""
    return ArgumentInvalidError.of(field_name, rule, description)


class FakeShards:
    """Keys and aliases of all regions. Not thread-safe: its owner holds a lock."""

    def __init__(
        self,
        *,
        principal: str,
        now: Callable[[], datetime],
        random_bytes: Callable[[int], bytes],
    ):
        self.random_bytes = random_bytes
        self._principal = principal
        self.now = now
        self._keys: dict[uuid.UUID, FakeKey] = {}
        self.aliases: dict[AliasName, FakeAlias] = {}

    def create_key(
        self,
        region: str,
        description: str,
        storage: pb.KeyStorage.ValueType,
        *,
        spec: pb.KeySpec.ValueType = pb.KEY_SPEC_AES_256,
        usage: pb.KeyUsage.ValueType = pb.KEY_USAGE_ENCRYPT_DECRYPT,
        audit_mode: pb.AuditMode.ValueType = pb.AUDIT_MODE_REQUIRED,
        tags: Mapping[str, str],
        is_external: bool = False,
        dry: bool,
    ) -> FakeKey | None:
        """Create a key; nothing when `dry`."""
        check_tags(tags)
        check_text("description", description, 8192)
        if not algorithms_of(spec, usage):
            raise refuse("", "create_key.spec_usage", "spec and usage must fit")
        if storage == pb.KEY_STORAGE_WRAPPED and not can_be_wrapped(spec):
            raise KeySpecUnsupportedError(f"region {region}: no such keys in wrapped storage")
        if is_external and spec not in MATERIAL_BYTES:
            raise refuse("origin", "origin.spec", "EXTERNAL is for AES_256 and most HMAC keys")
        if dry:
            return None
        now = self.now()
        name = KeyName(region, uuid.UUID(bytes=self.random_bytes(16), version=4))
        key = FakeKey(
            name, description, self._principal, storage, now, now, spec, usage, audit_mode
        )
        key.tags = dict(tags)
        if is_external:
            key.external = FakeExternal()
        key.add_version(b"" if is_external else make_material(spec, self.random_bytes), now)
        self._keys[name.key_id] = key
        return key

    def keys_of(self, region: str) -> list[FakeKey]:
        """Return the keys of a region, oldest first."""
        for key in self._keys.values():
            key.settle(self.now())
        return [key for key in self._keys.values() if key.name.region == region]

    def find(self, text: str, field_name: str, hosted: tuple[str, ...]) -> FakeKey:
        """Return the key that a name or alias stands for."""
        try:
            name = resource_names.parse_key_or_alias(text)
        except resource_names.ResourceNameError as exc:
            raise refuse(field_name, "string.pattern", str(exc)) from None
        if name.region not in hosted:
            raise WrongRegionError(
                f"region {name.region} is not hosted here",
                metadata={"region": name.region, "hostedRegions": ",".join(hosted)},
            )
        if isinstance(name, AliasName):
            alias = self.aliases.get(name)
            key = alias.key if alias is not None else None
        else:
            key = self._keys.get(name.key_id)
        if key is None or key.name.region != name.region:
            raise KeyNotFoundError(f"no key {text}, or you may not see it")
        key.settle(self.now())
        return key

    def find_exact(self, text: str, field_name: str, hosted: tuple[str, ...]) -> FakeKey:
        """Return the key of a name; aliases are not taken."""
        try:
            KeyName.parse(text)
        except resource_names.ResourceNameError as exc:
            raise refuse(field_name, "string.pattern", str(exc)) from None
        return self.find(text, field_name, hosted)

    def set_enabled(self, key: FakeKey, etag: str, *, enabled: bool, dry: bool) -> None:
        """Enable or disable; no change when it is so already."""
        check_etag(key, etag)
        require_changeable(key)
        require_material(key)
        if not dry and key.enabled != enabled:
            key.enabled = enabled
            self.touch(key)

    def rotate(self, key: FakeKey, etag: str, *, dry: bool) -> None:
        """Add a primary version."""
        require_enabled(key)
        require_symmetric(key, "RotateKey")
        if key.external is not None:
            raise KeyOriginMismatchError(f"the material of {key.name} is brought")
        check_etag(key, etag)
        if not dry:
            key.add_version(self.random_bytes(32), self.now())
            self.touch(key)

    def create_alias(
        self, region: str, alias_id: str, key: FakeKey, *, dry: bool
    ) -> pb.Alias | None:
        """Create an alias; nothing when `dry`."""
        if len(alias_id) > resource_names.MAX_ALIAS_CHARACTERS or not _ALIAS_ID.fullmatch(alias_id):
            raise refuse("alias_id", "string.pattern", "1 to 256 letters, digits, '_', '-', '/'")
        if alias_id.startswith("service/"):
            raise refuse("alias_id", "reserved", "service/ is reserved")
        if key.name.region != region:
            raise refuse("key", "region", "the key lives in another region")
        require_changeable(key)
        name = AliasName(region, alias_id)
        if name in self.aliases:
            raise AliasExistsError(f"{name} exists")
        if dry:
            return None
        now = self.now()
        alias = self.aliases[name] = FakeAlias(name, key, now, now)
        return alias.to_proto()

    def encrypt(
        self, key: FakeKey, plaintext: bytes, context: Mapping[str, str], *, dry: bool = False
    ) -> bytes:
        """Return a ciphertext blob; empty when `dry`."""
        aad = encode_context(context)
        require_enabled(key)
        require_symmetric(key, "this")
        if dry:
            return b""
        number = len(key.materials)
        key.uses[number - 1] += 1
        header = BLOB_START + key.name.key_id.bytes + number.to_bytes(4, "big")
        iv = self.random_bytes(12)
        sealed = AESGCM(key.materials[number - 1]).encrypt(iv, plaintext, header + aad)
        return header + iv + sealed

    def decrypt(
        self,
        named: FakeKey | None,
        blob: bytes,
        context: Mapping[str, str],
        *,
        hosted: tuple[str, ...],
        dry: bool = False,
    ) -> tuple[FakeKey, int, bytes]:
        """Return the key, the version's number and the plaintext, empty when `dry`."""
        aad = encode_context(context)
        if not MIN_BLOB_BYTES <= len(blob) <= MAX_BLOB_BYTES or blob[:2] != BLOB_START:
            raise ciphertext_invalid()
        key_id = uuid.UUID(bytes=blob[2:18])
        number = int.from_bytes(blob[18:HEADER_BYTES], "big")
        if named is not None:
            if named.name.key_id != key_id:
                raise WrongKeyError("the ciphertext was made with another key than the one named")
            key = named
        else:
            found = self._keys.get(key_id)
            if found is None or found.name.region not in hosted:
                raise KeyNotFoundError("no key that made this ciphertext, or you may not see it")
            key = found
        require_enabled(key)
        if is_pair(key.spec):
            raise ciphertext_invalid()
        require_symmetric(key, "Decrypt")
        if not 1 <= number <= len(key.materials):
            raise ciphertext_invalid()
        if key.version_ends.get(number, FakeEnd()).state != pb.KEY_VERSION_STATE_ENABLED:
            raise state_invalid(key.version_name(number))
        if dry:
            return key, number, b""
        try:
            plaintext = AESGCM(key.materials[number - 1]).decrypt(
                blob[HEADER_BYTES : HEADER_BYTES + 12],
                blob[HEADER_BYTES + 12 :],
                blob[:HEADER_BYTES] + aad,
            )
        except InvalidTag:
            raise ciphertext_invalid() from None
        return key, number, plaintext

    def touch(self, key: FakeKey) -> None:
        """Note that a key was changed."""
        key.revision += 1
        key.update_time = self.now()


def check_checksum(field_name: str, data: bytes, expected: int | None) -> bool:
    """Check a request's checksum; say whether there was one."""
    if expected is None:
        return False
    if crc32c(data) != expected:
        raise ChecksumMismatchError(f"{field_name}: the CRC32C does not match")
    return True


def check_size(field_name: str, data: bytes, most: int) -> None:
    """Require 1 to `most` bytes."""
    if not 1 <= len(data) <= most:
        raise refuse(field_name, "bytes.len", f"1 to {most:,} bytes")


def check_tags(tags: Mapping[str, str]) -> None:
    """Check tags, of which a key has 50 at most."""
    if len(tags) > MAX_TAGS:
        raise refuse("tags", "tags.count", f"at most {MAX_TAGS}")
    for name, value in tags.items():
        if not 1 <= len(name) <= MAX_TAG_NAME or len(value) > MAX_TAG_VALUE:
            raise refuse("tags", "tags.size", "names of 1 to 128 characters, values to 256")
        if name.startswith("strongroom:") or not (name + value).isprintable():
            raise refuse("tags", "tags.reserved", "strongroom: and control characters")


def check_text(field_name: str, text: str, most: int) -> None:
    """Require at most so many characters."""
    if len(text) > most:
        raise refuse(field_name, "string.max_len", f"at most {most:,} characters")


def check_etag(key: FakeKey, etag: str) -> None:
    """Refuse a key that is not as it was read."""
    check_text("etag", etag, 64)
    if etag and etag != f"r{key.revision}":
        raise EtagMismatchError(f"{key.name} changed since it was read; read it again")


def require_symmetric(key: FakeKey, call: str) -> None:
    """Require a key that makes ciphertext blobs."""
    if key.spec != pb.KEY_SPEC_AES_256:
        raise KeyUsageMismatchError(f"{key.name} is a key of another kind; {call} is not for it")


def require_changeable(key: FakeKey) -> None:
    """Require that a key neither waits for its deletion nor is destroyed."""
    if key.state in {pb.KEY_STATE_PENDING_DELETION, pb.KEY_STATE_DESTROYED}:
        raise state_invalid(str(key.name))


def require_material(key: FakeKey) -> None:
    """Require that a key does not wait for an import."""
    if key.state == pb.KEY_STATE_PENDING_IMPORT:
        raise state_invalid(str(key.name))


def require_enabled(key: FakeKey) -> None:
    """Require that a key can be used."""
    require_changeable(key)
    require_material(key)
    if not key.enabled:
        raise KeyDisabledError(f"{key.name} is disabled")


def encode_context(context: Mapping[str, str]) -> bytes:
    """Return the canonical bytes of an encryption context."""
    try:
        return contexts.encode(context)
    except contexts.EncryptionContextError as exc:
        raise refuse("encryption_context", "encryption_context", str(exc)) from None


def ciphertext_invalid() -> CiphertextInvalidError:
    """Make the one error for what does not decrypt or unwrap."""
    return CiphertextInvalidError("the ciphertext is not valid for this key and encryption context")
