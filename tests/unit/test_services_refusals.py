"""Refusals that no shard records: where they stand, and that nobody can flood the log."""

from __future__ import annotations

import pytest
from tests.support.memory_service import ORDERS, PEER, MemoryService, caller, fields

from strongroom.kms.v1 import key_service_pb2 as messages
from strongroom_server.domain.peer_address import address_of
from strongroom_server.errors import (
    ArgumentInvalidError,
    AuditUnavailableError,
    OverloadedError,
    PeerUnauthenticatedError,
    StrongroomError,
)
from strongroom_server.mutations import AuditDraft
from strongroom_server.rpc.refused import describe_refused
from strongroom_server.services import refusals
from strongroom_server.services.caller import Caller
from strongroom_server.services.refusals import SEVERAL, UNAUTHENTICATED, Refusals, Refused

KEY = "regions/us-1/keys/655632f3-5323-47a7-b91c-2b2d3d6263e6"


class SetClock:
    """A clock that the test moves."""

    def __init__(self, service: MemoryService) -> None:
        self.seconds = 1000.0
        self.now = service.clock.now

    def monotonic(self) -> float:
        return self.seconds


@pytest.fixture
def service() -> MemoryService:
    return MemoryService()


@pytest.fixture
def clock(service: MemoryService) -> SetClock:
    return SetClock(service)


@pytest.fixture
def recording(service: MemoryService, clock: SetClock) -> Refusals:
    return Refusals(topology=service.topology, recorder=service.recorder, clock=clock)


def somebody(address: str = "ipv4:192.0.2.1", port: int = 1, principal: str = "") -> Caller:
    return Caller(principal, f"{address}:{port}", "call-9", 0.0, 0.0)


def invalid() -> ArgumentInvalidError:
    return ArgumentInvalidError.of("plaintext", "max_len", "too long")


async def refuse(
    recording: Refusals, who: Caller, error: StrongroomError, refused: Refused | None = None
) -> None:
    await recording.record(who, refused or Refused("Decrypt"), error)


async def records(recording: Refusals, service: MemoryService, region: str) -> list[AuditDraft]:
    """Wait for what is being written, without writing counts; return a region's records."""
    for task in list(recording._writes):
        await task
    return service.records(region)


async def test_a_refusal_stands_in_the_region_that_it_names(
    service: MemoryService, recording: Refusals
):
    """A hosted region has its own refusals, the first one those of any other; with a receipt."""
    for region, home in (("us-1", "us-1"), ("eu-1", "eu-1"), ("mars", "eu-1"), ("", "eu-1")):
        error = invalid()
        await refuse(recording, caller(), error, Refused("Encrypt", region, KEY))
        assert [receipt.region for receipt in error.receipts] == [home]
        assert fields(service.records(home)[-1]) == {
            "principal": ORDERS,
            "method": "Encrypt",
            "outcome": "REFUSED",
            "reason": "ARGUMENT_INVALID",
            "request_id": "call-1",
            "key": KEY,
        }


async def test_a_refusal_that_cannot_be_recorded_is_not_answered(
    service: MemoryService, recording: Refusals
):
    """Without its record the refusal becomes AUDIT_UNAVAILABLE."""
    service.eu.trail.refuses_at = 1
    with pytest.raises(AuditUnavailableError):
        await refuse(recording, caller(), invalid())


async def test_the_first_of_a_second_is_recorded_and_the_others_counted(
    service: MemoryService, recording: Refusals, clock: SetClock
):
    """From one address one record a second, whatever the port, and one with their number."""
    for second in range(3):
        clock.seconds = 1000.0 + second
        for port in range(1, 101):
            error = PeerUnauthenticatedError("no principal")
            await refuse(recording, somebody(port=port), error)
            assert error.receipts == ()
    found = await records(recording, service, "eu-1")
    assert [record.method for record in found] == ["Decrypt"] * 3
    assert fields(found[0]) == {
        "principal": UNAUTHENTICATED,
        "method": "Decrypt",
        "outcome": "DENIED",
        "reason": "PEER_UNAUTHENTICATED",
        "request_id": "call-9",
    }
    assert found[0].peer == "ipv4:192.0.2.1:1"
    recording.write_counts()
    summary = (await records(recording, service, "eu-1"))[-1]
    assert (summary.method, summary.count, summary.peer) == ("PeerRefused", 297, "ipv4:192.0.2.1")
    assert (summary.outcome, summary.reason) == ("DENIED", "PEER_UNAUTHENTICATED")
    assert summary.details["first"] < summary.details["last"]
    recording.write_counts()
    assert len(await records(recording, service, "eu-1")) == 4  # nothing new to tell


