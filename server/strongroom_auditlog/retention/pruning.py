"""Removes from a log the entry bundles that an archive provably has.

Safe beside the running audit log, which needs not be told (audit-archive-v1.md, "Beside a
running log"). The proof, file by file:

    tile/entries/N      full and below the published checkpoint, so written once and for
                        all; a start reads only the one that is not full
    pruned              written here alone
    tile/entries/xNNN   stays, though empty: the log could be about to write into it

The mark is durable before the first removal. A crash leaves bundles below it, which the
next pruning removes.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from strongroom.tlog.checkpoint import VerifierKey
from strongroom_auditlog.errors import ArchiveError, RecordInvalidError
from strongroom_auditlog.pruned import PRUNED, PrunedMark
from strongroom_auditlog.retention.archiving import check_lineage
from strongroom_auditlog.retention.bounds import Bound
from strongroom_auditlog.retention.manifest import Extent, read_manifest
from strongroom_auditlog.retention.store import ArchiveStore, read_bundles
from strongroom_auditlog.tiles import (
    TILE_WIDTH,
    LogFiles,
    entries_path,
    write_files,
)
from strongroom_auditlog.verified_tree import VerifiedTree, leaf_hashes
from strongroom_auditlog.verify import read_checkpoint

__all__ = ["Pruned", "prune_log"]

Progress = Callable[[int, int], None]
"""Called with the bundles done and the bundles that may be in all."""

_CHUNK_BUNDLES: Final = 64  # fetched at once
_STEP_BUNDLES: Final = 1024  # after so many the mark moves


@dataclass(frozen=True, slots=True)
class Pruned:
    """What a pruning did."""

    minimum_index: int
    """Records below this leaf are gone from the log."""
    removed_records: int
    freed_bytes: int


def prune_log(
    files: LogFiles,
    key: VerifierKey,
    store: ArchiveStore,
    *,
    bound: Bound,
    progress: Progress | None = None,
) -> Pruned:
    """Remove the bundles within `bound` that `store` has.

    Raises:
        VerificationError: The log is damaged, or the archive is of another one.
        ArchiveError: The archive cannot be read, or has not what its manifest says; the log
            cannot be written, or another pruning is under way. What was verified before is
            removed; nothing else is.
    """
    with _alone(files):
        checkpoint = read_checkpoint(files, key)
        mark = files.read_mark()
        manifest = read_manifest(store)
        if manifest is None:
            raise ArchiveError(f"{store.location}: no archive; make one with `audit archive`")
        check_lineage(manifest, files, checkpoint, key)
        tree = VerifiedTree(files, checkpoint)
        first = mark.minimum_index // TILE_WIDTH
        end = bound.end(min(manifest.bundles, tree.full_bundles))
        try:
            freed = _remove(files, max(0, first - _STEP_BUNDLES), first)  # what a crash left
            for start in range(first, end, _STEP_BUNDLES):
                stop = min(start + _STEP_BUNDLES, end)
                extent, reached = _verify(store, tree, range(start, stop), bound)
                if extent is not None:
                    mark = _move(mark, reached, extent, store.location)
                    write_files(files.directory, [(PRUNED, mark.encode())])
                    freed += _remove(files, start, reached)
                if progress is not None:
                    progress(reached - first, max(1, end - first))
                if reached < stop:
                    break
        except OSError as exc:
            raise ArchiveError(f"{exc.filename}: {exc.strerror}") from exc
    return Pruned(mark.minimum_index, mark.minimum_index - first * TILE_WIDTH, freed)


def _verify(
    store: ArchiveStore, tree: VerifiedTree, numbers: range, bound: Bound
) -> tuple[Extent | None, int]:
    """Fetch bundles from the archive and compare them with the log's signed tree.

    Returns:
        Their extent, and where they end: at the first one that is not old enough.
    """
    extent: Extent | None = None
    for start in range(numbers.start, numbers.stop, _CHUNK_BUNDLES):
        chunk = range(start, min(start + _CHUNK_BUNDLES, numbers.stop))
        for n, entries in zip(chunk, read_bundles(store, chunk), strict=True):
            if leaf_hashes(entries) != tree.tile(0, n):
                raise ArchiveError(
                    f"{store.location}/{entries_path(n)}: not the records that the log signed; "
                    "nothing more is pruned"
                )
            try:
                here = Extent.of(entries)
            except RecordInvalidError as exc:
                raise ArchiveError(f"{store.location}/{entries_path(n)}: {exc}") from exc
            if not bound.covers(here.last_time):
                return extent, n
            extent = here if extent is None else extent.followed_by(here)
    return extent, numbers.stop


def _move(mark: PrunedMark, bundles: int, extent: Extent, location: str) -> PrunedMark:
    """Return the mark after `bundles` bundles."""
    reached = {
        region: (epoch, sequence + 1) for region, (_, (epoch, sequence)) in extent.shards.items()
    }
    return PrunedMark(bundles * TILE_WIDTH, location, {**mark.shards, **reached})


def _remove(files: LogFiles, start: int, end: int) -> int:
    """Remove bundles below the mark; return the bytes that they took."""
    freed = 0
    for n in range(start, end):
        path = files.directory / entries_path(n)
        with contextlib.suppress(FileNotFoundError):
            size = path.stat().st_size
            path.unlink()
            freed += size
        # Partial ones of long ago, which a crash of the log left.
        shutil.rmtree(path.with_name(f"{path.name}.p"), ignore_errors=True)
    return freed


@contextlib.contextmanager
def _alone(files: LogFiles) -> Iterator[None]:
    """Keep other prunings out, by flock on a directory that the log does not lock."""
    path = files.directory / "tile" / "entries"
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as exc:
        raise ArchiveError(f"{exc.filename}: {exc.strerror}") from exc
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError as exc:
        raise ArchiveError(f"{path}: another pruning is under way") from exc
    finally:
        os.close(descriptor)
