"""The one table from domain error to gRPC status."""

from __future__ import annotations

import inspect

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2

from strongroom.kms.v1 import error_reason_pb2
from strongroom_server import errors
from strongroom_server.errors import (
    ArgumentInvalidError,
    FieldViolation,
    HsmUnavailableError,
    OverloadedError,
    PolicyInvalidError,
    Reason,
    StrongroomError,
    WrongRegionError,
)
from strongroom_server.rpc.status import CODES, message_of, to_status

PREFIX = "ERROR_REASON_"
# Reasons that other programs of the deployment send: the audit log's own.
ELSEWHERE = {"RECORD_NOT_FOUND", "RECORD_ARCHIVED"}


def unpack(details: bytes) -> tuple[status_pb2.Status, dict[str, object]]:
    """Return the status, and its details by the name of their type."""
    status = status_pb2.Status.FromString(details)
    kinds = {
        kind.DESCRIPTOR.full_name: kind
        for kind in (
            error_details_pb2.ErrorInfo,
            error_details_pb2.BadRequest,
            error_details_pb2.RetryInfo,
            error_details_pb2.RequestInfo,
        )
    }
    unpacked = {}
    for packed in status.details:
        message = kinds[packed.TypeName()]()
        assert packed.Unpack(message)
        unpacked[message.DESCRIPTOR.name] = message
    return status, unpacked


def test_reasons_codes_and_the_proto_enum_agree():
    """Every reason has a code and a member of the API's enum, and the other way round."""
    in_proto = {
        name.removeprefix(PREFIX)
        for name in error_reason_pb2.ErrorReason.keys()  # noqa: SIM118 - an enum wrapper
    } - {"UNSPECIFIED"}
    assert set(CODES) == set(Reason)
    assert {reason.value for reason in Reason} == in_proto - ELSEWHERE
    assert grpc.StatusCode.OK not in CODES.values()
    assert grpc.StatusCode.UNKNOWN not in CODES.values()


def test_every_error_class_has_a_reason_of_its_own():
    """Each reason is raised by one class, so that a class says its status."""
    kinds = [
        kind
        for _, kind in inspect.getmembers(errors, inspect.isclass)
        if issubclass(kind, StrongroomError) and kind is not StrongroomError
    ]
    assert {kind.reason for kind in kinds} == set(Reason)
    assert len(kinds) == len(set(Reason))
    assert {kind.__name__ for kind in kinds} <= set(errors.__all__)


@pytest.mark.parametrize("reason", list(Reason))
def test_details_say_the_reason(reason):
    """Code, message, reason, domain and request id survive the way to the client."""

    class SomeError(StrongroomError):
        pass

    SomeError.reason = reason
    code, details = to_status(SomeError("words"), request_id="id-1")
    status, unpacked = unpack(details)
    assert code is CODES[reason]
    assert (status.code, status.message) == (code.value[0], "words")
    info, request = unpacked["ErrorInfo"], unpacked["RequestInfo"]
    assert isinstance(info, error_details_pb2.ErrorInfo)
    assert isinstance(request, error_details_pb2.RequestInfo)
    assert (info.reason, info.domain, dict(info.metadata)) == (reason.value, "strongroom", {})
    assert request.request_id == "id-1"
    assert set(unpacked) == {"ErrorInfo", "RequestInfo"}


def test_violations_are_listed_one_by_one():
    """Field, rule and words of each violation arrive."""
    error = ArgumentInvalidError(
        (FieldViolation("name", "string.pattern", "no"), FieldViolation("etag", "x", "long"))
    )
    _, unpacked = unpack(to_status(error, request_id="")[1])
    bad = unpacked["BadRequest"]
    assert isinstance(bad, error_details_pb2.BadRequest)
    assert [(v.field, v.reason, v.description) for v in bad.field_violations] == [
        ("name", "string.pattern", "no"),
        ("etag", "x", "long"),
    ]


@pytest.mark.parametrize(
    ("seconds", "expected"), [(0.1, (0, 100_000_000)), (1.0, (1, 0)), (2.5, (2, 500_000_000))]
)
def test_a_retry_delay_is_exact(seconds, expected):
    """Whole seconds and nanoseconds are told apart."""
    _, unpacked = unpack(
        to_status(OverloadedError("busy", retry_after_seconds=seconds), request_id="")[1]
    )
    retry = unpacked["RetryInfo"]
    assert isinstance(retry, error_details_pb2.RetryInfo)
    assert (retry.retry_delay.seconds, retry.retry_delay.nanos) == expected


def test_facts_for_programs_are_metadata():
    """A wrong region says which are hosted; a fault of the HSM says whose."""
    for error, expected in (
        (
            WrongRegionError("ap-1", ("eu-1", "us-1")),
            {"hostedRegions": "eu-1,us-1", "region": "ap-1"},
        ),
        (HsmUnavailableError("eu-1", "gone"), {"region": "eu-1"}),
    ):
        info = unpack(to_status(error, request_id="")[1])[1]["ErrorInfo"]
        assert isinstance(info, error_details_pb2.ErrorInfo)
        assert dict(info.metadata) == expected


def test_a_status_fits_into_the_headers_of_an_answer():
    """Messages and violations of any length are cut: a client drops headers over 8 KiB."""
    violations = tuple(FieldViolation(f"field_{n}", "a.rule", "é" * 100) for n in range(500))
    for error in (ArgumentInvalidError(violations), PolicyInvalidError("é" * 100_000)):
        _, details = to_status(error, request_id="x" * 128)
        assert len(details) < 4500
        assert len(message_of(error).encode()) <= 800
        assert message_of(error).endswith("…")
    assert message_of(PolicyInvalidError("é" * 400)) == "é" * 400
