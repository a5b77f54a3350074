"""What the acceptance suites are given: a service, and what it can do on top of its API."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass, field

from google.protobuf.message import Message

from strongroom_client import KmsClient, StrongroomError
from strongroom_client._core import Call, Reply

__all__ = ["KmsUnderTest", "refusal_of"]


def _cannot(region: str) -> contextlib.AbstractContextManager[None]:
    raise NotImplementedError(f"this service cannot be stopped in {region}")


@dataclass(frozen=True, slots=True)
class KmsUnderTest:
    """A running service.

    Attributes:
        client: A client of a principal that may do everything.
        regions: Two regions of the service.
        down: A context manager during which a region cannot be reached.
        bit_step: Every how many bits of a blob one is flipped, 1 for all.
        mutations: How many mutations of an envelope's header are tried.
        one_server: Whether one server hosts both regions.
        made: Keys that the suites have made once, by what they are.
        oaep_sha1_only: Whether its HSM takes no other hash for OAEP (SoftHSM 2.6.1).
    """

    client: KmsClient
    regions: tuple[str, str]
    down: Callable[[str], contextlib.AbstractContextManager[None]] = field(default=_cannot)
    bit_step: int = 1
    mutations: int = 10_000
    one_server: bool = True
    oaep_sha1_only: bool = False
    made: dict[tuple[str, str], str] = field(default_factory=dict)

    def raw(self, region: str, method: str, request: Message) -> Reply:
        """Send a request as it is, past the SDK's own checks and retries."""
        return self.client.driver.transport.call(Call(region, method, request), timeout_seconds=5.0)


def refusal_of(call: Callable[[], object]) -> StrongroomError:
    """Return the error that `call` raises."""
    try:
        call()
    except StrongroomError as exc:
        return exc
    raise AssertionError("the call was not refused")
