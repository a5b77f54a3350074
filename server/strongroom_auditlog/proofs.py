"""Proofs about a log, made from its files."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from strongroom.receipts import Receipt
from strongroom.tlog.checkpoint import Checkpoint, VerifierKey
from strongroom.tlog.cosignature import NO_WITNESSES, WitnessPolicy
from strongroom.tlog.errors import ReceiptInvalidError
from strongroom.tlog.merkle import consistency_proof, inclusion_proof
from strongroom.tlog.proof import TlogProof, verify_proof
from strongroom_auditlog.errors import RecordInvalidError
from strongroom_auditlog.records import Position, parse_position
from strongroom_auditlog.tiles import TILE_WIDTH, LogFiles, TreeFiles
from strongroom_auditlog.verify import read_checkpoint

__all__ = [
    "find_position",
    "prove_consistency",
    "prove_inclusion",
    "prove_receipt",
    "verify_receipt_proof",
]


def prove_inclusion(files: TreeFiles, checkpoint: Checkpoint, index: int) -> TlogProof:
    """Prove that leaf `index` is in the tree of `checkpoint`.

    Raises:
        ValueError: The tree has no such leaf.
        TileInvalidError: A tile that the proof needs is missing or has another length.
    """
    subtree = partial(files.subtree_hash, checkpoint.size)
    hashes = inclusion_proof(index, checkpoint.size, subtree)
    return TlogProof(index, tuple(hashes), checkpoint.text)


def prove_consistency(
    files: TreeFiles, checkpoint: Checkpoint, first: int, second: int
) -> list[bytes]:
    """Prove that the tree of size `first` is a prefix of that of size `second`.

    Neither need be a size that was signed; both lie within `checkpoint`.

    Raises:
        ValueError: Not ``1 <= first <= second <= checkpoint.size``.
        TileInvalidError: A tile that the proof needs is missing or has another length.
    """
    if second > checkpoint.size:
        raise ValueError("the second size is larger than the log")
    return consistency_proof(first, second, partial(files.subtree_hash, checkpoint.size))


def verify_receipt_proof(
    receipt: Receipt,
    proof: TlogProof,
    *,
    record: bytes,
    key: VerifierKey,
    witnesses: WitnessPolicy = NO_WITNESSES,
) -> Checkpoint:
    """Verify that `record` is the one that `receipt` was given for, and is in the log.

    Raises:
        ReceiptInvalidError: The record is another one.
        CheckpointInvalidError, ProofInvalidError: As `verify_proof`.
    """
    expected = Receipt.for_record(
        region=receipt.region, epoch=receipt.epoch, sequence=receipt.sequence, record=record
    )
    if expected != receipt:
        raise ReceiptInvalidError(f"receipt {receipt}", "the record is another one")
    try:
        position = parse_position(record)
    except RecordInvalidError as exc:
        raise ReceiptInvalidError(f"receipt {receipt}", str(exc)) from exc
    if position != (receipt.region, receipt.epoch, receipt.sequence):
        raise ReceiptInvalidError(f"receipt {receipt}", f"the record says that it is {position}")
    return verify_proof(proof, record=record, key=key, witnesses=witnesses)


def find_position(files: LogFiles, size: int, position: Position) -> tuple[int, bytes] | None:
    """Find a record in the entries themselves, newest bundle first, without any index.

    Returns:
        Its leaf and its bytes.

    Raises:
        EntryInvalidError: A bundle on the way is missing or malformed.
    """
    # The bytes must occur in the record whatever the order of its members.
    needle = str(position.sequence).encode()
    for n in range((size - 1) // TILE_WIDTH, -1, -1):
        for offset, entry in enumerate(files.read_entries(n, size)):
            if needle in entry:
                try:
                    found = parse_position(entry)
                except RecordInvalidError:
                    continue  # `verify_log` is who complains about that
                if found == position:
                    return n * TILE_WIDTH + offset, entry
    return None


def prove_receipt(
    directory: Path, key: VerifierKey, receipt: Receipt, *, extra: bytes | None = None
) -> tuple[TlogProof, bytes]:
    """Prove from a log's files that the record of `receipt` is in it.

    Returns:
        The proof, verified, and the record's bytes.

    Raises:
        ReceiptInvalidError: The record is not in the log, or is another one.
        VerificationError: The log's files are damaged.
    """
    files = LogFiles(directory)
    checkpoint = read_checkpoint(files, key)
    position = Position(receipt.region, receipt.epoch, receipt.sequence)
    found = find_position(files, checkpoint.size, position)
    if found is None:
        raise ReceiptInvalidError(f"receipt {receipt}", "not in the log")
    index, record = found
    bare = prove_inclusion(files, checkpoint, index)
    verify_receipt_proof(receipt, bare, record=record, key=key)
    return TlogProof(bare.index, bare.hashes, bare.checkpoint, extra), record
