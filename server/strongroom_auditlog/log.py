"""The log that grows: append a batch, sign, publish; refuse to go on after a restore.

Order of writing (docs/formats/audit-log-v1.md):

    1. entries and tiles     a crash leaves files beyond the signed size: overwritten later
    2. state, transaction    from here on the new tree counts as signed
    3. checkpoint            a crash before it leaves the older one, which is consistent;
                             the next start publishes again from the state
    4. acknowledgement       by `ingest`; a crash before it brings the records again, and
                             they are dropped as repeats
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from strongroom.tlog.checkpoint import Checkpoint, open_checkpoint
from strongroom.tlog.errors import VerificationError
from strongroom.tlog.merkle import EMPTY_ROOT, leaf_hash, range_hash
from strongroom_auditlog.checkpoint import Signer
from strongroom_auditlog.edge import Edge, rebuild_edge
from strongroom_auditlog.errors import LogError, RecordInvalidError, StartRefusedError
from strongroom_auditlog.records import Position, Run, next_positions, parse_position
from strongroom_auditlog.state import OwnerLock, State
from strongroom_auditlog.tiles import (
    CHECKPOINT,
    LogFiles,
    remove_partials,
    write_files,
)
from strongroom_auditlog.verify import scan_runs

__all__ = ["AuditLog", "ShardBatch", "create_log"]


@dataclass(frozen=True, slots=True)
class ShardBatch:
    """Consecutive records of one shard; the first one's position."""

    first: Position
    records: tuple[bytes, ...]


def create_log(directory: Path, state_file: Path, signer: Signer) -> Checkpoint:
    """Create an empty log, its state and its first checkpoint, of size 0.

    Raises:
        StartRefusedError: There is a log or a state already, or they cannot be written.
    """
    if (directory / CHECKPOINT).exists() or (directory / "tile").exists():
        raise StartRefusedError(f"{directory}: holds a log already; nothing is overwritten")
    try:
        directory.mkdir(parents=True, exist_ok=True, mode=0o750)
        State.create(state_file, origin=signer.origin, size=0, root=EMPTY_ROOT)
        checkpoint = signer.sign(0, EMPTY_ROOT)
        write_files(directory, [(CHECKPOINT, checkpoint.text.encode())])
    except OSError as exc:
        raise StartRefusedError(f"{exc.filename}: {exc.strerror}") from exc
    return checkpoint


