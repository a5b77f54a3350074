"""G3: more calls at once than the server takes."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable

import pytest
from tests.support.deployment import Deployment, running
from tests.support.wire import send_async

from strongroom.kms.v1 import key_service_pb2 as rpc
from strongroom.receipts import Receipt
from strongroom_client import StrongroomError

pytestmark = [pytest.mark.integration, pytest.mark.hsm, pytest.mark.timeout(120)]

EU = "eu-1"
LIMIT = 16
CALLERS = 5 * LIMIT
SECONDS = 2.0


async def test_excess_is_refused_at_once(
    new_deployment: Deployment, figures: Callable[..., None]
) -> None:
    """Five times too many callers: the excess is RESOURCE_EXHAUSTED, nothing INTERNAL or late."""
    # One of the places is taken by the audit log's stream.
    new_deployment.configure(EU, server={"max_concurrent_calls": LIMIT + 1})
    with running(new_deployment) as deployment:
        with deployment.client() as client:
            key = client.create_key(EU).name
        request = rpc.EncryptRequest(key=key, plaintext=b"x")
        outcomes: Counter[str] = Counter()
        receipts: list[Receipt] = []
        hints: set[float | None] = set()
        slowest = 0.0
        async with deployment.aio_channel(EU) as one, deployment.aio_channel(EU) as two:

            async def caller(number: int) -> None:
                nonlocal slowest
                end = time.monotonic() + SECONDS
                while time.monotonic() < end:
                    began = time.monotonic()
                    try:
                        _, got = await send_async((one, two)[number % 2], "Encrypt", request)
                    except StrongroomError as error:
                        outcomes[f"{error.code} {error.reason}"] += 1
                        slowest = max(slowest, time.monotonic() - began)
                        hints.add(error.retry_after_seconds)
                    else:
                        outcomes["OK"] += 1
                        receipts.extend(got)

            await asyncio.gather(*(caller(number) for number in range(CALLERS)))
        figures(outcomes=dict(outcomes), slowest_refusal_seconds=slowest)
        assert set(outcomes) == {"OK", "RESOURCE_EXHAUSTED OVERLOADED"}
        assert hints == {0.1}
        assert slowest < 2.0
        deployment.wait_drained()
        deployment.verify(receipts)
        assert deployment.is_ready(f"server-{EU}")
