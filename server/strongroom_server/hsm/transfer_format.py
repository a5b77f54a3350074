"""Transfer blob v1: material on its way from one HSM to another (docs/formats/key-transfer-v1.md).

0     1   version, 0x01
1     1   algorithm: 0x01 RSAES-OAEP with SHA-1, 0x02 with SHA-256; both with AES key
          wrap (RFC 3394) and HMAC-SHA-256
2     1   spec    ┐ places in `key_kinds.SPECS`
3     1   usage   ┘ and `USAGES`, plus one
4     16  key id
20    4   version number, big-endian, 1 or more
24    32  SHA-256 of the target's public key, DER SubjectPublicKeyInfo
56    m   session key, RSAES-OAEP under the target's public key; m = 384 or 512
56+m  40  MAC key, AES key wrap under the session key
…     n   material, AES key wrap under the session key; n = its length + 8
…     32  HMAC-SHA-256 by the MAC key over all of the above
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

from strongroom_server.domain.algorithms import Algorithm
from strongroom_server.hsm.wire_operations import KIND_BY_NUMBERS

__all__ = [
    "MAC_KEY_BYTES",
    "SESSION_KEY_BYTES",
    "TransferBlob",
    "TransferFormatError",
    "TransferHeader",
    "parse",
]

SESSION_KEY_BYTES: Final = 32
MAC_KEY_BYTES: Final = 32
TAG_BYTES: Final = 32
WRAPPED_MAC_KEY_BYTES: Final = MAC_KEY_BYTES + 8

_VERSION: Final = 0x01
_HEADER: Final = struct.Struct(">BBBB20s32s")
_ALGORITHMS: Final = {Algorithm.RSAES_OAEP_SHA_1: 0x01, Algorithm.RSAES_OAEP_SHA_256: 0x02}
_BY_NUMBER: Final = {number: algorithm for algorithm, number in _ALGORITHMS.items()}
_MODULUS_BYTES: Final = (384, 512)


class TransferFormatError(ValueError):
    """It is no transfer blob of version 1."""


@dataclass(frozen=True, slots=True)
class TransferHeader:
    """What a blob says of itself. `spec` and `usage` are numbers; `ref` has 20 bytes."""

    algorithm: Algorithm
    spec: int
    usage: int
    ref: bytes
    target: bytes

    def to_bytes(self) -> bytes:
        """Return 56 bytes."""
        return _HEADER.pack(
            _VERSION, _ALGORITHMS[self.algorithm], self.spec, self.usage, self.ref, self.target
        )


@dataclass(frozen=True, slots=True)
class TransferBlob:
    """A parsed blob. `authenticated` is what `tag` covers."""

    header: TransferHeader
    session_key: bytes
    mac_key: bytes
    material: bytes
    authenticated: bytes
    tag: bytes


def parse(blob: bytes) -> TransferBlob:
    """Take a blob apart.

    Raises:
        TransferFormatError: It is not exactly one encoding of a blob of version 1.
    """
    if len(blob) < _HEADER.size:
        raise TransferFormatError("too short")
    version, number, spec, usage, ref, target = _HEADER.unpack_from(blob)
    kind = KIND_BY_NUMBERS.get((spec, usage))
    algorithm = _BY_NUMBER.get(number)
    if version != _VERSION or algorithm is None or kind is None or not kind.is_wrappable:
        raise TransferFormatError("of another version, algorithm or kind")
    if not int.from_bytes(ref[16:], "big"):
        raise TransferFormatError("a version number of 0")
    rest = WRAPPED_MAC_KEY_BYTES + kind.wrapped_bytes + TAG_BYTES
    modulus_bytes = len(blob) - _HEADER.size - rest
    if modulus_bytes not in _MODULUS_BYTES:
        raise TransferFormatError("of another length")
    mac_at = _HEADER.size + modulus_bytes
    material_at = mac_at + WRAPPED_MAC_KEY_BYTES
    tag_at = material_at + kind.wrapped_bytes
    return TransferBlob(
        TransferHeader(algorithm, spec, usage, ref, target),
        session_key=blob[_HEADER.size : mac_at],
        mac_key=blob[mac_at:material_at],
        material=blob[material_at:tag_at],
        authenticated=blob[:tag_at],
        tag=blob[tag_at:],
    )
