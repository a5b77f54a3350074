"""PKCS#11 attributes by name, as bytes and back; templates of them (PKCS#11 3.1, 4.1).

Names are PKCS#11's without ``CKA_``. Numbers: appendix B (pkcs11t.h).
"""

from __future__ import annotations

import ctypes
import enum
import struct
from collections.abc import Mapping
from typing import Final, TypeAlias

__all__ = [
    "AttributeValue",
    "CkAttribute",
    "PreparedTemplate",
    "Template",
    "fixed_size",
    "number_of",
    "pack",
    "unpack",
]

AttributeValue: TypeAlias = bool | int | bytes | str | tuple[int, ...] | Mapping[str, bool]
Template: TypeAlias = Mapping[str, AttributeValue]
"""Attributes of an object to make or to look for."""

_ULONG: Final = struct.Struct("@L")


class CkAttribute(ctypes.Structure):
    """CK_ATTRIBUTE."""

    _fields_ = (
        ("type", ctypes.c_ulong),
        ("value", ctypes.c_void_p),
        ("length", ctypes.c_ulong),
    )


class _Kind(enum.Enum):
    BOOL = enum.auto()  # CK_BBOOL
    ULONG = enum.auto()  # CK_ULONG
    BYTES = enum.auto()
    TEXT = enum.auto()  # UTF-8
    ULONGS = enum.auto()  # array of CK_ULONG
    TEMPLATE = enum.auto()  # array of CK_ATTRIBUTE; here of CK_BBOOLs, and only written


_TABLE: Final[dict[str, tuple[int, _Kind]]] = {
    "CLASS": (0x000, _Kind.ULONG),
    "TOKEN": (0x001, _Kind.BOOL),
    "PRIVATE": (0x002, _Kind.BOOL),
    "LABEL": (0x003, _Kind.TEXT),
    "VALUE": (0x011, _Kind.BYTES),
    "TRUSTED": (0x086, _Kind.BOOL),
    "CHECK_VALUE": (0x090, _Kind.BYTES),
    "KEY_TYPE": (0x100, _Kind.ULONG),
    "ID": (0x102, _Kind.BYTES),
    "SENSITIVE": (0x103, _Kind.BOOL),
    "ENCRYPT": (0x104, _Kind.BOOL),
    "DECRYPT": (0x105, _Kind.BOOL),
    "WRAP": (0x106, _Kind.BOOL),
    "UNWRAP": (0x107, _Kind.BOOL),
    "SIGN": (0x108, _Kind.BOOL),
    "SIGN_RECOVER": (0x109, _Kind.BOOL),
    "VERIFY": (0x10A, _Kind.BOOL),
    "VERIFY_RECOVER": (0x10B, _Kind.BOOL),
    "DERIVE": (0x10C, _Kind.BOOL),
    "MODULUS": (0x120, _Kind.BYTES),
    "MODULUS_BITS": (0x121, _Kind.ULONG),
    "PUBLIC_EXPONENT": (0x122, _Kind.BYTES),
    "VALUE_LEN": (0x161, _Kind.ULONG),
    "EXTRACTABLE": (0x162, _Kind.BOOL),
    "LOCAL": (0x163, _Kind.BOOL),
    "NEVER_EXTRACTABLE": (0x164, _Kind.BOOL),
    "ALWAYS_SENSITIVE": (0x165, _Kind.BOOL),
    "KEY_GEN_MECHANISM": (0x166, _Kind.ULONG),
    "MODIFIABLE": (0x170, _Kind.BOOL),
    "COPYABLE": (0x171, _Kind.BOOL),
    "DESTROYABLE": (0x172, _Kind.BOOL),
    "EC_PARAMS": (0x180, _Kind.BYTES),
    "EC_POINT": (0x181, _Kind.BYTES),
    "ALWAYS_AUTHENTICATE": (0x202, _Kind.BOOL),
    "WRAP_WITH_TRUSTED": (0x210, _Kind.BOOL),
    "UNWRAP_TEMPLATE": (0x40000212, _Kind.TEMPLATE),
    "ALLOWED_MECHANISMS": (0x40000600, _Kind.ULONGS),
}
_NAMES: Final = {number: name for name, (number, _) in _TABLE.items()}


