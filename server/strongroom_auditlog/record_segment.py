"""One block of the record index: which of 4,096 consecutive leaves have which values.

    header    32   SHA-256(RFC 6962 hash of the block's leaves || the header behind these 32)
              16 times, for each bundle of 256 leaves
                27   earliest time of its records, as they spell it
                27   latest time
              8 n  hash of each value, ascending (BLAKE2b of field and value)
              4 n  where its posting ends
              4 n  CRC32 of its posting
    postings  512  a bit for each leaf, lowest first; or, for less than 256 leaves
              2 k  their offsets, ascending

Integers are little-endian. A hash says "perhaps": whoever asks reads the record and
compares. The digest and the CRCs find damage, and a block of another log, before it hides
a record; against somebody who rewrites the file with care nothing here helps, nor does it
have to (docs/formats/audit-log-v1.md, Index).
"""

from __future__ import annotations

import functools
import hashlib
import hmac
import struct
import zlib
from array import array
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from strongroom.tlog.merkle import HASH_BYTES
from strongroom_auditlog.record_filter import RecordFields, RecordFilter, key_id
from strongroom_auditlog.tiles import TILE_WIDTH

__all__ = [
    "ALL_LEAVES",
    "SEGMENT_HEIGHT",
    "SEGMENT_LEAVES",
    "OpenSegment",
    "SegmentInvalidError",
    "Wanted",
    "select",
]

SEGMENT_HEIGHT: Final = 12
SEGMENT_LEAVES: Final = 1 << SEGMENT_HEIGHT
ALL_LEAVES: Final = (1 << SEGMENT_LEAVES) - 1
"""A set of leaves is an int: bit i is leaf i of the block."""

_BUNDLES: Final = SEGMENT_LEAVES // TILE_WIDTH
_BUNDLE_BITS: Final = (1 << TILE_WIDTH) - 1
_TIME_BYTES: Final = 27
_TIMES_END: Final = HASH_BYTES + _BUNDLES * 2 * _TIME_BYTES
_BITMAP_BYTES: Final = SEGMENT_LEAVES // 8
_NO_EARLIEST: Final = "~" * _TIME_BYTES  # behind every time
_NO_LATEST: Final = " " * _TIME_BYTES  # before every time
_ENTRY: Final = struct.calcsize("<QII")


class SegmentInvalidError(Exception):
    """The block is damaged, or of another log; look at the records themselves."""


@functools.lru_cache(maxsize=16_384)
def _value_hash(field: bytes, value: str) -> int:
    digest = hashlib.blake2b(value.encode("utf-8", "surrogatepass"), digest_size=8, person=field)
    return int.from_bytes(digest.digest(), "little")


def _hashes(record: RecordFields) -> tuple[int, ...]:
    return (
        _value_hash(b"region", record.region),
        _value_hash(b"key", key_id(record.key)),
        _value_hash(b"principal", record.principal),
        _value_hash(b"method", record.method),
        _value_hash(b"outcome", record.outcome),
        _value_hash(b"reason", record.reason),
    )


@dataclass(frozen=True, slots=True)
class Wanted:
    """A filter as a block is asked: a leaf must be in one posting of each group."""

    groups: tuple[tuple[int, ...], ...]
    since: str
    until: str

    @classmethod
    def of(cls, wanted: RecordFilter) -> Wanted:
        """Translate a filter."""
        groups = (
            (b"region", wanted.regions),
            (b"key", frozenset(map(key_id, wanted.keys))),
            (b"principal", wanted.principals),
            (b"method", wanted.methods),
            (b"outcome", wanted.outcomes),
            (b"reason", wanted.reasons),
        )
        return cls(
            tuple(
                tuple(_value_hash(field, value) for value in values)
                for field, values in groups
                if values
            ),
            wanted.since,
            wanted.until,
        )

    def leaves(
        self, times: Sequence[tuple[str, str]], posting: Callable[[int], int], among: int
    ) -> int:
        """Return which leaves of `among` may match.

        Args:
            times: Earliest and latest time of each bundle.
            posting: Returns the leaves that have a value.
            among: The leaves that there are.
        """
        if self.since or self.until:
            for n, (earliest, latest) in enumerate(times):
                if (self.since and latest < self.since) or (self.until and earliest >= self.until):
                    among &= ~(_BUNDLE_BITS << (n * TILE_WIDTH))
        for group in self.groups:
            if not among:
                return 0
            found = 0
            for value in group:
                found |= posting(value)
            among &= found
        return among


