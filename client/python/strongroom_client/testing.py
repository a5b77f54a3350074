"""A fake key service in memory, for the tests of programs that use this SDK.

    fake = FakeKms(regions=("eu-1", "us-1"))
    kms = fake.client()
    key = kms.create_key("eu-1")

It keeps to the API of the service (names, limits, contexts, states, blobs, checksums, request
ids, receipts) and passes the same acceptance suite. What it does not do:

* there is one principal that may do everything: no policies, no denials;
* keys are in memory, and so is their material; nothing survives the object;
* records are made, and receipts point to them, but there is no log and no proof;
* use counters do not rotate or refuse, nothing is ever overloaded.

Never use it to protect anything.
"""

from __future__ import annotations

import hashlib
import os
import random
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from google.protobuf.message import Message

from strongroom.receipts import Receipt
from strongroom_client._core import Call, Reply
from strongroom_client._drivers import AsyncDriver, Driver, Limits
from strongroom_client._fake_service import FakeService
from strongroom_client.async_client import AsyncKmsClient
from strongroom_client.client import KmsClient
from strongroom_client.errors import NoEndpointError, StrongroomError, UnreachableError

__all__ = ["FakeKms", "FakeRecord"]

DEFAULT_LIMITS: Final = Limits(timeout_seconds=5.0, max_attempts=5)


@dataclass(frozen=True, slots=True)
class FakeRecord:
    """One record: what was called in which region, and ``OK`` or the reason of the refusal."""

    region: str
    sequence: int
    method: str
    outcome: str


class FakeKms:
    """An in-memory key service of several regions, and a switch for each.

    Thread safety: any number of threads and event loops; one call at a time.
    """

    def __init__(
        self,
        *,
        regions: Sequence[str] = ("eu-1", "us-1"),
        separate_servers: bool = False,
        principal: str = "spiffe://example.org/test",
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        random_bytes: Callable[[int], bytes] = os.urandom,
    ):
        """Make an empty service.

        Args:
            regions: Its regions, in the clients' order of preference.
            separate_servers: Each region is a server of its own, so that a name of another one
                is WRONG_REGION there. Otherwise one server hosts all.
            principal: Creator of every key.
            now: The wall clock; aware.
            random_bytes: Source of keys, IVs and random bytes.
        """
        self.regions = tuple(regions)
        self._separate_servers = separate_servers
        self._service = FakeService(principal=principal, now=now, random_bytes=random_bytes)
        self._epoch = 1 + int(now().timestamp() * 1000)
        # Guards everything below, and the service.
        self._lock = threading.RLock()
        self._down: set[str] = set()
        self._failures: list[tuple[str, StrongroomError]] = []
        self._records: list[FakeRecord] = []
        self._sequences = dict.fromkeys(self.regions, 0)

    @property
    def records(self) -> tuple[FakeRecord, ...]:
        """Every record so far, in order."""
        with self._lock:
            return tuple(self._records)

    def take_down(self, region: str) -> None:
        """Make a region unreachable: every call there raises UnreachableError."""
        with self._lock:
            self._down.add(self._known(region))

    def bring_up(self, region: str) -> None:
        """Make a region reachable again."""
        with self._lock:
            self._down.discard(self._known(region))

    def fail_next(self, region: str, error: StrongroomError, *, times: int = 1) -> None:
        """Have the next `times` calls of a region raise `error` and do nothing."""
        with self._lock:
            self._failures += [(self._known(region), error)] * times

    def client(self, *, timeout_seconds: float = 5.0, max_attempts: int = 5) -> KmsClient:
        """Return a client; its retries do not sleep."""
        limits = Limits(timeout_seconds, max_attempts)
        driver = Driver(_FakeTransport(self), limits, sleep=_no_sleep, uniform=random.uniform)
        return KmsClient.over(driver, self.regions)

    def async_client(
        self, *, timeout_seconds: float = 5.0, max_attempts: int = 5
    ) -> AsyncKmsClient:
        """Return an asyncio client; its retries do not sleep."""
        limits = Limits(timeout_seconds, max_attempts)
        driver = AsyncDriver(_AsyncFakeTransport(self), limits, sleep=_no_async_sleep)
        return AsyncKmsClient.over(driver, self.regions)

    def answer(self, region: str, method: str, request: Message) -> Reply:
        """Answer one call as the server of `region` would.

        Raises:
            StrongroomError: The refusal, with its receipts.
        """
        with self._lock:
            if region not in self.regions:
                raise NoEndpointError(f"no endpoint for region {region}")
            if region in self._down:
                raise UnreachableError(f"region {region}: it is switched off")
            for index, (where, error) in enumerate(self._failures):
                if where == region:
                    del self._failures[index]
                    raise error
            hosted = (region,) if self._separate_servers else self.regions
            try:
                message, touched = self._service.answer(method, request, hosted, region)
            except StrongroomError as exc:
                exc.receipts = (self._record(region, method, exc.reason),)
                raise
            receipts = tuple(self._record(where, what, "OK") for where, what in touched)
            return Reply(message, receipts)

    def _record(self, region: str, method: str, outcome: str) -> Receipt:
        self._sequences[region] += 1
        record = FakeRecord(region, self._sequences[region], method, outcome)
        self._records.append(record)
        digest = hashlib.sha256(repr(record).encode()).digest()
        return Receipt(region, self._epoch, record.sequence, digest)

    def _known(self, region: str) -> str:
        if region not in self.regions:
            raise ValueError(f"no region {region}; there are {', '.join(self.regions)}")
        return region


class _FakeTransport:
    def __init__(self, fake: FakeKms):
        self._fake = fake

    def call(self, call: Call, *, timeout_seconds: float) -> Reply:
        del timeout_seconds
        return self._fake.answer(call.region, call.method, call.request)

    def close(self) -> None:
        """Nothing to close."""


class _AsyncFakeTransport:
    def __init__(self, fake: FakeKms):
        self._fake = fake

    async def call(self, call: Call, *, timeout_seconds: float) -> Reply:
        del timeout_seconds
        return self._fake.answer(call.region, call.method, call.request)

    async def close(self) -> None:
        """Nothing to close."""


def _no_sleep(seconds: float) -> None:
    """Do not wait."""


async def _no_async_sleep(seconds: float) -> None:
    """Do not wait."""
