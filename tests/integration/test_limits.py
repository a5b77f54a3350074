"""Limits of a caller, from the configuration to the SDK."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
from tests.support.deployment import Deployment, running
from tests.support.wire import refusal

from strongroom.kms.v1 import key_service_pb2 as rpc
from strongroom_client import OverloadedError, QuotaExceededError

pytestmark = [pytest.mark.integration, pytest.mark.hsm, pytest.mark.timeout(120)]

EU = "eu-1"
SERVER = f"server-{EU}"
LIMITS = """
[limits]
create = ["2/minute"]

[[limits.principals]]
principal = "spiffe://strongroom.dev/orders"
data = ["5/second", "1000/day"]
"""


def test_a_caller_over_its_limit_is_told_so_at_once_and_comes_back(
    new_deployment: Deployment, figures: Callable[..., None]
) -> None:
    """QUOTA_EXCEEDED says which limit and when to come back; the SDK does; others go on."""
    config = new_deployment.layout.server_config(EU)
    config.write_text(config.read_text() + LIMITS)
    with running(new_deployment) as deployment:
        with deployment.client() as client:
            key = client.create_key(EU).name
            client.create_key(EU)
            with pytest.raises(QuotaExceededError) as refused:
                client.with_timeout(1.0).create_key(EU)
            assert refused.value.metadata == {"limit": "create", "rate": "2/minute"}
            assert 20 < (refused.value.retry_after_seconds or 0) <= 30
            assert not isinstance(refused.value, OverloadedError)
            began = time.monotonic()
            for _ in range(15):
                client.encrypt(key, b"x", encryption_context={})
            took = time.monotonic() - began
        assert took > 1.5, "five at once, and five a second"
        seconds = []
        with deployment.channel(EU) as channel:
            request = rpc.EncryptRequest(key=key, plaintext=b"x")
            for _ in range(40):
                began = time.monotonic()
                try:
                    error = refusal(channel, "Encrypt", request)
                except AssertionError:
                    continue  # answered: there was a token again
                seconds.append(time.monotonic() - began)
                assert error.reason == "QUOTA_EXCEEDED"
                assert error.code == "RESOURCE_EXHAUSTED"
                assert 0 < (error.retry_after_seconds or 0) <= 0.2
        median = sorted(seconds)[len(seconds) // 2]
        figures(fifteen_calls_at_five_a_second=took, refusal_median_seconds=median)
        assert median < 0.05
        with deployment.client("payments") as other:
            name = other.create_key(EU).name
            for _ in range(20):
                other.encrypt(name, b"x", encryption_context={})
        for limit, least in (("data", len(seconds)), ("create", 1), ("key", 0)):
            sample = f'strongroom_quota_refusals_total{{limit="{limit}"}}'
            assert deployment.metric(SERVER, sample) >= least
        deployment.wait_drained()
        deployment.verify()
