"""The SDK over real gRPC with mutual TLS, sync and asyncio, through the acceptance suites."""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, cast

import grpc
import pytest
from cryptography import x509
from tests.suites.envelope_suite import EnvelopeSuite
from tests.suites.fake_server import FakeServer, TestCa, rich_status
from tests.suites.kms_suite import KmsSuite
from tests.suites.under_test import KmsUnderTest

from strongroom.kms.v1 import error_reason_pb2
from strongroom_client import (
    ArgumentInvalidError,
    AsyncEnvelopeClient,
    AsyncKmsClient,
    AuditUnavailableError,
    ClientClosedError,
    ClientOptions,
    DeadlineExceededError,
    HsmUnavailableError,
    KmsClient,
    NoEndpointError,
    OptionsError,
    OverloadedError,
    StrongroomError,
    TlsFiles,
    UnexpectedStatusError,
    UnreachableError,
)
from strongroom_client import errors as errors_module
from strongroom_client._core import Call
from strongroom_client._status import error_from_status
from strongroom_client.testing import FakeKms

REGIONS = ("eu-1", "us-1")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FakeServer]:
    running = FakeServer(FakeKms(regions=REGIONS), tmp_path_factory.mktemp("tls"))
    yield running
    running.close()


class TestOverGrpc(KmsSuite, EnvelopeSuite):
    """The sync client."""

    @pytest.fixture
    def kms(self, server: FakeServer) -> Iterator[KmsUnderTest]:
        # Few attempts: a region that is down is to be noticed soon.
        with KmsClient(server.options(max_attempts=5)) as client:
            yield KmsUnderTest(client, REGIONS, server.down, bit_step=5, mutations=300)


