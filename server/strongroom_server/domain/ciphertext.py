"""Ciphertext blob v1: the bytes that Encrypt returns (docs/formats/ciphertext-blob-v1.md).

    0   1   version, 0x01
    1   1   algorithm, 0x01 = AES-256-GCM inside the HSM
    2   16  key id
    18  4   key version, big-endian, 1 or more
    22  12  IV   ┐
    34  n   ciphertext, n = 1 to 4,096   ├ "sealed": what the HSM layer returns and takes
    …   16  GCM tag                      ┘

Additional authenticated data = bytes 0 to 21, then the canonical encryption context.
"""

from __future__ import annotations

import struct
import uuid
from dataclasses import dataclass
from typing import Final

from strongroom_server.domain.keys import KeyVersionRef
from strongroom_server.errors import CiphertextInvalidError

__all__ = ["MAX_PLAINTEXT_BYTES", "CiphertextBlob", "header_for", "parse"]

MAX_PLAINTEXT_BYTES: Final = 4096
HEADER_BYTES: Final = 22
IV_BYTES: Final = 12  # SP 800-38D, 5.2.1.1: the recommended 96 bits
TAG_BYTES: Final = 16
SEALED_OVERHEAD_BYTES: Final = IV_BYTES + TAG_BYTES
MIN_BLOB_BYTES: Final = HEADER_BYTES + SEALED_OVERHEAD_BYTES + 1
MAX_BLOB_BYTES: Final = HEADER_BYTES + SEALED_OVERHEAD_BYTES + MAX_PLAINTEXT_BYTES

_VERSION: Final = 0x01
_AES_256_GCM_HSM: Final = 0x01
_HEADER: Final = struct.Struct(">BB16sI")


@dataclass(frozen=True, slots=True)
class CiphertextBlob:
    """A parsed blob: which key version made it, its header bytes and its sealed part."""

    ref: KeyVersionRef
    header: bytes
    sealed: bytes


def header_for(ref: KeyVersionRef) -> bytes:
    """Return the 22 header bytes of a blob made with `ref`."""
    return _HEADER.pack(_VERSION, _AES_256_GCM_HSM, ref.key_id.bytes, ref.version)


def parse(blob: bytes) -> CiphertextBlob:
    """Take a blob apart.

    Raises:
        CiphertextInvalidError: It is not a blob of version 1. Nothing says why.
    """
    if not MIN_BLOB_BYTES <= len(blob) <= MAX_BLOB_BYTES:
        raise CiphertextInvalidError
    version, algorithm, key_id, number = _HEADER.unpack_from(blob)
    if version != _VERSION or algorithm != _AES_256_GCM_HSM or number == 0:
        raise CiphertextInvalidError
    ref = KeyVersionRef(uuid.UUID(bytes=key_id), number)
    return CiphertextBlob(ref, blob[:HEADER_BYTES], blob[HEADER_BYTES:])
