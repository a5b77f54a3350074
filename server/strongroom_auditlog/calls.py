"""What happens to every call before its method, in one order.

observe (count, time, one log line) -> answer errors -> admit -> authenticate -> validate
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Awaitable, Callable
from typing import Any, Final

import grpc
import protovalidate
import structlog
from google.protobuf.message import Message

from strongroom.peers import PeerIdentityError, principal_from_auth_context
from strongroom.rpc_handlers import MalformedRequest
from strongroom.rpc_metrics import RpcMetrics
from strongroom.tlog.errors import VerificationError
from strongroom_auditlog.errors import EntryArchivedError, FieldViolation, Reason, RequestError
from strongroom_auditlog.status import to_status

__all__ = ["CallGuard", "Method"]

Method = Callable[[Any, str], Awaitable[Message]]
"""A request and the caller's principal to the response; raises `RequestError`."""

STATUS_TRAILER: Final = "grpc-status-details-bin"

_log = structlog.stdlib.get_logger("strongroom.auditlog.rpc")


class CallGuard:
    """The stages, with what they need. Owned by one event loop."""

    def __init__(self, *, metrics: RpcMetrics, max_concurrent_calls: int):
        self._metrics = metrics
        self._max_concurrent_calls = max_concurrent_calls
        self._under_way = 0
        self._validator = protovalidate.Validator()

    def wrap(self, service: str, name: str, method: Method) -> Any:
        """Return `method` behind the stages, in the form that gRPC calls."""
        rpc = self._metrics.rpc(f"/{service}/{name}")

        async def unary(
            request: Message | MalformedRequest, context: grpc.aio.ServicerContext[Any, Any]
        ) -> Message:
            request_id = str(uuid.uuid4())
            began = time.perf_counter()
            rpc.start()
            fields: dict[str, str] = {"peer": context.peer(), "request_id": request_id}
            code = grpc.StatusCode.CANCELLED
            try:
                answer = await self._answer(method, request, context, fields)
                if not isinstance(answer, RequestError):
                    code = grpc.StatusCode.OK
                    return answer
                fields["reason"] = answer.reason.value
                code, status = to_status(answer, request_id=request_id)
                await context.abort(code, answer.message, ((STATUS_TRAILER, status),))
            finally:
                seconds = time.perf_counter() - began
                rpc.end(code.name, seconds)
                duration_ms = round(seconds * 1e3, 3)
                _log.info("call", method=name, code=code.name, duration_ms=duration_ms, **fields)

        return unary

    async def _answer(
        self,
        method: Method,
        request: Message | MalformedRequest,
        context: grpc.aio.ServicerContext[Any, Any],
        fields: dict[str, str],
    ) -> Message | RequestError:
        try:
            return await self._admit(method, request, context, fields)
        except RequestError as exc:
            return exc
        except EntryArchivedError as exc:
            return RequestError(
                Reason.RECORD_ARCHIVED,
                exc.what,
                metadata={"minimum_index": str(exc.minimum_index), "archive": exc.archive},
            )
        except VerificationError as exc:
            _log.exception("the log is damaged", where=exc.where, **fields)
            return RequestError(Reason.INTERNAL, "the log's files are damaged")
        except Exception:  # noqa: BLE001 - the edge to gRPC: callers get no internals
            _log.exception("a call failed", **fields)
            return RequestError(Reason.INTERNAL, "a fault in the audit log")

    async def _admit(
        self,
        method: Method,
        request: Message | MalformedRequest,
        context: grpc.aio.ServicerContext[Any, Any],
        fields: dict[str, str],
    ) -> Message:
        if self._under_way >= self._max_concurrent_calls:
            raise RequestError(Reason.OVERLOADED, "too many calls at once; come back in a second")
        self._under_way += 1
        try:
            try:
                principal = principal_from_auth_context(context.auth_context())
            except PeerIdentityError as exc:
                raise RequestError(Reason.PEER_UNAUTHENTICATED, str(exc)) from exc
            fields["principal"] = principal
            if isinstance(request, MalformedRequest):
                raise RequestError.invalid(
                    FieldViolation("", "protobuf", "the request is not a message of its type")
                )
            self._validate(request)
            return await method(request, principal)
        finally:
            self._under_way -= 1

    def _validate(self, request: Message) -> None:
        try:
            self._validator.validate(request)
        except protovalidate.ValidationError as exc:
            raise RequestError.invalid(
                *(
                    FieldViolation(_path(v.proto), v.proto.rule_id, v.proto.message)
                    for v in exc.violations
                )
            ) from exc


def _path(violation: Any) -> str:
    """Return the path of the field, empty when the rule is about the whole message."""
    field = violation.field
    return ".".join(element.field_name for element in field.elements) if field else ""
