"""Canonical bytes of an encryption context (docs/formats/encryption-context-v1.md).

    empty context      nothing, 0 bytes
    otherwise          u8   version, 0x01
                       u16  number of pairs, 1 to 256
                       then for each pair, sorted by the UTF-8 bytes of its key:
                       u16  length of the key, 1 or more     key, UTF-8
                       u16  length of the value, 0 or more   value, UTF-8

Integers are big-endian. The whole is at most 8,192 bytes. There is exactly one encoding
of a context, and `decode` refuses every other one.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Final

__all__ = ["MAX_ENCODED_BYTES", "EncryptionContextError", "decode", "encode"]

MAX_ENCODED_BYTES: Final = 8 * 1024
MAX_PAIRS: Final = 256
_VERSION: Final = 0x01
_HEAD: Final = struct.Struct(">BH")
_LENGTH: Final = struct.Struct(">H")


class EncryptionContextError(ValueError):
    """The context, or the bytes given as one, break a rule of the format."""


def encode(context: Mapping[str, str]) -> bytes:
    """Encode `context` canonically.

    Returns:
        0 to 8,192 bytes; none for an empty context.

    Raises:
        EncryptionContextError: A key is empty, a text is not valid Unicode, there are
            more than 256 pairs, or the encoding would be longer than 8,192 bytes.
    """
    if not context:
        return b""
    if len(context) > MAX_PAIRS:
        raise EncryptionContextError(f"more than {MAX_PAIRS} pairs")
    try:
        pairs = sorted((k.encode(), v.encode()) for k, v in context.items())
    except UnicodeEncodeError as exc:
        # A lone surrogate has no UTF-8 form.
        raise EncryptionContextError("keys and values must be valid Unicode") from exc
    if not pairs[0][0]:
        raise EncryptionContextError("a key is empty")
    size = _HEAD.size + sum(2 * _LENGTH.size + len(k) + len(v) for k, v in pairs)
    if size > MAX_ENCODED_BYTES:
        raise EncryptionContextError(
            f"{size} bytes in canonical form, the limit is {MAX_ENCODED_BYTES}"
        )
    parts = [_HEAD.pack(_VERSION, len(pairs))]
    for key, value in pairs:
        parts += (_LENGTH.pack(len(key)), key, _LENGTH.pack(len(value)), value)
    return b"".join(parts)


def decode(data: bytes) -> dict[str, str]:
    """Decode canonical bytes.

    Raises:
        EncryptionContextError: `data` is not the canonical encoding of a context.
    """
    if not data:
        return {}
    if len(data) > MAX_ENCODED_BYTES or len(data) < _HEAD.size:
        raise EncryptionContextError("not an encoded context: wrong length")
    version, count = _HEAD.unpack_from(data)
    if version != _VERSION or not 1 <= count <= MAX_PAIRS:
        raise EncryptionContextError("not an encoded context: wrong version or count")
    context: dict[str, str] = {}
    offset = _HEAD.size
    previous = b""
    for _ in range(count):
        key, offset = _read_text(data, offset)
        value, offset = _read_text(data, offset)
        # Strictly ascending keys: refuses empty keys, duplicates and other orders.
        if key <= previous:
            raise EncryptionContextError("not an encoded context: keys not ascending")
        previous = key
        try:
            context[key.decode()] = value.decode()
        except UnicodeDecodeError as exc:
            raise EncryptionContextError("not an encoded context: not UTF-8") from exc
    if offset != len(data):
        raise EncryptionContextError("not an encoded context: trailing bytes")
    return context


def _read_text(data: bytes, offset: int) -> tuple[bytes, int]:
    start = offset + _LENGTH.size
    if start > len(data):
        raise EncryptionContextError("not an encoded context: truncated")
    (length,) = _LENGTH.unpack_from(data, offset)
    end = start + length
    if end > len(data):
        raise EncryptionContextError("not an encoded context: truncated")
    return data[start:end], end
