"""What operators look at: health, reflection, metrics, probes, the log of a process."""

from __future__ import annotations

import json
import re
import uuid
from collections import Counter
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from prometheus_client.parser import text_string_to_metric_families
from tests.support.deployment import AUDIT_LOG, Deployment
from tests.support.wire import refusal, send

from strongroom.kms.v1 import key_service_pb2 as rpc

pytestmark = [pytest.mark.integration, pytest.mark.hsm]

EU = "eu-1"
SERVER = f"server-{EU}"
_HANDLED = (
    'grpc_server_handled_total{grpc_code="OK",grpc_method="Encrypt",'
    'grpc_service="strongroom.kms.v1.KeyService",grpc_type="unary"}'
)
SERVICES = {"strongroom.kms.v1.KeyService", "strongroom.audit.v1.AuditService"}
OPERATIONS = Path(__file__).parents[2] / "docs" / "operations.md"


def test_health_is_told_on_the_grpc_port(shared_deployment: Deployment) -> None:
    """grpc.health.v1 says SERVING for the server and each service, and knows no other."""
    with shared_deployment.channel(EU) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        for service in ("", *SERVICES):
            answer = stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=5)
            assert answer.status == health_pb2.HealthCheckResponse.SERVING
        with pytest.raises(grpc.RpcError, match="NOT_FOUND"):
            stub.Check(health_pb2.HealthCheckRequest(service="strongroom.Other"), timeout=5)


def test_reflection_lists_the_services(shared_deployment: Deployment) -> None:
    """A development deployment describes itself to grpcurl and its like."""
    with shared_deployment.channel(EU) as channel:
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        request = reflection_pb2.ServerReflectionRequest(list_services="")
        answer = next(iter(stub.ServerReflectionInfo(iter([request]), timeout=5)))
        listed = {service.name for service in answer.list_services_response.service}
    assert listed >= SERVICES | {"grpc.health.v1.Health"}


def test_probes_say_what_they_check(shared_deployment: Deployment) -> None:
    """/livez and /readyz answer 200, ?verbose lists the checks, other paths are not there."""
    assert shared_deployment.ops(SERVER, "/livez")[0] == 200
    status, text = shared_deployment.ops(SERVER, "/readyz?verbose")
    assert status == 200
    for check in ("serving", f"hsm-{EU}", f"store-{EU}", f"audit-{EU}"):
        assert check in text
    assert shared_deployment.ops(AUDIT_LOG, "/readyz")[0] == 200
    assert shared_deployment.ops(SERVER, "/nothing")[0] == 404


@pytest.mark.parametrize(
    ("name", "section"),
    [(SERVER, "Metrics of the server"), (AUDIT_LOG, "Metrics of the audit log")],
)
def test_metrics_are_those_of_the_manual(
    shared_deployment: Deployment, name: str, section: str
) -> None:
    """Every metric of docs/operations.md is exported, and no strongroom_ metric beside them."""
    text = OPERATIONS.read_text().partition(f"## {section}\n")[2].partition("\n## ")[0]
    documented = set(re.findall(r"(?m)^\| `(strongroom_\w+|grpc_server_\w+)`", text))
    if name == AUDIT_LOG:
        documented |= {"grpc_server_handled_total", "strongroom_build_info"}
    assert documented
    page = shared_deployment.ops(name, "/metrics")[1]
    families = {
        family.name + ("_total" if family.type == "counter" else ""): family
        for family in text_string_to_metric_families(page)
        if not family.name.endswith("_created")  # prometheus-client's own, beside each counter
    }
    assert documented <= set(families)
    ours = {family for family in families if family.startswith("strongroom_")}
    assert ours <= documented
    assert {"process_open_fds", "process_resident_memory_bytes"} <= set(families)
    for family in families.values():
        for sample in family.samples:
            assert "spiffe" not in str(sample.labels)
            assert "keys/" not in str(sample.labels)


def test_a_use_counts_once_everywhere(shared_deployment: Deployment) -> None:
    """One Encrypt moves each counter that speaks of it by one."""
    samples = [
        _HANDLED,
        f'strongroom_operations_total{{operation="Encrypt",outcome="OK",region="{EU}"}}',
        f'strongroom_audit_events_total{{region="{EU}"}}',
        'strongroom_authz_decisions_total{decision="allow"}',
    ]
    with shared_deployment.client() as client:
        key = client.create_key(EU).name
        before = [shared_deployment.metric(SERVER, sample) for sample in samples]
        client.encrypt(key, b"x", encryption_context={})
        after = [shared_deployment.metric(SERVER, sample) for sample in samples]
    assert [a - b for a, b in zip(after, before, strict=True)] == [1.0] * len(samples)


def test_the_log_has_one_line_a_request(shared_deployment: Deployment) -> None:
    """Every line is a JSON object; each call has one, with its id, caller, key and outcome."""
    good, bad = str(uuid.uuid4()), str(uuid.uuid4())
    with shared_deployment.client() as client:
        key = client.create_key(EU).name
    with shared_deployment.channel(EU) as channel:
        request = rpc.EncryptRequest(
            key=key, plaintext=b"x", encryption_context={"hidden": "context-value-5a"}
        )
        send(channel, "Encrypt", request, metadata=[("x-request-id", good)])
        stub_request = rpc.DecryptRequest(key=key, ciphertext=b"x" * 60)
        with pytest.raises(Exception, match="not valid"):
            send(channel, "Decrypt", stub_request, metadata=[("x-request-id", bad)])
        refusal(channel, "GetKey", rpc.GetKeyRequest(name="nonsense"))
    # Standard error goes to the same file here: gRPC writes there of handshakes that failed.
    lines = [
        json.loads(line)
        for line in shared_deployment.log_text(SERVER).splitlines()
        if not re.match(r"[IWE]\d{4} .*Handshake failed", line)
    ]
    assert all(isinstance(line, dict) for line in lines)
    for line in lines:
        assert {"timestamp", "level", "event", "logger", "service.name"} <= set(line)
    calls = Counter(line["request_id"] for line in lines if line["event"] == "call")
    assert calls[good] == calls[bad] == 1
    by_id = {line.get("request_id"): line for line in lines}
    assert by_id[good]["rpc.method"] == "strongroom.kms.v1.KeyService/Encrypt"
    assert by_id[good]["rpc.response.status_code"] == "OK"
    assert by_id[good]["principal"] == "spiffe://strongroom.dev/orders"
    assert by_id[good]["key"] == key
    assert by_id[bad]["reason"] == "CIPHERTEXT_INVALID"
    assert "context-value-5a" not in shared_deployment.log_text(SERVER)
