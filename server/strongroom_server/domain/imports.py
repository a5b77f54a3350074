"""Material that callers bring themselves: how it is wrapped, and the token that lets it in.

    import token, version 1 (docs/formats/import-token-v1.md)

    0     1   version, 0x01
    1     1   wrapping algorithm, 1 to 4
    2     16  key id
    18    4   key version, big-endian
    22    16  name of the wrapping key in the HSM
    38    8   when it ends, seconds since 1970, big-endian
    46    32  random

Nobody can make a token: the store has the SHA-256 of each, which covers every byte, 32
random ones among them.
"""

from __future__ import annotations

import enum
import struct
import uuid
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final, Self

from strongroom_server.domain.algorithms import Algorithm
from strongroom_server.domain.keys import (
    Key,
    KeyOrigin,
    KeySpec,
    KeyState,
    KeyVersion,
    KeyVersionRef,
)
from strongroom_server.domain.policy import Action
from strongroom_server.errors import (
    ArgumentInvalidError,
    ImportTokenExpiredError,
    ImportTokenInvalidError,
    ImportTokenUsedError,
    KeyOriginMismatchError,
)

__all__ = [
    "MATERIAL_BYTES",
    "MAX_MATERIAL_DAYS",
    "MAX_OPEN_IMPORTS",
    "RANDOM_BYTES",
    "TOKEN_BYTES",
    "TOKEN_LIFETIME",
    "ImportToken",
    "IssuedToken",
    "TokenState",
    "WrappingAlgorithm",
    "check_can_be_brought",
    "check_expiry",
    "check_external",
    "check_made_in_hsm",
    "check_token",
    "is_being_deleted",
    "state_after_cancel",
]

TOKEN_LIFETIME: Final = timedelta(hours=24)
MAX_MATERIAL_DAYS: Final = 365
MAX_OPEN_IMPORTS: Final = 64
"""Of a shard at a time: each has a key pair on the token, and tokens have little room."""
RANDOM_BYTES: Final = 32
MATERIAL_BYTES: Final = {
    KeySpec.AES_256: 32,
    KeySpec.HMAC_256: 32,
    KeySpec.HMAC_384: 48,
    KeySpec.HMAC_512: 64,
}
"""What can be brought, and its length: what AES key wrap takes (RFC 3394, 2)."""

_VERSION: Final = 1
_TOKEN: Final = struct.Struct(">BB16sI16sQ32s")
TOKEN_BYTES: Final = _TOKEN.size  # 78
_LAST_SECOND: Final = 253_402_300_799  # the end of the year 9999, as far as a datetime goes


class WrappingAlgorithm(enum.StrEnum):
    """How material is wrapped for its way in."""

    RSAES_OAEP_SHA_256 = "RSAES_OAEP_SHA_256"
    """The material under RSAES-OAEP, SHA-256 and MGF1 with SHA-256 (RFC 8017, 7.1)."""
    RSAES_OAEP_SHA_1 = "RSAES_OAEP_SHA_1"
    """The same with SHA-1, for HSMs that take no other."""
    RSA_AES_KW_SHA_256 = "RSA_AES_KW_SHA_256"
    """A fresh AES-256 key under RSAES-OAEP, then the material under it: AES key wrap with
    the default initial value (RFC 3394)."""
    RSA_AES_KW_SHA_1 = "RSA_AES_KW_SHA_1"
    """The same with SHA-1."""

    @property
    def oaep(self) -> Algorithm:
        """What the RSA part is."""
        return _OAEP[self]

    @property
    def has_key_wrap(self) -> bool:
        """Whether an AES key stands between the two."""
        return self.value.startswith("RSA_AES_KW")


_OAEP: Final = {
    WrappingAlgorithm.RSAES_OAEP_SHA_256: Algorithm.RSAES_OAEP_SHA_256,
    WrappingAlgorithm.RSAES_OAEP_SHA_1: Algorithm.RSAES_OAEP_SHA_1,
    WrappingAlgorithm.RSA_AES_KW_SHA_256: Algorithm.RSAES_OAEP_SHA_256,
    WrappingAlgorithm.RSA_AES_KW_SHA_1: Algorithm.RSAES_OAEP_SHA_1,
}
_NUMBERS: Final = {
    WrappingAlgorithm.RSAES_OAEP_SHA_256: 1,
    WrappingAlgorithm.RSAES_OAEP_SHA_1: 2,
    WrappingAlgorithm.RSA_AES_KW_SHA_256: 3,
    WrappingAlgorithm.RSA_AES_KW_SHA_1: 4,
}
_BY_NUMBER: Final = {number: algorithm for algorithm, number in _NUMBERS.items()}


