"""The right edge of the tree: all that is needed to append to it and to know its root.

For each level the hashes of the tile that is not full yet, and the bytes of the entry
bundle that is not full yet: at most 255 hashes a level. An `Edge` is immutable, so an
append that fails half-way leaves the caller's edge as it was.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from strongroom.tlog.merkle import EMPTY_ROOT, HASH_BYTES, fold, leaf_hash, range_hash
from strongroom_auditlog.tiles import (
    TILE_BYTES,
    TILE_WIDTH,
    TreeFiles,
    encode_entry,
    entries_path,
    tile_path,
)

__all__ = ["Edge", "rebuild_edge"]


@dataclass(frozen=True, slots=True)
class Edge:
    """The right edge of a tree of `size` leaves."""

    size: int = 0
    tiles: tuple[bytes, ...] = ()
    """For each level, the hashes of its partial tile; empty when the last one is full."""
    bundle: bytes = b""
    """The encoded entries of the partial bundle."""

    def root(self) -> bytes:
        """Return the root of the tree (RFC 6962, 2.1)."""
        if self.size == 0:
            return EMPTY_ROOT
        return range_hash(0, self.size, self._subtree)

    def _subtree(self, height: int, index: int) -> bytes:
        # range_hash over the whole tree asks only for the complete subtrees that the
        # binary digits of the size name, and all of those lie in the partial tiles.
        level, rest = divmod(height, 8)
        offset = (index << rest) % TILE_WIDTH
        return fold(self.tiles[level][offset * HASH_BYTES : (offset + (1 << rest)) * HASH_BYTES])

    def extend(self, records: Sequence[bytes]) -> tuple[Edge, list[tuple[str, bytes]]]:
        """Append `records`.

        Returns:
            The new edge, and the files (path below the log's directory, bytes) that a log
            of the new size has and one of this size has not.
        """
        bundle, files = self._extend_bundles(records)
        tiles: list[bytes] = []
        added = b"".join([leaf_hash(record) for record in records])
        level = 0
        while added or level < len(self.tiles):
            hashes = (self.tiles[level] if level < len(self.tiles) else b"") + added
            n = (self.size >> (8 * level)) // TILE_WIDTH
            roots: list[bytes] = []
            while len(hashes) >= TILE_BYTES:
                tile, hashes = hashes[:TILE_BYTES], hashes[TILE_BYTES:]
                files.append((tile_path(level, n), tile))
                roots.append(fold(tile))
                n += 1
            if added and hashes:
                files.append((tile_path(level, n, len(hashes) // HASH_BYTES), hashes))
            tiles.append(hashes)
            added = b"".join(roots)
            level += 1
        return Edge(self.size + len(records), tuple(tiles), bundle), files

    def _extend_bundles(self, records: Sequence[bytes]) -> tuple[bytes, list[tuple[str, bytes]]]:
        files: list[tuple[str, bytes]] = []
        n, width = divmod(self.size, TILE_WIDTH)
        parts = [self.bundle]
        for record in records:
            parts.append(encode_entry(record))
            width += 1
            if width == TILE_WIDTH:
                files.append((entries_path(n), b"".join(parts)))
                parts, n, width = [], n + 1, 0
        bundle = b"".join(parts)
        if records and width:
            files.append((entries_path(n, width), bundle))
        return bundle, files

    def full_paths_since(self, before: int) -> list[str]:
        """Return the paths of files that were partial at size `before` and are full now."""
        paths: list[str] = []
        if before // TILE_WIDTH < self.size // TILE_WIDTH:
            paths.append(entries_path(before // TILE_WIDTH))
        level = 0
        while before >> (8 * level):
            n = (before >> (8 * level)) // TILE_WIDTH
            if n < (self.size >> (8 * level)) // TILE_WIDTH:
                paths.append(tile_path(level, n))
            level += 1
        return paths


def rebuild_edge(files: TreeFiles, size: int) -> tuple[Edge, list[tuple[str, bytes]]]:
    """Rebuild the right edge of a tree of `size` from its entries and full tiles.

    Returns:
        The edge, and the partial hash tiles on disk that are missing or wrong, as they
        should be. Trust neither before `edge.root()` is the signed root.

    Raises:
        EntryInvalidError, TileInvalidError: A file that this needs is missing or has
            another length.
    """
    n, width = divmod(size, TILE_WIDTH)
    records = files.read_entries(n, size) if width else []
    tiles = [b"".join([leaf_hash(record) for record in records])]
    level = 1
    while count := size >> (8 * level):
        first = count // TILE_WIDTH * TILE_WIDTH
        tiles.append(
            b"".join([fold(files.read_tile(level - 1, i, size)) for i in range(first, count)])
        )
        level += 1
    wrong: list[tuple[str, bytes]] = []
    for level, hashes in enumerate(tiles):
        if hashes:
            path = tile_path(level, (size >> (8 * level)) // TILE_WIDTH, len(hashes) // HASH_BYTES)
            if files.read_raw(path) != hashes:
                wrong.append((path, hashes))
    bundle = b"".join([encode_entry(record) for record in records])
    return Edge(size, tuple(tiles), bundle), wrong
