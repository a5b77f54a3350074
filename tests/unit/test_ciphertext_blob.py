"""Ciphertext blob: every malformed one gets the one answer (ciphertext-blob-v1.md)."""

from __future__ import annotations

import contextlib
import random
import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from strongroom_server.domain.ciphertext import (
    HEADER_BYTES,
    MAX_BLOB_BYTES,
    MAX_PLAINTEXT_BYTES,
    MIN_BLOB_BYTES,
    header_for,
    parse,
)
from strongroom_server.domain.keys import KeyVersionRef
from strongroom_server.errors import CiphertextInvalidError

REF = KeyVersionRef(uuid.UUID("0b8d5f0e-6f3c-4b7e-9d1a-2f1f4a1b7c3d"), 7)
BLOB = header_for(REF) + bytes(range(12)) + b"ciphertext" + bytes(16)


@given(
    key_id=st.uuids(),
    version=st.integers(1, 2**32 - 1),
    sealed=st.binary(min_size=29, max_size=200),
)
def test_parse_reverses_header_for(key_id, version, sealed):
    """A blob is its header and its sealed part, nothing between and nothing lost."""
    ref = KeyVersionRef(key_id, version)
    parsed = parse(header_for(ref) + sealed)
    assert (parsed.ref, parsed.sealed) == (ref, sealed)
    assert parsed.header == header_for(ref)
    assert len(parsed.header) == HEADER_BYTES


def test_the_layout_is_the_documented_one():
    """Version, algorithm, key id and key version stand where the page says."""
    assert BLOB[:2] == b"\x01\x01"
    assert BLOB[2:18] == REF.key_id.bytes
    assert BLOB[18:22] == b"\x00\x00\x00\x07"
    assert (MIN_BLOB_BYTES, MAX_BLOB_BYTES) == (51, 4146)


def test_every_truncation_is_refused():
    """Every prefix that is too short is refused with the one error and its one text."""
    texts = set()
    for length in range(MIN_BLOB_BYTES):
        with pytest.raises(CiphertextInvalidError) as refusal:
            parse(BLOB[:length])
        texts.add(str(refusal.value))
    assert len(texts) == 1


def test_the_longest_blob_is_accepted_and_one_byte_more_is_not():
    """4,096 bytes of plaintext are the limit."""
    longest = header_for(REF) + bytes(12 + MAX_PLAINTEXT_BYTES + 16)
    assert parse(longest).ref == REF
    with pytest.raises(CiphertextInvalidError):
        parse(longest + b"\x00")


def test_every_flipped_bit_of_the_header_is_refused_or_names_another_version():
    """A flipped bit is never overlooked: other key, other version, or the one error."""
    for bit in range(HEADER_BYTES * 8):
        flipped = bytearray(BLOB)
        flipped[bit // 8] ^= 1 << bit % 8
        try:
            parsed = parse(bytes(flipped))
        except CiphertextInvalidError:
            assert bit < 16 or bit >= 18 * 8
        else:
            assert parsed.ref != REF
            assert parsed.header != BLOB[:HEADER_BYTES]


def test_version_zero_is_refused():
    """There is no key version 0."""
    with pytest.raises(CiphertextInvalidError):
        parse(BLOB[:18] + bytes(4) + BLOB[22:])


def test_random_bytes_raise_nothing_else():
    """Neither random bytes nor random changes of a blob raise another exception."""
    source = random.Random(20260101)  # noqa: S311 - repeatable, not secret
    for _ in range(20_000):
        data = bytearray(BLOB if source.random() < 0.5 else source.randbytes(80))
        data[source.randrange(len(data))] = source.randrange(256)
        with contextlib.suppress(CiphertextInvalidError):
            parse(bytes(data[: source.randrange(len(data) + 1)]))
