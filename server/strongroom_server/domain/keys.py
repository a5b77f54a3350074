"""Keys, key versions and aliases as the service knows them, and where material is. Pure data."""

from __future__ import annotations

import enum
import uuid
from dataclasses import dataclass
from datetime import datetime

from strongroom.resource_names import AliasName, KeyName, KeyVersionName

__all__ = [
    "Alias",
    "AuditMode",
    "Deletion",
    "ExternalMaterial",
    "Key",
    "KeyManager",
    "KeyMaterial",
    "KeyOrigin",
    "KeySpec",
    "KeyState",
    "KeyStorage",
    "KeyUsage",
    "KeyVersion",
    "KeyVersionRef",
    "VersionState",
    "WrappedMaterial",
]


class KeySpec(enum.StrEnum):
    """What the material is."""

    AES_256 = "AES_256"
    HMAC_224 = "HMAC_224"
    HMAC_256 = "HMAC_256"
    HMAC_384 = "HMAC_384"
    HMAC_512 = "HMAC_512"
    RSA_2048 = "RSA_2048"
    RSA_3072 = "RSA_3072"
    RSA_4096 = "RSA_4096"
    EC_P256 = "EC_P256"
    EC_P384 = "EC_P384"
    EC_P521 = "EC_P521"
    EC_SECP256K1 = "EC_SECP256K1"
    ED25519 = "ED25519"


class KeyUsage(enum.StrEnum):
    """What a key may be used for: one thing, for ever."""

    ENCRYPT_DECRYPT = "ENCRYPT_DECRYPT"
    SIGN_VERIFY = "SIGN_VERIFY"
    GENERATE_VERIFY_MAC = "GENERATE_VERIFY_MAC"
    KEY_AGREEMENT = "KEY_AGREEMENT"


class KeyStorage(enum.StrEnum):
    """Where a key's material is kept (docs/formats/wrapped-material-v1.md)."""

    RESIDENT = "RESIDENT"
    """A token object of its own for each version: as many keys as the HSM has room for."""
    WRAPPED = "WRAPPED"
    """In the metadata store, wrapped by a root that is a token object; unwrapped inside
    the HSM when it is used: as many keys as the store has room for."""


class KeyOrigin(enum.StrEnum):
    """Where a key's material was made."""

    HSM = "HSM"
    """In the HSM that it is kept in, or under whose root."""
    EXTERNAL = "EXTERNAL"
    """Elsewhere: it was brought in, wrapped, and others may have it too."""


class AuditMode(enum.StrEnum):
    """How certain it is that a use is on record before it is answered (audit-spool-v1.md)."""

    REQUIRED = "REQUIRED"
    """Its record is on disk."""
    BUFFERED = "BUFFERED"
    """Its record is in memory, and on disk within the shard's bound on records and time."""


class KeyState(enum.StrEnum):
    """Whether a key can be used; what each state allows is in `states.py`."""

    ENABLED = "ENABLED"
    DISABLED = "DISABLED"
    PENDING_DELETION = "PENDING_DELETION"
    DESTROYED = "DESTROYED"
    PENDING_IMPORT = "PENDING_IMPORT"
    """It has no material, for that is to be brought from outside."""


class VersionState(enum.StrEnum):
    """Whether a version can be used, as far as it is up to the version and not to its key."""

    ENABLED = "ENABLED"
    PENDING_DELETION = "PENDING_DELETION"
    DESTROYED = "DESTROYED"


class KeyManager(enum.StrEnum):
    """Who is responsible for a key."""

    CUSTOMER = "CUSTOMER"


@dataclass(frozen=True, slots=True)
class KeyVersionRef:
    """Names one piece of HSM material: key id and version number (1 to 2^32 - 1).

    The HSM object's CKA_ID is made from it, so creation can be repeated safely.
    """

    key_id: uuid.UUID
    version: int

    def to_bytes(self) -> bytes:
        """Return 20 bytes: the UUID's 16, then the version, big-endian."""
        return self.key_id.bytes + self.version.to_bytes(4, "big")


@dataclass(frozen=True, slots=True)
class WrappedMaterial:
    """Material as the store keeps it (docs/formats/wrapped-material-v1.md).

    Attributes:
        root: Number of the wrapping root, 1 to 2^32 - 1.
        wrapped: The material, AES key wrap (RFC 3394): 40 bytes for AES_256.
    """

    root: int
    wrapped: bytes


@dataclass(frozen=True, slots=True)
class KeyMaterial:
    """What the HSM has to be told to use a version: which it is, what it is, where it is.

    `wrapped` is None for a resident version. `origin` has to be as the token shows it: who
    destroys a key and puts material of their own in its place does not get it used.
    """

    ref: KeyVersionRef
    spec: KeySpec = KeySpec.AES_256
    usage: KeyUsage = KeyUsage.ENCRYPT_DECRYPT
    wrapped: WrappedMaterial | None = None
    origin: KeyOrigin = KeyOrigin.HSM


