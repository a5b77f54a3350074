"""Finds records: asks the index where to look, reads the entries, compares the records.

Work is bounded: a search ends after so many bundles read or blocks looked at, and says
where to go on.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Protocol

from strongroom_auditlog.errors import EntryArchivedError
from strongroom_auditlog.record_filter import RecordFields, RecordFilter
from strongroom_auditlog.record_segment import ALL_LEAVES, SEGMENT_LEAVES, Wanted
from strongroom_auditlog.tiles import TILE_WIDTH, LogFiles

__all__ = ["Candidates", "Found", "RecordSearch"]

MAX_PAGE_BYTES: Final = 2**20  # a client's default limit for a message is 4 MiB
MAX_BUNDLES: Final = 512  # some 131,072 records, half a second
MAX_BLOCKS: Final = 16_384  # some 67 million records, a second when none of them matches

_BUNDLE_BITS: Final = (1 << TILE_WIDTH) - 1


class Candidates(Protocol):
    """Says where to look; `RecordIndex` does."""

    def select(self, n: int, wanted: Wanted, size: int) -> int:
        """Return the leaves of block `n` that may match, as a set of bits; never too few."""
        ...


@dataclass(frozen=True, slots=True)
class Found:
    """A page of records, as (leaf, bytes), in the order that was asked for."""

    records: list[tuple[int, bytes]]
    following: int | None
    """Where the next search begins; None when nothing is left to look at."""


class RecordSearch:
    """Searches one log. Thread safety: as `candidates`."""

    def __init__(self, files: LogFiles, candidates: Candidates | None = None):
        """Search `files`; without `candidates` every record is looked at."""
        self._files = files
        self._candidates = candidates

    def ascending(self, wanted: RecordFilter, *, size: int, start: int, limit: int | None) -> Found:
        """Find up to `limit` records in the tree of `size`, from leaf `start` on.

        With a limit of None the search is not bounded but by the bytes of a page.

        Raises:
            EntryArchivedError: The next records to look at were pruned.
            EntryInvalidError: A bundle is missing or malformed.
        """
        return self._find(wanted, size, range(start, size), limit, step=1)

    def descending(self, wanted: RecordFilter, *, size: int, end: int, limit: int | None) -> Found:
        """Find up to `limit` records in the tree of `size`, from leaf ``end - 1`` down.

        Raises:
            EntryArchivedError, EntryInvalidError: As `ascending`.
        """
        return self._find(wanted, size, range(min(end, size)), limit, step=-1)

    def _find(
        self, wanted: RecordFilter, size: int, leaves: range, limit: int | None, *, step: int
    ) -> Found:
        found: list[tuple[int, bytes]] = []
        room = MAX_PAGE_BYTES
        bundles = 0
        for at, bits in self._bundles(wanted, size, leaves, step, bounded=limit is not None):
            if bits == 0:  # the budget of blocks is spent; nothing before `at` is left
                return Found(found, at)
            n = (at if step > 0 else at - 1) // TILE_WIDTH
            if bundles == MAX_BUNDLES and limit is not None:
                return Found(found, at)
            bundles += 1
            try:
                entries = self._files.read_entries(n, size)
            except EntryArchivedError:
                if not found:
                    raise
                return Found(found, at)  # the next page says so
            for offset in _offsets(bits, step):
                record = entries[offset]
                if not wanted.is_empty and not wanted.matches(RecordFields.of(record)):
                    continue
                leaf = n * TILE_WIDTH + offset
                # A token names the border before the leaf that comes next: its own number
                # upwards, one more downwards.
                if found and len(record) > room:
                    return Found(found, leaf if step > 0 else leaf + 1)
                found.append((leaf, record))
                room -= len(record)
                if len(found) == limit:
                    border = leaf + 1 if step > 0 else leaf
                    return Found(found, border if border != _end(leaves, step) else None)
        return Found(found, None)

    def _bundles(
        self, wanted: RecordFilter, size: int, leaves: range, step: int, *, bounded: bool
    ) -> Iterator[tuple[int, int]]:
        """Yield (border, set of leaves in the bundle) of each bundle to look into.

        A set of 0 comes last, when there are more blocks than may be looked at.
        """
        hashed = Wanted.of(wanted)
        candidates = None if wanted.is_empty else self._candidates
        blocks = range(leaves.start // SEGMENT_LEAVES, -(-leaves.stop // SEGMENT_LEAVES))
        if not leaves:
            return
        for count, block in enumerate(blocks[::step]):
            low = max(leaves.start, block * SEGMENT_LEAVES)
            high = min(leaves.stop, (block + 1) * SEGMENT_LEAVES)
            if count == MAX_BLOCKS and bounded:
                yield (low if step > 0 else high), 0
                return
            bits = ALL_LEAVES if candidates is None else candidates.select(block, hashed, size)
            for n in range(low // TILE_WIDTH, -(-high // TILE_WIDTH))[::step]:
                first, last = max(low, n * TILE_WIDTH), min(high, (n + 1) * TILE_WIDTH)
                inside = (1 << (last - n * TILE_WIDTH)) - (1 << (first - n * TILE_WIDTH))
                in_bundle = bits >> (n * TILE_WIDTH - block * SEGMENT_LEAVES) & inside
                if in_bundle:
                    yield (first if step > 0 else last), in_bundle


def _end(leaves: range, step: int) -> int:
    return leaves.stop if step > 0 else leaves.start


def _offsets(bits: int, step: int) -> Iterator[int]:
    while bits:
        offset = (bits & -bits if step > 0 else bits).bit_length() - 1
        yield offset
        bits ^= 1 << offset
