"""The log that grows: take batches, sign, publish; refuse to go on after a restore.

Order of writing (docs/formats/audit-log-v1.md):

    extend   1. entries and tiles     a crash leaves files beyond the state: overwritten later
             2. state, transaction    the tree is what will be signed, or a part of it
    sign     3. last checkpoint       compare-and-swap; from here on the tree counts as signed
    publish  4. checkpoint            a crash before it leaves the older one, which is
                                      consistent; the next start signs and publishes again
             5. acknowledgement       by `ingest`; a crash before it brings the records
                                      again, and they are dropped as repeats

Between 3 and 4 witnesses may be asked (`publisher`). Several `extend` may share one `sign`.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from strongroom.tlog.checkpoint import Checkpoint
from strongroom.tlog.errors import VerificationError
from strongroom.tlog.merkle import leaf_hash
from strongroom_auditlog import opening
from strongroom_auditlog.checkpoint import Signer
from strongroom_auditlog.edge import Edge
from strongroom_auditlog.errors import (
    EntryArchivedError,
    LogError,
    RecordInvalidError,
    StartRefusedError,
)
from strongroom_auditlog.last_checkpoint import CheckpointStore, LastCheckpoint
from strongroom_auditlog.opening import create_log, last_of
from strongroom_auditlog.owner_lock import OwnerLock
from strongroom_auditlog.records import Position, Run, parse_position
from strongroom_auditlog.retention.store import ArchiveFiles
from strongroom_auditlog.state import State
from strongroom_auditlog.tiles import CHECKPOINT, LogFiles, remove_partials, write_files

__all__ = ["AuditLog", "ShardBatch", "create_log"]


@dataclass(frozen=True, slots=True)
class ShardBatch:
    """Consecutive records of one shard; the first one's position."""

    first: Position
    records: tuple[bytes, ...]


