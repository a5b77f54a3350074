"""Drive operations: the only difference between the sync and the asyncio client."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

from strongroom.receipts import Receipt
from strongroom_client._core import Call, Operation, Reply
from strongroom_client._retry import Attempts
from strongroom_client._transport import AsyncTransport, Transport
from strongroom_client.errors import StrongroomError
from strongroom_client.receipt_log import ReceiptLog

__all__ = ["AsyncDriver", "Driver", "Limits"]

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Limits:
    """How long an operation may take, and how often a call is sent at most."""

    timeout_seconds: float
    max_attempts: int


def _keep(
    receipt_log: ReceiptLog | None, call: Call, receipts: tuple[Receipt, ...], reason: str
) -> None:
    if receipt_log is not None and receipts:
        receipt_log.add(receipts, method=call.method, reason=reason)


class Driver:
    """Runs operations over a blocking transport.

    Thread safety: any number of threads.
    """

    def __init__(
        self,
        transport: Transport,
        limits: Limits,
        *,
        monotonic: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
        uniform: Callable[[float, float], float] = random.uniform,
        receipt_log: ReceiptLog | None = None,
    ):
        self.transport = transport
        self.limits = limits
        self._receipt_log = receipt_log
        self._monotonic = monotonic
        self._sleep = sleep
        self._uniform = uniform

    def with_limits(self, limits: Limits) -> Driver:
        """Return a driver over the same transport."""
        return Driver(
            self.transport,
            limits,
            monotonic=self._monotonic,
            sleep=self._sleep,
            uniform=self._uniform,
            receipt_log=self._receipt_log,
        )

    def run(self, operation: Operation[T]) -> T:
        """Run `operation` to its end, within the time limit."""
        deadline = self._monotonic() + self.limits.timeout_seconds
        try:
            call = next(operation)
            while True:
                try:
                    reply = self._call(call, deadline)
                except StrongroomError as exc:
                    call = operation.throw(exc)
                else:
                    call = operation.send(reply)
        except StopIteration as stop:
            result: T = stop.value
            return result
        finally:
            # Lets the operation give back its keys, also after KeyboardInterrupt.
            operation.close()

    def _call(self, call: Call, deadline: float) -> Reply:
        attempts = Attempts(
            call,
            now=self._monotonic(),
            deadline=deadline,
            max_attempts=self.limits.max_attempts,
            uniform=self._uniform,
        )
        while True:
            timeout_seconds = attempts.start(self._monotonic())
            try:
                reply = self.transport.call(call, timeout_seconds=timeout_seconds)
            except StrongroomError as exc:
                _keep(self._receipt_log, call, exc.receipts, exc.reason)
                delay = attempts.delay_after(exc, self._monotonic())
            else:
                _keep(self._receipt_log, call, reply.receipts, "")
                return reply
            self._sleep(delay)


class AsyncDriver:
    """Runs operations over an asyncio transport, in its event loop."""

    def __init__(
        self,
        transport: AsyncTransport,
        limits: Limits,
        *,
        monotonic: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        uniform: Callable[[float, float], float] = random.uniform,
        receipt_log: ReceiptLog | None = None,
    ):
        self.transport = transport
        self.limits = limits
        self._receipt_log = receipt_log
        self._monotonic = monotonic
        self._sleep = sleep
        self._uniform = uniform

    def with_limits(self, limits: Limits) -> AsyncDriver:
        """Return a driver over the same transport."""
        return AsyncDriver(
            self.transport,
            limits,
            monotonic=self._monotonic,
            sleep=self._sleep,
            uniform=self._uniform,
            receipt_log=self._receipt_log,
        )

    async def run(self, operation: Operation[T]) -> T:
        """Run `operation` to its end, within the time limit."""
        deadline = self._monotonic() + self.limits.timeout_seconds
        try:
            call = next(operation)
            while True:
                try:
                    reply = await self._call(call, deadline)
                except StrongroomError as exc:
                    call = operation.throw(exc)
                else:
                    call = operation.send(reply)
        except StopIteration as stop:
            result: T = stop.value
            return result
        finally:
            operation.close()

    async def _call(self, call: Call, deadline: float) -> Reply:
        attempts = Attempts(
            call,
            now=self._monotonic(),
            deadline=deadline,
            max_attempts=self.limits.max_attempts,
            uniform=self._uniform,
        )
        while True:
            timeout_seconds = attempts.start(self._monotonic())
            try:
                reply = await self.transport.call(call, timeout_seconds=timeout_seconds)
            except StrongroomError as exc:
                _keep(self._receipt_log, call, exc.receipts, exc.reason)
                delay = attempts.delay_after(exc, self._monotonic())
            else:
                _keep(self._receipt_log, call, reply.receipts, "")
                return reply
            await self._sleep(delay)
