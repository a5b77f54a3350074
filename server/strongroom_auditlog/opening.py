"""What has to fit before a log goes on: files, state, last checkpoint, published checkpoint.

Each of the four may come back from a backup, alone or with others. In order of time

    published checkpoint  <=  last checkpoint  <=  state  <=  entries and tiles

and each is of the past of the next. Anything else does not start, for signing on would
fork the log. Nothing is created here but by `create_log`, and a last checkpoint for a log
from before there was one.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

from strongroom.tlog.checkpoint import Checkpoint, open_checkpoint
from strongroom.tlog.errors import VerificationError
from strongroom.tlog.merkle import EMPTY_ROOT, range_hash
from strongroom_auditlog.checkpoint import Signer
from strongroom_auditlog.edge import Edge, rebuild_edge
from strongroom_auditlog.errors import ArchiveError, StartRefusedError
from strongroom_auditlog.last_checkpoint import (
    CheckpointStore,
    LastCheckpoint,
    SqliteCheckpointStore,
)
from strongroom_auditlog.retention.store import ArchiveFiles
from strongroom_auditlog.scan import scan_runs
from strongroom_auditlog.state import State
from strongroom_auditlog.tiles import CHECKPOINT, LogFiles, remove_strays, write_files

__all__ = [
    "check_last",
    "check_published",
    "create_log",
    "index_is_whole",
    "last_of",
    "open_store",
    "rebuild_index",
    "signed_edge",
]


def last_of(checkpoint: Checkpoint) -> LastCheckpoint:
    """Return a signed checkpoint as the store keeps it."""
    return LastCheckpoint(checkpoint.origin, checkpoint.size, checkpoint.root, checkpoint.text)


def create_log(
    directory: Path, state_file: Path, last_checkpoint_file: Path, signer: Signer
) -> Checkpoint:
    """Create an empty log, its state, its last checkpoint and its first one, of size 0.

    Raises:
        StartRefusedError: There is one of them already, or they cannot be written.
    """
    if (directory / CHECKPOINT).exists() or (directory / "tile").exists():
        raise StartRefusedError(f"{directory}: holds a log already; nothing is overwritten")
    try:
        directory.mkdir(parents=True, exist_ok=True, mode=0o750)
        checkpoint = signer.sign(0, EMPTY_ROOT)
        SqliteCheckpointStore.create(last_checkpoint_file, last_of(checkpoint))
        State.create(state_file, origin=signer.origin, size=0, root=EMPTY_ROOT)
        write_files(directory, [(CHECKPOINT, checkpoint.text.encode())])
    except OSError as exc:
        raise StartRefusedError(f"{exc.filename}: {exc.strerror}") from exc
    return checkpoint


def signed_edge(files: LogFiles, state: State, signer: Signer) -> tuple[Edge, list[str]]:
    """Rebuild the right edge of the tree in the state, and repair its hash tiles.

    Returns:
        The edge, and the partial hash tiles that were missing or wrong and were rewritten.

    Raises:
        StartRefusedError: The log is older than the state, damaged, or another one.
    """
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
    try:
        remove_strays(files.directory, files.stray_partials(size))
        write_files(files.directory, wrong)
    except OSError as exc:
        raise StartRefusedError(f"{exc.filename}: {exc.strerror}") from exc
    return edge, [path for path, _ in wrong]


def check_published(files: LogFiles, signer: Signer, size: int, root: bytes) -> Checkpoint:
    """Return the published checkpoint if it is of the past of the tree in the state.

    Raises:
        StartRefusedError: It is not, or it is missing.
    """
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
        at_published = _root_at(files, published.size, size, root)
    except VerificationError as exc:
        raise StartRefusedError(f"{files.directory}: {exc}") from exc
    if at_published != published.root:
        raise StartRefusedError(
            f"the published checkpoint of {published.size} leaves is not of the past of the log: "
            "log and state are not of the same log; restore the newest of both"
        )
    return published


def open_store(path: Path, state: State, signer: Signer) -> SqliteCheckpointStore:
    """Open the store of the last checkpoint; make it for a log that never had one.

    Raises:
        StartRefusedError: It is missing though the log had one, or cannot be used.
    """
    if not path.exists():
        if state.has_last_checkpoint:
            raise StartRefusedError(
                f"{path}: the last checkpoint is missing; put back the newest copy of it. If it "
                "is lost: make sure that log and state are the newest (compare the checkpoint "
                "with one that a witness or an auditor has), then "
                "`strongroom audit-log --rebuild-last-checkpoint`"
            )
        # A log from before last checkpoints were kept: what the state says is believed
        # this once, as it always was so far.
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            SqliteCheckpointStore.create(path, last_of(signer.sign(*state.tree())))
        except OSError as exc:
            raise StartRefusedError(f"{exc.filename}: {exc.strerror}") from exc
    store = SqliteCheckpointStore.open(path)
    state.remember_last_checkpoint()
    return store


def check_last(
    files: LogFiles,
    store: CheckpointStore,
    signer: Signer,
    *,
    tree: tuple[int, bytes],
    published: Checkpoint,
) -> LastCheckpoint:
    """Return the last checkpoint if it lies between the published one and the state.

    Raises:
        StartRefusedError: It does not: something was restored from a backup, or somebody
            else signs for this log. The message names the cure.
    """
    last = store.load()
    size, root = tree
    if last.origin != signer.origin:
        raise StartRefusedError(
            f"the last checkpoint is of {last.origin}, the configuration says {signer.origin}"
        )
    try:
        opened = open_checkpoint(last.note, signer.verifier_key)
    except VerificationError as exc:
        raise StartRefusedError(f"the last checkpoint does not verify: {exc}") from exc
    if (opened.size, opened.root) != (last.size, last.root):
        raise StartRefusedError("the last checkpoint is not the one that its note says: damaged")
    if last.size > size:
        raise StartRefusedError(
            f"a checkpoint of {last.size} leaves was signed, log and state have {size}: they were "
            "restored from a backup, or another process signs for this log; signing on would "
            "fork it. Restore the newest log and state; with the newest log alone, remove the "
            "state and run `strongroom audit-log --rebuild-state`"
        )
    try:
        at_last = _root_at(files, last.size, size, root)
    except VerificationError as exc:
        raise StartRefusedError(f"{files.directory}: {exc}") from exc
    if at_last != last.root:
        raise StartRefusedError(
            f"the last checkpoint of {last.size} leaves is not of the past of this log: another "
            "process has signed another history, or log and state are of another log. Stop both, "
            "keep everything, and compare with the checkpoints that witnesses and auditors have"
        )
    if last.size < published.size:
        raise StartRefusedError(
            f"the published checkpoint has {published.size} leaves, the last checkpoint "
            f"{last.size}: its store was restored from a backup; put back the newest copy. If "
            "there is none, remove it and see `strongroom audit-log --rebuild-last-checkpoint`"
        )
    return last


def index_is_whole(files: LogFiles, state: State, size: int, archive: ArchiveFiles | None) -> bool:
    """Whether the position index has all leaves that it could be made from.

    Raises:
        StartRefusedError: The mark of pruning is damaged.
    """
    try:
        first = 0 if archive is not None else files.read_mark().minimum_index
    except VerificationError as exc:
        raise StartRefusedError(f"{files.directory}: {exc}; put back a copy of it") from exc
    return state.indexed_leaves(first) == size - first


def rebuild_index(files: LogFiles, state: State, size: int, archive: ArchiveFiles | None) -> None:
    """Make the position index again from the entries, which must agree with the state.

    Raises:
        StartRefusedError: They do not, or an entry is damaged or cannot be read.
    """
    try:
        scanned = scan_runs(files, size, archive)
    except (VerificationError, ArchiveError) as exc:
        raise StartRefusedError(f"{files.directory}: {exc}; restore the log from a copy") from exc
    if scanned.positions != state.positions():
        # Going on from other positions would take records twice, or miss some.
        raise StartRefusedError(
            "the shards' positions in the state are not those that the log's entries lead to; "
            "restore the state that belongs to the log"
        )
    state.replace_index(scanned.runs, scanned.first_leaf)


def _root_at(files: LogFiles, older: int, size: int, root: bytes) -> bytes:
    """Return the root of the first `older` leaves of the tree of `size` with `root`."""
    if older == size:
        return root
    return range_hash(0, older, partial(files.subtree_hash, size))
