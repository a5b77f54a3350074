"""Hash tiles of one signed tree, each followed up to the signed root before it is used."""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

from strongroom.tlog.checkpoint import Checkpoint
from strongroom.tlog.merkle import HASH_BYTES, fold, leaf_hash
from strongroom_auditlog.edge import Edge
from strongroom_auditlog.errors import RootMismatchError, TileInvalidError
from strongroom_auditlog.tiles import CHECKPOINT, TILE_WIDTH, TreeFiles, tile_path

__all__ = ["VerifiedTree", "leaf_hashes"]

_KEPT_TILES: Final = 64  # of all levels; readers go through the leaves in order


def leaf_hashes(entries: list[bytes]) -> bytes:
    """Return the hashes of entries, as a tile of level 0 has them."""
    return b"".join([leaf_hash(entry) for entry in entries])


class VerifiedTree:
    """The tree of `checkpoint`, which its reader has opened. Not thread safe.

    A tile that is given out is the one that the log signed: it is compared with its hash
    in the tile above, that one with the one above it, and the right edge with the root.
    """

    def __init__(self, files: TreeFiles, checkpoint: Checkpoint):
        """Read the right edge.

        Raises:
            TileInvalidError: A tile of it is missing or has another length.
            RootMismatchError: It leads to another root than the signed one.
        """
        self._files = files
        self.checkpoint = checkpoint
        size = checkpoint.size
        edge: list[bytes] = []
        while count := size >> (8 * len(edge)):
            n, width = divmod(count, TILE_WIDTH)
            edge.append(files.read_tile(len(edge), n, size) if width else b"")
        self._edge = tuple(edge)
        if Edge(size, self._edge).root() != checkpoint.root:
            raise RootMismatchError(
                CHECKPOINT, f"the tiles lead to another root than the signed one of {size} leaves"
            )
        self._kept: OrderedDict[tuple[int, int], bytes] = OrderedDict()

    @property
    def full_bundles(self) -> int:
        """How many entry bundles are full."""
        return self.checkpoint.size // TILE_WIDTH

    def root_of(self, level: int, n: int) -> bytes:
        """Return the signed hash of a full tile; that tile itself is not read.

        Raises:
            TileInvalidError: A tile above it is missing, or not the one that was signed.
        """
        above, offset = divmod(n, TILE_WIDTH)
        return self.tile(level + 1, above)[offset * HASH_BYTES : (offset + 1) * HASH_BYTES]

    def tile(self, level: int, n: int) -> bytes:
        """Return the hashes of a tile.

        Raises:
            TileInvalidError: It is missing, or not the one that was signed.
        """
        if n == (self.checkpoint.size >> (8 * level)) // TILE_WIDTH:
            return self._edge[level]
        kept = self._kept.get((level, n))
        if kept is not None:
            self._kept.move_to_end((level, n))
            return kept
        data = self._files.read_tile(level, n, self.checkpoint.size)
        if fold(data) != self.root_of(level, n):
            raise TileInvalidError(tile_path(level, n), "not the one whose hash is signed")
        self._kept[level, n] = data
        while len(self._kept) > _KEPT_TILES:
            self._kept.popitem(last=False)
        return data