async def test_callers_and_reasons_are_told_apart(
    service: MemoryService, recording: Refusals, clock: SetClock
):
    """Overload of a known principal is counted under its name, beside what others do."""
    for _ in range(3):
        await refuse(recording, somebody(principal=ORDERS), OverloadedError("too much"))
        await refuse(recording, somebody(), PeerUnauthenticatedError("nobody"))
    clock.seconds += 10
    await recording.close()
    found = service.records("eu-1")
    summaries = {(r.principal, r.reason): r.count for r in found if r.method == "PeerRefused"}
    assert summaries == {
        (ORDERS, "OVERLOADED"): 2,
        (UNAUTHENTICATED, "PEER_UNAUTHENTICATED"): 2,
    }
    assert {r.outcome for r in found if r.reason == "OVERLOADED"} == {"REFUSED"}


async def test_many_addresses_are_bounded(
    service: MemoryService,
    recording: Refusals,
    clock: SetClock,
    monkeypatch: pytest.MonkeyPatch,
):
    """Neither records nor memory grow with the addresses; nothing goes uncounted."""
    monkeypatch.setattr(refusals, "MAX_PLACES", 100)
    for host in range(500):
        await refuse(recording, somebody(f"ipv4:10.0.{host // 250}.{host % 250}"), overloaded())
    found = await records(recording, service, "eu-1")
    assert len(found) == refusals.MAX_RECORDS_PER_SECOND
    assert len(recording._places) == 101
    recording.write_counts()
    found = await records(recording, service, "eu-1")
    summaries = [record for record in found if record.method == "PeerRefused"]
    several = [record for record in summaries if record.principal == SEVERAL]
    assert [(record.peer, record.count) for record in several] == [("", 400)]
    assert sum(record.count or 0 for record in summaries) + 32 == 500
    clock.seconds += 20
    recording.write_counts()
    assert recording._places == {}


def overloaded() -> OverloadedError:
    return OverloadedError("too much")


async def test_a_full_spool_keeps_the_counts(
    service: MemoryService, recording: Refusals, clock: SetClock
):
    """What cannot be recorded now is counted, and told when the spool takes it."""
    service.eu.trail.full = True
    for _ in range(5):
        await refuse(recording, somebody(), overloaded())
        clock.seconds += 20
        recording.write_counts()
    assert await records(recording, service, "eu-1") == []
    service.eu.trail.full = False
    recording.write_counts()
    (summary,) = await records(recording, service, "eu-1")
    assert summary.count == 5


@pytest.mark.parametrize(
    ("peer", "address"),
    [
        ("ipv4:192.0.2.1:50000", "ipv4:192.0.2.1"),
        ("ipv6:%5B2001:db8::1%5D:50000", "ipv6:[2001:db8::1]"),
        ("ipv6:[2001:db8::1]:50000", "ipv6:[2001:db8::1]"),
        (PEER, "ipv4:127.0.0.1"),
        ("unix:", "unix:"),
        ("unix:/run/socket", "unix:/run/socket"),
        ("", ""),
    ],
)
def test_an_address_is_a_peer_without_its_port(peer: str, address: str):
    """Connections of one host count as one."""
    assert address_of(peer) == address


def test_only_well_formed_names_are_described():
    """What broke a rule is not copied; the region is found where the request has one."""
    marker = "secret in the wrong field"
    described = {
        describe_refused("m", request)
        for request in (
            messages.EncryptRequest(key=marker),
            messages.CreateKeyRequest(parent=marker, description=marker),
            messages.GetKeyRequest(name="regions/eu-1/keys/" + marker),
            object(),
        )
    }
    assert described == {Refused("m"), Refused("m", "eu-1")}
    assert describe_refused("m", messages.EncryptRequest(key=KEY)) == Refused("m", "us-1", KEY)
    assert describe_refused("m", messages.CreateKeyRequest(parent="regions/us-1")) == Refused(
        "m", "us-1"
    )
    assert describe_refused(
        "m", messages.ReEncryptRequest(source_key=marker, destination_key=KEY)
    ) == Refused("m", "us-1", KEY)
