"""The server's metrics: names, closed label sets, zeroes from the start, cost."""

from __future__ import annotations

import inspect
import re
import time
from datetime import UTC, datetime

import pytest
from prometheus_client.parser import text_string_to_metric_families

from strongroom.audit.v1 import audit_service_pb2
from strongroom.kms.v1 import key_service_pb2
from strongroom_server.domain.keys import KeyState
from strongroom_server.hsm.breaker import BreakerState
from strongroom_server.hsm.observer import PoolObserver
from strongroom_server.hsm.wire import Operation
from strongroom_server.ops.metrics import Metrics
from strongroom_server.ops.observers import HsmObserver
from strongroom_server.ops.shard_metrics import (
    HSM_ALARMS,
    HSM_BREAKER_STATES,
    HSM_ERROR_CATEGORIES,
    HSM_MECHANISMS,
)

START = datetime(2026, 1, 2, tzinfo=UTC)
KEY_SERVICE = key_service_pb2.DESCRIPTOR.services_by_name["KeyService"]
AUDIT_SERVICE = audit_service_pb2.DESCRIPTOR.services_by_name["AuditService"]
ENCRYPT = "/strongroom.kms.v1.KeyService/Encrypt"


@pytest.fixture
def metrics() -> Metrics:
    return Metrics(
        regions=["eu-1", "us-1"],
        services=[KEY_SERVICE, AUDIT_SERVICE],
        operations=[method.name for method in KEY_SERVICE.methods],
        version="0.1.0",
        start_time=START,
    )


def samples(metrics: Metrics) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """Return every sample of a scrape by name and labels."""
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(metrics.exposition().decode())
        for sample in family.samples
        if not sample.name.endswith("_created")
    }


def value(metrics: Metrics, name: str, **labels: str) -> float:
    return samples(metrics)[name, frozenset(labels.items())]


NAMES = {
    "grpc_server_started_total",
    "grpc_server_handled_total",
    "grpc_server_handling_seconds_count",
    "strongroom_operations_total",
    "strongroom_hsm_operation_seconds_count",
    "strongroom_hsm_errors_total",
    "strongroom_hsm_sessions",
    "strongroom_hsm_up",
    "strongroom_hsm_alarms_total",
    "strongroom_hsm_breaker_state",
    "strongroom_hsm_workers_replaced_total",
    "strongroom_keys",
    "strongroom_key_versions",
    "strongroom_authz_decisions_total",
    "strongroom_audit_events_total",
    "strongroom_audit_failures_total",
    "strongroom_audit_spool_bytes",
    "strongroom_audit_spool_limit_bytes",
    "strongroom_audit_unacked_oldest_seconds",
    "strongroom_certificate_expiry_timestamp_seconds",
    "strongroom_build_info",
    "strongroom_start_time_seconds",
}


def test_every_documented_metric_is_there_before_anything_happened(metrics: Metrics) -> None:
    """The first scrape has every series, with 0, so that the first event is an increase."""
    first = samples(metrics)
    assert {name for name, _ in first} >= NAMES
    ours = {
        name: number
        for (name, _), number in first.items()
        if name.startswith(("strongroom_", "grpc_"))
        and name not in {"strongroom_build_info", "strongroom_start_time_seconds"}
    }
    assert set(ours.values()) == {0.0}


def test_a_call_is_counted_by_code_and_duration(metrics: Metrics) -> None:
    """started, handled and the histogram move together."""
    rpc = metrics.rpcs.rpc(ENCRYPT)
    rpc.start()
    rpc.end("PERMISSION_DENIED", 0.0004)
    labels = {
        "grpc_type": "unary",
        "grpc_service": "strongroom.kms.v1.KeyService",
        "grpc_method": "Encrypt",
    }
    assert value(metrics, "grpc_server_started_total", **labels) == 1
    assert value(metrics, "grpc_server_handled_total", grpc_code="PERMISSION_DENIED", **labels) == 1
    name = "grpc_server_handling_seconds_bucket"
    assert value(metrics, name, le="0.00025", **labels) == 0
    assert value(metrics, name, le="0.0005", **labels) == 1
    assert value(metrics, name, le="10.0", **labels) == 1


