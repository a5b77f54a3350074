"""The header of envelope v1 (docs/formats/envelope-v1.md); the body is _cobblestone.py.

    5   magic "SRENV"             ┐
    1   version, 0x01             │
    1   suite, 0x01               │ immutable part: the context of the body
    1   reserved, 0x00            │
    16  message id                │
    2   length c                  │
    c   encryption context        ┘
    1   number of wrapped data keys, 1 to 16; for each, strictly ascending by key name:
        2   length   key name, regions/{region}/keys/{uuid}
        2   length   wrapped data key, a ciphertext blob of 51 to 6,144 bytes
    32  MAC of everything before it

Exactly one encoding is accepted. Whatever does not fit is EnvelopeInvalidError.
"""

from __future__ import annotations

import hmac
import re
import struct
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

from strongroom import encryption_context
from strongroom_client._cobblestone import Buffer
from strongroom_client.errors import EnvelopeInvalidError

__all__ = [
    "MAC_BYTES",
    "MAX_HEADER_BYTES",
    "MAX_WRAPPED_KEYS",
    "MESSAGE_ID_BYTES",
    "Cursor",
    "Header",
    "WrappedKey",
    "derive_mac_key",
    "encode_immutable",
    "encode_wrapped_keys",
    "parse_header",
]

MAGIC: Final = b"SRENV"
VERSION: Final = 0x01
SUITE: Final = 0x01  # Cobblestone-256 body, HMAC-SHA-256 header MAC
MESSAGE_ID_BYTES: Final = 16
MAX_WRAPPED_KEYS: Final = 16
MAX_KEY_NAME_BYTES: Final = 128
MIN_BLOB_BYTES: Final = 51  # ciphertext-blob-v1.md
MAX_BLOB_BYTES: Final = 6144
MAC_BYTES: Final = 32

#: docs/formats/resource-names.md, as bytes: a header is parsed for every message.
_KEY_NAME: Final = re.compile(
    rb"regions/[a-z][a-z0-9-]{0,31}/keys/[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"
)
_FIXED: Final = struct.Struct(">5sBBB16sH")
_LENGTH: Final = struct.Struct(">H")
_START: Final = MAGIC + bytes((VERSION, SUITE, 0))
_MAC_INFO: Final = b"strongroom.dev/envelope/v1/header-mac"

MAX_ENTRY_BYTES: Final = 2 + MAX_KEY_NAME_BYTES + 2 + MAX_BLOB_BYTES
MAX_HEADER_BYTES: Final = (
    _FIXED.size
    + encryption_context.MAX_ENCODED_BYTES
    + 1
    + MAX_WRAPPED_KEYS * MAX_ENTRY_BYTES
    + MAC_BYTES
)


@dataclass(frozen=True, slots=True)
class WrappedKey:
    """One wrapped data key: the name of the key that wraps it, and the ciphertext blob."""

    key: str
    blob: bytes

    @property
    def region(self) -> str:
        """The region in the key's name."""
        return self.key.split("/", 2)[1]


@dataclass(frozen=True, slots=True)
class Header:
    """A parsed header. Nothing in it is authenticated before `verify`."""

    immutable: bytes
    aad: bytes
    wrapped_keys: tuple[WrappedKey, ...]
    authenticated: bytes
    mac: bytes

    @property
    def size(self) -> int:
        """Length of the whole header."""
        return len(self.authenticated) + MAC_BYTES

    def verify(self, mac_key: Buffer) -> None:
        """Check the MAC in constant time.

        Raises:
            EnvelopeInvalidError: It does not match.
        """
        if not hmac.compare_digest(hmac.digest(mac_key, self.authenticated, "sha256"), self.mac):
            raise EnvelopeInvalidError


def derive_mac_key(data_key: Buffer) -> bytes:
    """Derive the header MAC key: HKDF-Expand, SHA-256, 32 bytes, so T(1) (RFC 5869, 2.3)."""
    return hmac.digest(data_key, _MAC_INFO + b"\x01", "sha256")


def encode_immutable(message_id: bytes, aad: bytes) -> bytes:
    """Encode the immutable part.

    Args:
        message_id: 16 random bytes.
        aad: The canonical encryption context, at most 8,192 bytes.
    """
    return b"".join((_START, message_id, len(aad).to_bytes(2, "big"), aad))


