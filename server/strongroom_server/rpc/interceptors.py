"""What happens to every call before its servicer method, in one named order.

    observe        count, time, one log line
    answer_errors  domain errors become statuses, receipts become trailing metadata
    record         what nobody below has recorded is, before it is answered
    authenticate   exactly one principal from the client certificate
    admit          callers take turns; more calls than there is room for are refused at once
    limit          more than the caller's quota is refused, before anything is spent on it
    validate       protovalidate: the limits in the .proto files

Stages are plain functions from handler to handler. They are composed once, at start, so
a call pays for no dispatch. `intercept` refuses another order than this one.
"""

from __future__ import annotations

import os
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, NoReturn, Protocol

import grpc
import protovalidate
import structlog
from google.protobuf.message import Message

from strongroom.peers import PeerIdentityError, principal_from_auth_context
from strongroom.receipts import METADATA_KEY
from strongroom.rpc_handlers import MalformedRequest
from strongroom_server.errors import (
    ArgumentInvalidError,
    AuditUnavailableError,
    FieldViolation,
    InternalError,
    PeerUnauthenticatedError,
    StrongroomError,
)
from strongroom_server.ports import Clock
from strongroom_server.rpc.call import Call
from strongroom_server.rpc.refused import describe_refused
from strongroom_server.rpc.status import message_of, to_status
from strongroom_server.rpc.turns import Turns
from strongroom_server.services.caller import PRINCIPAL
from strongroom_server.services.quotas import Quotas
from strongroom_server.services.refusals import Refusals

__all__ = ["STAGES", "CallObserver", "Pipeline"]

STAGES: Final = ("observe", "answer_errors", "record", "authenticate", "admit", "limit", "validate")

AUDIT_SERVICE: Final = "strongroom.audit.v1.AuditService"
REQUEST_ID_HEADER: Final = "x-request-id"
MAX_REQUEST_ID_CHARACTERS: Final = 128

Handler = Callable[[Any, Call], Awaitable[Any]]

_log = structlog.stdlib.get_logger("strongroom.rpc")


class CallObserver(Protocol):
    """Hears of every call; implemented over Prometheus."""

    def started(self, service: str, method: str) -> None:
        """Note that a call began."""
        ...

    def handled(self, service: str, method: str, code: str, seconds: float) -> None:
        """Note how a call ended."""
        ...


