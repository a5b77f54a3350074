"""Keys, key versions and aliases as the service knows them. Pure data."""

from __future__ import annotations

import enum
import uuid
from dataclasses import dataclass
from datetime import datetime

from strongroom.resource_names import AliasName, KeyName, KeyVersionName

__all__ = [
    "Alias",
    "Key",
    "KeyManager",
    "KeySpec",
    "KeyState",
    "KeyUsage",
    "KeyVersion",
    "KeyVersionRef",
]


class KeySpec(enum.StrEnum):
    """What the material is."""

    AES_256 = "AES_256"


class KeyUsage(enum.StrEnum):
    """What a key may be used for."""

    ENCRYPT_DECRYPT = "ENCRYPT_DECRYPT"


class KeyState(enum.StrEnum):
    """Whether a key can be used."""

    ENABLED = "ENABLED"
    DISABLED = "DISABLED"


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
class KeyVersion:
    """One version of a key. `reserved_uses` bounds its encryptions from above."""

    number: int
    create_time: datetime
    reserved_uses: int


@dataclass(frozen=True, slots=True)
class Key:
    """A key with its versions (ascending, never empty) and its policy (Cedar text).

    `revision` grows by at least one with every change of anything here.
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

    @property
    def name(self) -> KeyName:
        """The key's resource name."""
        return KeyName(self.region, self.key_id)

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
        """Say whether version `number` exists."""
        return any(version.number == number for version in self.versions)


@dataclass(frozen=True, slots=True)
class Alias:
    """A second name of a key."""

    name: AliasName
    key_id: uuid.UUID
    create_time: datetime