_SIZES: Final = {_Kind.BOOL: 1, _Kind.ULONG: _ULONG.size}


def number_of(name: str) -> int:
    """Return CKA_`name`.

    Raises:
        KeyError: This program has no use for such an attribute.
    """
    return _TABLE[name][0]


class _Packed:
    """A template in C's form; keeps its buffers alive as long as it lives."""

    __slots__ = ("array", "buffers", "count")

    def __init__(self, template: Template):
        self.count = len(template)
        self.array = (CkAttribute * self.count)()
        self.buffers: list[ctypes.Array[ctypes.c_char] | _Packed] = []
        for entry, (name, value) in zip(self.array, template.items(), strict=True):
            entry.type, kind = _TABLE[name]
            if kind is _Kind.TEMPLATE and isinstance(value, Mapping):
                inner = _Packed(value)
                self.buffers.append(inner)
                entry.value = ctypes.addressof(inner.array)
                entry.length = ctypes.sizeof(inner.array)
                continue
            raw = _to_bytes(name, value)
            buffer = ctypes.create_string_buffer(raw, len(raw))
            self.buffers.append(buffer)
            entry.value = ctypes.addressof(buffer)
            entry.length = len(raw)

    def wipe(self) -> None:
        """Overwrite the values: some templates hold material."""
        for buffer in self.buffers:
            if isinstance(buffer, _Packed):
                buffer.wipe()
            else:
                ctypes.memset(buffer, 0, len(buffer))


def fixed_size(name: str) -> int:
    """Return the length of CKA_`name`'s value; 0 when it varies."""
    return _SIZES.get(_TABLE[name][1], 0)


def pack(template: Template) -> _Packed:
    """Turn a template into an array of CK_ATTRIBUTE.

    Raises:
        KeyError: Unknown name.
        TypeError: A value is not of its attribute's type.
    """
    return template.packed if isinstance(template, PreparedTemplate) else _Packed(template)


class PreparedTemplate(dict[str, AttributeValue]):
    """A template that is packed once, for calls that are made often. Not to be changed."""

    def __init__(self, template: Template):
        """Pack it; raises as `pack`."""
        super().__init__(template)
        self.packed: Final = _Packed(template)


def unpack(number: int, raw: bytes) -> tuple[str, AttributeValue]:
    """Return an attribute's name and value from the module's bytes.

    Raises:
        ValueError: The bytes have no value of the attribute's type.
    """
    name = _NAMES[number]
    kind = _TABLE[name][1]
    if kind is _Kind.BOOL:
        if len(raw) != 1:
            raise ValueError(f"CKA_{name} has {len(raw)} bytes")
        return name, raw != b"\0"
    if kind is _Kind.ULONG:
        if len(raw) != _ULONG.size:
            raise ValueError(f"CKA_{name} has {len(raw)} bytes")
        return name, int(_ULONG.unpack(raw)[0])
    if kind is _Kind.ULONGS:
        if len(raw) % _ULONG.size:
            raise ValueError(f"CKA_{name} has {len(raw)} bytes")
        return name, tuple(value for (value,) in _ULONG.iter_unpack(raw))
    if kind is _Kind.TEXT:
        return name, raw.decode(errors="replace")
    return name, raw


def _to_bytes(name: str, value: AttributeValue) -> bytes:
    kind = _TABLE[name][1]
    if kind is _Kind.BOOL and isinstance(value, bool):
        return b"\1" if value else b"\0"
    if kind is _Kind.ULONG and isinstance(value, int) and not isinstance(value, bool):
        return _ULONG.pack(value)
    if kind is _Kind.ULONGS and isinstance(value, tuple):
        return b"".join(_ULONG.pack(number) for number in value)
    if kind is _Kind.TEXT and isinstance(value, str):
        return value.encode()
    if kind is _Kind.BYTES and isinstance(value, bytes):
        return value
    raise TypeError(f"CKA_{name} cannot be a {type(value).__name__}")