class Pipeline:
    """The stages with what they need. One instance per server, owned by the event loop."""

    def __init__(
        self,
        *,
        clock: Clock,
        observer: CallObserver,
        default_deadline_seconds: float,
        max_concurrent_calls: int,
        quotas: Quotas,
        refusals: Refusals,
    ) -> None:
        """Take the limits of `[server]` and `[limits]`, and who records refusals."""
        self._clock = clock
        self._observer = observer
        self._default_deadline_seconds = default_deadline_seconds
        self._turns = Turns(max_concurrent_calls)
        self._quotas = quotas
        self._refusals = refusals
        self._validator = protovalidate.Validator()

    def intercept(
        self, service: str, servicer: object, methods: Sequence[str], stages: Sequence[str] = STAGES
    ) -> Any:
        """Return an object whose gRPC methods are `servicer`'s behind the stages.

        Streaming methods are coroutines too: they write with ``call.context.write``.

        Raises:
            ValueError: `stages` is not the one order.
        """
        if tuple(stages) != STAGES:
            raise ValueError(f"stages must be {STAGES}")
        wrapped = type(f"Intercepted{service.rpartition('.')[2]}", (), {})()
        for method in methods:
            setattr(wrapped, method, self._unary(service, method, getattr(servicer, method)))
        return wrapped

    def _unary(self, service: str, method: str, handler: Handler) -> Any:
        chain = self._through(handler)

        async def unary(request: Message, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
            return await chain(request, self._new_call(service, method, context))

        return unary

    def _through(self, handler: Handler) -> Handler:
        for name in reversed(STAGES):
            handler = getattr(self, f"_{name}")(handler)
        return handler

    def _new_call(
        self, service: str, method: str, context: grpc.aio.ServicerContext[Any, Any]
    ) -> Call:
        budget = self._default_deadline_seconds
        # None when the caller set no deadline, whatever the type stubs say.
        remaining: float | None = context.time_remaining()
        if remaining is not None and remaining < budget:
            # A tenth is left for the way back: the answer must reach the caller in time.
            budget = remaining * 0.9
        now = self._clock.monotonic()
        return Call(
            service=service,
            method=method,
            context=context,
            peer=context.peer(),
            request_id=_request_id(context),
            deadline=now + budget,
            hsm_deadline=now + budget - min(0.25, budget * 0.2),
        )

    def _observe(self, handler: Handler) -> Handler:
        async def observe(request: Any, call: Call) -> Any:
            started = time.perf_counter()
            self._observer.started(call.service, call.method)
            try:
                return await handler(request, call)
            except BaseException:
                # Cancelled by the caller, or aborted by the stage below.
                if call.code == "OK":
                    call.code = "CANCELLED"
                raise
            finally:
                seconds = time.perf_counter() - started
                self._observer.handled(call.service, call.method, call.code, seconds)
                _log.info(
                    "call",
                    **{
                        "rpc.method": f"{call.service}/{call.method}",
                        "rpc.response.status_code": call.code,
                    },
                    request_id=call.request_id,
                    principal=call.principal,
                    peer=call.peer,
                    key=call.key,
                    reason=call.reason,
                    duration_ms=round(seconds * 1000, 3),
                )

        return observe

    def _answer_errors(self, handler: Handler) -> Handler:
        async def answer_errors(request: Any, call: Call) -> Any:
            try:
                response = await handler(request, call)
            except StrongroomError as error:
                await self._abort(call, error)
            except Exception as exc:  # noqa: BLE001 - the edge of the server, see below
                # The edge of the server: a fault of ours. The caller gets no details.
                internal = InternalError()
                internal.__cause__ = exc
                await self._abort(call, internal)
            if call.receipts:
                call.context.set_trailing_metadata(_receipt_metadata(call))
            return response

        return answer_errors

    def _record(self, handler: Handler) -> Handler:
        async def record(request: Any, call: Call) -> Any:
            try:
                return await handler(request, call)
            except StrongroomError as error:
                await self._record_refusal(request, call, error)
                raise
            except Exception as exc:
                # A fault of ours, outside of the services: they record their own.
                internal = InternalError()
                await self._record_refusal(request, call, internal)
                raise internal from exc

        return record

    async def _record_refusal(self, request: Any, call: Call, error: StrongroomError) -> None:
        """Record a refusal, unless it has been, or there is nowhere to record it.

        Raises:
            AuditUnavailableError: It cannot be recorded, and so not be answered.
        """
        if error.receipts or isinstance(error, AuditUnavailableError):
            return
        try:
            await self._refusals.record(
                call.caller(), describe_refused(call.method, request), error
            )
        except AuditUnavailableError:
            # The audit log has to learn why it is refused, or it never empties the spool.
            if call.service != AUDIT_SERVICE:
                raise

    def _authenticate(self, handler: Handler) -> Handler:
        async def authenticate(request: Any, call: Call) -> Any:
            try:
                call.principal = principal_from_auth_context(call.context.auth_context())
            except PeerIdentityError as exc:
                raise PeerUnauthenticatedError(str(exc)) from exc
            PRINCIPAL.set(call.principal)
            return await handler(request, call)

        return authenticate

    def _admit(self, handler: Handler) -> Handler:
        turns = self._turns

        async def admit(request: Any, call: Call) -> Any:
            turn = turns.enter(call.principal)
            try:
                if turn is not None:
                    await turn
                return await handler(request, call)
            finally:
                turns.leave(call.principal)

        return admit

    def _limit(self, handler: Handler) -> Handler:
        take_call = self._quotas.take_call

        async def limit(request: Any, call: Call) -> Any:
            take_call(call.principal, call.method)
            return await handler(request, call)

        return limit

    def _validate(self, handler: Handler) -> Handler:
        validator = self._validator

        async def validate(request: Any, call: Call) -> Any:
            if isinstance(request, MalformedRequest):
                raise ArgumentInvalidError.of(
                    "", "protobuf", "the request is not a message of its type"
                )
            violations = validator.collect_violations(request)
            if violations:
                raise ArgumentInvalidError(tuple(_field_violation(v) for v in violations))
            return await handler(request, call)

        return validate

    async def _abort(self, call: Call, error: StrongroomError) -> NoReturn:
        """End the call with the error's status; raises the AbortError of grpc.aio."""
        call.receipts.extend(error.receipts)
        call.reason = error.reason.value
        code, details = to_status(error, request_id=call.request_id)
        call.code = code.name
        if isinstance(error, InternalError):
            _log.error("internal error", request_id=call.request_id, exc_info=error.__cause__)
        metadata: list[tuple[str, str | bytes]] = [*_receipt_metadata(call)]
        metadata.append(("grpc-status-details-bin", details))
        await call.context.abort(code, message_of(error), tuple(metadata))


def _receipt_metadata(call: Call) -> tuple[tuple[str, str], ...]:
    return tuple((METADATA_KEY, str(receipt)) for receipt in call.receipts)


def _request_id(context: grpc.aio.ServicerContext[Any, Any]) -> str:
    for name, value in context.invocation_metadata() or ():
        if name == REQUEST_ID_HEADER and isinstance(value, str):
            # What is not plain text of sane length does not get into logs and records.
            if (
                0 < len(value) <= MAX_REQUEST_ID_CHARACTERS
                and value.isascii()
                and value.isprintable()
            ):
                return value
            break
    return _new_request_id()


def _new_request_id() -> str:
    """Return a random UUID (RFC 9562, 5.4) as text, for a quarter of what `uuid` takes."""
    digits = os.urandom(16).hex()
    variant = "89ab"[int(digits[16], 16) & 3]
    return f"{digits[:8]}-{digits[8:12]}-4{digits[13:16]}-{variant}{digits[17:20]}-{digits[20:]}"


def _field_violation(violation: protovalidate.Violation) -> FieldViolation:
    path = ""
    for element in violation.proto.field.elements if violation.proto.field is not None else ():
        path += f".{element.field_name}" if path else element.field_name
    return FieldViolation(path, violation.proto.rule_id, violation.proto.message)
