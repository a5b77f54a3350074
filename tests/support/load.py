"""Load on a deployment that remembers every answer."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import grpc
from tests.support.deployment import Deployment
from tests.support.wire import send_async

from strongroom.kms.v1 import key_service_pb2 as rpc
from strongroom.receipts import Receipt
from strongroom_client import StrongroomError

__all__ = ["Load", "running_load"]

CONTEXT = {"load": "yes"}
#: What a caller sees of a server that went away in the middle of a call.
_LOST = ("UNREACHABLE", "DEADLINE_EXCEEDED")


@dataclass
class Load:
    """Callers in closed loops: encrypt, decrypt what was encrypted, make a data key.

    Attributes:
        receipts: Of every answer, refusals included: what the log must have.
        refusals: How often each reason was told.
        slowest: Seconds of the slowest refusal of each reason.
        wrong: Answers that are not what they should be. Must stay empty.
    """

    deployment: Deployment
    region: str
    key: str
    seconds: float = 5.0
    pause: float = 0.0
    receipts: list[Receipt] = field(default_factory=list)
    blobs: list[tuple[bytes, bytes]] = field(default_factory=list)
    refusals: collections.Counter[str] = field(default_factory=collections.Counter)
    slowest: dict[str, float] = field(default_factory=dict)
    errors: list[StrongroomError] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    answered: int = 0
    last_answer: float = 0.0
    _stopping: bool = False

    async def caller(self, number: int) -> None:
        """Call until told to stop. One connection each, which comes back by itself."""
        async with self.deployment.aio_channel(self.region) as channel:
            turn = 0
            while not self._stopping:
                turn += 1
                try:
                    await self._turn(channel, f"{number}:{turn}".encode(), turn)
                except StrongroomError as error:
                    self._refused(error)
                    await asyncio.sleep(0.02)
                if self.pause:
                    await asyncio.sleep(self.pause)

    async def _turn(self, channel: grpc.aio.Channel, plaintext: bytes, turn: int) -> None:
        encrypt = rpc.EncryptRequest(key=self.key, plaintext=plaintext, encryption_context=CONTEXT)
        blob = (await self._call(channel, "Encrypt", encrypt)).ciphertext
        decrypt = rpc.DecryptRequest(key=self.key, ciphertext=blob, encryption_context=CONTEXT)
        if (await self._call(channel, "Decrypt", decrypt)).plaintext != plaintext:
            self.wrong.append(f"decrypted to something else than {plaintext!r}")
        if turn % 16 == 0:
            self.blobs.append((plaintext, blob))
        generate = rpc.GenerateDataKeyRequest(key=self.key, encryption_context=CONTEXT)
        await self._call(channel, "GenerateDataKey", generate)

    async def _call(self, channel: grpc.aio.Channel, method: str, request: Any) -> Any:
        began = time.monotonic()
        try:
            answer, receipts = await send_async(channel, method, request, seconds=self.seconds)
        except StrongroomError as error:
            took = time.monotonic() - began
            self.slowest[error.reason] = max(took, self.slowest.get(error.reason, 0.0))
            raise
        if len(receipts) != 1:
            self.wrong.append(f"{method} was answered with {len(receipts)} receipts")
        self.receipts += receipts
        self.answered += 1
        self.last_answer = time.monotonic()
        return answer

    def _refused(self, error: StrongroomError) -> None:
        self.refusals[error.reason] += 1
        self.receipts += error.receipts
        self.errors.append(error)

    async def answers_again(self, seconds: float = 30.0) -> float:
        """Wait for the next answer; return how long it took."""
        began, before = time.monotonic(), self.answered
        while self.answered == before:
            assert time.monotonic() - began < seconds, self.refusals
            await asyncio.sleep(0.01)
        return time.monotonic() - began

    async def refused(self, reason: str, times: int, seconds: float = 30.0) -> None:
        """Wait until callers have been told a reason so often."""
        began = time.monotonic()
        while self.refusals[reason] < times:
            assert time.monotonic() - began < seconds, self.refusals
            await asyncio.sleep(0.01)

    def unexpected(self, *reasons: str) -> dict[str, int]:
        """Return the refusals that are neither a lost connection nor of these reasons."""
        expected = {*_LOST, *reasons}
        return {reason: n for reason, n in self.refusals.items() if reason not in expected}

    def stop(self) -> None:
        """Let every caller finish its turn."""
        self._stopping = True


@contextlib.asynccontextmanager
async def running_load(
    deployment: Deployment, region: str, key: str, *, callers: int = 12, **options: Any
) -> AsyncIterator[Load]:
    """Run callers; all have ended when the block is left."""
    load = Load(deployment, region, key, **options)
    tasks = [asyncio.create_task(load.caller(number)) for number in range(callers)]
    try:
        await load.answers_again()
        yield load
    finally:
        load.stop()
        await asyncio.gather(*tasks)
