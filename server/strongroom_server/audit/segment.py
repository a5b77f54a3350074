"""Segments of the audit spool: the bytes on disk (docs/formats/audit-spool-v1.md).

    header  magic "SRSPOOL\\x01" (8) | epoch (8) | first sequence (8) | outbox id (8)
            | chain (32) | CRC32C (4)
    frame   magic "SRF1" (4) | length n (4) | sequence (8) | durable (8) | outbox id (8)
            | chain (32) | record (n) | CRC32C (4)

Integers are big-endian. Pure functions over bytes: no file is touched here.
"""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass
from typing import Final, NamedTuple

from google_crc32c import value as crc32c

from strongroom_server.audit.record import MAX_RECORD_BYTES

__all__ = [
    "FIRST_CHAIN",
    "FRAME_OVERHEAD",
    "HEADER_BYTES",
    "MARK_SPACING_BYTES",
    "MAX_FRAME_BYTES",
    "Frame",
    "Mark",
    "Scan",
    "SegmentHeader",
    "encode_frame",
    "encode_header",
    "highest_durable_beyond",
    "next_chain",
    "parse_frame",
    "parse_header",
    "scan_frames",
]

_HEADER_MAGIC: Final = b"SRSPOOL\x01"
_FRAME_MAGIC: Final = b"SRF1"
_HEADER: Final = struct.Struct(">8sQQQ32s")
_FRAME: Final = struct.Struct(">4sLQQQ32s")
_CRC: Final = struct.Struct(">L")

HEADER_BYTES: Final = _HEADER.size + _CRC.size  # 68
FRAME_OVERHEAD: Final = _FRAME.size + _CRC.size  # 68
MAX_FRAME_BYTES: Final = FRAME_OVERHEAD + MAX_RECORD_BYTES
FIRST_CHAIN: Final = bytes(32)

MARK_SPACING_BYTES: Final = 2**14


@dataclass(frozen=True, slots=True)
class SegmentHeader:
    """What a segment says of all that came before it."""

    epoch: int
    first_sequence: int
    outbox_id: int
    chain: bytes


class Frame(NamedTuple):
    """One record in its frame; `end` is the offset behind it."""

    sequence: int
    durable: int
    outbox_id: int
    chain: bytes
    record: bytes
    end: int


class Mark(NamedTuple):
    """Where in a segment the frame of a sequence begins."""

    sequence: int
    offset: int


@dataclass(frozen=True, slots=True)
class Scan:
    """The good frames of a segment, up to the first bad one.

    `last` is the last good frame (None when there is none), `outbox_id` the highest one up to
    it, `end` the offset behind it.
    """

    last: Frame | None
    outbox_id: int
    end: int
    marks: list[Mark]


def next_chain(chain: bytes, record: bytes) -> bytes:
    """Return the chain value that binds `record` to everything before it."""
    return hashlib.sha256(chain + record).digest()


def encode_header(header: SegmentHeader) -> bytes:
    """Return the 68 bytes of a segment's header."""
    body = _HEADER.pack(
        _HEADER_MAGIC, header.epoch, header.first_sequence, header.outbox_id, header.chain
    )
    return body + _CRC.pack(crc32c(body))


def parse_header(data: bytes) -> SegmentHeader | None:
    """Return the header at the beginning of `data`; None when it is damaged."""
    if len(data) < HEADER_BYTES:
        return None
    magic, epoch, first_sequence, outbox_id, chain = _HEADER.unpack_from(data)
    (crc,) = _CRC.unpack_from(data, _HEADER.size)
    if magic != _HEADER_MAGIC or crc != crc32c(data[: _HEADER.size]) or first_sequence == 0:
        return None
    return SegmentHeader(epoch, first_sequence, outbox_id, chain)


def encode_frame(sequence: int, durable: int, outbox_id: int, chain: bytes, record: bytes) -> bytes:
    """Return the frame of `record`; `chain` is the value after it."""
    body = _FRAME.pack(_FRAME_MAGIC, len(record), sequence, durable, outbox_id, chain) + record
    return body + _CRC.pack(crc32c(body))


def parse_frame(data: bytes, offset: int) -> Frame | None:
    """Return the frame at `offset`; None when it is damaged, cut or not there.

    Chain and sequence are the caller's to compare.
    """
    if len(data) - offset <= FRAME_OVERHEAD:
        return None
    magic, length, sequence, durable, outbox_id, chain = _FRAME.unpack_from(data, offset)
    body_end = offset + _FRAME.size + length
    if (
        magic != _FRAME_MAGIC
        or not 1 <= length <= MAX_RECORD_BYTES
        or body_end + _CRC.size > len(data)
        or durable >= sequence
        or _CRC.unpack_from(data, body_end)[0] != crc32c(data[offset:body_end])
    ):
        return None
    record = data[offset + _FRAME.size : body_end]
    return Frame(sequence, durable, outbox_id, chain, record, body_end + _CRC.size)


def scan_frames(data: bytes, header: SegmentHeader, *, before: int | None = None) -> Scan:
    """Check the frames of a segment in order: sequence, chain and CRC.

    Args:
        data: All of the segment.
        header: Its header, parsed.
        before: Stop before this sequence. Frames behind it were left by a failed write and
            stand again in the next segment.
    """
    sequence, chain, offset = header.first_sequence, header.chain, HEADER_BYTES
    outbox_id = header.outbox_id
    last: Frame | None = None
    marks: list[Mark] = []
    while sequence != before:
        frame = parse_frame(data, offset)
        if (
            frame is None
            or frame.sequence != sequence
            or frame.chain != (chain := next_chain(chain, frame.record))
        ):
            break
        if not marks or offset - marks[-1].offset >= MARK_SPACING_BYTES:
            marks.append(Mark(sequence, offset))
        outbox_id = max(outbox_id, frame.outbox_id)
        last, offset, sequence = frame, frame.end, sequence + 1
    return Scan(last, outbox_id, offset, marks)


def highest_durable_beyond(data: bytes, offset: int) -> int:
    """Return up to which sequence the frames behind `offset` prove that all was durable.

    Looks for whole frames anywhere behind a bad one. A caller cannot plant one in a
    record: a frame's length begins with two zero bytes, and JSON escapes them.
    """
    durable = 0
    while (offset := data.find(_FRAME_MAGIC, offset)) >= 0:
        frame = parse_frame(data, offset)
        if frame is None:
            offset += 1
        else:
            durable = max(durable, frame.durable)
            offset = frame.end
    return durable
