"""From bytes to messages: the handlers that gRPC is given, made from a service's descriptor.

The generated ones parse a request before any code of ours runs, and answer bytes that are no
message with UNKNOWN. Here such bytes go through the pipeline like every other request, so that
the caller is authenticated first, the call is counted and logged, and the refusal has a reason.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

import grpc
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.protobuf.message import DecodeError, Message
from google.protobuf.message_factory import GetMessageClass

__all__ = ["MALFORMED", "MalformedRequest", "generic_handler"]


class MalformedRequest:
    """Stands for a request whose bytes are no message of its type."""

    __slots__ = ()


MALFORMED: Final = MalformedRequest()


def generic_handler(
    service: ServiceDescriptor, servicer: object, methods: Sequence[str]
) -> grpc.GenericRpcHandler:
    """Return the handler of a service with unary requests.

    Args:
        service: Its descriptor.
        servicer: Has a coroutine for each of `methods`.
        methods: What is served; every other method is UNIMPLEMENTED.
    """
    return grpc.method_handlers_generic_handler(
        service.full_name,
        {name: _handler(service.methods_by_name[name], servicer) for name in methods},
    )


def _handler(method: MethodDescriptor, servicer: object) -> grpc.RpcMethodHandler[Any, Any]:
    make: Any = grpc.unary_unary_rpc_method_handler
    if method.server_streaming:
        make = grpc.unary_stream_rpc_method_handler
    handler: grpc.RpcMethodHandler[Any, Any] = make(
        getattr(servicer, method.name),
        request_deserializer=_tolerant(GetMessageClass(method.input_type)),
        response_serializer=GetMessageClass(method.output_type).SerializeToString,
    )
    return handler


def _tolerant(request: type[Message]) -> Callable[[bytes], Message | MalformedRequest]:
    parse = request.FromString

    def deserialize(data: bytes) -> Message | MalformedRequest:
        try:
            return parse(data)
        except DecodeError:
            return MALFORMED

    return deserialize
