"""AuditLogService: checkpoints, proofs and records of the log.

Methods take a request and the caller's principal. Files are read in threads.
"""

from __future__ import annotations

import asyncio
import re
from typing import Final

from strongroom.audit.v1 import audit_log_service_pb2 as messages
from strongroom.audit.v1 import audit_record_pb2 as nouns
from strongroom_auditlog.errors import FieldViolation, Reason, RequestError
from strongroom_auditlog.log import AuditLog
from strongroom_auditlog.proofs import prove_consistency, prove_inclusion
from strongroom_auditlog.records import MAX_POSITION, Position
from strongroom_auditlog.tiles import TILE_WIDTH

__all__ = ["METHODS", "SERVICE", "AuditLogService"]

_DESCRIPTOR: Final = messages.DESCRIPTOR.services_by_name["AuditLogService"]
SERVICE: Final[str] = _DESCRIPTOR.full_name
METHODS: Final = tuple(_DESCRIPTOR.methods_by_name)

DEFAULT_PAGE_SIZE: Final = 100
MAX_PAGE_BYTES: Final = 2**20  # a client's default limit for a message is 4 MiB

_PAGE_TOKEN: Final = re.compile(r"v1\.(0|[1-9][0-9]{0,18})", re.ASCII)


class AuditLogService:
    """Answers about one log. Thread safety: as the event loop's that calls it."""

    def __init__(self, log: AuditLog, *, readers: frozenset[str]):
        """Serve `log`; `readers` are the principals that may list records."""
        self._log = log
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
        del principal
        if request.WhichOneof("record") == "index":
            return await asyncio.to_thread(self._prove, request.index)
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
        return await asyncio.to_thread(self._prove, index)

    def _prove(self, index: int) -> messages.GetInclusionProofResponse:
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
        )

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
        size = self._log.checkpoint.size
        start = request.start_index
        if request.page_token:
            match = _PAGE_TOKEN.fullmatch(request.page_token)
            if match is None or start:
                raise _invalid(
                    "page_token", "page_token", "not a token of ListRecords, or with start_index"
                )
            start = int(match[1])
        if start > size:
            raise _invalid("start_index", "log.size", f"the log has {size} records")
        count = min(request.page_size or DEFAULT_PAGE_SIZE, size - start)
        records = await asyncio.to_thread(self._read, start, count, size)
        following = start + len(records)
        return messages.ListRecordsResponse(
            records=[
                nouns.LoggedRecord(index=index, record=record)
                for index, record in enumerate(records, start=start)
            ],
            next_page_token=f"v1.{following}" if following < size else "",
            tree_size=size,
        )

    def _read(self, start: int, count: int, size: int) -> list[bytes]:
        """Read up to `count` records, fewer when they are large, but at least one."""
        records: list[bytes] = []
        room = MAX_PAGE_BYTES
        while len(records) < count:
            n, offset = divmod(start + len(records), TILE_WIDTH)
            for entry in self._log.files.read_entries(n, size)[offset:]:
                room -= len(entry)
                if len(records) == count or (records and room < 0):
                    return records
                records.append(entry)
        return records


def _invalid(field: str, rule: str, description: str) -> RequestError:
    return RequestError.invalid(FieldViolation(field, rule, description))
