"""The one table from domain error to gRPC status (google.rpc error model)."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Final

import grpc
from google.protobuf import duration_pb2
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2

from strongroom_server.errors import ArgumentInvalidError, Reason, StrongroomError

__all__ = ["CODES", "message_of", "to_status"]

DOMAIN: Final = "strongroom"
# A status travels in the trailers, its message twice. Clients drop trailers over 8 KiB and
# see RESOURCE_EXHAUSTED instead of the reason, so what a caller can make longer is cut.
MAX_MESSAGE_BYTES: Final = 800
MAX_VIOLATIONS: Final = 6
MAX_DESCRIPTION_BYTES: Final = 300

CODES: Final[dict[Reason, grpc.StatusCode]] = {
    Reason.ARGUMENT_INVALID: grpc.StatusCode.INVALID_ARGUMENT,
    Reason.CHECKSUM_MISMATCH: grpc.StatusCode.INVALID_ARGUMENT,
    Reason.CIPHERTEXT_INVALID: grpc.StatusCode.INVALID_ARGUMENT,
    Reason.WRONG_KEY: grpc.StatusCode.INVALID_ARGUMENT,
    Reason.SIGNATURE_INVALID: grpc.StatusCode.INVALID_ARGUMENT,
    Reason.MAC_INVALID: grpc.StatusCode.INVALID_ARGUMENT,
    Reason.POLICY_INVALID: grpc.StatusCode.INVALID_ARGUMENT,
    Reason.KEY_NOT_FOUND: grpc.StatusCode.NOT_FOUND,
    Reason.GRANT_NOT_FOUND: grpc.StatusCode.NOT_FOUND,
    Reason.ALIAS_EXISTS: grpc.StatusCode.ALREADY_EXISTS,
    Reason.REQUEST_ID_REUSED: grpc.StatusCode.ALREADY_EXISTS,
    Reason.KEY_DISABLED: grpc.StatusCode.FAILED_PRECONDITION,
    Reason.KEY_EXHAUSTED: grpc.StatusCode.FAILED_PRECONDITION,
    Reason.KEY_SPEC_UNSUPPORTED: grpc.StatusCode.FAILED_PRECONDITION,
    Reason.KEY_USAGE_MISMATCH: grpc.StatusCode.FAILED_PRECONDITION,
    Reason.KEY_ORIGIN_MISMATCH: grpc.StatusCode.FAILED_PRECONDITION,
    Reason.KEY_MATERIAL_MISMATCH: grpc.StatusCode.INVALID_ARGUMENT,
    Reason.IMPORT_TOKEN_INVALID: grpc.StatusCode.INVALID_ARGUMENT,
    Reason.IMPORT_TOKEN_EXPIRED: grpc.StatusCode.FAILED_PRECONDITION,
    Reason.IMPORT_TOKEN_USED: grpc.StatusCode.FAILED_PRECONDITION,
    Reason.KEY_STATE_INVALID: grpc.StatusCode.FAILED_PRECONDITION,
    Reason.WRONG_REGION: grpc.StatusCode.FAILED_PRECONDITION,
    Reason.LIMIT_EXCEEDED: grpc.StatusCode.FAILED_PRECONDITION,
    Reason.POLICY_DENIED: grpc.StatusCode.PERMISSION_DENIED,
    Reason.PEER_UNAUTHENTICATED: grpc.StatusCode.UNAUTHENTICATED,
    Reason.OVERLOADED: grpc.StatusCode.RESOURCE_EXHAUSTED,
    Reason.QUOTA_EXCEEDED: grpc.StatusCode.RESOURCE_EXHAUSTED,
    Reason.HSM_UNAVAILABLE: grpc.StatusCode.UNAVAILABLE,
    Reason.SHARD_UNAVAILABLE: grpc.StatusCode.UNAVAILABLE,
    Reason.AUDIT_UNAVAILABLE: grpc.StatusCode.UNAVAILABLE,
    Reason.ETAG_MISMATCH: grpc.StatusCode.ABORTED,
    Reason.INTERNAL: grpc.StatusCode.INTERNAL,
}


def to_status(error: StrongroomError, *, request_id: str) -> tuple[grpc.StatusCode, bytes]:
    """Return the gRPC code and the serialised google.rpc.Status of `error`."""
    code = CODES[error.reason]
    head = _head(code.value[0], error.reason, message_of(error), tuple(error.metadata.items()))
    details: list[Message] = []
    if isinstance(error, ArgumentInvalidError):
        details.append(
            error_details_pb2.BadRequest(
                field_violations=[
                    error_details_pb2.BadRequest.FieldViolation(
                        field=v.field,
                        description=_cut(v.description, MAX_DESCRIPTION_BYTES),
                        reason=v.rule,
                    )
                    for v in error.violations[:MAX_VIOLATIONS]
                ]
            )
        )
    if error.retry_after_seconds is not None:
        fraction, seconds = math.modf(error.retry_after_seconds)
        delay = duration_pb2.Duration(seconds=int(seconds), nanos=int(fraction * 1e9))
        details.append(error_details_pb2.RetryInfo(retry_delay=delay))
    details.append(error_details_pb2.RequestInfo(request_id=request_id))
    # Encoded messages one after the other are one message, with the details of both
    # (protobuf.dev, Encoding, "Last One Wins").
    return code, head + _status(0, "", details)


@functools.lru_cache(maxsize=256)
def _head(code: int, reason: Reason, message: str, metadata: tuple[tuple[str, str], ...]) -> bytes:
    """Return what is the same in every refusal of a flood; at most 1 KiB each."""
    info = error_details_pb2.ErrorInfo(reason=reason.value, domain=DOMAIN, metadata=dict(metadata))
    return _status(code, message, [info])


def _status(code: int, message: str, details: Sequence[Message]) -> bytes:
    status = status_pb2.Status(code=code, message=message)
    for detail in details:
        status.details.add().Pack(detail)
    encoded: bytes = status.SerializeToString()
    return encoded


def message_of(error: StrongroomError) -> str:
    """Return the message as it is sent, at most 800 bytes."""
    return _cut(error.message, MAX_MESSAGE_BYTES)


def _cut(text: str, limit_bytes: int) -> str:
    data = text.encode(errors="replace")
    if len(data) <= limit_bytes:
        return text
    # "ignore" drops a character that the cut went through.
    return data[: limit_bytes - 3].decode(errors="ignore") + "…"
