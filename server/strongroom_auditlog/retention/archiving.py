"""Copies full entry bundles of a log to an archive, and verifies the copy.

Everything goes one way: the log is read and never changed. What is copied was compared
with the log's signed tree, and what was written is read again and compared with it. An
archiving that ends half-way has written files that no manifest names; the next one
compares them and goes on behind the last segment.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Final

from strongroom.tlog.checkpoint import Checkpoint, VerifierKey, open_checkpoint
from strongroom.tlog.merkle import EMPTY_ROOT, HASH_BYTES, fold, range_hash
from strongroom_auditlog.errors import (
    ArchiveError,
    EntryInvalidError,
    RecordInvalidError,
    TileInvalidError,
)
from strongroom_auditlog.retention.bounds import Bound
from strongroom_auditlog.retention.manifest import (
    MANIFEST,
    MAX_SEGMENT_BUNDLES,
    Bundle,
    Extent,
    Manifest,
    Segment,
    read_manifest,
)
from strongroom_auditlog.retention.store import ArchiveFiles, ArchiveStore
from strongroom_auditlog.tiles import (
    CHECKPOINT,
    MAX_BUNDLE_BYTES,
    TILE_WIDTH,
    LogFiles,
    decode_bundle,
    entries_path,
    tile_path,
)
from strongroom_auditlog.verified_tree import VerifiedTree, leaf_hashes
from strongroom_auditlog.verify import read_checkpoint

__all__ = ["Archived", "archive_log", "check_lineage"]

Progress = Callable[[int, int], None]
"""Called with the bundles done and the bundles in all."""

_CHUNK_BUNDLES: Final = 64  # written and read at once: some 8 MiB, at most 1 GiB


@dataclass(frozen=True, slots=True)
class Archived:
    """What an archiving did."""

    records: int
    """Records that are in the archive now."""
    new_records: int
    written_files: int
    """Files that were not there yet."""
    checkpoint: Checkpoint


def archive_log(
    files: LogFiles,
    key: VerifierKey,
    store: ArchiveStore,
    *,
    bound: Bound | None = None,
    segment_bundles: int = MAX_SEGMENT_BUNDLES,
    progress: Progress | None = None,
) -> Archived:
    """Archive the full bundles that the archive has not got.

    Args:
        files: The log; its process may go on meanwhile.
        key: The log's verifier key, got out of band.
        store: The archive.
        bound: Which bundles; by default all.
        segment_bundles: After so many the manifest is written, and an interruption costs
            no more than that.
        progress: Called now and then.

    Raises:
        VerificationError: The log is damaged, or the archive is of another one, or of a
            log that was rewritten since.
        ArchiveError: The archive cannot be read or written, or holds other bytes than were
            written.
    """
    bound = bound or Bound()
    checkpoint = read_checkpoint(files, key)
    manifest = read_manifest(store) or Manifest("", ())
    archived = check_lineage(manifest, files, checkpoint, key)
    tree = VerifiedTree(files, checkpoint)
    first, end = manifest.bundles, bound.end(tree.full_bundles)
    written = 0
    copy: VerifiedTree | None = None
    copied = _copy(
        files,
        tree,
        store,
        numbers=range(first, end),
        bound=bound,
        segment_bundles=segment_bundles,
    )
    for bundles, count in copied:
        if copy is None:
            written += _write_tree(files, checkpoint, archived, store)
            copy = VerifiedTree(ArchiveFiles(store), checkpoint)
        _verify_copy(store, copy, bundles)
        segment, data = Segment.describe(bundles)
        manifest = Manifest(checkpoint.text, (*manifest.segments, segment))
        written += count + store.write_missing([(segment.path, data)])
        store.write_missing([(CHECKPOINT, checkpoint.text.encode())])
        # Last: what it names is there, whole and verified.
        store.write_missing([(MANIFEST, manifest.encode())])
        if progress is not None:
            progress(segment.end - first, end - first)
    new = manifest.bundles - first
    return Archived(manifest.bundles * TILE_WIDTH, new * TILE_WIDTH, written, checkpoint)


def check_lineage(
    manifest: Manifest, files: LogFiles, checkpoint: Checkpoint, key: VerifierKey
) -> Checkpoint | None:
    """Check that the archive is of the past of the log; return the archive's checkpoint.

    Raises:
        CheckpointInvalidError: The archive's checkpoint is not signed by `key`.
        ArchiveError: It is not of the past of `checkpoint`.
    """
    if not manifest.segments:
        return None
    archived = open_checkpoint(manifest.checkpoint, key)
    if archived.size > checkpoint.size:
        raise ArchiveError(
            f"the archive was made from {archived.size} leaves, the log has {checkpoint.size}: "
            "the log is an older copy; restore the newest one"
        )
    root = range_hash(0, archived.size, partial(files.subtree_hash, checkpoint.size))
    if root != (archived.root if archived.size else EMPTY_ROOT):
        raise ArchiveError(
            f"the archive's checkpoint of {archived.size} leaves is not of the past of the log: "
            "one of the two was rewritten; keep both and find out which"
        )
    return archived


def _copy(
    files: LogFiles,
    tree: VerifiedTree,
    store: ArchiveStore,
    *,
    numbers: range,
    bound: Bound,
    segment_bundles: int,
) -> Iterator[tuple[list[Bundle], int]]:
    """Write bundles and their tiles, a segment at a time; yield it and the files written."""
    described: list[Bundle] = []
    written = 0
    chunk: list[tuple[str, bytes]] = []
    for n in numbers:
        data, bundle = _read_bundle(files, tree, n)
        if not bound.covers(bundle.extent.last_time):
            break
        described.append(bundle)
        chunk += [(entries_path(n), data), (tile_path(0, n), tree.tile(0, n))]
        is_full = len(described) == segment_bundles
        if is_full or len(chunk) == 2 * _CHUNK_BUNDLES:
            written += store.write_missing(chunk)
            chunk = []
        if is_full:
            yield described, written
            described, written = [], 0
    if described:
        yield described, written + store.write_missing(chunk)


def _read_bundle(files: LogFiles, tree: VerifiedTree, n: int) -> tuple[bytes, Bundle]:
    """Read a bundle of the log and compare it with the signed tree."""
    where = entries_path(n)
    data = files.read_raw(where)
    if data is None:
        # Asked in full for the error that fits: damaged, or pruned and never archived here.
        files.read_entries(n, tree.checkpoint.size)
        raise EntryInvalidError(where, "missing")
    entries = decode_bundle(data, TILE_WIDTH, where=where)
    _compare(entries, tree, n, where)
    try:
        extent = Extent.of(entries)
    except RecordInvalidError as exc:
        raise EntryInvalidError(where, str(exc)) from exc
    return data, Bundle(n, len(data), hashlib.sha256(data).hexdigest(), extent)


def _compare(entries: list[bytes], tree: VerifiedTree, n: int, where: str) -> None:
    hashes, tile = leaf_hashes(entries), tree.tile(0, n)
    if hashes != tile:
        at = next(i for i in range(len(hashes)) if hashes[i] != tile[i]) // HASH_BYTES
        raise TileInvalidError(tile_path(0, n), f"hash {at} is not that of the entry in {where}")


def _write_tree(
    files: LogFiles, checkpoint: Checkpoint, archived: Checkpoint | None, store: ArchiveStore
) -> int:
    """Write the tiles above the leaves, and the right edge; return how many were not there.

    All of them, one for 65,536 leaves and more, but those that were full at the archive's
    last checkpoint: the manifest was written after them.
    """
    written = 0
    chunk: list[tuple[str, bytes]] = []
    size, done = checkpoint.size, archived.size if archived is not None else 0
    n, width = divmod(size, TILE_WIDTH)
    if width:
        chunk.append((tile_path(0, n, width), files.read_tile(0, n, size)))
    level = 1
    while count := size >> (8 * level):
        for n in range((done >> (8 * level)) // TILE_WIDTH, -(-count // TILE_WIDTH)):
            width = min(TILE_WIDTH, count - n * TILE_WIDTH)
            chunk.append((tile_path(level, n, width), files.read_tile(level, n, size)))
            if len(chunk) == 2 * _CHUNK_BUNDLES:
                written += store.write_missing(chunk)
                chunk = []
        level += 1
    return written + store.write_missing(chunk)


def _verify_copy(store: ArchiveStore, copy: VerifiedTree, bundles: list[Bundle]) -> None:
    """Read a segment's bundles again and follow them up to the signed root.

    Raises:
        ArchiveError: One of them is not what was written.
        TileInvalidError: A tile of the archive is not the log's.
    """
    for start in range(0, len(bundles), _CHUNK_BUNDLES):
        chunk = bundles[start : start + _CHUNK_BUNDLES]
        paths = [entries_path(bundle.n) for bundle in chunk]
        tile_paths = [tile_path(0, bundle.n) for bundle in chunk]
        read = store.read_many([*paths, *tile_paths], MAX_BUNDLE_BYTES)
        bundles_read, tiles_read = read[: len(chunk)], read[len(chunk) :]
        for bundle, where, data, tile in zip(chunk, paths, bundles_read, tiles_read, strict=True):
            if data is None or hashlib.sha256(data).hexdigest() != bundle.sha256:
                raise ArchiveError(f"{store.location}/{where}: is not what was written")
            hashes = leaf_hashes(decode_bundle(data, TILE_WIDTH, where=where))
            if hashes != tile or fold(hashes) != copy.root_of(0, bundle.n):
                raise ArchiveError(f"{store.location}/{where}: does not lead to the signed root")