def encode_wrapped_keys(wrapped_keys: Iterable[WrappedKey]) -> bytes:
    """Encode the list of wrapped data keys, sorted as the format demands.

    Raises:
        ValueError: There are none, more than 16, or two under one key.
    """
    entries = sorted((wrapped.key.encode("ascii"), wrapped.blob) for wrapped in wrapped_keys)
    if not 1 <= len(entries) <= MAX_WRAPPED_KEYS:
        raise ValueError(f"an envelope has 1 to {MAX_WRAPPED_KEYS} keys")
    if len({key for key, _ in entries}) != len(entries):
        raise ValueError("an envelope has each key once")
    parts = [bytes((len(entries),))]
    for key, blob in entries:
        parts += (_LENGTH.pack(len(key)), key, _LENGTH.pack(len(blob)), blob)
    return b"".join(parts)


class Cursor:
    """Reads bytes in memory for `parse_header`."""

    __slots__ = ("_data", "offset")

    def __init__(self, data: Buffer):
        self._data = data
        self.offset = 0

    def read(self, size: int) -> bytes:
        """Return the next `size` bytes, fewer at the end."""
        start = self.offset
        self.offset += size
        return bytes(self._data[start : start + size])


def parse_header(read: Callable[[int], bytes], *, expected_aad: bytes | None) -> Header:
    """Read a header, to its last byte and no further.

    Args:
        read: Returns the next n bytes, n at most 8,192; fewer only at the end of input.
        expected_aad: The canonical context that the header must hold; None takes any.

    Raises:
        EnvelopeInvalidError: It is not a header, or its context is another one.
    """
    fixed = _read(read, _FIXED.size)
    magic, version, suite, reserved, _message_id, aad_bytes = _FIXED.unpack(fixed)
    if (magic, version, suite, reserved) != (MAGIC, VERSION, SUITE, 0):
        raise EnvelopeInvalidError
    if aad_bytes > encryption_context.MAX_ENCODED_BYTES:
        raise EnvelopeInvalidError
    aad = _read(read, aad_bytes)
    _check_aad(aad, expected_aad)
    parts = [fixed, aad]
    wrapped_keys = _parse_wrapped_keys(read, parts)
    authenticated = b"".join(parts)
    return Header(
        immutable=authenticated[: _FIXED.size + aad_bytes],
        aad=aad,
        wrapped_keys=wrapped_keys,
        authenticated=authenticated,
        mac=_read(read, MAC_BYTES),
    )


def _check_aad(aad: bytes, expected: bytes | None) -> None:
    if expected is not None:
        # Equal to an encoding of our own, therefore canonical. Not secret: no need for
        # constant time.
        if aad != expected:
            raise EnvelopeInvalidError
        return
    try:
        encryption_context.decode(aad)
    except encryption_context.EncryptionContextError:
        raise EnvelopeInvalidError from None


def _parse_wrapped_keys(read: Callable[[int], bytes], parts: list[bytes]) -> tuple[WrappedKey, ...]:
    """Read the list, and append its bytes to `parts` as they were."""
    count = _read(read, 1)
    parts.append(count)
    if not 1 <= count[0] <= MAX_WRAPPED_KEYS:
        raise EnvelopeInvalidError
    wrapped_keys = []
    previous = b""
    for _ in range(count[0]):
        name = _read_counted(read, parts, 1, MAX_KEY_NAME_BYTES)
        blob = _read_counted(read, parts, MIN_BLOB_BYTES, MAX_BLOB_BYTES)
        # Strictly ascending: one order, and no key twice.
        if name <= previous:
            raise EnvelopeInvalidError
        previous = name
        wrapped_keys.append(WrappedKey(_key_name(name), blob))
    return tuple(wrapped_keys)


def _key_name(name: bytes) -> str:
    if _KEY_NAME.fullmatch(name) is None:
        raise EnvelopeInvalidError
    return name.decode("ascii")


def _read_counted(read: Callable[[int], bytes], parts: list[bytes], least: int, most: int) -> bytes:
    length = _read(read, _LENGTH.size)
    (size,) = _LENGTH.unpack(length)
    # Checked before anything of that size is read or allocated.
    if not least <= size <= most:
        raise EnvelopeInvalidError
    data = _read(read, size)
    parts += (length, data)
    return data


def _read(read: Callable[[int], bytes], size: int) -> bytes:
    data = read(size)
    if len(data) != size:
        raise EnvelopeInvalidError
    return data