class SyncOverAsync:
    """Gives the asyncio client the sync client's interface, over a loop in a thread."""

    def __init__(self, options: ClientOptions):
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        self.client = AsyncKmsClient(options)
        self.driver = self
        self.transport = self

    def call(self, call: Call, *, timeout_seconds: float) -> object:
        work = self.client.driver.transport.call(call, timeout_seconds=timeout_seconds)
        return self._wait(work)

    def __getattr__(self, name: str) -> Any:
        method = getattr(self.client, name)

        def sync(*args: Any, **kwargs: Any) -> Any:
            result = method(*args, **kwargs)
            if inspect.isasyncgen(result):
                return iter(self._wait(_collect(result)))
            return self._wait(result)

        return sync

    def stop(self) -> None:
        self._wait(self.client.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _wait(self, work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(timeout=30)


async def _collect(items: AsyncIterator[Any]) -> list[Any]:
    return [item async for item in items]


class TestOverAsyncGrpc(KmsSuite):
    """The asyncio client."""

    @pytest.fixture
    def kms(self, server: FakeServer) -> Iterator[KmsUnderTest]:
        client = SyncOverAsync(server.options())
        yield KmsUnderTest(cast("KmsClient", client), REGIONS, server.down, bit_step=5)
        client.stop()


async def test_async_envelopes_open_in_either_region(server: FakeServer) -> None:
    """The asyncio envelope client goes to the other region when one is down."""
    async with AsyncKmsClient(server.options()) as kms:
        keys = [(await kms.create_key(region)).name for region in REGIONS]
        envelopes = AsyncEnvelopeClient(kms, keys=keys)
        envelope = await envelopes.encrypt(b"hello", encryption_context={"a": "b"})
        with server.down("eu-1"):
            plaintext = await envelopes.decrypt(envelope, encryption_context={"a": "b"})
        assert plaintext == b"hello"
        renewed = await envelopes.rekey(envelope, encryption_context={"a": "b"}, keys=keys[:1])
        opened = await envelopes.decrypt_returning_context(renewed)
        assert (opened.plaintext, opened.encryption_context) == (b"hello", {"a": "b"})


async def test_async_pages_are_iterated(server: FakeServer) -> None:
    """The asyncio client's lists go over every page."""
    async with AsyncKmsClient(server.options()) as kms:
        key = await kms.create_key("eu-1")
        await kms.rotate_key(key.name)
        numbers = [v.number async for v in kms.list_key_versions(key.name, page_size=1)]
        assert numbers == [1, 2]


def test_a_closed_client_says_so(server: FakeServer) -> None:
    """After close every call is ClientClosedError, with no gRPC in it."""
    client = KmsClient(server.options())
    client.create_key("eu-1")
    client.close()
    with pytest.raises(ClientClosedError):
        client.create_key("eu-1")


def test_nobody_listening_is_unreachable(server: FakeServer) -> None:
    """A region without server is UnreachableError within the time limit."""
    with KmsClient(server.options(max_attempts=2)) as client, server.down("us-1"):
        with pytest.raises(UnreachableError) as refused:
            client.create_key("us-1")
        assert refused.value.code == "UNAVAILABLE"
        assert isinstance(refused.value.__cause__, grpc.RpcError)


def test_a_strange_certificate_is_unreachable(server: FakeServer, tmp_path: Path) -> None:
    """A client of another CA gets no answer, and a server of another CA is not believed."""
    other = TestCa(tmp_path, "other")
    uri = x509.UniformResourceIdentifier("spiffe://example.org/test")
    strange = other.issue("client", uri)
    good = server.client_files
    for tls in (
        strange,
        TlsFiles(strange.certificate_file, strange.private_key_file, good.ca_file),
    ):
        options = server.options(tls=tls, max_attempts=1)
        with KmsClient(options) as client, pytest.raises(UnreachableError):
            client.create_key("eu-1")


def test_a_missing_tls_file_is_named(server: FakeServer, tmp_path: Path) -> None:
    """A TLS file that is not there is OptionsError with its path."""
    files = server.client_files
    tls = TlsFiles(files.certificate_file, tmp_path / "missing.key", files.ca_file)
    options = server.options(tls=tls)
    with KmsClient(options) as client, pytest.raises(OptionsError, match=r"missing\.key"):
        client.create_key("eu-1")


def test_a_region_without_endpoint_is_named(server: FakeServer) -> None:
    """A name in a region that the options lack is NoEndpointError."""
    with KmsClient(server.options()) as client, pytest.raises(NoEndpointError, match="mars-1"):
        client.generate_random("mars-1", 1)


def _all_errors() -> list[type[StrongroomError]]:
    reasons = errors_module._BY_REASON
    return list(reasons.values())


@pytest.mark.parametrize("kind", _all_errors())
def test_every_reason_crosses_the_wire(kind: type[StrongroomError]) -> None:
    """The rich status of every reason becomes its class again, with facts and text."""
    sent = kind("words", metadata={"region": "eu-1"}, retry_after_seconds=1.5)
    status = rich_status(sent)
    metadata = (("grpc-status-details-bin", status.SerializeToString()),)
    code = getattr(grpc.StatusCode, sent.code)
    got = error_from_status("eu-1", code, "words", metadata)
    assert type(got) is kind
    assert str(got) == "words"
    assert (got.code, got.metadata, got.retry_after_seconds) == (
        sent.code,
        {"region": "eu-1"},
        1.5,
    )


def test_every_reason_of_the_api_has_a_class() -> None:
    """The SDK has one class for each value of the enum ErrorReason."""
    values = error_reason_pb2.ErrorReason.DESCRIPTOR.values_by_name
    names = {name.removeprefix("ERROR_REASON_") for name in values} - {"UNSPECIFIED"}
    assert {kind.reason for kind in _all_errors()} == names


def test_violations_cross_the_wire() -> None:
    """BadRequest comes back as field, rule and words."""
    sent = ArgumentInvalidError.of("key", "string.pattern", "expected a name")
    metadata = (("grpc-status-details-bin", rich_status(sent).SerializeToString()),)
    got = error_from_status("eu-1", grpc.StatusCode.INVALID_ARGUMENT, str(sent), metadata)
    assert isinstance(got, ArgumentInvalidError)
    assert got.violations == sent.violations


def test_a_bare_status_keeps_its_meaning() -> None:
    """What gRPC or a proxy says without details becomes an error of the SDK."""
    for code, kind in (
        (grpc.StatusCode.UNAVAILABLE, UnreachableError),
        (grpc.StatusCode.DEADLINE_EXCEEDED, DeadlineExceededError),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, OverloadedError),
        (grpc.StatusCode.UNIMPLEMENTED, UnexpectedStatusError),
        (grpc.StatusCode.CANCELLED, UnreachableError),
    ):
        error = error_from_status("eu-1", code, None, None)
        assert type(error) is kind
        assert error.code == code.name


def test_strange_details_are_not_believed() -> None:
    """Details that do not parse, of another domain, or about another code do not count."""
    hsm = rich_status(HsmUnavailableError("x"))
    other_domain = rich_status(AuditUnavailableError("x"))
    other_domain.details[0].value = other_domain.details[0].value.replace(
        b"strongroom", b"strongroon"
    )
    code = grpc.StatusCode.UNAVAILABLE
    for status in (b"\xff\xff", other_domain.SerializeToString()):
        error = error_from_status("eu-1", code, "x", (("grpc-status-details-bin", status),))
        assert type(error) is UnreachableError
    details = (("grpc-status-details-bin", hsm.SerializeToString()),)
    error = error_from_status("eu-1", grpc.StatusCode.INTERNAL, "x", details)
    assert type(error) is UnexpectedStatusError
