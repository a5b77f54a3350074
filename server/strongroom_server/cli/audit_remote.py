"""Talks to the audit log's own service; the SDK knows the shards only."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Final, Self, TypeVar

import grpc
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from strongroom.audit.v1 import audit_log_service_pb2 as pb
from strongroom.audit.v1 import audit_record_pb2
from strongroom.audit.v1.audit_log_service_pb2_grpc import AuditLogServiceStub
from strongroom.receipts import Receipt
from strongroom.tlog.proof import TlogProof
from strongroom_auditlog.record_filter import RecordFilter
from strongroom_auditlog.records import Position
from strongroom_client import ClientOptions
from strongroom_server.cli.failures import CliError

__all__ = ["AuditLogClient", "RecordsArchivedError"]

PAGE_RECORDS: Final = 1000

_REASONS: Final = {
    grpc.StatusCode.UNAVAILABLE: "UNREACHABLE",
    grpc.StatusCode.DEADLINE_EXCEEDED: "DEADLINE_EXCEEDED",
    grpc.StatusCode.RESOURCE_EXHAUSTED: "OVERLOADED",
    grpc.StatusCode.UNAUTHENTICATED: "PEER_UNAUTHENTICATED",
    grpc.StatusCode.PERMISSION_DENIED: "POLICY_DENIED",
    grpc.StatusCode.NOT_FOUND: "RECORD_NOT_FOUND",
}

Request = TypeVar("Request")
Answer = TypeVar("Answer")


class RecordsArchivedError(CliError):
    """Records below leaf `minimum_index` are in the archive."""

    def __init__(self, message: str, minimum_index: int):
        super().__init__("RECORD_ARCHIVED", message)
        self.minimum_index = minimum_index


class AuditLogClient:
    """A connection to the audit log. Not thread safe; close it, or use it in ``with``.

    Every method raises CliError with the reason that the log gave.
    """

    def __init__(self, options: ClientOptions):
        if options.audit_log_endpoint is None:
            raise CliError(
                "CONFIGURATION",
                "the configuration does not say where the audit log is",
                'add [audit_log] with endpoint = "host:port"',
            )
        self._endpoint = options.audit_log_endpoint
        self._timeout_seconds = options.timeout_seconds
        tls = options.tls
        credentials = grpc.ssl_channel_credentials(
            root_certificates=tls.ca_file.read_bytes(),
            private_key=tls.private_key_file.read_bytes(),
            certificate_chain=tls.certificate_file.read_bytes(),
        )
        self._channel = grpc.secure_channel(self._endpoint, credentials)
        self._stub = AuditLogServiceStub(self._channel)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._channel.close()

    def records(self, start: int, limit: int) -> tuple[list[tuple[int, bytes]], int]:
        """Return up to `limit` records (leaf, bytes) from leaf `start` on, and the log's size."""
        request = pb.ListRecordsRequest(start_index=start, page_size=min(limit, PAGE_RECORDS))
        answer = self._call(self._stub.ListRecords, request)
        return [(item.index, item.record) for item in answer.records], answer.tree_size

    def size(self) -> int:
        """Return how many records the log has."""
        # The newest one is there, however much was pruned.
        request = pb.ListRecordsRequest(page_size=1, order=pb.RECORD_ORDER_DESCENDING)
        return self._call(self._stub.ListRecords, request).tree_size

    def pages(
        self, wanted: RecordFilter, *, start: int = 0, descending: bool = False
    ) -> Iterator[list[tuple[int, bytes]]]:
        """Yield pages of the records (leaf, bytes) that `wanted` asks for; some may be empty."""
        request = pb.ListRecordsRequest(
            page_size=PAGE_RECORDS,
            start_index=start,
            filter=_filter(wanted),
            order=pb.RECORD_ORDER_DESCENDING if descending else pb.RECORD_ORDER_ASCENDING,
        )
        while True:
            answer = self._call(self._stub.ListRecords, request)
            yield [(item.index, item.record) for item in answer.records]
            if not answer.next_page_token:
                return
            request.page_token, request.start_index = answer.next_page_token, 0

    def leaf_of(self, position: Position) -> int | None:
        """Return the leaf of the record at a position; None when the log does not have it."""
        region, epoch, sequence = position
        message = audit_record_pb2.RecordPosition(region=region, epoch=epoch, sequence=sequence)
        try:
            answer = self._call(
                self._stub.GetInclusionProof, pb.GetInclusionProofRequest(position=message)
            )
        except CliError as exc:
            if exc.reason == "RECORD_NOT_FOUND":
                return None
            raise
        return answer.index

    def prove(self, receipt: Receipt) -> TlogProof:
        """Ask for the inclusion proof of a receipt's record; it is not verified here."""
        position = audit_record_pb2.RecordPosition(
            region=receipt.region, epoch=receipt.epoch, sequence=receipt.sequence
        )
        request = pb.GetInclusionProofRequest(position=position)
        answer = self._call(self._stub.GetInclusionProof, request)
        return TlogProof(answer.index, tuple(answer.hashes), answer.checkpoint)

    def verifier_key(self) -> str:
        """Return the verifier key that the log itself claims: no proof of anything."""
        return self._call(self._stub.GetCheckpoint, pb.GetCheckpointRequest()).verifier_key

    def _call(
        self, method: grpc.UnaryUnaryMultiCallable[Request, Answer], request: Request
    ) -> Answer:
        try:
            return method(request, timeout=self._timeout_seconds)
        except grpc.RpcError as exc:
            raise _error_of(exc, self._endpoint) from exc


def _filter(wanted: RecordFilter) -> pb.RecordFilter:
    message = pb.RecordFilter(
        keys=sorted(wanted.keys),
        principals=sorted(wanted.principals),
        methods=sorted(wanted.methods),
        outcomes=sorted(wanted.outcomes),
        reasons=sorted(wanted.reasons),
        regions=sorted(wanted.regions),
    )
    if wanted.since:
        message.since.FromJsonString(wanted.since)
    if wanted.until:
        message.until.FromJsonString(wanted.until)
    return message


def _error_of(error: grpc.RpcError, endpoint: str) -> CliError:
    code: Callable[[], grpc.StatusCode] = getattr(error, "code", lambda: grpc.StatusCode.UNKNOWN)
    details: Callable[[], str | None] = getattr(error, "details", lambda: None)
    info = _info_in(error)
    reason = _REASONS.get(code(), "UNEXPECTED_STATUS") if info is None else info.reason
    message = f"audit log {endpoint}: {details() or code().name}"
    if info is not None and reason == "RECORD_ARCHIVED":
        minimum = info.metadata.get("minimum_index", "")
        if minimum.isascii() and minimum.isdigit():
            return RecordsArchivedError(message, int(minimum))
    return CliError(reason, message)


def _info_in(error: grpc.RpcError) -> error_details_pb2.ErrorInfo | None:
    """Return the ErrorInfo of ours, when there is one."""
    try:
        status = rpc_status.from_call(error)
        for detail in () if status is None else status.details:
            info = error_details_pb2.ErrorInfo()
            if detail.Is(info.DESCRIPTOR) and detail.Unpack(info) and info.domain == "strongroom":
                return info
    except (ValueError, DecodeError):
        # Something in front of the log sent a status that contradicts itself.
        return None
    return None
