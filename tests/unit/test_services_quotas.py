"""Quotas on the way of a call: what counts, what is told, what is recorded."""

from __future__ import annotations

import asyncio

import pytest
from tests.support.memory_service import ORDERS, STRANGER, VISIBLE_TO_ALL, MemoryService, caller

from strongroom_server.domain.limits import LimitName, Limits, parse_rate
from strongroom_server.errors import (
    KeyNotFoundError,
    OverloadedError,
    PolicyDeniedError,
    QuotaExceededError,
)
from strongroom_server.rpc.turns import PER_TURN, Turns

ONCE = (parse_rate("1/day"),)


async def test_a_use_over_the_limit_is_refused_and_spends_nothing() -> None:
    """The second use of a key on this day is counted, not recorded, and the HSM is spared."""
    service = MemoryService(limits=Limits({LimitName.KEY: ONCE}))
    one, other = await service.create_key(), await service.create_key()
    await service.crypto.encrypt(caller(), one.name, b"x", {}, validate_only=False)
    reserved, records = service.reserved(), len(service.records())
    with pytest.raises(QuotaExceededError) as refused:
        await service.crypto.encrypt(caller(), one.name, b"x", {}, validate_only=False)
    assert refused.value.metadata == {"limit": "key", "rate": "1/day"}
    assert 86_000 < (refused.value.retry_after_seconds or 0) <= 86_400
    assert len(service.records()) == records
    assert service.outcomes[-1] == ("eu-1", "Encrypt", "QUOTA_EXCEEDED")
    assert service.over_quota == [LimitName.KEY]
    assert service.reserved() == reserved
    await service.crypto.encrypt(caller(), other.name, b"x", {}, validate_only=False)


async def test_a_quota_tells_nothing_of_a_key_that_one_may_not_use() -> None:
    """However often a stranger tries, the answer is about permission."""
    service = MemoryService(limits=Limits({LimitName.KEY: ONCE}))
    hidden = await service.create_key()
    visible = await service.create_key(VISIBLE_TO_ALL)
    for key, error in ((hidden, KeyNotFoundError), (visible, PolicyDeniedError)):
        for _ in range(3):
            with pytest.raises(error):
                await service.crypto.encrypt(
                    caller(STRANGER), key.name, b"x", {}, validate_only=False
                )
    assert service.over_quota == []


async def test_an_alias_is_its_key() -> None:
    """Another name for a key is no way around its limit."""
    service = MemoryService(limits=Limits({LimitName.DATA: ONCE, LimitName.KEY: ONCE}))
    service.quotas.take_call(ORDERS, "Encrypt")
    with pytest.raises(QuotaExceededError):
        service.quotas.take_call(ORDERS, "Decrypt")
    service.quotas.take_call(ORDERS, "GetKey")
    service.quotas.take_call(ORDERS, "StreamRecords")
    key = await service.create_key()
    service.quotas.take_use(ORDERS, key.key_id)
    with pytest.raises(QuotaExceededError):
        await service.crypto.decrypt(caller(), key.name, b"x", {}, validate_only=True)


async def test_callers_take_turns() -> None:
    """A caller with one call comes in with the next turn, whatever another has sent."""
    turns, order = Turns(100), []

    async def call(who: str) -> None:
        turn = turns.enter(who)
        try:
            if turn is not None:
                await turn
            order.append(who)
        finally:
            turns.leave(who)

    flood = [asyncio.create_task(call("flood")) for _ in range(60)]
    await asyncio.sleep(0)
    light = asyncio.create_task(call("light"))
    await asyncio.gather(*flood, light)
    assert order.index("light") <= 3 * PER_TURN
    assert len(order) == 61
    assert turns._taken == 0
    assert turns._taken_by == {}


async def test_one_caller_leaves_room_for_others() -> None:
    """A caller has at most three quarters of the places, and there is one for the next."""
    turns = Turns(8)
    for _ in range(6):
        turns.enter("flood")
    with pytest.raises(OverloadedError) as refused:
        turns.enter("flood")
    assert refused.value.retry_after_seconds == 0.1
    turns.enter("light")
    turns.leave("flood")
    turns.enter("flood")
    turns.enter("third")
    with pytest.raises(OverloadedError):
        turns.enter("fourth")


async def test_who_goes_away_loses_its_turn_and_no_place() -> None:
    """A cancelled call gives its place back and takes nobody's turn."""
    turns = Turns(100)
    waiting = [turn for _ in range(20) if (turn := turns.enter("gone")) is not None]
    assert len(waiting) == 20 - PER_TURN
    for turn in waiting:
        turn.cancel()
    last = turns.enter("light")
    assert last is not None
    await asyncio.wait_for(last, 1)
    for _ in range(20):
        turns.leave("gone")
    turns.leave("light")
    assert turns._taken == 0
