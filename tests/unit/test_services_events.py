"""What the service does by itself is on record, also when the spool takes nothing for a while."""

from __future__ import annotations

import asyncio

import pytest
from prometheus_client import CollectorRegistry
from tests.support.memory_service import MemoryService, fields

from strongroom_server.ops.hsm_events import RecordingHsmObserver
from strongroom_server.ops.shard_metrics import ShardFamilies, ShardMetrics
from strongroom_server.services import events
from strongroom_server.services.events import SERVER, ShardEvents


@pytest.fixture
def service() -> MemoryService:
    return MemoryService("eu-1")


@pytest.fixture
async def shard(service: MemoryService) -> ShardEvents:
    return ShardEvents(service.eu.trail, service.recorder)


async def settle() -> None:
    for _ in range(3):
        await asyncio.sleep(0)


async def test_start_and_stop_frame_the_run(service: MemoryService, shard: ShardEvents):
    """The start is durable before anything is served, the stop is the last record."""
    told = {"version": "1.2.3", "config_sha256": "ab" * 32}
    assert await shard.started(told, wait_seconds=1)
    first = service.records()[0]
    assert fields(first) == {
        "principal": SERVER,
        "method": "ServerStarted",
        "outcome": "OK",
        "request_id": "",
        "details": told,
    }
    assert first.peer == ""
    shard.stopped()
    shard.stopped()
    await settle()
    assert [record.method for record in service.records()] == ["ServerStarted", "ServerStopped"]


async def test_a_start_that_failed_has_no_stop(service: MemoryService, shard: ShardEvents):
    """Nothing says that a server stopped which never served."""
    shard.happened("HsmBreakerChanged", details={"state": "open"})
    shard.stopped()
    await settle()
    assert [record.method for record in service.records()] == ["HsmBreakerChanged"]


async def test_a_start_on_a_full_spool_goes_on(service: MemoryService, shard: ShardEvents):
    """The audit log has to be able to drain it; the record follows."""
    service.eu.trail.full = True
    assert not await shard.started({"version": "1"}, wait_seconds=1)
    service.eu.trail.full = False
    shard.stopped()
    await settle()
    assert [record.method for record in service.records()] == ["ServerStarted", "ServerStopped"]


async def test_events_are_kept_in_order_and_counted_beyond_the_bound(
    service: MemoryService, shard: ShardEvents, monkeypatch: pytest.MonkeyPatch
):
    """A spool that takes none for long loses no event silently."""
    monkeypatch.setattr(events, "MAX_KEPT", 5)
    monkeypatch.setattr(events, "RETRY_SECONDS", 0.01)
    service.eu.trail.full = True
    for number in range(8):
        shard.happened("HsmWorkerReplaced", details={"worker_pid": str(number)})
    await asyncio.sleep(0.05)
    assert service.records() == []
    service.eu.trail.full = False
    async with asyncio.timeout(5):
        while len(service.records()) < 6:  # noqa: ASYNC110 - a timer writes them
            await asyncio.sleep(0.01)
    *kept, last = service.records()
    assert [record.details["worker_pid"] for record in kept] == list("01234")
    assert (last.method, last.outcome, last.count) == ("EventsNotRecorded", "FAILED", 3)
    shard.happened("HsmBreakerChanged", details={"state": "closed"})
    await settle()
    assert service.records()[-1].method == "HsmBreakerChanged"


async def test_what_the_pool_tells_is_recorded(service: MemoryService, shard: ShardEvents):
    """Lost and worn workers and the breaker leave a record each; the rest is counted only."""
    metrics = ShardMetrics(ShardFamilies(CollectorRegistry()), "eu-1", ["Encrypt"])
    observer = RecordingHsmObserver(metrics, shard)
    observer.worker_started(7, 0.1)
    observer.operation("encrypt", 0.1, "ok")
    observer.worker_lost(7, "CKR_DEVICE_ERROR " + "x" * 1000)
    observer.worker_retired(8, "100000 unwraps")
    observer.breaker("open")
    await settle()
    lost, worn, breaker = service.records()
    assert (lost.method, lost.outcome) == ("HsmWorkerReplaced", "FAILED")
    assert lost.details["worker_pid"] == "7"
    assert len(lost.details["cause"]) == 500
    assert (worn.outcome, worn.details) == ("OK", {"worker_pid": "8", "cause": "100000 unwraps"})
    assert (breaker.method, breaker.details) == ("HsmBreakerChanged", {"state": "open"})