@dataclass(frozen=True, slots=True)
class ImportToken:
    """What a token says. `transfer_id` names the wrapping key in the HSM."""

    algorithm: WrappingAlgorithm
    ref: KeyVersionRef
    transfer_id: uuid.UUID
    expire_time: datetime
    random: bytes

    def to_bytes(self) -> bytes:
        """Return 78 bytes."""
        return _TOKEN.pack(
            _VERSION,
            _NUMBERS[self.algorithm],
            self.ref.key_id.bytes,
            self.ref.version,
            self.transfer_id.bytes,
            int(self.expire_time.timestamp()),
            self.random,
        )

    @classmethod
    def parse(cls, token: bytes) -> Self:
        """Take a token apart.

        Raises:
            ImportTokenInvalidError: It is not exactly one encoding of version 1.
        """
        if len(token) != TOKEN_BYTES:
            raise ImportTokenInvalidError
        version, number, key_id, key_version, transfer_id, seconds, random = _TOKEN.unpack(token)
        algorithm = _BY_NUMBER.get(number)
        if version != _VERSION or algorithm is None or not key_version or seconds > _LAST_SECOND:
            raise ImportTokenInvalidError
        return cls(
            algorithm,
            KeyVersionRef(uuid.UUID(bytes=key_id), key_version),
            uuid.UUID(bytes=transfer_id),
            datetime.fromtimestamp(seconds, UTC),
            random,
        )


class TokenState(enum.StrEnum):
    """What has become of a token."""

    OPEN = "OPEN"
    USED = "USED"
    """An import with it has ended, well or not."""
    REPLACED = "REPLACED"
    """The key has another one."""


@dataclass(frozen=True, slots=True)
class IssuedToken:
    """What the store has of a token.

    Attributes:
        token_sha256: 32 bytes; names it.
        key_id: The key that it is for. A key has one OPEN token at most.
        transfer_id: The wrapping key in the HSM.
        expire_time: When it ends.
        state: What has become of it.
        claim: SHA-256 of the wrapped material that it was presented with, before the HSM
            saw that; empty until then. A repeat may bring the same, and nothing else.
        wrapping_key_gone: The wrapping key is known to be destroyed.
    """

    token_sha256: bytes
    key_id: uuid.UUID
    transfer_id: uuid.UUID
    expire_time: datetime
    state: TokenState = TokenState.OPEN
    claim: bytes = b""
    wrapping_key_gone: bool = False


def check_token(
    token: bytes, issued: IssuedToken | None, ref: KeyVersionRef, now: datetime
) -> ImportToken:
    """Return what a token says when it can be used for a version.

    Args:
        token: As it was presented.
        issued: What the store has under its SHA-256.
        ref: The version that it has to be for.
        now: The wall clock.

    Raises:
        ImportTokenInvalidError: Not a token, another key's, or replaced by a later one.
        ImportTokenUsedError: It was presented before.
        ImportTokenExpiredError: It has ended.
    """
    parsed = ImportToken.parse(token)
    if issued is None or parsed.ref != ref or issued.state is TokenState.REPLACED:
        raise ImportTokenInvalidError
    if issued.state is TokenState.USED:
        raise ImportTokenUsedError
    if issued.expire_time <= now or issued.wrapping_key_gone:
        raise ImportTokenExpiredError
    return parsed


def check_external(action: Action, key: Key) -> None:
    """Refuse a call that is for keys whose material is brought.

    Raises:
        KeyOriginMismatchError: The material of this one is made in the HSM.
    """
    if key.origin is not KeyOrigin.EXTERNAL:
        raise KeyOriginMismatchError(str(key.name), key.origin, action)


def check_made_in_hsm(action: Action, key: Key) -> None:
    """Refuse a call that is for keys whose material the HSM makes.

    Raises:
        KeyOriginMismatchError: The material of this one is brought.
    """
    if key.origin is not KeyOrigin.HSM:
        raise KeyOriginMismatchError(str(key.name), key.origin, action)


def check_can_be_brought(spec: KeySpec) -> None:
    """Refuse keys whose material cannot be brought.

    Raises:
        ArgumentInvalidError: It cannot.
    """
    if spec not in MATERIAL_BYTES:
        raise ArgumentInvalidError.of(
            "origin", "origin.spec", f"EXTERNAL is for {', '.join(MATERIAL_BYTES)}"
        )


def is_being_deleted(key: Key, version: KeyVersion) -> bool:
    """Say whether the HSM may have been told to destroy a version's imported material."""
    return key.state is KeyState.PENDING_IMPORT and version.has_material


def state_after_cancel(key: Key, now: datetime) -> KeyState:
    """Return the state of a key whose deletion is taken back: by whether it has material."""
    external = key.versions[0].external
    if external is None:
        return KeyState.DISABLED
    ended = external.expire_time is not None and external.expire_time <= now
    return KeyState.DISABLED if key.has_material and not ended else KeyState.PENDING_IMPORT


def check_expiry(expire_time: datetime | None, now: datetime) -> None:
    """Refuse an end of material that has passed, or is too far away.

    Raises:
        ArgumentInvalidError: It is one of these.
    """
    if expire_time is None:
        return
    if not now < expire_time <= now + timedelta(days=MAX_MATERIAL_DAYS):
        raise ArgumentInvalidError.of(
            "valid_to", "valid_to.range", f"in the future, at most {MAX_MATERIAL_DAYS} days ahead"
        )
