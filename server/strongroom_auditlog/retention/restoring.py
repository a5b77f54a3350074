"""Fetches one record from an archive and proves it against a signed checkpoint."""

from __future__ import annotations

from dataclasses import dataclass

from strongroom.receipts import Receipt
from strongroom.tlog.checkpoint import Checkpoint, VerifierKey, open_checkpoint
from strongroom.tlog.errors import ReceiptInvalidError
from strongroom.tlog.proof import TlogProof, verify_proof
from strongroom_auditlog.errors import ArchiveError, RecordInvalidError
from strongroom_auditlog.proofs import prove_inclusion, verify_receipt_proof
from strongroom_auditlog.records import Position, parse_position
from strongroom_auditlog.retention.archiving import check_lineage
from strongroom_auditlog.retention.manifest import Manifest, read_manifest, read_segment
from strongroom_auditlog.retention.store import ArchiveFiles, ArchiveStore, read_bundles
from strongroom_auditlog.tiles import TILE_WIDTH, LogFiles, TreeFiles
from strongroom_auditlog.verified_tree import VerifiedTree
from strongroom_auditlog.verify import read_checkpoint

__all__ = ["Restored", "restore_leaf", "restore_receipt"]


@dataclass(frozen=True, slots=True)
class Restored:
    """A record of the archive that was proven."""

    leaf: int
    record: bytes
    proof: TlogProof
    checkpoint: Checkpoint


def restore_leaf(
    store: ArchiveStore, key: VerifierKey, leaf: int, *, log: LogFiles | None = None
) -> Restored:
    """Fetch the record of a leaf.

    Args:
        store: The archive.
        key: The log's verifier key, got out of band.
        leaf: Index of the leaf.
        log: The log, whose newest checkpoint then is what the proof leads to; without it,
            that is the archive's own.

    Raises:
        ArchiveError: The archive does not have the leaf, or cannot be read.
        VerificationError: What it has does not lead to the checkpoint.
    """
    tree, checkpoint, manifest = _open(store, key, log)
    if not 0 <= leaf < manifest.bundles * TILE_WIDTH:
        raise ArchiveError(
            f"{store.location}: has the records below leaf {manifest.bundles * TILE_WIDTH}, "
            f"not {leaf}"
        )
    n, offset = divmod(leaf, TILE_WIDTH)
    return _prove(tree, checkpoint, key, leaf, read_bundles(store, [n])[0][offset])


def restore_receipt(
    store: ArchiveStore, key: VerifierKey, receipt: Receipt, *, log: LogFiles | None = None
) -> Restored:
    """Fetch the record of a receipt; as `restore_leaf`.

    Raises:
        ReceiptInvalidError: The archive has no record at its position, or another one.
        ArchiveError, VerificationError: As `restore_leaf`.
    """
    tree, checkpoint, manifest = _open(store, key, log)
    wanted = Position(receipt.region, receipt.epoch, receipt.sequence)
    for segment in manifest.segments:
        if not segment.extent.may_hold(*wanted):
            continue
        for bundle in read_segment(store, segment):
            if not bundle.extent.may_hold(*wanted):
                continue
            for offset, record in enumerate(read_bundles(store, [bundle.n])[0]):
                if _position_of(record) == wanted:
                    leaf = bundle.n * TILE_WIDTH + offset
                    restored = _prove(tree, checkpoint, key, leaf, record)
                    verify_receipt_proof(receipt, restored.proof, record=record, key=key)
                    return restored
    raise ReceiptInvalidError(
        f"receipt {receipt}",
        f"its record is not among the {manifest.bundles * TILE_WIDTH} of {store.location}; the "
        "log may still have it",
    )


def _open(
    store: ArchiveStore, key: VerifierKey, log: LogFiles | None
) -> tuple[TreeFiles, Checkpoint, Manifest]:
    manifest = read_manifest(store)
    if manifest is None or not manifest.segments:
        raise ArchiveError(f"{store.location}: no archive")
    if log is None:
        return ArchiveFiles(store), open_checkpoint(manifest.checkpoint, key), manifest
    checkpoint = read_checkpoint(log, key)
    check_lineage(manifest, log, checkpoint, key)
    return log, checkpoint, manifest


def _prove(
    files: TreeFiles, checkpoint: Checkpoint, key: VerifierKey, leaf: int, record: bytes
) -> Restored:
    # An archive has the tiles of the leaves that it has, and those above all leaves: enough
    # for the way from any of its leaves to the root.
    VerifiedTree(files, checkpoint)
    proof = prove_inclusion(files, checkpoint, leaf)
    verify_proof(proof, record=record, key=key)
    return Restored(leaf, record, proof, checkpoint)


def _position_of(record: bytes) -> Position | None:
    try:
        return parse_position(record)
    except RecordInvalidError:
        return None  # the tree, not this, decides whether the bundle is the log's