def test_streams_have_their_type(metrics: Metrics) -> None:
    """A server stream is labelled so."""
    metrics.rpcs.rpc("/strongroom.audit.v1.AuditService/StreamRecords").start()
    assert (
        value(
            metrics,
            "grpc_server_started_total",
            grpc_type="server_stream",
            grpc_service="strongroom.audit.v1.AuditService",
            grpc_method="StreamRecords",
        )
        == 1
    )


def test_made_up_values_do_not_make_series(metrics: Metrics) -> None:
    """What a caller or a later version makes up falls into one series and fails nothing."""
    before = samples(metrics).keys()
    rpc = metrics.rpcs.rpc("/evil.Service/Method" + "x" * 1000)
    rpc.start()
    rpc.end("NO_SUCH_CODE", 1.0)
    shard = metrics.shard("eu-1")
    shard.operation("NoSuchRpc", "OK")
    shard.operation("Encrypt", "NO_SUCH_REASON")
    shard.hsm_operation("no such operation", 0.1)
    shard.hsm_error("no such category")
    shard.hsm_alarm("no such category")
    assert samples(metrics).keys() == before
    assert value(
        metrics, "strongroom_operations_total", operation="other", region="eu-1", outcome="OK"
    )
    assert value(metrics, "strongroom_hsm_errors_total", region="eu-1", category="other")


def test_a_shard_counts_for_its_region_only(metrics: Metrics) -> None:
    """Regions do not mix."""
    shard = metrics.shard("eu-1")
    shard.operation("Encrypt", "OK")
    shard.hsm_operation("encrypt", 0.00002)
    shard.set_sessions(2)
    shard.set_keys({KeyState.ENABLED: 3}, versions=5)
    shard.audit_recorded(4)
    shard.operation("Encrypt", "AUDIT_UNAVAILABLE")
    shard.worker_replaced()
    shard.set_spool(1000, 2.5, 7)
    shard.set_spool_limits(2**20, 900.0)
    expected = {
        "strongroom_hsm_sessions": 2,
        "strongroom_hsm_up": 1,
        "strongroom_key_versions": 5,
        "strongroom_audit_events_total": 4,
        "strongroom_audit_failures_total": 1,
        "strongroom_hsm_workers_replaced_total": 1,
        "strongroom_audit_spool_bytes": 1000,
        "strongroom_audit_spool_limit_bytes": 2**20,
        "strongroom_audit_unacked_oldest_seconds": 2.5,
    }
    for name, number in expected.items():
        assert value(metrics, name, region="eu-1") == number
        assert value(metrics, name, region="us-1") == 0
    assert value(metrics, "strongroom_keys", region="eu-1", state="ENABLED") == 3
    assert value(metrics, "strongroom_keys", region="eu-1", state="DISABLED") == 0
    shard.set_sessions(0)
    assert value(metrics, "strongroom_hsm_up", region="eu-1") == 0


def test_a_region_that_is_not_hosted_is_a_wiring_mistake(metrics: Metrics) -> None:
    """There is no series for it, and none is made."""
    with pytest.raises(KeyError):
        metrics.shard("mars-1")


def test_decisions_certificates_and_hooks(metrics: Metrics) -> None:
    """The process's own series are set, hooks run before a scrape."""
    metrics.decision(allowed=True)
    metrics.decision(allowed=False)
    metrics.decision(allowed=False)
    metrics.certificate_expires("server", START)
    metrics.on_scrape(lambda: metrics.shard("us-1").set_sessions(7))
    assert value(metrics, "strongroom_hsm_sessions", region="us-1") == 0
    metrics.refresh()
    assert value(metrics, "strongroom_hsm_sessions", region="us-1") == 7
    assert value(metrics, "strongroom_authz_decisions_total", decision="allow") == 1
    assert value(metrics, "strongroom_authz_decisions_total", decision="deny") == 2
    name = "strongroom_certificate_expiry_timestamp_seconds"
    assert value(metrics, name, cert="server") == START.timestamp()
    assert value(metrics, name, cert="client_ca") == 0
    assert value(metrics, "strongroom_build_info", version="0.1.0") == 1
    assert value(metrics, "strongroom_start_time_seconds") == START.timestamp()