class OpenSegment:
    """A block that is being filled, in memory. Not thread safe."""

    def __init__(self) -> None:
        self.leaves = 0
        self._offsets: dict[int, array[int]] = {}
        self._times: list[tuple[str, str]] = []

    def add(self, records: Sequence[RecordFields]) -> None:
        """Add the next leaves; they end within the block."""
        offsets = self._offsets
        for leaf, record in enumerate(records, start=self.leaves):
            for value in _hashes(record):
                try:
                    offsets[value].append(leaf)
                except KeyError:
                    offsets[value] = array("H", (leaf,))
            if leaf % TILE_WIDTH == 0:
                self._times.append((_NO_EARLIEST, _NO_LATEST))
            if record.time:
                earliest, latest = self._times[-1]
                self._times[-1] = (min(earliest, record.time), max(latest, record.time))
        self.leaves += len(records)

    def select(self, wanted: Wanted) -> int:
        """Return which leaves may match: all those that are not filled yet, too."""
        filled = (1 << self.leaves) - 1
        return wanted.leaves(self._times, self._posting, filled) | (ALL_LEAVES ^ filled)

    def _posting(self, value: int) -> int:
        return _set_of(self._offsets.get(value, ()))

    def encode(self, subtree_hash: bytes) -> tuple[bytes, bytes]:
        """Return header and postings of a full block, bound to the hash of its leaves."""
        postings: list[bytes] = []
        ends, sums = array("I"), array("I")
        end = 0
        values = sorted(self._offsets)
        for value in values:
            offsets = self._offsets[value]
            posting = (
                _set_of(offsets).to_bytes(_BITMAP_BYTES, "little")
                if 2 * len(offsets) >= _BITMAP_BYTES
                else struct.pack(f"<{len(offsets)}H", *offsets)
            )
            end += len(posting)
            postings.append(posting)
            ends.append(end)
            sums.append(zlib.crc32(posting))
        count = len(values)
        body = b"".join(
            (
                "".join(earliest + latest for earliest, latest in self._times).encode(),
                struct.pack(f"<{count}Q{count}I{count}I", *values, *ends, *sums),
            )
        )
        return _digest(subtree_hash, body) + body, b"".join(postings)


def _digest(subtree_hash: bytes, body: bytes) -> bytes:
    return hashlib.sha256(subtree_hash + body).digest()


def _set_of(offsets: Sequence[int]) -> int:
    bitmap = bytearray(_BITMAP_BYTES)
    for offset in offsets:
        bitmap[offset >> 3] |= 1 << (offset & 7)
    return int.from_bytes(bitmap, "little")


def select(
    header: bytes, wanted: Wanted, *, subtree_hash: bytes, read_posting: Callable[[int, int], bytes]
) -> int:
    """Return which leaves of a full block may match.

    Args:
        header: The block's header.
        wanted: What is asked.
        subtree_hash: The log's own hash of the block's leaves.
        read_posting: Returns the bytes of a posting, given where it begins and ends.

    Raises:
        SegmentInvalidError: The header is not of these leaves, or a posting is damaged.
    """
    body = memoryview(header)[HASH_BYTES:]
    if len(header) < _TIMES_END or (len(header) - _TIMES_END) % _ENTRY:
        raise SegmentInvalidError("the header has another length")
    if not hmac.compare_digest(header[:HASH_BYTES], _digest(subtree_hash, bytes(body))):
        raise SegmentInvalidError("the header is damaged, or of other leaves")
    count = (len(header) - _TIMES_END) // _ENTRY
    times = (
        [
            (text[:_TIME_BYTES], text[_TIME_BYTES:])
            for text in (
                header[at : at + 2 * _TIME_BYTES].decode("latin-1")
                for at in range(HASH_BYTES, _TIMES_END, 2 * _TIME_BYTES)
            )
        ]
        if wanted.since or wanted.until
        else []
    )
    values = struct.unpack_from(f"<{count}Q", header, _TIMES_END)

    def posting(value: int) -> int:
        at = bisect_left(values, value)
        if at == count or values[at] != value:
            return 0
        ends_at = _TIMES_END + 8 * count
        (end,) = struct.unpack_from("<I", header, ends_at + 4 * at)
        start = struct.unpack_from("<I", header, ends_at + 4 * (at - 1))[0] if at else 0
        (checksum,) = struct.unpack_from("<I", header, ends_at + 4 * (count + at))
        data = read_posting(start, end)
        if len(data) != end - start or zlib.crc32(data) != checksum:
            raise SegmentInvalidError("a posting is damaged")
        if len(data) == _BITMAP_BYTES:
            return int.from_bytes(data, "little")
        return _set_of(struct.unpack(f"<{len(data) // 2}H", data))

    return wanted.leaves(times, posting, ALL_LEAVES)
