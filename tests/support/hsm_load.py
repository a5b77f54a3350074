"""Load on a session pool, by callers that check every answer."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.support.softhsm import new_ref

from strongroom_server.domain.keys import KeyMaterial, KeySpec, KeyUsage
from strongroom_server.errors import StrongroomError
from strongroom_server.hsm.pool import SessionPool

__all__ = ["AAD", "ROOT", "PoolLoad", "create_key", "in_seconds", "p99", "running_pool_load"]

AAD = b"\x01context"
ROOT = 1


def in_seconds(seconds: float = 10.0) -> float:
    """Return a deadline."""
    return time.monotonic() + seconds


async def create_key(
    pool: SessionPool, *, root: int | None = None, seconds: float = 10.0
) -> KeyMaterial:
    """Make an AES key; with a root, one of wrapped storage."""
    return await pool.create_version(
        new_ref(),
        spec=KeySpec.AES_256,
        usage=KeyUsage.ENCRYPT_DECRYPT,
        root=root,
        deadline=in_seconds(seconds),
    )


def p99(seconds: Sequence[float]) -> float:
    """Return the 99th percentile."""
    return sorted(seconds)[int(len(seconds) * 0.99)]


@dataclass
class PoolLoad:
    """Callers in closed loops: encrypt, decrypt, make a data key, decrypt that.

    Attributes:
        seconds: Deadline of each call.
        pause: Between turns of a caller.
        latencies: When each call ended, and how long it took.
        refusals: How often each kind of error was met.
        lateness: How much after its deadline each refusal came; negative before it.
        wrong: Answers that are not what they should be. Must stay empty.
    """

    pool: SessionPool
    keys: Sequence[KeyMaterial]
    seconds: float = 5.0
    pause: float = 0.0
    latencies: list[tuple[float, float]] = field(default_factory=list)
    refusals: collections.Counter[str] = field(default_factory=collections.Counter)
    errors: list[StrongroomError] = field(default_factory=list)
    lateness: list[float] = field(default_factory=list)
    slowest_refusal: float = 0.0
    wrong: list[str] = field(default_factory=list)
    last_answer: float = 0.0
    _stopping: bool = False

    @property
    def answered(self) -> int:
        """Calls that were answered."""
        return len(self.latencies)

    async def caller(self, number: int) -> None:
        """Call until told to stop."""
        turn = 0
        while not self._stopping:
            turn += 1
            key = self.keys[(number + turn) % len(self.keys)]
            with contextlib.suppress(StrongroomError):
                await self._turn(key, f"{number}:{turn}".encode())
            await asyncio.sleep(self.pause)

    async def _turn(self, key: KeyMaterial, plaintext: bytes) -> None:
        pool = self.pool
        sealed = await self._call(pool.encrypt, key, plaintext, AAD)
        if await self._call(pool.decrypt, key, sealed, AAD) != plaintext:
            self.wrong.append(f"decrypted to something else than {plaintext!r}")
        made, sealed = await self._call(pool.generate_data_key, key, 32, AAD)
        if await self._call(pool.decrypt, key, sealed, AAD) != made:
            self.wrong.append("the data key decrypts to another")

    async def _call(self, method: Any, *arguments: object) -> Any:
        began = time.monotonic()
        try:
            answer = await method(*arguments, deadline=began + self.seconds)
        except StrongroomError as error:
            took = time.monotonic() - began
            self.errors.append(error)
            self.refusals[error.reason.value] += 1
            self.lateness.append(took - self.seconds)
            self.slowest_refusal = max(self.slowest_refusal, took)
            raise
        self.last_answer = time.monotonic()
        self.latencies.append((self.last_answer, self.last_answer - began))
        return answer

    def between(self, start: float, end: float) -> list[float]:
        """Return how long the calls took that ended between two moments."""
        return [took for at, took in self.latencies if start <= at < end]

    async def answers_again(self, seconds: float = 30.0) -> float:
        """Wait for the next answer; return how long it took."""
        began, before = time.monotonic(), self.answered
        while self.answered == before:
            assert time.monotonic() - began < seconds, self.refusals
            await asyncio.sleep(0.005)
        return time.monotonic() - began

    def stop(self) -> None:
        """Let every caller finish its turn."""
        self._stopping = True


@contextlib.asynccontextmanager
async def running_pool_load(
    pool: SessionPool, *keys: KeyMaterial, callers: int = 8, **options: Any
) -> AsyncIterator[PoolLoad]:
    """Run callers; all have ended, and every answer was right, when the block is left."""
    load = PoolLoad(pool, keys, **options)
    tasks = [asyncio.create_task(load.caller(number)) for number in range(callers)]
    try:
        await load.answers_again()
        yield load
    finally:
        load.stop()
        await asyncio.gather(*tasks)
    assert load.wrong == []
