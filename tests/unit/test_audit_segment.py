"""Segments of the spool: golden bytes, and what is not a frame."""

from __future__ import annotations

import hashlib

import google_crc32c
import pytest

from strongroom_server.audit.segment import (
    FIRST_CHAIN,
    FRAME_OVERHEAD,
    HEADER_BYTES,
    SegmentHeader,
    encode_frame,
    encode_header,
    highest_durable_beyond,
    next_chain,
    parse_frame,
    parse_header,
    scan_frames,
)

HEADER = SegmentHeader(epoch=0x0102, first_sequence=7, outbox_id=9, chain=b"\xaa" * 32)


def make_segment(records: list[bytes], *, durable: int = 6) -> bytes:
    data, chain = encode_header(HEADER), HEADER.chain
    for sequence, record in enumerate(records, HEADER.first_sequence):
        chain = next_chain(chain, record)
        data += encode_frame(sequence, durable, 0, chain, record)
    return data


def test_header_has_its_golden_bytes():
    """A header has exactly the layout of the format page."""
    body = bytes.fromhex(
        "5352 5350 4f4f 4c01 0000000000000102 0000000000000007 0000000000000009" + "aa" * 32
    )
    expected = body + google_crc32c.value(body).to_bytes(4)
    assert encode_header(HEADER) == expected
    assert len(expected) == HEADER_BYTES
    assert parse_header(expected) == HEADER


def test_frame_has_its_golden_bytes():
    """A frame has exactly the layout of the format page."""
    chain = hashlib.sha256(FIRST_CHAIN + b"record").digest()
    assert next_chain(FIRST_CHAIN, b"record") == chain
    body = (
        bytes.fromhex(
            "5352 4631 00000006 0000000000000003 0000000000000002 000000000000000b" + chain.hex()
        )
        + b"record"
    )
    expected = body + google_crc32c.value(body).to_bytes(4)
    assert encode_frame(3, 2, 11, chain, b"record") == expected
    assert len(expected) == FRAME_OVERHEAD + 6
    assert parse_frame(expected, 0) == (3, 2, 11, chain, b"record", len(expected))


def test_every_flipped_or_missing_byte_of_a_header_is_noticed():
    """No header with a flipped byte parses, and no shorter one."""
    data = encode_header(HEADER)
    for position in range(len(data)):
        damaged = bytearray(data)
        damaged[position] ^= 0x10
        assert parse_header(bytes(damaged)) is None
        assert parse_header(data[:position]) is None


def test_every_flipped_or_missing_byte_of_a_frame_is_noticed():
    """No frame with a flipped byte parses, and no shorter one."""
    data = encode_frame(3, 2, 11, FIRST_CHAIN, b"record")
    for position in range(len(data)):
        damaged = bytearray(data)
        damaged[position] ^= 0x10
        assert parse_frame(bytes(damaged), 0) is None
        assert parse_frame(data[:position], 0) is None


def test_frame_that_claims_its_own_durability_is_refused():
    """A frame's durable sequence is below its own."""
    assert parse_frame(encode_frame(3, 3, 0, FIRST_CHAIN, b"record"), 0) is None


@pytest.mark.parametrize("change", ["sequence", "chain"])
def test_scan_stops_at_a_frame_that_does_not_continue(change: str):
    """A good frame with the wrong sequence or chain ends the scan before it."""
    data = make_segment([b"first"])
    chain = next_chain(next_chain(HEADER.chain, b"first"), b"second")
    if change == "sequence":
        data += encode_frame(9, 6, 0, chain, b"second")
    else:
        data += encode_frame(8, 6, 0, HEADER.chain, b"second")
    scan = scan_frames(data, HEADER)
    assert scan.last is not None
    assert scan.last.sequence == 7
    assert scan.end == HEADER_BYTES + FRAME_OVERHEAD + 5


def test_scan_stops_before_the_next_segment():
    """What a failed write left behind the next segment's first sequence is not read."""
    scan = scan_frames(make_segment([b"a", b"b", b"c"]), HEADER, before=9)
    assert scan.last is not None
    assert scan.last.sequence == 8


def test_frames_beyond_damage_prove_what_was_durable():
    """The highest durable sequence of the whole frames behind an offset counts."""
    damage = b"\x00SRF1SRF1" + b"SRF1" * 20
    later = encode_frame(12, 11, 0, FIRST_CHAIN, b"x") + encode_frame(13, 9, 0, FIRST_CHAIN, b"y")
    assert highest_durable_beyond(damage + later, 0) == 11
    assert highest_durable_beyond(damage + later[:-1], 30) == 11
    assert highest_durable_beyond(damage, 0) == 0
