"""The one table from refusal to gRPC status (google.rpc error model)."""

from __future__ import annotations

from typing import Final

import grpc
from google.protobuf import any_pb2
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2

from strongroom_auditlog.errors import Reason, RequestError

__all__ = ["CODES", "to_status"]

DOMAIN: Final = "strongroom"

CODES: Final[dict[Reason, grpc.StatusCode]] = {
    Reason.ARGUMENT_INVALID: grpc.StatusCode.INVALID_ARGUMENT,
    Reason.POLICY_DENIED: grpc.StatusCode.PERMISSION_DENIED,
    Reason.PEER_UNAUTHENTICATED: grpc.StatusCode.UNAUTHENTICATED,
    Reason.RECORD_NOT_FOUND: grpc.StatusCode.NOT_FOUND,
    Reason.RECORD_ARCHIVED: grpc.StatusCode.FAILED_PRECONDITION,
    Reason.OVERLOADED: grpc.StatusCode.RESOURCE_EXHAUSTED,
    Reason.INTERNAL: grpc.StatusCode.INTERNAL,
}


def to_status(error: RequestError, *, request_id: str) -> tuple[grpc.StatusCode, bytes]:
    """Return the gRPC code and the serialised google.rpc.Status of `error`."""
    code = CODES[error.reason]
    details: list[Message] = [
        error_details_pb2.ErrorInfo(
            reason=error.reason.value, domain=DOMAIN, metadata=error.metadata
        )
    ]
    if error.violations:
        violation = error_details_pb2.BadRequest.FieldViolation
        details.append(
            error_details_pb2.BadRequest(
                field_violations=[
                    violation(field=v.field, description=v.description, reason=v.rule)
                    for v in error.violations
                ]
            )
        )
    details.append(error_details_pb2.RequestInfo(request_id=request_id))
    status = status_pb2.Status(code=code.value[0], message=error.message)
    for detail in details:
        packed = any_pb2.Any()
        packed.Pack(detail)
        status.details.append(packed)
    return code, status.SerializeToString()
