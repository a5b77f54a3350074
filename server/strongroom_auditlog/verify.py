"""Verify a whole log from its files and its verifier key alone, offline.

Everything is computed anew: each entry is hashed and compared with its tile, each tile with
the tiles below it, the root with the signed checkpoint. Each shard's sequence is followed
from 1 without gaps or repeats. Then receipts and older checkpoints, where given.

Of a pruned log the records below the mark are read from the archive. Without it their leaf
hashes are what there is, and `VerifiedLog.unread` says so.

Memory is bounded: what `scan` takes, and one tile for each level.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from strongroom.receipts import Receipt
from strongroom.tlog.checkpoint import Checkpoint, VerifierKey, open_checkpoint
from strongroom.tlog.cosignature import NO_WITNESSES, WitnessPolicy
from strongroom.tlog.errors import (
    CheckpointInvalidError,
    ConsistencyInvalidError,
    ReceiptInvalidError,
    VerificationError,
)
from strongroom.tlog.merkle import EMPTY_ROOT, HASH_BYTES, fold, range_hash
from strongroom_auditlog.edge import Edge
from strongroom_auditlog.errors import (
    EntryArchivedError,
    EntryInvalidError,
    RootMismatchError,
    TileInvalidError,
)
from strongroom_auditlog.records import Position
from strongroom_auditlog.retention.store import ArchiveFiles, ArchiveStore
from strongroom_auditlog.scan import Scan, follow
from strongroom_auditlog.tiles import (
    CHECKPOINT,
    TILE_BYTES,
    TILE_WIDTH,
    LogFiles,
    encode_entry,
    entries_path,
    tile_path,
)

__all__ = ["VerifiedLog", "read_checkpoint", "verify_log"]

Progress = Callable[[int, int], None]
"""Called with the leaves done and the leaves in all."""


@dataclass(frozen=True, slots=True)
class VerifiedLog:
    """What was verified."""

    checkpoint: Checkpoint
    shards: Mapping[str, tuple[int, int]]
    """Region -> (newest epoch, its last sequence)."""
    receipts: Mapping[Receipt, int]
    """Receipt -> leaf."""
    unread: int = 0
    """Records from leaf 0 on that were pruned and not read: only their hashes verified."""


def verify_log(
    directory: Path,
    key: VerifierKey,
    *,
    receipts: Collection[Receipt] = (),
    older_checkpoints: Sequence[str] = (),
    witnesses: WitnessPolicy = NO_WITNESSES,
    checkpoint: str | None = None,
    archive: ArchiveStore | None = None,
    workers: int | None = None,
    progress: Progress | None = None,
) -> VerifiedLog:
    """Verify the log in `directory` in full.

    Args:
        directory: The log; a copy of what is served is enough.
        key: The log's verifier key, got out of band.
        receipts: Each must be of a record in the log.
        older_checkpoints: Signed notes kept from earlier; each must be a prefix of the log.
        witnesses: How many of which witnesses must have cosigned the checkpoint.
        checkpoint: Signed note to verify against, in the place of the published one.
        archive: Where the records are that were pruned from the log.
        workers: Processes to use; by default one for each CPU, at most 8, and none at all
            for a small log.
        progress: Called now and then.

    Raises:
        VerificationError: The first thing that is wrong, as one of its subclasses;
            `where` says where.
        ArchiveError: The archive cannot be read.
    """
    files = LogFiles(directory)
    signed = (
        read_checkpoint(files, key, witnesses)
        if checkpoint is None
        else open_checkpoint(checkpoint, key, witnesses)
    )
    size = signed.size
    tower = _Tower(files, size)
    scan = Scan.of(
        files,
        size,
        archive=None if archive is None else ArchiveFiles(archive),
        wanted=frozenset(Position(r.region, r.epoch, r.sequence) for r in receipts),
    )
    shards = scan.positions()
    found: dict[Position, tuple[int, bytes]] = {}
    done = 0
    for chunk in scan.chunks(workers):
        tower.add(chunk.hashes)
        follow(shards, chunk.runs)
        found.update({position: (leaf, digest) for position, leaf, digest in chunk.found})
        done += chunk.leaves
        if progress is not None:
            progress(done, size)
    if tower.finish() != signed.root:
        raise RootMismatchError(
            CHECKPOINT, f"the entries lead to another root than the signed one of {size} leaves"
        )
    for text in older_checkpoints:
        _check_older(files, signed, open_checkpoint(text, key))
    return VerifiedLog(
        signed,
        {region: (epoch, following - 1) for region, (epoch, following) in shards.items()},
        {receipt: _check_receipt(receipt, found, shards, scan) for receipt in receipts},
        scan.unread,
    )


def read_checkpoint(
    files: LogFiles, key: VerifierKey, witnesses: WitnessPolicy = NO_WITNESSES
) -> Checkpoint:
    """Read and open a log's checkpoint.

    Raises:
        CheckpointInvalidError: It is missing, malformed, not signed by `key`, or not
            cosigned by enough `witnesses`.
    """
    text = files.read_checkpoint()
    if text is None:
        raise CheckpointInvalidError(CHECKPOINT, f"missing in {files.directory}")
    return open_checkpoint(text, key, witnesses)


class _Tower:
    """Recomputes the tiles of level 1 and above from the roots of the full bundles."""

    def __init__(self, files: LogFiles, size: int):
        self._files = files
        self._size = size
        self._levels: list[bytes] = []  # of level 1 up: hashes of the tile under way
        self._tiles: list[int] = []  # of level 1 up: number of that tile

    def add(self, hashes: bytes) -> None:
        level = 0
        while hashes:
            if level == len(self._levels):
                self._levels.append(b"")
                self._tiles.append(0)
            pending = self._levels[level] + hashes
            roots: list[bytes] = []
            while len(pending) >= TILE_BYTES:
                tile, pending = pending[:TILE_BYTES], pending[TILE_BYTES:]
                self._compare(level + 1, self._tiles[level], tile)
                roots.append(fold(tile))
                self._tiles[level] += 1
            self._levels[level] = pending
            hashes = b"".join(roots)
            level += 1

    def finish(self) -> bytes:
        """Compare the partial tiles and return the root."""
        for level, (n, hashes) in enumerate(zip(self._tiles, self._levels, strict=True), start=1):
            if hashes:
                self._compare(level, n, hashes)
        n, width = divmod(self._size, TILE_WIDTH)
        leaves = b""
        if width:
            leaves = self._files.read_tile(0, n, self._size)
            bundle = b"".join(map(encode_entry, self._files.read_entries(n, self._size)))
            self._compare_older(entries_path(n), width, bundle)
        tiles = (leaves, *self._levels)
        for level, hashes in enumerate(tiles):
            path = tile_path(level, (self._size >> (8 * level)) // TILE_WIDTH)
            self._compare_older(path, len(hashes) // HASH_BYTES, hashes)
        return Edge(self._size, tiles).root()

    def _compare(self, level: int, n: int, hashes: bytes) -> None:
        tile = self._files.read_tile(level, n, self._size)
        if tile != hashes:
            at = next(i for i in range(len(hashes)) if tile[i] != hashes[i]) // HASH_BYTES
            raise TileInvalidError(
                tile_path(level, n, len(hashes) // HASH_BYTES),
                f"hash {at} is not that of the tile below it",
            )

    def _compare_older(self, path: str, width: int, data: bytes) -> None:
        """Check the partial files of older checkpoints: each begins like today's."""
        for older in self._files.partial_widths(path):
            if 0 < older < width:
                where = f"{path}.p/{older}"
                raw = self._files.read_raw(where)
                is_hashes = not path.startswith("tile/entries/")
                length = older * HASH_BYTES if is_hashes else _bundle_bytes(data, older)
                if raw != data[:length]:
                    error = TileInvalidError if is_hashes else EntryInvalidError
                    raise error(where, "differs from what a later checkpoint covers")


