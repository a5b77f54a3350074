"""Reads all entries of a log in order: hashed, compared with their tiles, followed.

Memory is bounded: a chunk of bundles for each worker. Large logs are read by worker
processes, since hashing short inputs holds the interpreter's lock.

Bundles below the mark of pruning come from the archive when there is one; otherwise only
their leaf hashes are read, and the shards are followed from where the mark says they stood.
"""

from __future__ import annotations

import hashlib
import multiprocessing
import os
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from strongroom.tlog.errors import VerificationError
from strongroom.tlog.merkle import HASH_BYTES, fold
from strongroom_auditlog.errors import (
    EntryInvalidError,
    RecordInvalidError,
    SequenceInvalidError,
    TileInvalidError,
)
from strongroom_auditlog.pruned import PRUNED, PrunedMark
from strongroom_auditlog.records import Position, Run, parse_position
from strongroom_auditlog.retention.store import ArchiveFiles, ArchiveStore, read_bundles
from strongroom_auditlog.tiles import TILE_WIDTH, LogFiles, entries_path, tile_path
from strongroom_auditlog.verified_tree import leaf_hashes

__all__ = ["Chunk", "Scan", "ScannedRuns", "follow", "scan_runs"]

_CHUNK_BUNDLES: Final = 64  # 16,384 leaves, some 8 MiB of records
_MIN_LEAVES_FOR_WORKERS: Final = 100_000  # below, starting processes costs more than it saves
_MAX_WORKERS: Final = 8


@dataclass(frozen=True, slots=True)
class Chunk:
    """Some consecutive bundles."""

    leaves: int
    hashes: bytes
    """The root of each full bundle: hashes of level 1."""
    runs: list[Run]
    found: list[tuple[Position, int, bytes]]
    """Wanted position, its leaf, SHA-256 of its record."""


@dataclass(frozen=True, slots=True)
class Scan:
    """How a log of `size` leaves is read."""

    files: LogFiles
    size: int
    mark: PrunedMark
    archive: ArchiveFiles | None
    wanted: frozenset[Position]
    """Positions whose records are looked for."""

    @classmethod
    def of(
        cls,
        files: LogFiles,
        size: int,
        *,
        archive: ArchiveFiles | None = None,
        wanted: frozenset[Position] = frozenset(),
    ) -> Scan:
        """Begin: read the mark.

        Raises:
            VerificationError: It is malformed, or above the signed size.
        """
        mark = files.read_mark()
        if mark.minimum_index > size:
            raise VerificationError(PRUNED, f"above the signed size, which is {size}")
        return cls(files, size, mark, archive, wanted)

    @property
    def unread(self) -> int:
        """How many records from leaf 0 on are not read, only their hashes."""
        return 0 if self.archive is not None else self.mark.minimum_index

    def positions(self) -> dict[str, tuple[int, int]]:
        """Return region -> (epoch, next sequence) where reading begins."""
        return dict(self.mark.shards) if self.unread else {}

    def chunks(self, workers: int | None) -> Iterator[Chunk]:
        """Yield the chunks of the log in order.

        Raises:
            VerificationError: An entry or tile is wrong.
            ArchiveError: The archive cannot be read.
        """
        bundles = -(-self.size // TILE_WIDTH)
        starts = range(0, bundles, _CHUNK_BUNDLES)
        spans = [(start, min(start + _CHUNK_BUNDLES, bundles)) for start in starts]
        if workers is None:
            is_large = self.size >= _MIN_LEAVES_FOR_WORKERS
            workers = min(os.cpu_count() or 1, _MAX_WORKERS) if is_large else 1
        is_remote = self.archive is not None and not self.archive.store.is_local
        if workers <= 1 or is_remote:
            for span in spans:
                yield _read_chunk(self.files, self._job(), span)
            return
        # Spawned, not forked: the caller may have threads.
        with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
            running: deque[Future[Chunk]] = deque()
            try:
                for span in spans:
                    job = (self.files.directory, self._job(), span)
                    running.append(pool.submit(_read_chunk_in, *job))
                    # A bounded window: results are small, but a slow consumer must not let
                    # them pile up.
                    if len(running) > 2 * workers:
                        yield running.popleft().result()
                while running:
                    yield running.popleft().result()
            finally:
                for future in running:
                    future.cancel()

    def _job(self) -> _Job:
        store = None if self.archive is None else self.archive.store
        return _Job(self.size, self.wanted, self.mark.minimum_index // TILE_WIDTH, store)


@dataclass(frozen=True, slots=True)
class _Job:
    """What the chunks of a scan have in common; may cross to another process."""

    size: int
    wanted: frozenset[Position]
    pruned_bundles: int
    store: ArchiveStore | None


def _read_chunk_in(directory: Path, job: _Job, span: tuple[int, int]) -> Chunk:
    return _read_chunk(LogFiles(directory), job, span)


def _read_chunk(files: LogFiles, job: _Job, span: tuple[int, int]) -> Chunk:
    """Hash the entries of bundles `span`, compare them with their tiles, follow positions."""
    roots: list[bytes] = []
    runs = _Runs()
    found: list[tuple[Position, int, bytes]] = []
    leaves = 0
    pruned = range(span[0], min(span[1], max(span[0], job.pruned_bundles)))
    archived = [] if job.store is None else read_bundles(job.store, pruned)
    for n in range(*span):
        if n in pruned and job.store is None:
            roots.append(fold(files.read_tile(0, n, job.size)))
            leaves += TILE_WIDTH
            continue
        entries = archived[n - span[0]] if n in pruned else files.read_entries(n, job.size)
        hashes = leaf_hashes(entries)
        tile = files.read_tile(0, n, job.size)
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
            if job.wanted and position in job.wanted:
                found.append((position, leaf, hashlib.sha256(entry).digest()))
        leaves += len(entries)
    return Chunk(leaves, b"".join(roots), runs.finish(span[0] * TILE_WIDTH + leaves), found)


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


def follow(shards: dict[str, tuple[int, int]], runs: Sequence[Run]) -> None:
    """Check that `runs` continue the shards' sequences; move region -> (epoch, next).

    Raises:
        SequenceInvalidError: A shard leaves a gap, repeats, or goes back to an older epoch.
    """
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


@dataclass(frozen=True, slots=True)
class ScannedRuns:
    """The position index of a log, read from its entries."""

    first_leaf: int
    """Where it begins: 0, or without an archive at the mark of pruning."""
    runs: list[Run]
    positions: dict[str, tuple[int, int]]
    """Region -> (epoch, next sequence) at the end."""


def scan_runs(files: LogFiles, size: int, archive: ArchiveFiles | None = None) -> ScannedRuns:
    """Read the position index from the first `size` entries, each compared with its tile.

    Raises:
        VerificationError: An entry or tile is wrong, or a shard's sequence is.
        ArchiveError: The archive cannot be read.
    """
    scan = Scan.of(files, size, archive=archive)
    runs: list[Run] = []
    for chunk in scan.chunks(1):
        runs.extend(chunk.runs)
    positions = scan.positions()
    follow(positions, runs)
    return ScannedRuns(scan.unread, runs, positions)
