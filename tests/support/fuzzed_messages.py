"""Hypothesis strategies for protobuf messages of any type: plausible, odd and broken."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from hypothesis import strategies as st

__all__ = ["Plausible", "broken_bytes", "messages"]

_Kind = FieldDescriptor
_INTEGERS = {
    _Kind.CPPTYPE_INT32: (-(2**31), 2**31 - 1),
    _Kind.CPPTYPE_INT64: (-(2**63), 2**63 - 1),
    _Kind.CPPTYPE_UINT32: (0, 2**32 - 1),
    _Kind.CPPTYPE_UINT64: (0, 2**64 - 1),
}
_MAX_ITEMS = 3
_MAX_DEPTH = 3


@dataclass(frozen=True)
class Plausible:
    """What gets a request past the first checks: names, bytes and texts that mean something.

    `texts_of` returns those that fit a field by its name.
    """

    texts_of: Callable[[str], Sequence[str]]
    blobs: Sequence[bytes]


def messages(descriptor: Descriptor, plausible: Plausible) -> st.SearchStrategy[Message]:
    """Return messages of one type: half of them as a caller might mean them, half anything."""
    return st.one_of(
        _Fuzzed(plausible, tame=True).message(descriptor),
        _Fuzzed(plausible, tame=False).message(descriptor),
    )


def broken_bytes(descriptor: Descriptor, plausible: Plausible) -> st.SearchStrategy[bytes]:
    """Return bytes that may or may not be a message: any, and those of one altered or cut."""

    @st.composite
    def altered(draw: st.DrawFn) -> bytes:
        data = bytearray(draw(messages(descriptor, plausible)).SerializeToString()[:65536])
        for _ in range(draw(st.integers(0, 4))):
            if data:
                data[draw(st.integers(0, len(data) - 1))] = draw(st.integers(0, 255))
        return bytes(data[: draw(st.integers(0, len(data)))])

    return st.one_of(st.binary(max_size=200), altered())


class _Fuzzed:
    """Strategies for fields. Tame: what is named is there, numbers are small, enums known."""

    def __init__(self, plausible: Plausible, *, tame: bool) -> None:
        self._plausible = plausible
        self._tame = tame

    def message(self, descriptor: Descriptor, depth: int = 0) -> st.SearchStrategy[Any]:
        kind = GetMessageClass(descriptor)
        fields = {field.name: self._field(field, depth) for field in descriptor.fields}
        named = {
            field.name
            for field in descriptor.fields
            if self._tame and self._plausible.texts_of(field.name)
        }

        def build(values: dict[str, Any]) -> Message:
            message = kind()
            for name, value in values.items():
                _set(message, name, value)
            return message

        return st.fixed_dictionaries(
            {name: strategy for name, strategy in fields.items() if name in named},
            optional={name: strategy for name, strategy in fields.items() if name not in named},
        ).map(build)

    def _field(self, field: FieldDescriptor, depth: int) -> st.SearchStrategy[Any]:
        entry = field.message_type
        if entry is not None and entry.GetOptions().map_entry:
            key, value = entry.fields_by_name["key"], entry.fields_by_name["value"]
            return st.dictionaries(
                self._single(key, depth), self._single(value, depth), max_size=_MAX_ITEMS
            )
        single = self._single(field, depth)
        return st.lists(single, max_size=_MAX_ITEMS) if field.is_repeated else single

    def _single(  # noqa: PLR0911 - one for each kind of field
        self, field: FieldDescriptor, depth: int
    ) -> st.SearchStrategy[Any]:
        kind = field.cpp_type
        if field.message_type is not None:
            if depth == _MAX_DEPTH:
                return st.just(GetMessageClass(field.message_type)())
            return self.message(field.message_type, depth + 1)
        if field.enum_type is not None:
            return self._enum([value.number for value in field.enum_type.values])
        if kind in _INTEGERS:
            return self._integer(*_INTEGERS[kind])
        if field.type == _Kind.TYPE_BYTES:
            return self._bytes()
        if kind == _Kind.CPPTYPE_STRING:
            return self._text(self._plausible.texts_of(field.name))
        return st.booleans() if kind == _Kind.CPPTYPE_BOOL else st.floats()

    def _enum(self, known: list[int]) -> st.SearchStrategy[int]:
        odd = st.sampled_from((-1, 99, 2**31 - 1))
        return st.sampled_from(known) if self._tame else st.one_of(st.sampled_from(known), odd)

    def _integer(self, low: int, high: int) -> st.SearchStrategy[int]:
        small = st.integers(0, 40)
        if self._tame:
            return small
        return st.one_of(small, st.sampled_from((low, high)), st.integers(low, high))

    def _bytes(self) -> st.SearchStrategy[bytes]:
        known = st.sampled_from(self._plausible.blobs)
        return known if self._tame else st.one_of(known, st.binary(max_size=5000))

    def _text(self, known: Sequence[str]) -> st.SearchStrategy[str]:
        anything = st.text(st.characters(codec="utf-8"), max_size=60)
        if self._tame:
            return st.sampled_from(known or ("", "", "", "a"))
        return st.one_of(st.sampled_from(known), anything) if known else anything


def _set(message: Message, name: str, value: Any) -> None:
    target = getattr(message, name)
    if isinstance(value, dict):
        for key, item in value.items():
            if isinstance(item, Message):
                target[key].CopyFrom(item)
            else:
                target[key] = item
    elif isinstance(value, list):
        target.extend(value)
    elif isinstance(value, Message):
        target.CopyFrom(value)
    else:
        setattr(message, name, value)
