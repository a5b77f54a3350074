"""AuditLogService: checkpoints, proofs and records of the log.

Methods take a request and the caller's principal. Files are read in threads.
"""

from __future__ import annotations

import asyncio
import hmac
from hashlib import sha256
from typing import Final

from strongroom.audit.v1 import audit_log_service_pb2 as messages
from strongroom_auditlog.errors import FieldViolation, Reason, RequestError
from strongroom_auditlog.listing import list_records
from strongroom_auditlog.log import AuditLog
from strongroom_auditlog.proofs import prove_consistency, prove_inclusion
from strongroom_auditlog.record_filter import RecordFields
from strongroom_auditlog.record_search import RecordSearch
from strongroom_auditlog.records import MAX_POSITION, Position

__all__ = ["METHODS", "SERVICE", "AuditLogService"]

_DESCRIPTOR: Final = messages.DESCRIPTOR.services_by_name["AuditLogService"]
SERVICE: Final[str] = _DESCRIPTOR.full_name
METHODS: Final = tuple(_DESCRIPTOR.methods_by_name)


class AuditLogService:
    """Answers about one log. Thread safety: as the event loop's that calls it."""

    def __init__(self, log: AuditLog, *, search: RecordSearch, readers: frozenset[str]):
        """Serve `log`; `readers` are the principals that may list records."""
        self._log = log
        self._search = search
        self._readers = readers
        self._verifier_key = str(log.signer.verifier_key)

    async def GetCheckpoint(  # noqa: N802 - the names of gRPC methods
        self, request: messages.GetCheckpointRequest, principal: str
    ) -> messages.GetCheckpointResponse:
        del request, principal
        return messages.GetCheckpointResponse(
            checkpoint=self._log.checkpoint.text, verifier_key=self._verifier_key
        )

    async def GetInclusionProof(  # noqa: N802
        self, request: messages.GetInclusionProofRequest, principal: str
    ) -> messages.GetInclusionProofResponse:
        if request.WhichOneof("record") == "index":
            return await asyncio.to_thread(self._prove, request.index, request, principal)
        wanted = request.position
        position = Position(wanted.region, wanted.epoch, wanted.sequence)
        index = None
        if max(wanted.epoch, wanted.sequence) <= MAX_POSITION:
            index = await asyncio.to_thread(self._log.find, position)
        if index is None:
            raise RequestError(
                Reason.RECORD_NOT_FOUND,
                f"no record at {position} in the log of {self._log.checkpoint.size} records; a "
                "record enters the log a moment after the call that it is about",
            )
        return await asyncio.to_thread(self._prove, index, request, principal)

    def _prove(
        self, index: int, request: messages.GetInclusionProofRequest, principal: str
    ) -> messages.GetInclusionProofResponse:
        checkpoint = self._log.checkpoint
        if index >= checkpoint.size:
            raise RequestError(
                Reason.RECORD_NOT_FOUND, f"no leaf {index} in the log of {checkpoint.size} records"
            )
        proof = prove_inclusion(self._log.files, checkpoint, index)
        return messages.GetInclusionProofResponse(
            index=index,
            hashes=proof.hashes,
            checkpoint=checkpoint.text,
            leaf_hash=self._log.files.subtree_hash(checkpoint.size, 0, index),
            record=self._show(index, checkpoint.size, request.record_sha256, principal),
        )

    def _show(self, index: int, size: int, expected: bytes, principal: str) -> bytes:
        """Return the record at `index` to those who know its hash and whom it is about."""
        if not expected:
            return b""
        record = self._log.files.read_entry(index, size)
        if not hmac.compare_digest(sha256(record).digest(), expected):
            return b""
        if principal not in self._readers and RecordFields.of(record).principal != principal:
            raise RequestError(
                Reason.POLICY_DENIED,
                f"{principal} is neither the principal of this record nor a reader of this log",
            )
        return record

    async def GetConsistencyProof(  # noqa: N802
        self, request: messages.GetConsistencyProofRequest, principal: str
    ) -> messages.GetConsistencyProofResponse:
        del principal
        checkpoint = self._log.checkpoint
        second = request.second_size or checkpoint.size
        if second > checkpoint.size:
            raise _invalid("second_size", "log.size", f"the log has {checkpoint.size} records")
        if request.first_size > second:
            raise _invalid("first_size", "log.size", f"is larger than the second size, {second}")
        hashes = await asyncio.to_thread(
            prove_consistency, self._log.files, checkpoint, request.first_size, second
        )
        return messages.GetConsistencyProofResponse(hashes=hashes, second_size=second)

    async def ListRecords(  # noqa: N802
        self, request: messages.ListRecordsRequest, principal: str
    ) -> messages.ListRecordsResponse:
        if principal not in self._readers:
            raise RequestError(
                Reason.POLICY_DENIED, f"{principal} is not among the readers of this log"
            )
        return await asyncio.to_thread(
            list_records, request, search=self._search, size=self._log.checkpoint.size
        )


def _invalid(field: str, rule: str, description: str) -> RequestError:
    return RequestError.invalid(FieldViolation(field, rule, description))