class AuditLog:
    """An open log, owned by this process until `close`.

    Thread safety: `append` is serialised; everything else may be called from any thread
    at any time and sees the last published checkpoint.
    """

    def __init__(
        self,
        files: LogFiles,
        state: State,
        signer: Signer,
        lock: OwnerLock,
        *,
        edge: Edge,
        published: Checkpoint,
    ):
        self.files = files
        self.signer = signer
        self._state = state
        self._owner_lock = lock
        self._append_lock = threading.Lock()
        self._edge = edge
        self._root = edge.root()
        self._positions = state.positions()
        self._published = published
        self.repaired: tuple[str, ...] = ()
        """Hash tiles of the right edge that were missing or wrong at start and were rewritten."""

    @classmethod
    def open(cls, directory: Path, state_file: Path, signer: Signer) -> AuditLog:
        """Open the log: rebuild the right edge and compare it with the state.

        Raises:
            StartRefusedError: Another process has the log, a part of it is missing or
                damaged, or log and state are not of the same moment: one of them was
                restored from a backup. The message names the cure.
        """
        if not directory.is_dir():
            raise StartRefusedError(
                f"{directory}: no log; make a new one with `strongroom audit-log --init`"
            )
        lock = OwnerLock(directory, state_file)
        try:
            state = State.open(state_file)
            try:
                return cls._open(LogFiles(directory), state, signer, lock)
            except BaseException:
                state.close()
                raise
        except BaseException:
            lock.release()
            raise

    @classmethod
    def _open(cls, files: LogFiles, state: State, signer: Signer, lock: OwnerLock) -> AuditLog:
        size, root = state.tree()
        if state.origin != signer.origin:
            raise StartRefusedError(
                f"the state is of {state.origin}, the configuration says {signer.origin}"
            )
        try:
            edge, wrong = rebuild_edge(files, size)
        except VerificationError as exc:
            raise StartRefusedError(
                f"{files.directory}: the state has {size} leaves and the log does not ({exc}); "
                "restore the newest log, never an older state"
            ) from exc
        if edge.root() != root:
            raise StartRefusedError(
                f"{files.directory}: the log's root at {size} leaves is not the one that was "
                "signed; restore the log that belongs to the state, and verify it with "
                "`strongroom audit verify`"
            )
        published = _check_published(files, signer, size, root)
        log = cls(files, state, signer, lock, edge=edge, published=published)
        try:
            write_files(files.directory, wrong)
            log.repaired = tuple(path for path, _ in wrong)
            log._publish_pending()
        except OSError as exc:
            raise StartRefusedError(f"{exc.filename}: {exc.strerror}") from exc
        if state.indexed_leaves() != size:
            _rebuild_index(files, state, size)
        return log

    @property
    def checkpoint(self) -> Checkpoint:
        """The last published checkpoint."""
        return self._published

    def next_position(self, region: str) -> tuple[int, int] | None:
        """Return (epoch, next sequence) of a shard; None when it has no record yet."""
        return self._positions.get(region)

    def append(self, batches: Sequence[ShardBatch]) -> Checkpoint:
        """Append batches, sign and publish.

        The records' own positions were checked by the caller; that the batches continue
        their shards' sequences is checked again here.

        Returns:
            The checkpoint that covers the records. They may be acknowledged now.

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
            try:
                # An earlier call may have ended between the state and the checkpoint.
                self._publish_pending()
                if not records:
                    return self._published
                extended, files = edge.extend(records)
                root = extended.root()
                write_files(self.files.directory, files)
                self._state.advance(
                    before=(edge.size, self._root), after=(extended.size, root), runs=runs
                )
                self._edge, self._root, self._positions = extended, root, positions
                self._publish_pending()
            except OSError as exc:
                raise LogError(f"{exc.filename}: {exc.strerror}") from exc
            remove_partials(self.files.directory, extended.full_paths_since(edge.size))
            return self._published

    def _publish_pending(self) -> None:
        """Write the checkpoint of the tree in the state, if it is not published yet."""
        size = self._edge.size
        if self._published.size != size:
            checkpoint = self.signer.sign(size, self._root)
            write_files(self.files.directory, [(CHECKPOINT, checkpoint.text.encode())])
            self._published = checkpoint

    def find(self, position: Position) -> int | None:
        """Return the leaf of the record at `position`; None when it is not in the log.

        Raises:
            VerificationError: The log's files do not have what the index says.
        """
        size = self._published.size
        leaf = self._state.find_leaf(position)
        if leaf is None or leaf >= size:
            return None
        try:
            found = parse_position(self.files.read_entry(leaf, size))
        except RecordInvalidError as exc:
            raise VerificationError(f"leaf {leaf}", str(exc)) from exc
        if found != position:
            raise VerificationError(f"leaf {leaf}", f"holds {found}, the index says {position}")
        return leaf

    def holds(self, position: Position, record: bytes) -> bool:
        """Whether exactly `record`, which says that it is at `position`, is in the log.

        Raises:
            VerificationError: The log's files do not have what the index says.
        """
        size = self._published.size
        leaf = self._state.find_leaf(position)
        if leaf is None or leaf >= size:
            return False
        return self.files.subtree_hash(size, 0, leaf) == leaf_hash(record)

    def close(self) -> None:
        """Close the state and give the lock back; an append under way ends first."""
        with self._append_lock:
            self._state.close()
            self._owner_lock.release()


def _rebuild_index(files: LogFiles, state: State, size: int) -> None:
    """Make the position index again from the entries, which must agree with the state."""
    try:
        runs = scan_runs(files, size)
    except VerificationError as exc:
        raise StartRefusedError(f"{files.directory}: {exc}; restore the log from a copy") from exc
    if next_positions(runs) != state.positions():
        # Going on from other positions would take records twice, or miss some.
        raise StartRefusedError(
            "the shards' positions in the state are not those that the log's entries lead to; "
            "restore the state that belongs to the log"
        )
    state.replace_index(runs)


def _check_continues(positions: dict[str, tuple[int, int]], batch: ShardBatch) -> None:
    """Check that `batch` follows `positions`, and move them."""
    region, epoch, sequence = batch.first
    known = positions.get(region)
    expected = 1 if known is None or epoch > known[0] else known[1]
    if not batch.records or sequence != expected or (known is not None and epoch < known[0]):
        raise LogError(f"{batch.first} does not continue the shard; expected {known}")
    positions[region] = (epoch, sequence + len(batch.records))


def _check_published(files: LogFiles, signer: Signer, size: int, root: bytes) -> Checkpoint:
    """Return the published checkpoint if it is of the past of the tree in the state."""
    try:
        text = files.read_checkpoint()
        if text is None:
            raise StartRefusedError(
                f"{files.directory / CHECKPOINT}: missing; put back a copy of it, for without it "
                "an old state cannot be told from the newest"
            )
        published = open_checkpoint(text, signer.verifier_key)
        if published.size > size:
            raise StartRefusedError(
                f"the published checkpoint has {published.size} leaves, the state {size}: the "
                "state was restored from a backup, and signing on would fork the log; restore "
                "the newest state"
            )
        at_published = (
            root
            if published.size == size
            else range_hash(0, published.size, partial(files.subtree_hash, size))
        )
    except VerificationError as exc:
        raise StartRefusedError(f"{files.directory}: {exc}") from exc
    if at_published != published.root:
        raise StartRefusedError(
            f"the published checkpoint of {published.size} leaves is not of the past of the log: "
            "log and state are not of the same log; restore the newest of both"
        )
    return published
