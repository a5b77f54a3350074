"""Verify a whole log from its files and its verifier key alone, offline.

Everything is computed anew: each entry is hashed and compared with its tile, each tile with
the tiles below it, the root with the signed checkpoint. Each shard's sequence is followed
from 1 without gaps or repeats. Then receipts and older checkpoints, where given.

Memory is bounded: a chunk of bundles for each worker, and one tile for each level. Large
logs are read by worker processes, since hashing short inputs holds the interpreter's lock.
"""

from __future__ import annotations

import hashlib
import multiprocessing
import os
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from strongroom.receipts import Receipt
from strongroom.tlog.checkpoint import Checkpoint, VerifierKey, open_checkpoint
from strongroom.tlog.errors import (
    CheckpointInvalidError,
    ConsistencyInvalidError,
    ReceiptInvalidError,
    VerificationError,
)
from strongroom.tlog.merkle import EMPTY_ROOT, HASH_BYTES, fold, leaf_hash, range_hash
from strongroom_auditlog.edge import Edge
from strongroom_auditlog.errors import (
    EntryInvalidError,
    RecordInvalidError,
    RootMismatchError,
    SequenceInvalidError,
    TileInvalidError,
)
from strongroom_auditlog.records import Position, Run, parse_position
from strongroom_auditlog.tiles import (
    CHECKPOINT,
    TILE_BYTES,
    TILE_WIDTH,
    LogFiles,
    encode_entry,
    entries_path,
    tile_path,
)

__all__ = ["VerifiedLog", "read_checkpoint", "scan_runs", "verify_log"]

Progress = Callable[[int, int], None]
"""Called with the leaves done and the leaves in all."""

_CHUNK_BUNDLES: Final = 64  # 16,384 leaves, some 8 MiB of records
_MIN_LEAVES_FOR_WORKERS: Final = 100_000  # below, starting processes costs more than it saves
_MAX_WORKERS: Final = 8


@dataclass(frozen=True, slots=True)
class VerifiedLog:
    """What was verified."""

    checkpoint: Checkpoint
    shards: Mapping[str, tuple[int, int]]
    """Region -> (newest epoch, its last sequence)."""
    receipts: Mapping[Receipt, int]
    """Receipt -> leaf."""


@dataclass(frozen=True, slots=True)
class _Chunk:
    leaves: int
    hashes: bytes
    """The root of each full bundle: hashes of level 1."""
    runs: list[Run]
    found: list[tuple[Position, int, bytes]]
    """Wanted position, its leaf, SHA-256 of its record."""


def verify_log(
    directory: Path,
    key: VerifierKey,
    *,
    receipts: Collection[Receipt] = (),
    older_checkpoints: Sequence[str] = (),
    workers: int | None = None,
    progress: Progress | None = None,
) -> VerifiedLog:
    """Verify the log in `directory` in full.

    Args:
        directory: The log; a copy of what is served is enough.
        key: The log's verifier key, got out of band.
        receipts: Each must be of a record in the log.
        older_checkpoints: Signed notes kept from earlier; each must be a prefix of the log.
        workers: Processes to use; by default one for each CPU, at most 8, and none at all
            for a small log.
        progress: Called now and then.

    Raises:
        VerificationError: The first thing that is wrong, as one of its subclasses;
            `where` says where.
    """
    files = LogFiles(directory)
    checkpoint = read_checkpoint(files, key)
    size = checkpoint.size
    shards: dict[str, tuple[int, int]] = {}
    tower = _Tower(files, size)
    wanted = frozenset(Position(r.region, r.epoch, r.sequence) for r in receipts)
    found: dict[Position, tuple[int, bytes]] = {}
    done = 0
    for chunk in _scan(files, size, wanted, workers):
        tower.add(chunk.hashes)
        _follow(shards, chunk.runs)
        found.update({position: (leaf, digest) for position, leaf, digest in chunk.found})
        done += chunk.leaves
        if progress is not None:
            progress(done, size)
    if tower.finish() != checkpoint.root:
        raise RootMismatchError(
            CHECKPOINT, f"the entries lead to another root than the signed one of {size} leaves"
        )
    for text in older_checkpoints:
        _check_older(files, checkpoint, open_checkpoint(text, key))
    return VerifiedLog(
        checkpoint,
        {region: (epoch, following - 1) for region, (epoch, following) in shards.items()},
        {receipt: _check_receipt(receipt, found, shards) for receipt in receipts},
    )


def read_checkpoint(files: LogFiles, key: VerifierKey) -> Checkpoint:
    """Read and open a log's checkpoint.

    Raises:
        CheckpointInvalidError: It is missing, malformed, or not signed by `key`.
    """
    text = files.read_checkpoint()
    if text is None:
        raise CheckpointInvalidError(CHECKPOINT, f"missing in {files.directory}")
    return open_checkpoint(text, key)


