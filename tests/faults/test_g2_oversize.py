"""G2: messages and metadata that are too large, and bytes that are no message."""

from __future__ import annotations

import gzip
from typing import Any

import grpc
import psutil
import pytest
from tests.support.deployment import Deployment
from tests.support.wire import send

from strongroom.kms.v1 import key_service_pb2 as rpc
from strongroom_client import StrongroomError
from strongroom_client._status import error_from_status

pytestmark = [pytest.mark.integration, pytest.mark.hsm, pytest.mark.timeout(120)]

EU = "eu-1"
MEBIBYTE = 2**20


def _raw(channel: grpc.Channel, data: bytes, **options: Any) -> StrongroomError:
    """Send bytes as the request of Encrypt; return the refusal."""
    call: Any = channel.unary_unary("/strongroom.kms.v1.KeyService/Encrypt")
    try:
        call(data, timeout=20, **options)
    except grpc.RpcError as exc:
        failed: Any = exc
        return error_from_status(
            "wire", failed.code(), failed.details(), failed.trailing_metadata()
        )
    raise AssertionError("it was answered")


def test_what_is_too_large_is_refused_and_costs_little(shared_deployment: Deployment) -> None:
    """A long message, a gzip bomb and long metadata are refused; the server stays small."""
    server = psutil.Process(shared_deployment.pid(f"server-{EU}"))
    before = server.memory_info().rss
    with shared_deployment.channel(EU) as channel:
        long = rpc.EncryptRequest(plaintext=bytes(MEBIBYTE)).SerializeToString()
        assert _raw(channel, long).code == "RESOURCE_EXHAUSTED"
        bomb = rpc.EncryptRequest(plaintext=bytes(64 * MEBIBYTE)).SerializeToString()
        assert len(gzip.compress(bomb)) < MEBIBYTE
        for _ in range(3):
            assert _raw(channel, bomb, compression=grpc.Compression.Gzip).code in {
                "RESOURCE_EXHAUSTED",
                "INTERNAL",  # gRPC's own, when its inflater stops at the limit
            }
        long_metadata = [("x-request-id", "x" * 17_000)]
        assert _raw(channel, b"", metadata=long_metadata).code == "RESOURCE_EXHAUSTED"
        grown = server.memory_info().rss - before
        assert grown < 150 * MEBIBYTE, f"{grown / MEBIBYTE:.0f} MiB"
        # The connection, and everybody else, goes on.
        send(
            channel,
            "GenerateRandom",
            rpc.GenerateRandomRequest(parent=f"regions/{EU}", number_of_bytes=1),
        )


@pytest.mark.parametrize(
    "data",
    [b"\xff", b"\x0a\xff\xff\xff\xff\x0f", b"\x0a\x02\xc3\x28", b"\x00" * 9, b"\x12" * 100],
    ids=["no tag", "length beyond the end", "no UTF-8", "field 0", "nonsense"],
)
def test_bytes_that_are_no_message_are_refused(shared_deployment: Deployment, data: bytes) -> None:
    """What does not parse is refused with a status, and the next call is answered."""
    with shared_deployment.channel(EU) as channel:
        error = _raw(channel, data)
        assert (error.code, error.reason) == ("INVALID_ARGUMENT", "ARGUMENT_INVALID"), error
        assert "Traceback" not in str(error)
        send(
            channel,
            "GenerateRandom",
            rpc.GenerateRandomRequest(parent=f"regions/{EU}", number_of_bytes=1),
        )


def test_unknown_fields_are_ignored(shared_deployment: Deployment) -> None:
    """Fields of a later version of the API change nothing."""
    request = rpc.GenerateRandomRequest(parent=f"regions/{EU}", number_of_bytes=7)
    later = rpc.GenerateRandomRequest.FromString(
        request.SerializeToString() + b"\xfa\x3f\x05later" * 50
    )
    with shared_deployment.channel(EU) as channel:
        answer, _ = send(channel, "GenerateRandom", later)
        assert len(answer.random) == 7
