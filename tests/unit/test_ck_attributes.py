"""Attributes and templates, as bytes and back."""

from __future__ import annotations

import ctypes
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from strongroom_server.hsm.ck_attributes import CkAttribute, number_of, pack, unpack


@pytest.mark.parametrize(
    ("name", "value", "raw"),
    [
        ("SENSITIVE", True, b"\1"),
        ("EXTRACTABLE", False, b"\0"),
        ("VALUE_LEN", 32, struct.pack("@L", 32)),
        ("LABEL", "strongroom/é", "strongroom/é".encode()),
        ("ID", b"\0\1", b"\0\1"),
        ("ALLOWED_MECHANISMS", (0x1087, 0x2109), struct.pack("@LL", 0x1087, 0x2109)),
        ("ALLOWED_MECHANISMS", (), b""),
    ],
)
def test_value_is_packed_as_its_type_and_comes_back(name: str, value: object, raw: bytes) -> None:
    """Each kind of attribute has one form in bytes."""
    packed = pack({name: value})  # type: ignore[dict-item]  # parametrised over types
    entry = packed.array[0]
    assert (entry.type, entry.length) == (number_of(name), len(raw))
    assert ctypes.string_at(entry.value, entry.length) == raw
    assert unpack(entry.type, raw) == (name, value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("SENSITIVE", 1),
        ("VALUE_LEN", True),
        ("VALUE_LEN", "32"),
        ("ID", "text"),
        ("LABEL", b"bytes"),
        ("ALLOWED_MECHANISMS", 0x1087),
    ],
)
def test_value_of_another_type_is_refused(name: str, value: object) -> None:
    """A template never says something else than its author meant."""
    with pytest.raises(TypeError, match=name):
        pack({name: value})  # type: ignore[dict-item]  # that is the point


def test_unknown_attribute_is_refused() -> None:
    """A misspelt attribute must not silently be left out of a template."""
    with pytest.raises(KeyError):
        pack({"SENSITIVITY": True})


@given(st.sampled_from(["SENSITIVE", "VALUE_LEN", "ALLOWED_MECHANISMS"]), st.binary(max_size=20))
def test_bytes_of_a_module_are_a_value_or_an_error(name: str, raw: bytes) -> None:
    """Whatever a module writes is either of the attribute's type or refused."""
    try:
        got, value = unpack(number_of(name), raw)
    except ValueError:
        return
    assert got == name
    assert isinstance(value, (bool, int, tuple))


def test_packed_template_can_be_wiped() -> None:
    """Material in a template does not outlive the call."""
    packed = pack({"VALUE": b"secret material"})
    entry = packed.array[0]
    packed.wipe()
    assert ctypes.string_at(entry.value, entry.length) == bytes(15)


def test_template_in_a_template_is_an_array_of_attributes() -> None:
    """CKA_UNWRAP_TEMPLATE points at attributes, whose values live as long as it does."""
    packed = pack({"UNWRAP_TEMPLATE": {"SENSITIVE": True, "EXTRACTABLE": False}})
    entry = packed.array[0]
    assert entry.length == 2 * ctypes.sizeof(CkAttribute)
    inner = (CkAttribute * 2).from_address(entry.value)
    assert [(e.type, ctypes.string_at(e.value, e.length)) for e in inner] == [
        (number_of("SENSITIVE"), b"\1"),
        (number_of("EXTRACTABLE"), b"\0"),
    ]
