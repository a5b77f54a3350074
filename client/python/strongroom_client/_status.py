"""From a gRPC status to the SDK's error: the only place that reads one."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import grpc
from google.protobuf import any_pb2
from google.protobuf.message import DecodeError, Message
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from strongroom.receipts import METADATA_KEY, Receipt, ReceiptError
from strongroom_client._core import where
from strongroom_client.errors import (
    ArgumentInvalidError,
    DeadlineExceededError,
    FieldViolation,
    OverloadedError,
    StrongroomError,
    UnexpectedStatusError,
    UnreachableError,
    error_for_reason,
)

__all__ = ["error_from_status", "receipts_from_metadata"]

DOMAIN: Final = "strongroom"

#: What gRPC itself reports, without ErrorInfo: nothing of the service was reached.
_BARE: Final[dict[grpc.StatusCode, type[StrongroomError]]] = {
    grpc.StatusCode.UNAVAILABLE: UnreachableError,
    grpc.StatusCode.DEADLINE_EXCEEDED: DeadlineExceededError,
    grpc.StatusCode.RESOURCE_EXHAUSTED: OverloadedError,
    # A call that reaches a server in the moment in which it begins to drain is ended so by
    # gRPC before anybody looks at it. (A caller's own cancellation never comes this way.)
    grpc.StatusCode.CANCELLED: UnreachableError,
}

Metadata = Iterable[tuple[str, str | bytes]]


def receipts_from_metadata(metadata: Metadata | None) -> tuple[Receipt, ...]:
    """Return the receipts of an answer, in order.

    A text that is not a receipt is left out: the answer itself is good, and a caller
    that needs the receipt sees that it is missing.
    """
    receipts = []
    for key, value in metadata or ():
        if key == METADATA_KEY and isinstance(value, str):
            try:
                receipts.append(Receipt.parse(value))
            except ReceiptError:
                continue
    return tuple(receipts)


def error_from_status(
    region: str, code: grpc.StatusCode, details: str | None, metadata: Metadata | None
) -> StrongroomError:
    """Make the error for a call that failed.

    Args:
        region: Whose endpoint was asked; `AUDIT_LOG` for the audit log's.
        code: The status code.
        details: The status message.
        metadata: The trailing metadata; the rich status is in it, or not.
    """
    pairs = tuple(metadata or ())
    receipts = receipts_from_metadata(pairs)
    info, retry_after_seconds, violations = _rich_status(code, pairs)
    if info is not None:
        kind = error_for_reason(info.reason)
        if kind is not None:
            error = kind(
                details or info.reason,
                code=code.name,
                metadata=info.metadata,
                retry_after_seconds=retry_after_seconds,
                receipts=receipts,
            )
            if isinstance(error, ArgumentInvalidError):
                error.violations = violations
            return error
    bare = _BARE.get(code)
    if bare is not None:
        return bare(
            f"{where(region)}: {details or code.name}",
            code=code.name,
            retry_after_seconds=retry_after_seconds,
            receipts=receipts,
        )
    reason = f"{info.reason}: " if info is not None else ""
    return UnexpectedStatusError(
        f"{where(region)}: {code.name}: {reason}{details or ''}",
        code=code.name,
        metadata=info.metadata if info is not None else None,
        receipts=receipts,
    )


def _rich_status(
    code: grpc.StatusCode, metadata: tuple[tuple[str, str | bytes], ...]
) -> tuple[error_details_pb2.ErrorInfo | None, float | None, tuple[FieldViolation, ...]]:
    """Return ErrorInfo of our domain, the retry delay, and the field violations."""
    info: error_details_pb2.ErrorInfo | None = None
    retry_after_seconds: float | None = None
    violations: tuple[FieldViolation, ...] = ()
    for detail in _details(code, metadata):
        candidate = error_details_pb2.ErrorInfo()
        retry = error_details_pb2.RetryInfo()
        bad_request = error_details_pb2.BadRequest()
        if _unpack(detail, candidate):
            info = candidate if candidate.domain == DOMAIN else info
        elif _unpack(detail, retry):
            retry_after_seconds = retry.retry_delay.ToTimedelta().total_seconds()
        elif _unpack(detail, bad_request):
            violations = tuple(
                FieldViolation(each.field, each.reason, each.description)
                for each in bad_request.field_violations
            )
    return info, retry_after_seconds, violations


def _unpack(detail: any_pb2.Any, into: Message) -> bool:
    try:
        return detail.Unpack(into)
    except DecodeError:
        return False


def _details(
    code: grpc.StatusCode, metadata: tuple[tuple[str, str | bytes], ...]
) -> Iterable[any_pb2.Any]:
    for key, value in metadata:
        if key == rpc_status.GRPC_DETAILS_METADATA_KEY and isinstance(value, bytes):
            try:
                status = status_pb2.Status.FromString(value)
            except DecodeError:
                # Something in between mangled it: the plain status still counts.
                return ()
            # A rich status about another code is not about this answer.
            return status.details if status.code == code.value[0] else ()
    return ()
