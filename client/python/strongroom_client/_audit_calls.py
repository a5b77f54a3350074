"""Operations of AuditLogService: ask for proofs, and doubt every answer."""

from __future__ import annotations

import hashlib
import hmac
import json
from dataclasses import dataclass
from typing import Any

from strongroom.audit.v1 import audit_log_service_pb2 as pb
from strongroom.audit.v1.audit_record_pb2 import RecordPosition
from strongroom.receipts import Receipt
from strongroom.tlog.checkpoint import Checkpoint
from strongroom.tlog.cosignature import WitnessPolicy
from strongroom.tlog.errors import ConsistencyInvalidError, VerificationError
from strongroom.tlog.merkle import verify_consistency
from strongroom.tlog.note import VerifierKey
from strongroom.tlog.proof import TlogProof, verify_proof
from strongroom_client._core import AUDIT_LOG, Call, Operation, ask
from strongroom_client.errors import AuditUnverifiedError, ForkDetectedError

__all__ = ["Trust", "VerifiedRecord", "check_growth", "prove", "verify"]


@dataclass(frozen=True, slots=True)
class Trust:
    """What the caller has out of band: the log's verifier key, and which witnesses count."""

    key: VerifierKey
    witnesses: WitnessPolicy


@dataclass(frozen=True, slots=True)
class VerifiedRecord:
    """A record that the audit log provably holds.

    Attributes:
        receipt: What was verified.
        index: Leaf of the record in the log.
        record: The record's exact bytes, UTF-8 JSON (docs/formats/audit-record-v1.md).
        checkpoint: Signed size and root of the log that the proof leads to.
        proof: The proof as a C2SP tlog-proof: with `record`, it convinces others offline.
    """

    receipt: Receipt
    index: int
    record: bytes
    checkpoint: Checkpoint
    proof: str


def _ask_proof(
    receipt: Receipt, *, with_record: bool
) -> Operation[tuple[pb.GetInclusionProofResponse, TlogProof]]:
    request = pb.GetInclusionProofRequest(
        position=RecordPosition(
            region=receipt.region, epoch=receipt.epoch, sequence=receipt.sequence
        ),
        record_sha256=receipt.record_sha256 if with_record else b"",
    )
    call = Call(AUDIT_LOG, "GetInclusionProof", request)
    answer, _ = yield from ask(call, pb.GetInclusionProofResponse)
    return answer, TlogProof(answer.index, tuple(answer.hashes), answer.checkpoint)


def prove(receipt: Receipt) -> Operation[str]:
    """Ask for the proof of a receipt's record, as a text; nothing of it is verified."""
    _, proof = yield from _ask_proof(receipt, with_record=False)
    return str(proof)


def verify(
    receipt: Receipt, trust: Trust, *, seen: Checkpoint | None, record: bytes | None
) -> Operation[VerifiedRecord]:
    """Verify that the record of `receipt` is in the log.

    Args:
        receipt: Whose record.
        trust: What the caller trusts.
        seen: The largest checkpoint that was seen before; the log must have grown from it.
        record: The record's bytes, when the caller has them; else the log is asked.
    """
    answer, proof = yield from _ask_proof(receipt, with_record=record is None)
    data = answer.record if record is None else record
    where = f"receipt {receipt}"
    if not hmac.compare_digest(hashlib.sha256(data).digest(), receipt.record_sha256):
        what = "the record that was given is another one"
        if record is None:
            what = "the log holds another record at its place, or does not show it"
        raise AuditUnverifiedError(f"{where}: {what}")
    if _position_in(data) != (receipt.region, receipt.epoch, receipt.sequence):
        raise AuditUnverifiedError(f"{where}: its record says that it stands elsewhere")
    try:
        checkpoint = verify_proof(proof, record=data, key=trust.key, witnesses=trust.witnesses)
    except VerificationError as exc:
        raise AuditUnverifiedError(f"{where}: {exc}") from exc
    if seen is not None:
        if checkpoint.size < seen.size:
            raise ForkDetectedError(
                f"the audit log shows {checkpoint.size} records and showed {seen.size} before: it "
                "was cut, or an older copy answers"
            )
        yield from check_growth(seen, checkpoint)
    return VerifiedRecord(receipt, proof.index, data, checkpoint, str(proof))


def check_growth(older: Checkpoint, newer: Checkpoint) -> Operation[None]:
    """Have the log prove that it only grew from `older` to `newer`.

    Raises:
        ForkDetectedError: It did not; both are signed, so one of them convicts the log.
    """
    hashes: tuple[bytes, ...] = ()
    if 0 < older.size < newer.size:
        request = pb.GetConsistencyProofRequest(first_size=older.size, second_size=newer.size)
        call = Call(AUDIT_LOG, "GetConsistencyProof", request)
        answer, _ = yield from ask(call, pb.GetConsistencyProofResponse)
        hashes = tuple(answer.hashes)
    try:
        verify_consistency(
            first=older.size,
            second=newer.size,
            first_root=older.root,
            second_root=newer.root,
            proof=hashes,
        )
    except ConsistencyInvalidError as exc:
        raise ForkDetectedError(f"the audit log was rewritten or forked: {exc}") from exc


def _position_in(record: bytes) -> tuple[Any, Any, Any] | None:
    """Return region, epoch and sequence in a record; None when it is no object of its kind."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        members = dict(pairs)
        if len(members) != len(pairs):
            raise ValueError("a name appears twice in one object")
        return members

    try:
        members = json.loads(record.decode(), object_pairs_hook=unique)
    except (ValueError, RecursionError):
        return None
    if not isinstance(members, dict) or members.get("schema") != "strongroom.audit.v1":
        return None
    return members.get("region"), members.get("epoch"), members.get("sequence")
