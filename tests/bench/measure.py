"""Measuring: CPU of processes, latencies of calls, rows of the table."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import asdict, dataclass

import psutil

__all__ = ["CpuMeter", "LoadResult", "Row", "repeat_for", "run_load"]


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table. Ratios are to the floor named, measured in the same run."""

    work: str
    value: float
    unit: str
    floor: str = ""
    ratio: float | None = None
    goal: str = ""
    note: str = ""

    def as_json(self) -> dict[str, object]:
        """Return the row for the JSON file."""
        return asdict(self)


class CpuMeter:
    """CPU seconds (user + system) of a set of processes since construction."""

    def __init__(self, pids: Iterable[int]) -> None:
        self._processes = [psutil.Process(pid) for pid in pids]
        self._start = self._now()

    def _now(self) -> list[float]:
        times = [process.cpu_times() for process in self._processes]
        return [t.user + t.system for t in times]

    def seconds(self) -> float:
        """Return the CPU seconds used since construction."""
        return sum(now - start for now, start in zip(self._now(), self._start, strict=True))


@dataclass(frozen=True, slots=True)
class LoadResult:
    """What a run of calls took."""

    calls: int
    seconds: float
    p50_ms: float
    p99_ms: float

    @property
    def per_second(self) -> float:
        """Calls per second."""
        return self.calls / self.seconds


async def run_load(
    call: Callable[[], Awaitable[object]], *, calls: int, concurrency: int
) -> LoadResult:
    """Make `calls` calls, `concurrency` at a time, from this event loop."""
    latencies: list[float] = []
    left = calls

    async def worker() -> None:
        nonlocal left
        while left > 0:
            left -= 1
            started = time.perf_counter()
            await call()
            latencies.append(time.perf_counter() - started)

    started = time.perf_counter()
    await asyncio.gather(*(worker() for _ in range(concurrency)))
    seconds = time.perf_counter() - started
    latencies.sort()
    return LoadResult(
        calls=len(latencies),
        seconds=seconds,
        p50_ms=latencies[len(latencies) // 2] * 1e3,
        p99_ms=latencies[int(len(latencies) * 0.99)] * 1e3,
    )


def repeat_for(work: Callable[[], object], *, seconds: float) -> tuple[float, float]:
    """Repeat `work` for about `seconds`; return CPU and wall seconds per repetition.

    Of three rounds the best is taken: the machine is shared.
    """
    work()
    best = (float("inf"), float("inf"))
    for _ in range(3):
        count = 0
        cpu, wall = time.process_time(), time.perf_counter()
        while time.perf_counter() - wall < seconds / 3:
            work()
            count += 1
        best = min(
            best,
            ((time.process_time() - cpu) / count, (time.perf_counter() - wall) / count),
        )
    return best