def scan_runs(files: LogFiles, size: int) -> list[Run]:
    """Read the position index from the first `size` entries, each compared with its tile.

    Raises:
        VerificationError: An entry or tile is wrong, or a shard's sequence is.
    """
    runs: list[Run] = []
    for chunk in _scan(files, size, frozenset(), 1):
        runs.extend(chunk.runs)
    _follow({}, runs)
    return runs


def _scan(
    files: LogFiles, size: int, wanted: frozenset[Position], workers: int | None
) -> Iterator[_Chunk]:
    """Yield the chunks of the log in order."""
    bundles = -(-size // TILE_WIDTH)
    spans = [
        (start, min(start + _CHUNK_BUNDLES, bundles)) for start in range(0, bundles, _CHUNK_BUNDLES)
    ]
    if workers is None:
        workers = min(os.cpu_count() or 1, _MAX_WORKERS) if size >= _MIN_LEAVES_FOR_WORKERS else 1
    if workers <= 1:
        for span in spans:
            yield _scan_chunk(files.directory, size, span, wanted)
        return
    # Spawned, not forked: the caller may have threads.
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        running: deque[Future[_Chunk]] = deque()
        try:
            for span in spans:
                running.append(pool.submit(_scan_chunk, files.directory, size, span, wanted))
                # A bounded window: results are small, but a slow consumer must not let
                # them pile up.
                if len(running) > 2 * workers:
                    yield running.popleft().result()
            while running:
                yield running.popleft().result()
        finally:
            for future in running:
                future.cancel()


def _scan_chunk(
    directory: Path, size: int, span: tuple[int, int], wanted: frozenset[Position]
) -> _Chunk:
    """Hash the entries of bundles `span`, compare them with their tiles, follow positions."""
    files = LogFiles(directory)
    roots: list[bytes] = []
    runs = _Runs()
    found: list[tuple[Position, int, bytes]] = []
    leaves = 0
    for n in range(*span):
        entries = files.read_entries(n, size)
        hashes = b"".join([leaf_hash(entry) for entry in entries])
        tile = files.read_tile(0, n, size)
        if tile != hashes:
            at = next(i for i in range(len(hashes)) if tile[i] != hashes[i]) // HASH_BYTES
            raise TileInvalidError(
                tile_path(0, n, len(entries)),
                f"hash {at} is not that of the entry in {entries_path(n, len(entries))}",
            )
        if len(entries) == TILE_WIDTH:
            roots.append(fold(hashes))
        for leaf, entry in enumerate(entries, start=n * TILE_WIDTH):
            try:
                position = parse_position(entry)
            except RecordInvalidError as exc:
                where = entries_path(n, len(entries))
                raise EntryInvalidError(where, f"entry {leaf % TILE_WIDTH}: {exc}") from exc
            runs.add(position, leaf)
            if wanted and position in wanted:
                found.append((position, leaf, hashlib.sha256(entry).digest()))
        leaves += len(entries)
    return _Chunk(leaves, b"".join(roots), runs.finish(span[0] * TILE_WIDTH + leaves), found)


class _Runs:
    """Gathers the positions of consecutive leaves into runs."""

    def __init__(self) -> None:
        self._runs: list[Run] = []
        self._first: Position | None = None
        self._first_leaf = 0
        self._following: tuple[str, int, int] | None = None

    def add(self, position: Position, leaf: int) -> None:
        region, epoch, sequence = position
        if position != self._following:
            self._end(leaf)
            self._first, self._first_leaf = position, leaf
        self._following = (region, epoch, sequence + 1)

    def finish(self, end_leaf: int) -> list[Run]:
        self._end(end_leaf)
        return self._runs

    def _end(self, end_leaf: int) -> None:
        if self._first is not None:
            self._runs.append(Run(self._first, end_leaf - self._first_leaf, self._first_leaf))
        self._first = None


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


def _follow(shards: dict[str, tuple[int, int]], runs: Sequence[Run]) -> None:
    """Check that `runs` continue the shards' sequences; move region -> (epoch, next)."""
    for run in runs:
        region, epoch, sequence = run.first
        known_epoch, following = shards.get(region, (0, 1))
        where = f"leaf {run.first_leaf}"
        if epoch < known_epoch:
            raise SequenceInvalidError(
                where, f"{run.first} goes back; the shard is at epoch {known_epoch}"
            )
        expected = following if epoch == known_epoch else 1
        if sequence != expected:
            what = "repeats a sequence" if sequence < expected else "leaves a gap"
            raise SequenceInvalidError(where, f"{run.first} {what}; expected {expected}")
        shards[region] = (epoch, sequence + run.records)


def _check_receipt(
    receipt: Receipt,
    found: Mapping[Position, tuple[int, bytes]],
    shards: Mapping[str, tuple[int, int]],
) -> int:
    position = Position(receipt.region, receipt.epoch, receipt.sequence)
    where = f"receipt {receipt}"
    if position not in found:
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