def test_names_follow_the_conventions(metrics: Metrics) -> None:
    """Our names: one prefix, base units, lower case."""
    for family in text_string_to_metric_families(metrics.exposition().decode()):
        if family.name.startswith("strongroom_"):
            assert re.fullmatch(r"strongroom_[a-z_]+", family.name)
            assert family.documentation.endswith(".")


def test_what_the_pool_tells_is_counted(metrics: Metrics) -> None:
    """An operation without a duration counts as an error and leaves the histogram alone."""
    observer: PoolObserver = HsmObserver(metrics.shard("eu-1"))
    observer.operation("encrypt", 0.00002, "ok")
    observer.operation("decrypt", 0.00002, "tampered")
    observer.operation("decrypt", 0.0, "deadline")
    observer.worker_started(4711, 0.2)
    observer.worker_lost(4711, "killed by signal 9")
    observer.worker_retired(4712, "worn")
    observer.alarm("pin_refused", "CKR_PIN_INCORRECT")
    seconds = "strongroom_hsm_operation_seconds_count"
    assert value(metrics, seconds, region="eu-1", mechanism="encrypt") == 1
    assert value(metrics, seconds, region="eu-1", mechanism="decrypt") == 1
    errors = "strongroom_hsm_errors_total"
    assert value(metrics, errors, region="eu-1", category="tampered") == 1
    assert value(metrics, errors, region="eu-1", category="deadline") == 1
    assert value(metrics, "strongroom_hsm_workers_replaced_total", region="eu-1") == 1
    alarms = "strongroom_hsm_alarms_total"
    assert value(metrics, alarms, region="eu-1", category="pin_refused") == 1
    for state, number in (("open", 2), ("half_open", 1), ("closed", 0)):
        observer.breaker(state)
        assert value(metrics, "strongroom_hsm_breaker_state", region="eu-1") == number
    assert set(HSM_BREAKER_STATES) == {state.value for state in BreakerState}


def test_every_category_of_the_pool_has_a_series() -> None:
    """The label sets are those that the pool's observer documents."""
    documented = set(re.findall(r"``([a-z_]+)``", inspect.getdoc(PoolObserver.operation) or ""))
    assert documented == {*HSM_MECHANISMS, *HSM_ERROR_CATEGORIES, "ok"}
    alarms = set(re.findall(r"``([a-z_]+)``", inspect.getdoc(PoolObserver.alarm) or ""))
    assert alarms == set(HSM_ALARMS)


def test_every_operation_of_the_hsm_workers_has_a_series() -> None:
    """The label set is the protocol's own."""
    assert set(HSM_MECHANISMS) == {operation.name.lower() for operation in Operation}


def test_two_servers_in_one_process_do_not_share_metrics(metrics: Metrics) -> None:
    """The registry is the object's own, not the library's global one."""
    other = Metrics(regions=["eu-1"], services=[], operations=[], version="x", start_time=START)
    other.decision(allowed=True)
    assert value(metrics, "strongroom_authz_decisions_total", decision="allow") == 0


def test_counting_a_call_is_cheap(metrics: Metrics) -> None:
    """All counting for one call stays far below the cost of the call itself."""
    rpc, shard = metrics.rpcs.rpc(ENCRYPT), metrics.shard("eu-1")
    rounds = 2000
    start = time.perf_counter()
    for _ in range(rounds):
        rpc.start()
        shard.operation("Encrypt", "OK")
        shard.hsm_operation("encrypt", 0.0001)
        metrics.decision(allowed=True)
        shard.audit_recorded()
        rpc.end("OK", 0.0005)
    assert (time.perf_counter() - start) / rounds < 0.000_2
