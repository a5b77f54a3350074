"""Who is let in over mTLS: exactly one SPIFFE ID of the right CA."""

from __future__ import annotations

import grpc
import pytest
from tests.support.certificates import CertificateAuthority
from tests.support.memory_service import ORDERS, STRANGER
from tests.support.rpc_server import code_of, reason_of, refused, running_server

from strongroom.audit.v1 import audit_service_pb2, audit_service_pb2_grpc
from strongroom.kms.v1 import key_service_pb2 as messages
from strongroom.kms.v1.key_service_pb2_grpc import KeyServiceStub

TIMEOUT = 10
RANDOM = messages.GenerateRandomRequest(parent="regions/eu-1", number_of_bytes=8)


@pytest.fixture(scope="module")
def grpc_server(tmp_path_factory):
    with running_server(tmp_path_factory.mktemp("tls")) as server:
        yield server


@pytest.fixture(scope="module")
def grpc_channel(grpc_server):
    with grpc_server.channel(grpc_server.authority.issue(ORDERS)) as channel:
        yield channel


@pytest.mark.parametrize(
    "names",
    [
        (ORDERS, STRANGER),
        (ORDERS, ORDERS),
        (ORDERS, "https://example.org/orders"),
        ("https://example.org/orders",),
        ("spiffe://example.org",),
        (),
    ],
)
def test_a_certificate_must_name_exactly_one_principal(grpc_server, names):
    """Two URIs, other URIs and a common name alone are UNAUTHENTICATED, whatever the CN says."""
    identity = grpc_server.authority.issue(
        *names, common_name="spiffe://example.org/orders", dns_names=["orders"]
    )
    with grpc_server.channel(identity) as channel:
        error = refused(KeyServiceStub(channel).GenerateRandom, RANDOM)
    assert code_of(error) is grpc.StatusCode.UNAUTHENTICATED
    assert reason_of(error) == "PEER_UNAUTHENTICATED"


@pytest.mark.parametrize("kind", ["none", "other CA", "expired"])
def test_without_a_valid_certificate_there_is_no_connection(grpc_server, kind):
    """No certificate, one of another CA and an expired one end in the handshake."""
    identity = {
        "none": None,
        "other CA": CertificateAuthority("test CA").issue(ORDERS),
        "expired": grpc_server.authority.issue(ORDERS, expired=True),
    }[kind]
    with grpc_server.channel(identity) as channel:
        error = refused(
            KeyServiceStub(channel).ListKeys, messages.ListKeysRequest(parent="regions/eu-1")
        )
    assert code_of(error) is grpc.StatusCode.UNAVAILABLE
    assert "ListKeys" not in {method for method, _ in grpc_server.seen.codes}


def test_without_tls_there_is_no_connection(grpc_server):
    """A client that speaks no TLS is not answered."""
    with grpc.insecure_channel(grpc_server.address) as channel:
        error = refused(KeyServiceStub(channel).GenerateRandom, RANDOM, timeout=3)
    assert code_of(error) in {
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DEADLINE_EXCEEDED,
    }


def test_audit_records_are_for_audit_consumers(grpc_channel):
    """A principal that is not configured may neither read nor acknowledge."""
    stub = audit_service_pb2_grpc.AuditServiceStub(grpc_channel)
    error = refused(stub.GetSpoolStatus, audit_service_pb2.GetSpoolStatusRequest(region="eu-1"))
    assert reason_of(error) == "POLICY_DENIED"
    stream = stub.StreamRecords(
        audit_service_pb2.StreamRecordsRequest(region="eu-1"), timeout=TIMEOUT
    )
    with pytest.raises(grpc.RpcError) as refusal:
        next(stream)
    assert code_of(refusal.value) is grpc.StatusCode.PERMISSION_DENIED


def test_names_beside_the_one_uri_change_nothing(grpc_server):
    """A principal is its URI, also when the certificate has other names."""
    identity = grpc_server.authority.issue(
        STRANGER, common_name=ORDERS, dns_names=["orders"], emails=["orders@example.org"]
    )
    with grpc_server.channel(identity) as channel:
        KeyServiceStub(channel).GenerateRandom(RANDOM, timeout=TIMEOUT)
    assert grpc_server.service.records()[-1].principal == STRANGER