class AuditLog:
    """An open log, owned by this process until `close`.

    Thread safety: what changes the log is serialised; everything else may be called from
    any thread at any time and sees the last published checkpoint.
    """

    def __init__(
        self,
        files: LogFiles,
        state: State,
        store: CheckpointStore,
        signer: Signer,
        lock: OwnerLock,
        *,
        edge: Edge,
        published: Checkpoint,
        last: LastCheckpoint,
    ):
        """Take over what `open` has checked."""
        self.files = files
        self.signer = signer
        self._state = state
        self._store = store
        self._owner_lock = lock
        self._append_lock = threading.Lock()
        self._edge = edge
        self._root = edge.root()
        self._positions = state.positions()
        self._last = last
        self._published = published
        # Full files that the last checkpoint covers, and those that it does not cover yet.
        self._full: list[str] = []
        self._full_since: list[str] = []
        self.repaired: tuple[str, ...] = ()
        """Hash tiles of the right edge that were missing or wrong at start and were rewritten."""

    @classmethod
    def open(
        cls,
        directory: Path,
        state_file: Path,
        last_checkpoint_file: Path,
        signer: Signer,
        *,
        archive: ArchiveFiles | None = None,
    ) -> AuditLog:
        """Open the log: rebuild the right edge, compare it with state and checkpoints.

        `archive` has the records that were pruned; it is read only when the position index
        has to be made again.

        Raises:
            StartRefusedError: Another process has the log, a part of it is missing or
                damaged, or the parts are not of the same moment: something was restored
                from a backup. The message names the cure.
            LogError: The signing key cannot be used now.
        """
        if not directory.is_dir():
            raise StartRefusedError(
                f"{directory}: no log; make a new one with `strongroom audit-log --init`"
            )
        lock = OwnerLock(directory, state_file)
        try:
            state = State.open(state_file)
            try:
                files = LogFiles(directory)
                return cls._open(files, state, last_checkpoint_file, signer, lock, archive=archive)
            except BaseException:
                state.close()
                raise
        except OSError as exc:
            lock.release()
            raise StartRefusedError(f"{exc.filename}: {exc.strerror}") from exc
        except BaseException:
            lock.release()
            raise

    @classmethod
    def _open(
        cls,
        files: LogFiles,
        state: State,
        last_checkpoint_file: Path,
        signer: Signer,
        lock: OwnerLock,
        *,
        archive: ArchiveFiles | None,
    ) -> AuditLog:
        edge, repaired = opening.signed_edge(files, state, signer)
        tree = edge.size, edge.root()
        published = opening.check_published(files, signer, *tree)
        store = opening.open_store(last_checkpoint_file, state, signer)
        try:
            last = opening.check_last(files, store, signer, tree=tree, published=published)
            log = cls(files, state, store, signer, lock, edge=edge, published=published, last=last)
            log.repaired = tuple(repaired)
            if not opening.index_is_whole(files, state, edge.size, archive):
                opening.rebuild_index(files, state, edge.size, archive)
        except BaseException:
            store.close()
            raise
        return log

    @property
    def checkpoint(self) -> Checkpoint:
        """The last published checkpoint."""
        return self._published

    @property
    def size(self) -> int:
        """Leaves in the tree of the state, which the next `sign` will sign."""
        return self._edge.size

    def next_position(self, region: str) -> tuple[int, int] | None:
        """Return (epoch, next sequence) of a shard; None when it has no record yet."""
        return self._positions.get(region)

    def append(self, batches: Sequence[ShardBatch]) -> Checkpoint:
        """Take batches, sign and publish, without witnesses; return the checkpoint.

        Raises:
            LogError: As `extend`, `sign` and `publish`. Whether the batches were taken
                shows in `next_position`.
        """
        self.extend(batches)
        return self.publish(self.sign())

    def extend(self, batches: Sequence[ShardBatch]) -> int:
        """Take batches into the tree; they are durable, and not to be acknowledged yet.

        The records' own positions were checked by the caller; that the batches continue
        their shards' sequences is checked again here.

        Returns:
            The size of the tree. A published checkpoint of that size covers the records.

        Raises:
            ForkRefusedError: The state moved under this process. Stop.
            LogError: A batch does not continue its shard, or nothing could be written. The
                same batches may be given again.
        """
        with self._append_lock:
            edge = self._edge
            records: list[bytes] = []
            runs: list[Run] = []
            positions = dict(self._positions)
            for batch in batches:
                _check_continues(positions, batch)
                runs.append(Run(batch.first, len(batch.records), edge.size + len(records)))
                records.extend(batch.records)
            if not records:
                return edge.size
            extended, files = edge.extend(records)
            root = extended.root()
            try:
                write_files(self.files.directory, files)
            except OSError as exc:
                raise LogError(f"{exc.filename}: {exc.strerror}") from exc
            self._state.advance(
                before=(edge.size, self._root), after=(extended.size, root), runs=runs
            )
            self._edge, self._root, self._positions = extended, root, positions
            self._full_since += extended.full_paths_since(edge.size)
            return extended.size

    def sign(self) -> Checkpoint:
        """Sign the tree of the state and keep the checkpoint as the last one.

        It is a promise from here on, whoever sees it. Returns what was signed already when
        the tree is the same.

        Raises:
            LogStoppedError: Another signer was here, or the key cannot be used any more.
            LogError: The key or the store cannot be used now. Try again.
        """
        with self._append_lock:
            size, last = self._edge.size, self._last
            if last.size == size:
                return Checkpoint(last.origin, last.size, last.root, last.note)
            checkpoint = self.signer.sign(size, self._root)
            self._store.replace(last, last_of(checkpoint))
            self._last = last_of(checkpoint)
            self._full += self._full_since
            self._full_since = []
            return checkpoint

    def publish(self, checkpoint: Checkpoint) -> Checkpoint:
        """Publish what `sign` returned last, with or without cosignatures.

        Returns:
            The checkpoint. The records that it covers may be acknowledged now.

        Raises:
            LogError: It could not be written. Try again.
        """
        with self._append_lock:
            if (checkpoint.size, checkpoint.root) != (self._last.size, self._last.root):
                raise LogError(f"a checkpoint of {checkpoint.size} leaves was not signed last")
            if checkpoint.text != self._published.text:
                try:
                    write_files(self.files.directory, [(CHECKPOINT, checkpoint.text.encode())])
                except OSError as exc:
                    raise LogError(f"{exc.filename}: {exc.strerror}") from exc
                self._published = checkpoint
            remove_partials(self.files.directory, self._full)
            self._full = []
            return checkpoint

    def find(self, position: Position) -> int | None:
        """Return the leaf of the record at `position`; None when it is not in the log.

        That of a pruned record is the index's word alone. Whoever asks has its receipt or
        its bytes, and compares the leaf's hash.

        Raises:
            VerificationError: The log's files do not have what the index says.
        """
        size = self._published.size
        leaf = self._state.find_leaf(position)
        if leaf is None or leaf >= size:
            return None
        try:
            found = parse_position(self.files.read_entry(leaf, size))
        except EntryArchivedError:
            return leaf
        except RecordInvalidError as exc:
            raise VerificationError(f"leaf {leaf}", str(exc)) from exc
        if found != position:
            raise VerificationError(f"leaf {leaf}", f"holds {found}, the index says {position}")
        return leaf

    def holds(self, position: Position, record: bytes) -> bool:
        """Whether exactly `record`, which says that it is at `position`, was taken.

        It need not be covered by a published checkpoint yet.

        Raises:
            VerificationError: The log's files do not have what the index says.
        """
        size = self._edge.size
        leaf = self._state.find_leaf(position)
        if leaf is None or leaf >= size:
            return False
        return self.files.subtree_hash(size, 0, leaf) == leaf_hash(record)

    def close(self) -> None:
        """Close state and store, and give the lock back; an append under way ends first."""
        with self._append_lock:
            self._state.close()
            self._store.close()
            self._owner_lock.release()


def _check_continues(positions: dict[str, tuple[int, int]], batch: ShardBatch) -> None:
    """Check that `batch` follows `positions`, and move them."""
    region, epoch, sequence = batch.first
    known = positions.get(region)
    expected = 1 if known is None or epoch > known[0] else known[1]
    if not batch.records or sequence != expected or (known is not None and epoch < known[0]):
        raise LogError(f"{batch.first} does not continue the shard; expected {known}")
    positions[region] = (epoch, sequence + len(batch.records))
