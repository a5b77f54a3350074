"""Proofs about a log, and their text form (C2SP tlog-proof).

c2sp.org/tlog-proof@v1
[extra {base64}]
index {decimal}
{hash, base64}           from the leaf's sibling up, a line each

{checkpoint, a signed note}
"""

from __future__ import annotations

import base64
import binascii
import re
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from strongroom.receipts import Receipt
from strongroom_auditlog.checkpoint import Checkpoint, VerifierKey, open_checkpoint
from strongroom_auditlog.errors import ProofInvalidError, ReceiptInvalidError, RecordInvalidError
from strongroom_auditlog.merkle import (
    HASH_BYTES,
    MAX_PROOF_HASHES,
    consistency_proof,
    inclusion_proof,
    leaf_hash,
    verify_inclusion,
)
from strongroom_auditlog.records import Position, parse_position
from strongroom_auditlog.tiles import TILE_WIDTH, LogFiles
from strongroom_auditlog.verify import read_checkpoint

__all__ = [
    "TlogProof",
    "find_position",
    "prove_consistency",
    "prove_inclusion",
    "prove_receipt",
    "verify_proof",
    "verify_receipt_proof",
]

MAX_PROOF_CHARACTERS: Final = 2**18
_HEADER: Final = "c2sp.org/tlog-proof@v1"
_INDEX: Final = re.compile(r"index (0|[1-9][0-9]{0,18})", re.ASCII)
_WHERE: Final = "proof"


@dataclass(frozen=True, slots=True)
class TlogProof:
    """An inclusion proof that verifies offline, with the record and the verifier key.

    `extra` is not authenticated by anything.
    """

    index: int
    hashes: tuple[bytes, ...]
    checkpoint: str
    extra: bytes | None = None

    def __str__(self) -> str:
        lines = [_HEADER]
        if self.extra is not None:
            lines.append(f"extra {base64.b64encode(self.extra).decode()}")
        lines.append(f"index {self.index}")
        lines.extend(base64.b64encode(item).decode() for item in self.hashes)
        return "\n".join(lines) + f"\n\n{self.checkpoint}"

    @classmethod
    def parse(cls, text: str) -> TlogProof:
        """Parse the text form; the checkpoint in it is not opened yet.

        Raises:
            ProofInvalidError: It is not a tlog-proof, or not in its only spelling.
        """
        if len(text) > MAX_PROOF_CHARACTERS:
            raise ProofInvalidError(_WHERE, f"longer than {MAX_PROOF_CHARACTERS} characters")
        head, separator, checkpoint = text.partition("\n\n")
        lines = head.split("\n")
        if not separator or lines.pop(0) != _HEADER:
            raise ProofInvalidError(_WHERE, f"does not begin with {_HEADER}")
        extra = None
        if lines and lines[0].startswith("extra "):
            extra = _decode(lines.pop(0).removeprefix("extra "))
        match = _INDEX.fullmatch(lines.pop(0)) if lines else None
        if match is None:
            raise ProofInvalidError(_WHERE, "no index, or not a decimal number")
        hashes = tuple(_decode(line) for line in lines[: MAX_PROOF_HASHES + 1])
        if len(lines) > MAX_PROOF_HASHES or any(len(item) != HASH_BYTES for item in hashes):
            raise ProofInvalidError(_WHERE, "expected at most 64 hashes of 32 bytes")
        return cls(int(match[1]), hashes, checkpoint, extra)


def _decode(text: str) -> bytes:
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as exc:
        raise ProofInvalidError(_WHERE, "a line is not base64") from exc
    if base64.b64encode(data).decode() != text:
        raise ProofInvalidError(_WHERE, "a line is not canonical base64")
    return data


def prove_inclusion(files: LogFiles, checkpoint: Checkpoint, index: int) -> TlogProof:
    """Prove that leaf `index` is in the tree of `checkpoint`.

    Raises:
        ValueError: The tree has no such leaf.
        TileInvalidError: A tile that the proof needs is missing or has another length.
    """
    subtree = partial(files.subtree_hash, checkpoint.size)
    hashes = inclusion_proof(index, checkpoint.size, subtree)
    return TlogProof(index, tuple(hashes), checkpoint.text)


def prove_consistency(
    files: LogFiles, checkpoint: Checkpoint, first: int, second: int
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


def verify_proof(proof: TlogProof, *, record: bytes, key: VerifierKey) -> Checkpoint:
    """Verify that `record` is in the log of `key`.

    Returns:
        The checkpoint that the proof leads to.

    Raises:
        CheckpointInvalidError: The checkpoint is not signed by `key`.
        ProofInvalidError: The proof does not lead from `record` to it.
    """
    checkpoint = open_checkpoint(proof.checkpoint, key)
    verify_inclusion(
        index=proof.index,
        size=checkpoint.size,
        leaf=leaf_hash(record),
        proof=proof.hashes,
        root=checkpoint.root,
    )
    return checkpoint


def verify_receipt_proof(
    receipt: Receipt, proof: TlogProof, *, record: bytes, key: VerifierKey
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
    return verify_proof(proof, record=record, key=key)


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
