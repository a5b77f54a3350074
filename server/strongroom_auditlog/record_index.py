"""Follows the log and says which of its leaves may have the records that are asked for.

    entries --> OpenSegment (in memory, up to 4,096 leaves) --> IndexStore, block by block

The index only ever says "perhaps here" and "surely not there"; `record_search` reads the
records themselves. What it cannot say - not indexed yet, a damaged block, no database - is
"perhaps", so an answer may be slow and is never wrong. It is made anew from the entries
when it is missing, damaged, of another version or log, or ahead of the tree.

All of that happens in one thread of its own. Nothing waits for it: an append neither knows
nor tells the index, which looks at the size of the published tree by itself.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import structlog

from strongroom.tlog.errors import VerificationError
from strongroom_auditlog.errors import ArchiveError, EntryArchivedError
from strongroom_auditlog.index_store import IndexDamagedError, IndexStore, IndexUnwritableError
from strongroom_auditlog.metrics import Metrics
from strongroom_auditlog.record_filter import RecordFields
from strongroom_auditlog.record_segment import (
    ALL_LEAVES,
    SEGMENT_HEIGHT,
    SEGMENT_LEAVES,
    OpenSegment,
    SegmentInvalidError,
    Wanted,
    select,
)
from strongroom_auditlog.retention.entries import Entries
from strongroom_auditlog.tiles import TILE_WIDTH, LogFiles

__all__ = ["RecordIndex"]

POLL_SECONDS: Final = 0.2
RETRY_SECONDS: Final = 5.0
STOP_SECONDS: Final = 5.0
REST: Final = 0.5  # pause after each bundle, as a part of the time that it took

_log = structlog.stdlib.get_logger("strongroom.auditlog.index")


class RecordIndex:
    """The index of one log. Thread safety: all methods may be called from any thread."""

    def __init__(
        self,
        path: Path,
        *,
        origin: str,
        files: LogFiles,
        size: Callable[[], int],
        metrics: Metrics,
        entries: Entries | None = None,
    ):
        """Take what is needed; `size` returns that of the published tree.

        `entries` reads the records, those that were pruned too; by default those of `files`.
        """
        self._path = path
        self._origin = origin
        self._files = files
        self._entries = Entries(files) if entries is None else entries
        self._size = size
        self._metrics = metrics
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        # Guards everything below. Held for one look-up or one write, never while reading
        # entries.
        self._lock = threading.Lock()
        self._store: IndexStore | None = None
        self._full = 0  # blocks below are in the store, but for those to be made again
        self._broken: set[int] = set()
        self._first = 0  # blocks below have records that were pruned and cannot be read
        self._open = OpenSegment()

    @property
    def leaves(self) -> int:
        """How many leaves are indexed, blocks to be made again left out."""
        with self._lock:
            if self._store is None:
                return 0
            return (self._full - len(self._broken)) * SEGMENT_LEAVES + self._open.leaves

    def start(self) -> None:
        """Begin to follow the log, in a thread."""
        self._thread = threading.Thread(target=self._run, name="index", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End the thread and close the database."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(STOP_SECONDS)
        with self._lock:
            if self._store is not None:
                self._store.close()
                self._store = None

    def select(self, n: int, wanted: Wanted, size: int) -> int:
        """Return which leaves of block `n` of the tree of `size` may match, as a set of bits.

        Raises:
            TileInvalidError: The log's own tiles are damaged.
        """
        if (n + 1) * SEGMENT_LEAVES > size:
            subtree_hash = b""  # not full, so not in the store
        else:
            subtree_hash = self._files.subtree_hash(size, SEGMENT_HEIGHT, n)
        with self._lock:
            store = self._store
            if store is None or n > self._full or n in self._broken:
                return ALL_LEAVES
            if n == self._full:
                return self._open.select(wanted)
            try:
                return select(
                    store.header(n),
                    wanted,
                    subtree_hash=subtree_hash,
                    read_posting=lambda start, end: store.posting(n, start, end),
                )
            except SegmentInvalidError as exc:
                self._broken.add(n)
                _log.warning("a block of the index is made again", block=n, reason=str(exc))
            except IndexDamagedError as exc:
                self._forget(str(exc))
            return ALL_LEAVES

    def _forget(self, reason: str) -> None:
        """Give the database up; the thread makes it anew. The lock is held."""
        _log.warning("the index is made anew from the entries", reason=reason)
        self._metrics.index_rebuilds.inc()
        if self._store is not None:
            self._store.close()
        self._store, self._full, self._broken, self._open = None, 0, set(), OpenSegment()

    def _run(self) -> None:
        while not self._stop.is_set():
            began = time.monotonic()
            try:
                self._metrics.index_leaves.set(self.leaves)
                pause = REST * (time.monotonic() - began) if self._step() else POLL_SECONDS
            except IndexDamagedError as exc:
                with self._lock:
                    self._forget(str(exc))
                pause = POLL_SECONDS
            except EntryArchivedError:
                # Pruned since, or before this index was made, and there is no archive.
                self._skip_pruned()
                pause = POLL_SECONDS
            except (IndexUnwritableError, VerificationError, ArchiveError) as exc:
                # A full disk, or damage that `audit verify` is to find: answers read the
                # entries meanwhile.
                _log.warning("the index stands still", reason=str(exc))
                pause = RETRY_SECONDS
            except Exception:  # noqa: BLE001 - the edge of the thread: answers read entries meanwhile
                _log.exception("a fault in the index")
                pause = RETRY_SECONDS
            self._stop.wait(pause)

    def _step(self) -> bool:
        """Do the next piece of work; False when there is none."""
        size = self._size()
        with self._lock:
            if self._store is None:
                self._open_store(size)
            broken = min((n for n in self._broken if n >= self._first), default=None)
            full, start = self._full, self._open.leaves
        if broken is not None:
            self._make_again(broken, size)
            return True
        if start == SEGMENT_LEAVES:  # could not be written the last time
            self._seal(full, size)
            return True
        leaf = full * SEGMENT_LEAVES + start
        if leaf == size:
            return False
        records = self._read(leaf, size)
        with self._lock:
            if (self._full, self._open.leaves) != (full, start):
                return True  # the database was given up meanwhile
            self._open.add(records)
        if start + len(records) == SEGMENT_LEAVES:
            self._seal(full, size)
        return True

    def _open_store(self, size: int) -> None:
        """Open the database, or make an empty one. The lock is held."""
        reason = "ahead of the log"
        try:
            self._store = IndexStore.open(self._path, origin=self._origin)
            numbers = self._store.numbers()
            full = numbers[-1] + 1 if numbers else 0
            if full * SEGMENT_LEAVES <= size:
                self._full, self._broken = full, set(range(full)).difference(numbers)
                return
        except IndexDamagedError as exc:
            reason = str(exc)
        if size or self._store is not None:
            self._forget(reason)
        self._store = IndexStore.create(self._path, origin=self._origin)

    def _skip_pruned(self) -> None:
        """Go on behind the records that were pruned; their blocks say "perhaps" of all."""
        first = -(-self._entries.first_readable() // SEGMENT_LEAVES)
        with self._lock:
            self._first = first
            if self._full < first:
                self._broken.update(range(self._full, first))
                self._full, self._open = first, OpenSegment()

    def _read(self, leaf: int, size: int) -> list[RecordFields]:
        """Read the fields of the leaves from `leaf` to the end of its bundle."""
        n, offset = divmod(leaf, TILE_WIDTH)
        return [RecordFields.of(entry) for entry in self._entries.read(n, size)[offset:]]

    def _seal(self, n: int, size: int) -> None:
        """Write the full open block and begin the next one."""
        subtree_hash = self._files.subtree_hash(size, SEGMENT_HEIGHT, n)
        # Only this thread adds to an open block, and a full one is not added to.
        header, postings = self._open.encode(subtree_hash)
        with self._lock:
            if self._store is None or self._full != n:
                return
            self._store.put(n, header, postings)
            self._full, self._open = n + 1, OpenSegment()

    def _make_again(self, n: int, size: int) -> None:
        """Make block `n` from its entries."""
        segment = OpenSegment()
        first = n * SEGMENT_LEAVES
        for leaf in range(first, first + SEGMENT_LEAVES, TILE_WIDTH):
            segment.add(self._read(leaf, size))
            if self._stop.wait(0.001):
                return
        encoded = segment.encode(self._files.subtree_hash(size, SEGMENT_HEIGHT, n))
        with self._lock:
            if self._store is not None and n in self._broken:
                self._store.put(n, *encoded)
                self._broken.discard(n)
