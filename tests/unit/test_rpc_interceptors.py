"""The pipeline: one order of stages, deadlines, and request ids that are safe to log."""

from __future__ import annotations

import asyncio
import uuid
from dataclasses import dataclass, field
from typing import Any

import pytest
from tests.support.memory_ports import MemoryClock
from tests.support.memory_service import MemoryService
from tests.support.rpc_server import SeenCalls

from strongroom.kms.v1 import key_service_pb2 as messages
from strongroom_server.domain.limits import Limits
from strongroom_server.rpc.call import Call
from strongroom_server.rpc.interceptors import STAGES, Pipeline
from strongroom_server.services.quotas import Quotas

ORDERS = b"spiffe://example.org/orders"
REQUEST = messages.GenerateRandomRequest(parent="regions/eu-1", number_of_bytes=8)


class AbortedError(Exception):
    """What the context raises to end a call."""


@dataclass
class Context:
    """As much of a ServicerContext as the pipeline uses; for metadata no client can send."""

    metadata: tuple[tuple[str, str | bytes], ...] = ()
    remaining: float | None = None
    uris: tuple[bytes, ...] = (ORDERS,)
    aborted: list[Any] = field(default_factory=list)

    def time_remaining(self) -> float | None:
        return self.remaining

    def peer(self) -> str:
        return "ipv4:127.0.0.1:1"

    def invocation_metadata(self) -> tuple[tuple[str, str | bytes], ...]:
        return self.metadata

    def auth_context(self) -> dict[str, tuple[bytes, ...]]:
        return {"peer_uri": self.uris}

    def set_trailing_metadata(self, metadata: object) -> None:
        del metadata

    async def abort(self, code: object, message: str, metadata: object) -> None:
        self.aborted.append((code, message, metadata))
        raise AbortedError


class Echo:
    """A servicer that keeps its call."""

    def __init__(self) -> None:
        self.calls: list[Call] = []

    async def GenerateRandom(self, request: Any, call: Call) -> Any:  # noqa: N802 - a gRPC method
        self.calls.append(call)
        return request


def no_quotas() -> Quotas:
    """Return quotas that nobody meets."""
    return Quotas(Limits({}), clock=MemoryClock(), on_refusal=lambda _: None)


async def call_through(context: Context, seen: SeenCalls | None = None) -> Call:
    """Send a request through the stages; return the call as the servicer saw it."""
    pipeline = Pipeline(
        clock=MemoryClock(),
        observer=seen or SeenCalls(),
        default_deadline_seconds=5.0,
        max_concurrent_calls=1,
        quotas=no_quotas(),
        refusals=MemoryService().refusals,
    )
    echo = Echo()
    wrapped = pipeline.intercept("a.b.Service", echo, ["GenerateRandom"])
    await wrapped.GenerateRandom(REQUEST, context)
    return echo.calls[0]


@pytest.mark.parametrize(
    "stages",
    [(), STAGES[:-1], STAGES[::-1], (*STAGES, "validate"), ("authenticate", *STAGES[:3])],
)
def test_another_order_of_stages_is_refused(stages):
    """There is one order, and a server with another does not start."""
    pipeline = Pipeline(
        clock=MemoryClock(),
        observer=SeenCalls(),
        default_deadline_seconds=5.0,
        max_concurrent_calls=1,
        quotas=no_quotas(),
        refusals=MemoryService().refusals,
    )
    with pytest.raises(ValueError, match="stages must be"):
        pipeline.intercept("a.b.Service", Echo(), ["GenerateRandom"], stages)


@pytest.mark.parametrize(
    "value",
    ["", "a\nb", "\x1b[31mred", "\x00", "\x7f", "a\tb", "é", "\u202e", "a" * 129, b"bytes"],
)
async def test_an_id_that_is_not_plain_text_is_replaced(value):
    """Control characters, other scripts, bytes and long texts never reach logs and records."""
    call = await call_through(Context(metadata=(("x-request-id", value),)))
    assert uuid.UUID(call.request_id).version == 4
    assert call.caller().request_id == call.request_id


async def test_a_plain_id_is_kept():
    """The first x-request-id counts; other metadata does not."""
    metadata = (("x-other", "no"), ("x-request-id", "order 17"), ("x-request-id", "second"))
    call = await call_through(Context(metadata=metadata))
    assert call.request_id == "order 17"
    assert call.caller("own").request_id == "own"


@pytest.mark.parametrize(
    ("remaining", "budget"), [(None, 5.0), (60.0, 5.0), (2.0, 1.8), (0.1, 0.09), (0.0, 0.0)]
)
async def test_the_deadline_is_the_earlier_one(remaining, budget):
    """The caller's, less a tenth for the way back, or the server's; the HSM's comes before it."""
    before = asyncio.get_running_loop().time()
    call = await call_through(Context(remaining=remaining))
    after = asyncio.get_running_loop().time()
    assert before + budget <= call.deadline <= after + budget
    margin = call.deadline - call.hsm_deadline
    assert margin == pytest.approx(min(0.25, budget * 0.2), abs=1e-6)


async def test_refusals_before_the_servicer_are_observed():
    """Who is not authenticated never reaches the servicer, and is counted."""
    seen = SeenCalls()
    context = Context(uris=())
    with pytest.raises(AbortedError):
        await call_through(context, seen)
    assert seen.codes == [("GenerateRandom", "UNAUTHENTICATED")]
    assert len(context.aborted) == 1