@dataclass(frozen=True, slots=True)
class Deletion:
    """A destruction to come (`deletion.py`).

    Attributes:
        time: Not before this, by the wall clock.
        mark: Nor before the shard has observed so many seconds. None once the destruction
            has begun: then there is no way back.
    """

    time: datetime
    mark: int | None

    @property
    def has_begun(self) -> bool:
        """Whether the HSM may have been told already."""
        return self.mark is None


@dataclass(frozen=True, slots=True)
class ExternalMaterial:
    """What there is of material that callers bring (docs/key-import.md).

    Attributes:
        check: Shows whether material is what was imported first; empty before that.
        import_time: Since when it is here; None while it is not.
        expire_time: When its destruction begins; None when never.
    """

    check: bytes = b""
    import_time: datetime | None = None
    expire_time: datetime | None = None


@dataclass(frozen=True, slots=True)
class KeyVersion:
    """One version of a key. `reserved_uses` bounds its encryptions from above.

    `wrapped` is None when the version is a token object of its own, or has no material.
    `external` is there for material that callers bring, and only for that.
    """

    number: int
    create_time: datetime
    reserved_uses: int
    wrapped: WrappedMaterial | None = None
    deletion: Deletion | None = None
    destroy_time: datetime | None = None
    external: ExternalMaterial | None = None

    @property
    def origin(self) -> KeyOrigin:
        """Where its material is made."""
        return KeyOrigin.HSM if self.external is None else KeyOrigin.EXTERNAL

    @property
    def has_material(self) -> bool:
        """Whether there is anything to use, or to destroy."""
        if self.external is not None and self.external.import_time is None:
            return False
        return self.destroy_time is None

    @property
    def state(self) -> VersionState:
        """Whether it can be used when its key can."""
        if self.destroy_time is not None:
            return VersionState.DESTROYED
        return VersionState.ENABLED if self.deletion is None else VersionState.PENDING_DELETION


@dataclass(frozen=True, slots=True)
class Key:
    """A key with its versions (ascending, never empty) and its policy (Cedar text).

    `revision` grows by at least one with every change of anything here. `deletion` is there
    while the state is PENDING_DELETION, `destroy_time` once it is DESTROYED. Tags ascend by
    name.
    """

    key_id: uuid.UUID
    region: str
    spec: KeySpec
    usage: KeyUsage
    state: KeyState
    manager: KeyManager
    description: str
    primary_version: int
    creator: str
    create_time: datetime
    update_time: datetime
    revision: int
    policy: str
    versions: tuple[KeyVersion, ...]
    storage: KeyStorage = KeyStorage.RESIDENT
    audit_mode: AuditMode = AuditMode.REQUIRED
    deletion: Deletion | None = None
    destroy_time: datetime | None = None
    tags: tuple[tuple[str, str], ...] = ()

    @property
    def name(self) -> KeyName:
        """The key's resource name."""
        return KeyName(self.region, self.key_id)

    @property
    def origin(self) -> KeyOrigin:
        """Where the material of all its versions is made."""
        return self.versions[0].origin

    @property
    def has_material(self) -> bool:
        """Whether the primary version has material."""
        version = self.version(self.primary_version)
        return version is not None and version.has_material

    @property
    def etag(self) -> str:
        """Changes with every change of the key."""
        return f"r{self.revision}"

    def version_name(self, number: int) -> KeyVersionName:
        """Return the resource name of version `number`."""
        return KeyVersionName(self.region, self.key_id, number)

    def version_ref(self, number: int) -> KeyVersionRef:
        """Return what names version `number` to the HSM."""
        return KeyVersionRef(self.key_id, number)

    def has_version(self, number: int) -> bool:
        """Say whether version `number` exists, or existed: numbers are not given out twice."""
        return self.version(number) is not None

    def version(self, number: int) -> KeyVersion | None:
        """Return version `number`, None when there never was one."""
        for version in self.versions:
            if version.number == number:
                return version
        return None

    def material(self, number: int) -> KeyMaterial:
        """Return what the HSM has to be told to use version `number`.

        Raises:
            KeyError: There is no such version, or it has no material (any more).
        """
        version = self.version(number)
        if version is None or not version.has_material:
            raise KeyError(number)
        return self.place_of(version)

    def place_of(self, version: KeyVersion) -> KeyMaterial:
        """Return what the HSM has to be told to fill or empty a version's place."""
        return KeyMaterial(
            self.version_ref(version.number),
            self.spec,
            self.usage,
            version.wrapped,
            version.origin,
        )


@dataclass(frozen=True, slots=True)
class Alias:
    """A second name of a key. `update_time` is when it was last pointed elsewhere, if ever."""

    name: AliasName
    key_id: uuid.UUID
    create_time: datetime
    update_time: datetime | None = None
