"""What the clients return: plain frozen dataclasses, no protobuf.

`receipts` says where the records of the call stand in the audit log
(docs/formats/receipt-v1.md). It does not count when results are compared.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from strongroom.receipts import Receipt
from strongroom_client.secret_bytes import SecretBytes

__all__ = [
    "Algorithm",
    "Alias",
    "AuditMode",
    "DecryptResult",
    "EncryptResult",
    "GeneratedDataKey",
    "Key",
    "KeyManager",
    "KeyOrigin",
    "KeySpec",
    "KeyState",
    "KeyStorage",
    "KeyUsage",
    "KeyVersion",
    "KeyVersionState",
    "RandomBytes",
    "ReEncryptResult",
    "RotatedKey",
    "WrappedDataKey",
]


class KeySpec(enum.StrEnum):
    """What the material of a key is; UNKNOWN for what a newer service says."""

    UNKNOWN = "UNKNOWN"
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
    """What a key may be used for; UNKNOWN for what a newer service says."""

    UNKNOWN = "UNKNOWN"
    ENCRYPT_DECRYPT = "ENCRYPT_DECRYPT"
    SIGN_VERIFY = "SIGN_VERIFY"
    GENERATE_VERIFY_MAC = "GENERATE_VERIFY_MAC"
    KEY_AGREEMENT = "KEY_AGREEMENT"


class Algorithm(enum.StrEnum):
    """What is done with a key; UNKNOWN for what a newer service says."""

    UNKNOWN = "UNKNOWN"
    AES_256_GCM = "AES_256_GCM"
    HMAC_SHA_224 = "HMAC_SHA_224"
    HMAC_SHA_256 = "HMAC_SHA_256"
    HMAC_SHA_384 = "HMAC_SHA_384"
    HMAC_SHA_512 = "HMAC_SHA_512"
    RSASSA_PKCS1_V1_5_SHA_256 = "RSASSA_PKCS1_V1_5_SHA_256"
    RSASSA_PKCS1_V1_5_SHA_384 = "RSASSA_PKCS1_V1_5_SHA_384"
    RSASSA_PKCS1_V1_5_SHA_512 = "RSASSA_PKCS1_V1_5_SHA_512"
    RSASSA_PSS_SHA_256 = "RSASSA_PSS_SHA_256"
    RSASSA_PSS_SHA_384 = "RSASSA_PSS_SHA_384"
    RSASSA_PSS_SHA_512 = "RSASSA_PSS_SHA_512"
    ECDSA_SHA_256 = "ECDSA_SHA_256"
    ECDSA_SHA_384 = "ECDSA_SHA_384"
    ECDSA_SHA_512 = "ECDSA_SHA_512"
    ED25519 = "ED25519"
    RSAES_OAEP_SHA_1 = "RSAES_OAEP_SHA_1"
    RSAES_OAEP_SHA_256 = "RSAES_OAEP_SHA_256"
    ECDH = "ECDH"


class KeyState(enum.StrEnum):
    """Whether a key can be used; UNKNOWN for what a newer service says."""

    UNKNOWN = "UNKNOWN"
    ENABLED = "ENABLED"
    DISABLED = "DISABLED"
    PENDING_DELETION = "PENDING_DELETION"
    DESTROYED = "DESTROYED"
    PENDING_IMPORT = "PENDING_IMPORT"


class KeyVersionState(enum.StrEnum):
    """Whether a version can be used when its key can; UNKNOWN for what a newer service says."""

    UNKNOWN = "UNKNOWN"
    ENABLED = "ENABLED"
    PENDING_DELETION = "PENDING_DELETION"
    DESTROYED = "DESTROYED"


class KeyStorage(enum.StrEnum):
    """Where a key's material is kept; UNKNOWN for what a newer service says.

    RESIDENT: an object in the HSM for each version. WRAPPED: in the region's database,
    wrapped by a root that never leaves the HSM. In the clear inside the HSM only, both.
    """

    UNKNOWN = "UNKNOWN"
    RESIDENT = "RESIDENT"
    WRAPPED = "WRAPPED"


class KeyOrigin(enum.StrEnum):
    """Where a key's material was made; UNKNOWN for what a newer service says.

    HSM: in the region's HSM. EXTERNAL: elsewhere; it is brought in by `import_key_material`,
    and whoever made it may keep a copy.
    """

    UNKNOWN = "UNKNOWN"
    HSM = "HSM"
    EXTERNAL = "EXTERNAL"


class AuditMode(enum.StrEnum):
    """How a use of a key is recorded; UNKNOWN for what a newer service says.

    REQUIRED: no answer before its record is on disk. BUFFERED: an answer may be ahead of the
    disk by a bound that the region is configured with, and its receipt says so
    (`Receipt.is_buffered`); a crash may lose such records, and is recorded.
    """

    UNKNOWN = "UNKNOWN"
    REQUIRED = "REQUIRED"
    BUFFERED = "BUFFERED"


class KeyManager(enum.StrEnum):
    """Who is responsible for a key; UNKNOWN for what a newer service says."""

    UNKNOWN = "UNKNOWN"
    CUSTOMER = "CUSTOMER"


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """A key. `name` and `primary_version` are resource names, times are aware and UTC.

    `deletion_time` is there while the state is PENDING_DELETION: the destruction comes then,
    or later. `destroy_time` is there once it is DESTROYED. `import_time` is there while a
    key of origin EXTERNAL has material, `material_expire_time` when that will end.
    """

    name: str
    spec: KeySpec
    usage: KeyUsage
    state: KeyState
    key_manager: KeyManager
    description: str
    primary_version: str
    creator: str
    create_time: datetime
    update_time: datetime
    etag: str
    storage: KeyStorage
    audit_mode: AuditMode = AuditMode.REQUIRED
    algorithms: tuple[Algorithm, ...] = ()
    deletion_time: datetime | None = None
    destroy_time: datetime | None = None
    tags: Mapping[str, str] = field(default_factory=dict, hash=False)
    origin: KeyOrigin = KeyOrigin.HSM
    import_time: datetime | None = None
    material_expire_time: datetime | None = None
    receipts: tuple[Receipt, ...] = field(default=(), compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyVersion:
    """One version of a key. `reserved_uses` bounds its encryptions from above.

    `deletion_time` is there while the version's own deletion is pending.
    """

    name: str
    number: int
    is_primary: bool
    create_time: datetime
    reserved_uses: int
    state: KeyVersionState = KeyVersionState.ENABLED
    deletion_time: datetime | None = None
    destroy_time: datetime | None = None
    receipts: tuple[Receipt, ...] = field(default=(), compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Alias:
    """A second name of a key. `update_time`: when it was made, or last pointed elsewhere."""

    name: str
    key: str
    create_time: datetime
    update_time: datetime
    receipts: tuple[Receipt, ...] = field(default=(), compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class RotatedKey:
    """A key after its rotation, and its new primary version."""

    key: Key
    key_version: KeyVersion
    receipts: tuple[Receipt, ...] = field(default=(), compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class EncryptResult:
    """A ciphertext, and the name of the key version that made it.

    With an RSA key the ciphertext does not say which key made it: keep the name.
    """

    key_version: str
    ciphertext: bytes
    algorithm: Algorithm = Algorithm.AES_256_GCM
    receipts: tuple[Receipt, ...] = field(default=(), compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class DecryptResult:
    """A plaintext. When not `used_primary`, the key was rotated since: consider ReEncrypt."""

    key_version: str
    plaintext: bytes = field(repr=False)
    used_primary: bool
    algorithm: Algorithm = Algorithm.AES_256_GCM
    receipts: tuple[Receipt, ...] = field(default=(), compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReEncryptResult:
    """The new ciphertext blob, and the names of the two key versions."""

    source_key_version: str
    destination_key_version: str
    ciphertext: bytes
    receipts: tuple[Receipt, ...] = field(default=(), compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class GeneratedDataKey:
    """A data key. Use `plaintext_data_key`, wipe it; store `wrapped_data_key` beside the data."""

    key_version: str
    plaintext_data_key: SecretBytes
    wrapped_data_key: bytes
    receipts: tuple[Receipt, ...] = field(default=(), compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class WrappedDataKey:
    """A data key that nobody has seen yet: Decrypt it where it is needed."""

    key_version: str
    wrapped_data_key: bytes
    receipts: tuple[Receipt, ...] = field(default=(), compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class RandomBytes:
    """Random bytes from an HSM; wipe them when they become a key."""

    random: SecretBytes
    receipts: tuple[Receipt, ...] = field(default=(), compare=False)
