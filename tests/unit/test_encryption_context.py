"""Encryption context: one encoding only (docs/formats/encryption-context-v1.md)."""

from __future__ import annotations

import contextlib
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from strongroom.encryption_context import (
    MAX_ENCODED_BYTES,
    MAX_PAIRS,
    EncryptionContextError,
    decode,
    encode,
)

texts = st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=40)
names = st.text(alphabet=st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40)
contexts = st.dictionaries(names, texts, max_size=12)


def pair(name: bytes, value: bytes) -> bytes:
    """Encode one pair by hand."""
    return struct.pack(">H", len(name)) + name + struct.pack(">H", len(value)) + value


def encoded(*pairs: bytes, version: int = 1, count: int | None = None) -> bytes:
    """Put an encoding together by hand."""
    return struct.pack(">BH", version, len(pairs) if count is None else count) + b"".join(pairs)


@given(context=contexts)
def test_decode_reverses_encode(context):
    """What is encoded decodes to the same pairs, whatever their order was."""
    data = encode(context)
    assert decode(data) == context
    assert encode(dict(reversed(context.items()))) == data
    assert len(data) <= MAX_ENCODED_BYTES


@given(data=st.binary(max_size=60))
def test_any_bytes_are_refused_or_are_canonical(data):
    """A decoder that accepts bytes encodes what it read to the same bytes."""
    for candidate in (data, b"\x01\x00" + data):
        try:
            context = decode(candidate)
        except EncryptionContextError:
            continue
        assert encode(context) == candidate


@given(context=contexts, choice=st.data())
def test_a_changed_encoding_is_refused_or_means_something_else(context, choice):
    """No flipped bit, cut or appended byte leaves the meaning as it was."""
    data = encode(context)
    position = choice.draw(st.integers(0, max(0, len(data) * 8 - 1)))
    mutations = [data + b"\x00", data[: len(data) // 2], data[:-1]]
    if data:
        flipped = bytearray(data)
        flipped[position // 8] ^= 1 << position % 8
        mutations.append(bytes(flipped))
    for mutation in mutations:
        if mutation == data:
            continue
        with contextlib.suppress(EncryptionContextError):
            assert decode(mutation) != context


@pytest.mark.parametrize(
    "data",
    [
        encoded(),  # an empty context has the empty encoding
        encoded(pair(b"a", b"b"), version=0),
        encoded(pair(b"a", b"b"), version=2),
        encoded(pair(b"a", b"b"), count=2),
        encoded(pair(b"a", b"b"), count=0),
        encoded(pair(b"a", b"b"), pair(b"c", b""), count=1),
        encoded(pair(b"", b"b")),
        encoded(pair(b"a", b"b"), pair(b"a", b"c")),
        encoded(pair(b"b", b""), pair(b"a", b"")),
        encoded(pair(b"\xff", b"")),
        encoded(pair(b"a", b"\xc0\xaf")),  # an overlong form
        encoded(pair(b"a", b"\xed\xa0\x80")),  # a surrogate
        encoded(pair(b"a", b"\xf4\x90\x80\x80")),  # beyond U+10FFFF
        encoded(pair(b"a", b"b")) + b"\x00",
        encoded(pair(b"a", b"b"))[:-1],
        b"\x01",
        b"\x01\x00",
        b"\x00",
        encoded(*[pair(i.to_bytes(2, "big").hex().encode(), b"") for i in range(257)]),
        encoded(pair(b"a", bytes(MAX_ENCODED_BYTES - 7))),
    ],
)
def test_what_is_not_canonical_is_refused(data):
    """Counts, versions, order, UTF-8 and lengths that the format does not allow are refused."""
    with pytest.raises(EncryptionContextError):
        decode(data)


def test_pairs_are_sorted_by_bytes_and_not_by_code_units():
    """U+FFFF comes before U+10000 in UTF-8, after it in UTF-16."""
    data = encode({"\U00010000": "2", "\uffff": "1"})
    assert data.index("\uffff".encode()) < data.index("\U00010000".encode())
    assert decode(data) == {"\uffff": "1", "\U00010000": "2"}


def test_texts_are_never_normalised():
    """A letter as one code point and as two are two different keys."""
    composed, decomposed = "\u00e9", "e\u0301"
    assert decode(encode({composed: "1", decomposed: "2"})) == {composed: "1", decomposed: "2"}
    assert encode({composed: ""}) != encode({decomposed: ""})
    assert encode({"A": ""}) != encode({"a": ""})


def test_surrogates_have_no_encoding():
    """Lone surrogates, and pairs of them, are refused in keys and in values."""
    for text in ("\ud800", "\udfff", "a\udc80b", "\ud83d\ude00"):
        for context in ({text: "a"}, {"a": text}):
            with pytest.raises(EncryptionContextError, match="Unicode"):
                encode(context)


def test_the_size_limit_is_8192_bytes():
    """8,192 bytes are accepted in both directions, 8,193 in neither."""
    overhead = 3 + 2 + 1 + 2
    longest = {"a": "v" * (MAX_ENCODED_BYTES - overhead)}
    data = encode(longest)
    assert len(data) == 8192
    assert decode(data) == longest
    with pytest.raises(EncryptionContextError, match="8193 bytes"):
        encode({"a": longest["a"] + "v"})
    with pytest.raises(EncryptionContextError):
        decode(encoded(pair(b"a", longest["a"].encode() + b"v")))


def test_the_pair_limit_is_256():
    """256 pairs are accepted, 257 refused; an empty key is refused, an empty value not."""
    pairs = {f"k{i}": "" for i in range(MAX_PAIRS)}
    assert decode(encode(pairs)) == pairs
    with pytest.raises(EncryptionContextError, match="256"):
        encode(pairs | {"one more": ""})
    with pytest.raises(EncryptionContextError, match="empty"):
        encode({"": "a"})
    assert encode({}) == b""
    assert decode(b"") == {}
