"""One timer for the deadlines of all records."""

from __future__ import annotations

import asyncio
import random

import pytest

from strongroom_server.audit.deadlines import Deadlines


async def test_each_future_ends_by_its_deadline() -> None:
    """Whatever the order in which they come, nobody waits for longer than asked, nor less."""
    deadlines: Deadlines[int] = Deadlines(TimeoutError)
    loop = asyncio.get_running_loop()
    began = loop.time()
    late: list[float] = []

    async def caller(seconds: float) -> None:
        with pytest.raises(TimeoutError):
            await deadlines.wait(loop.create_future(), began + seconds)
        late.append(loop.time() - began - seconds)

    order = [number / 100 for number in range(1, 21)]
    random.Random(1).shuffle(order)  # noqa: S311 - no secret
    await asyncio.gather(*map(caller, order))
    assert len(late) == 20
    assert min(late) > -0.002
    assert max(late) < 0.5
    assert not deadlines._waiting
    assert deadlines._timer is None


async def test_what_is_done_in_time_is_returned() -> None:
    """Results, errors and cancellation come through, and nothing is left behind."""
    deadlines: Deadlines[int] = Deadlines(TimeoutError)
    loop = asyncio.get_running_loop()
    end = loop.time() + 60
    done, failed, cancelled = (loop.create_future() for _ in range(3))
    tasks = [asyncio.create_task(deadlines.wait(each, end)) for each in (done, failed, cancelled)]
    await asyncio.sleep(0)
    done.set_result(7)
    failed.set_exception(EOFError())
    tasks[2].cancel()
    assert await tasks[0] == 7
    with pytest.raises(EOFError):
        await tasks[1]
    with pytest.raises(asyncio.CancelledError):
        await tasks[2]
    assert not deadlines._waiting


async def test_a_deadline_that_has_passed_ends_at_once() -> None:
    """The future is given a moment, and no more."""
    deadlines: Deadlines[int] = Deadlines(TimeoutError)
    loop = asyncio.get_running_loop()
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(deadlines.wait(loop.create_future(), loop.time() - 1), 5)