def _bundle_bytes(bundle: bytes, width: int) -> int:
    """Return how many bytes the first `width` entries of `bundle` take."""
    end = 0
    for _ in range(width):
        end += 2 + int.from_bytes(bundle[end : end + 2], "big")
    return end


def _check_receipt(
    receipt: Receipt,
    found: Mapping[Position, tuple[int, bytes]],
    shards: Mapping[str, tuple[int, int]],
    scan: Scan,
) -> int:
    position = Position(receipt.region, receipt.epoch, receipt.sequence)
    where = f"receipt {receipt}"
    if position not in found:
        if (receipt.epoch, receipt.sequence) < scan.positions().get(receipt.region, (0, 0)):
            raise EntryArchivedError(where, scan.mark.minimum_index, scan.mark.archive)
        epoch, following = shards.get(receipt.region, (0, 1))
        raise ReceiptInvalidError(
            where,
            f"not in the log, which has region {receipt.region} up to epoch {epoch}, "
            f"sequence {following - 1}",
        )
    leaf, digest = found[position]
    if digest != receipt.record_sha256:
        raise ReceiptInvalidError(where, f"the record in leaf {leaf} is another one")
    return leaf


def _check_older(files: LogFiles, checkpoint: Checkpoint, older: Checkpoint) -> None:
    where = f"older checkpoint of {older.size} leaves"
    if older.size > checkpoint.size:
        raise ConsistencyInvalidError(
            where, f"the log has only {checkpoint.size}: it was cut, or is an older copy"
        )
    try:
        root = (
            range_hash(0, older.size, partial(files.subtree_hash, checkpoint.size))
            if older.size
            else EMPTY_ROOT
        )
    except VerificationError as exc:
        raise ConsistencyInvalidError(where, str(exc)) from exc
    if root != older.root:
        raise ConsistencyInvalidError(where, "another root: the log was rewritten")
