"""G1: peers that hold connections and streams and say nothing."""

from __future__ import annotations

import contextlib
import socket
import ssl
import statistics
import time
from collections.abc import Callable, Iterator, Sequence

import grpc
import pytest
from tests.support.deployment import Deployment
from tests.support.wire import send

from strongroom.kms.v1 import key_service_pb2 as rpc

pytestmark = [pytest.mark.integration, pytest.mark.hsm, pytest.mark.timeout(120)]

EU = "eu-1"
SILENT_TCP, IDLE_TLS, HELD_STREAMS = 50, 100, 50
CALLS = 100


@contextlib.contextmanager
def _idle_connections(deployment: Deployment) -> Iterator[None]:
    """Hold TCP connections without a handshake, and TLS connections without a byte."""
    host, _, port = deployment.address(EU).rpartition(":")
    tls = deployment.tls_of("orders")
    context = ssl.create_default_context(cafile=tls.ca_file)
    context.load_cert_chain(tls.certificate_file, tls.private_key_file)
    context.set_alpn_protocols(["h2"])
    with contextlib.ExitStack() as stack:
        for number in range(SILENT_TCP + IDLE_TLS):
            raw = stack.enter_context(socket.create_connection((host, int(port)), timeout=10))
            if number >= SILENT_TCP:
                stack.enter_context(context.wrap_socket(raw, server_hostname="localhost"))
        yield


@contextlib.contextmanager
def _held_streams(deployment: Deployment) -> Iterator[Sequence[grpc.Future[rpc.EncryptResponse]]]:
    """Hold calls whose headers have arrived and whose request never does."""
    with deployment.channel(EU) as channel:
        open_call = channel.stream_unary(
            "/strongroom.kms.v1.KeyService/Encrypt",
            request_serializer=rpc.EncryptRequest.SerializeToString,
            response_deserializer=rpc.EncryptResponse.FromString,
        )
        ended = False

        def nothing() -> Iterator[rpc.EncryptRequest]:
            while not ended:
                time.sleep(0.05)
            yield from ()

        calls = [open_call.future(nothing(), timeout=60) for _ in range(HELD_STREAMS)]
        try:
            yield calls
        finally:
            ended = True
            for call in calls:
                call.cancel()


def _seconds_per_call(deployment: Deployment, key: str) -> list[float]:
    took = []
    with deployment.channel(EU) as channel:
        for _ in range(CALLS):
            began = time.monotonic()
            send(channel, "Encrypt", rpc.EncryptRequest(key=key, plaintext=b"x"), seconds=5)
            took.append(time.monotonic() - began)
    return took


def test_silent_peers_do_not_keep_others_out(
    deployment: Deployment, figures: Callable[..., None]
) -> None:
    """With idle connections and headers-only streams held, normal calls are answered as before."""
    with deployment.client() as client:
        key = client.create_key(EU).name
    before = _seconds_per_call(deployment, key)
    with _idle_connections(deployment), _held_streams(deployment) as held:
        during = _seconds_per_call(deployment, key)
        assert not any(call.done() for call in held)
    after = _seconds_per_call(deployment, key)
    medians = [statistics.median(each) for each in (before, during, after)]
    figures(median_seconds_before_during_after=medians, slowest_during=max(during))
    # Not a tight bound: what is shut out here is seconds late, or never answered.
    assert medians[1] < 5 * medians[0] + 0.02
    assert deployment.is_ready("server-eu-1")
