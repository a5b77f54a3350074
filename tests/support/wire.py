"""Calls as they go over the wire, past the SDK's own checks and retries."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import grpc
from google.protobuf.message import Message

from strongroom.kms.v1 import key_service_pb2_grpc
from strongroom.receipts import Receipt
from strongroom_client import StrongroomError
from strongroom_client._status import error_from_status, receipts_from_metadata

__all__ = ["receipts_of", "refusal", "send", "send_async"]


def send(
    channel: grpc.Channel,
    method: str,
    request: Message,
    *,
    seconds: float = 10.0,
    metadata: Sequence[tuple[str, str]] = (),
) -> tuple[Any, tuple[Receipt, ...]]:
    """Make a call of KeyService once; return its answer and its receipts.

    Raises:
        StrongroomError: The status, as the SDK reads it.
    """
    stub = key_service_pb2_grpc.KeyServiceStub(channel)
    try:
        answer, call = getattr(stub, method).with_call(request, timeout=seconds, metadata=metadata)
    except grpc.RpcError as exc:
        failed: Any = exc
        raise error_from_status(
            "wire", failed.code(), failed.details(), failed.trailing_metadata()
        ) from exc
    return answer, receipts_from_metadata(call.trailing_metadata())


async def send_async(
    channel: grpc.aio.Channel, method: str, request: Message, *, seconds: float = 10.0
) -> tuple[Any, tuple[Receipt, ...]]:
    """Do the same from an event loop."""
    stub: Any = key_service_pb2_grpc.KeyServiceStub(channel)
    rpc = getattr(stub, method)(request, timeout=seconds)
    try:
        answer = await rpc
        metadata = await rpc.trailing_metadata()
    except grpc.aio.AioRpcError as exc:
        raise error_from_status("wire", exc.code(), exc.details(), exc.trailing_metadata()) from exc
    return answer, receipts_from_metadata(metadata)


def refusal(
    channel: grpc.Channel, method: str, request: Message, *, seconds: float = 10.0
) -> StrongroomError:
    """Make a call that has to be refused; return the error."""
    try:
        answer, _ = send(channel, method, request, seconds=seconds)
    except StrongroomError as exc:
        return exc
    raise AssertionError(f"{method} was answered: {type(answer).__name__}")


def receipts_of(errors: Sequence[StrongroomError]) -> list[Receipt]:
    """Return the one receipt of each refusal."""
    assert all(len(error.receipts) == 1 for error in errors)
    return [error.receipts[0] for error in errors]
