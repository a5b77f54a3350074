"""A shard that is paced, and how long its records take to be covered by a checkpoint."""

from __future__ import annotations

import asyncio
import bisect
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tests.support.audit_shard import Shard
from tests.support.nats_shard import NatsShard

from strongroom.audit.v1 import audit_service_pb2 as messages

__all__ = ["Delivery", "PacedNatsShard", "PacedShard", "deliver"]

TICK_SECONDS = 0.02


@dataclass(frozen=True)
class Delivery:
    """What was measured. A lag is from a record's writing to its acknowledgement.

    A shard is acknowledged after the checkpoint was published, so the checkpoint came
    earlier than the lag says.
    """

    records: int
    seconds: float
    lag_p50_seconds: float
    lag_p99_seconds: float
    lag_max_seconds: float

    @property
    def per_second(self) -> float:
        """Records per second, from the first one written to the last one acknowledged."""
        return self.records / self.seconds


class PacedShard(Shard):
    """Remembers when records were written, and when they were acknowledged."""

    def __init__(self, region: str = "eu-1", epoch: int = 5):
        super().__init__(region, epoch)
        self.written: list[tuple[int, float]] = []
        self.covered: list[tuple[int, float]] = []

    def add(self, count: int) -> None:
        """Write records."""
        super().add(count)
        self.written.append((len(self.records), time.perf_counter()))

    async def AcknowledgeRecords(  # noqa: N802 - a gRPC method
        self, request: messages.AcknowledgeRecordsRequest, context: Any
    ) -> messages.AcknowledgeRecordsResponse:
        self.covered.append((request.through.sequence, time.perf_counter()))
        return await super().AcknowledgeRecords(request, context)

    def lags(self, first: int) -> list[float]:
        """Return the lag of each record behind the first `first`, ascending."""
        sequences = [sequence for sequence, _ in self.covered]
        lags: list[float] = []
        before = 0
        for last, written in self.written:
            for sequence in range(max(before, first) + 1, last + 1):
                at = self.covered[bisect.bisect_left(sequences, sequence)][1]
                lags.append(at - written)
            before = last
        return sorted(lags)


class PacedNatsShard(NatsShard, PacedShard):
    """The same, published."""

    async def acknowledge(self, sequence: int) -> None:
        """Note when."""
        self.covered.append((sequence, time.perf_counter()))
        await super().acknowledge(sequence)


async def deliver(shards: Sequence[PacedShard], *, per_second: int, seconds: float) -> Delivery:
    """Write `per_second` records in all for `seconds`, and wait until all are covered."""
    before = [len(shard.records) for shard in shards]
    share = per_second / len(shards)
    began = time.perf_counter()
    while (elapsed := time.perf_counter() - began) < seconds:
        for shard, start in zip(shards, before, strict=True):
            due = int(share * elapsed) - (len(shard.records) - start)
            if due > 0:
                shard.add(due)
        await asyncio.sleep(TICK_SECONDS)
    async with asyncio.timeout(60):
        while any(shard.acknowledged < len(shard.records) for shard in shards):  # noqa: ASYNC110 - it happens in another process
            await asyncio.sleep(0.005)
    ended = max(shard.covered[-1][1] for shard in shards)
    lags = sorted(
        lag for shard, start in zip(shards, before, strict=True) for lag in shard.lags(start)
    )
    return Delivery(
        len(lags), ended - began, lags[len(lags) // 2], lags[int(len(lags) * 0.99)], lags[-1]
    )
