"""The gRPC floor over real mTLS: who is let in, what is refused, what an answer carries."""

from __future__ import annotations

import time
import uuid
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest
from structlog.testing import capture_logs
from tests.support.memory_service import ORDERS
from tests.support.rpc_server import (
    MAX_CONCURRENT_CALLS,
    code_of,
    reason_of,
    receipts_of,
    refused,
    running_server,
    trailers,
)

from strongroom.kms.v1 import key_service_pb2 as messages
from strongroom.kms.v1 import resources_pb2
from strongroom.kms.v1.key_service_pb2_grpc import KeyServiceStub

TIMEOUT = 10
PARENT = "regions/eu-1"
ENCRYPT = "/strongroom.kms.v1.KeyService/Encrypt"
RANDOM = messages.GenerateRandomRequest(parent=PARENT, number_of_bytes=8)


# pytest-grpc's fixtures, with the real server behind mTLS in place of its own.
@pytest.fixture(scope="module")
def grpc_server(tmp_path_factory):
    with running_server(tmp_path_factory.mktemp("tls")) as server:
        yield server


@pytest.fixture(scope="module")
def grpc_addr(grpc_server):
    return grpc_server.address


@pytest.fixture(scope="module")
def grpc_channel(grpc_server):
    with grpc_server.channel(grpc_server.authority.issue(ORDERS)) as channel:
        yield channel


@pytest.fixture(scope="module")
def grpc_stub_cls():
    return KeyServiceStub


@pytest.fixture(autouse=True)
def _well(grpc_server):
    """Leave the ports as they were for the next test."""
    yield
    grpc_server.service.eu.token.fault = None
    grpc_server.service.eu.token.delay_seconds = 0.0


@pytest.fixture(scope="module")
def key(grpc_stub):
    return grpc_stub.CreateKey(messages.CreateKeyRequest(parent=PARENT), timeout=TIMEOUT).key


def test_every_method_works_behind_the_pipeline(grpc_stub, key):
    """The life of a key over the wire; every answer carries its receipts and checksums."""
    name = key.name
    alias = messages.CreateAliasRequest(parent=PARENT, alias_id="a/b", key=name)
    grpc_stub.CreateAlias(alias, timeout=TIMEOUT)
    for call, request, receipts in (
        (grpc_stub.GetKey, messages.GetKeyRequest(name=f"{PARENT}/aliases/a/b"), 1),
        (grpc_stub.ListKeys, messages.ListKeysRequest(parent=PARENT), 1),
        (grpc_stub.DisableKey, messages.DisableKeyRequest(name=name), 1),
        (grpc_stub.EnableKey, messages.EnableKeyRequest(name=name), 1),
        (grpc_stub.RotateKey, messages.RotateKeyRequest(name=name), 1),
        (grpc_stub.ListKeyVersions, messages.ListKeyVersionsRequest(parent=name), 1),
        (grpc_stub.GenerateDataKey, messages.GenerateDataKeyRequest(key=name), 1),
        (
            grpc_stub.GenerateDataKeyWithoutPlaintext,
            messages.GenerateDataKeyWithoutPlaintextRequest(key=name),
            1,
        ),
        (grpc_stub.GenerateRandom, RANDOM, 1),
    ):
        _, done = call.with_call(request, timeout=TIMEOUT)
        assert len(receipts_of(done)) == receipts
    context = {"table": "cards"}
    made = grpc_stub.Encrypt(
        messages.EncryptRequest(key=name, plaintext=b"secret", encryption_context=context),
        timeout=TIMEOUT,
    )
    assert not made.verified_plaintext_crc32c
    moved, done = grpc_stub.ReEncrypt.with_call(
        messages.ReEncryptRequest(
            ciphertext=made.ciphertext,
            ciphertext_crc32c=made.ciphertext_crc32c,
            source_encryption_context=context,
            destination_key=name,
        ),
        timeout=TIMEOUT,
    )
    assert len(receipts_of(done)) == 2
    assert moved.verified_ciphertext_crc32c
    opened = grpc_stub.Decrypt(
        messages.DecryptRequest(key=name, ciphertext=moved.ciphertext), timeout=TIMEOUT
    )
    assert opened.plaintext == b"secret"


def test_limits_of_the_protos_are_enforced(grpc_stub, key):
    """At the limit is accepted, one more is an invalid argument that names its field."""
    name = key.name
    encrypt, random = grpc_stub.Encrypt, grpc_stub.GenerateRandom
    encrypt(messages.EncryptRequest(key=name, plaintext=bytes(4096)), timeout=TIMEOUT)
    context = {"a": "x" * 8184}
    encrypt(
        messages.EncryptRequest(key=name, plaintext=b"x", encryption_context=context),
        timeout=TIMEOUT,
    )
    for call, request, field in (
        (encrypt, messages.EncryptRequest(key=name, plaintext=bytes(4097)), "plaintext"),
        (encrypt, messages.EncryptRequest(key=name), "plaintext"),
        (encrypt, messages.EncryptRequest(plaintext=b"x"), "key"),
        (encrypt, messages.EncryptRequest(key=name + "\n", plaintext=b"x"), "key"),
        (
            encrypt,
            messages.EncryptRequest(key=name, plaintext=b"x", encryption_context={"": "x"}),
            "encryption_context",
        ),
        (
            encrypt,
            messages.EncryptRequest(key=name, plaintext=b"x", encryption_context={"a": "x" * 8185}),
            "encryption_context",
        ),
        (
            grpc_stub.Decrypt,
            messages.DecryptRequest(ciphertext=bytes(6145)),
            "ciphertext",
        ),
        (random, messages.GenerateRandomRequest(parent=PARENT), "number_of_bytes"),
        (
            random,
            messages.GenerateRandomRequest(parent=PARENT, number_of_bytes=1025),
            "number_of_bytes",
        ),
        (
            grpc_stub.ListKeys,
            messages.ListKeysRequest(parent=PARENT, page_size=1001),
            "page_size",
        ),
        (
            grpc_stub.CreateKey,
            messages.CreateKeyRequest(parent=PARENT, request_id="not a uuid"),
            "request_id",
        ),
    ):
        error = refused(call, request)
        assert code_of(error) is grpc.StatusCode.INVALID_ARGUMENT
        assert reason_of(error) == "ARGUMENT_INVALID"
        assert field in str(error)


def test_unknown_enum_values_are_refused_and_unknown_fields_ignored(grpc_stub, grpc_channel, key):
    """A value that this version does not know is never taken for another."""
    error = refused(
        grpc_stub.CreateKey,
        messages.CreateKeyRequest(parent=PARENT, spec=99),  # type: ignore[arg-type]  # on purpose
    )
    assert reason_of(error) == "ARGUMENT_INVALID"
    error = refused(
        grpc_stub.GenerateDataKey,
        messages.GenerateDataKeyRequest(key=key.name, data_key_spec=7),  # type: ignore[arg-type]  # on purpose
    )
    assert reason_of(error) == "ARGUMENT_INVALID"
    raw = grpc_channel.unary_unary(ENCRYPT)
    request = messages.EncryptRequest(key=key.name, plaintext=b"x").SerializeToString()
    assert raw(request + b"\xc2\x3e\x01x", timeout=TIMEOUT)  # field 1,000


def test_bytes_that_are_no_message_are_an_invalid_argument(grpc_server, grpc_channel):
    """What does not parse is refused like any other bad request, after authentication."""
    for path in (ENCRYPT, "/strongroom.kms.v1.KeyService/ListKeys"):
        error = refused(grpc_channel.unary_unary(path), b"\x0a\xff")
        assert code_of(error) is grpc.StatusCode.INVALID_ARGUMENT
        assert reason_of(error) == "ARGUMENT_INVALID"
        assert "not a message of its type" in str(error)
    records = grpc_channel.unary_stream("/strongroom.audit.v1.AuditService/StreamRecords")
    with pytest.raises(grpc.RpcError) as refusal:
        list(records(b"\x0a\xff", timeout=TIMEOUT))
    assert reason_of(refusal.value) == "ARGUMENT_INVALID"
    nobody = grpc_server.authority.issue(emails=["a@example.org"])
    with grpc_server.channel(nobody) as channel:
        error = refused(channel.unary_unary(ENCRYPT), b"\x0a\xff")
    assert reason_of(error) == "PEER_UNAUTHENTICATED"


def test_oversize_requests_and_metadata_are_refused(grpc_stub, key):
    """A request over 256 KiB and 17 KiB of metadata are RESOURCE_EXHAUSTED; the next call works."""
    request = messages.EncryptRequest(key=key.name, plaintext=bytes(256 * 1024 + 1))
    assert code_of(refused(grpc_stub.Encrypt, request)) is grpc.StatusCode.RESOURCE_EXHAUSTED
    metadata = [("x-filler", "x" * 17 * 1024)]
    error = refused(grpc_stub.GenerateRandom, RANDOM, metadata=metadata)
    assert code_of(error) is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert grpc_stub.GenerateRandom(RANDOM, timeout=TIMEOUT).random


def test_many_mistakes_still_arrive_with_their_reason(grpc_stub, key):
    """However much is wrong with a request, the refusal fits into the answer's headers."""
    values = {f"k{n}": "x" * 8193 for n in range(30)}
    request = messages.EncryptRequest(key=key.name, plaintext=b"x", encryption_context=values)
    assert reason_of(refused(grpc_stub.Encrypt, request)) == "ARGUMENT_INVALID"
    policy = 'permit (principal, action == Action::"ÄÖÜ€𝄞", resource);' * 400
    create = messages.CreateKeyRequest(parent=PARENT, policy=policy)
    assert reason_of(refused(grpc_stub.CreateKey, create)) == "POLICY_INVALID"
    nested = f"permit (principal, action, resource) when {{ {'(' * 9000}true{')' * 9000} }};"
    create = messages.CreateKeyRequest(parent=PARENT, policy=nested)
    assert reason_of(refused(grpc_stub.CreateKey, create)) == "POLICY_INVALID"


def test_a_wrong_checksum_is_refused_before_anything_is_used(grpc_server, grpc_stub, key):
    """CHECKSUM_MISMATCH, and the HSM was not asked; a right one is confirmed."""
    operations = grpc_server.service.eu.token.operations
    request = messages.EncryptRequest(key=key.name, plaintext=b"x", plaintext_crc32c=1)
    assert reason_of(refused(grpc_stub.Encrypt, request)) == "CHECKSUM_MISMATCH"
    assert grpc_server.service.eu.token.operations == operations
    request = messages.EncryptRequest(
        key=key.name, plaintext=b"123456789", plaintext_crc32c=0xE3069283
    )
    assert grpc_stub.Encrypt(request, timeout=TIMEOUT).verified_plaintext_crc32c


def test_refusals_carry_their_receipts(grpc_server, grpc_stub):
    """A refusal has its receipt in the trailing metadata, also one before any shard is asked."""
    missing = f"{PARENT}/keys/{uuid.uuid4()}"
    error = refused(grpc_stub.Encrypt, messages.EncryptRequest(key=missing, plaintext=b"x"))
    assert (code_of(error), reason_of(error)) == (grpc.StatusCode.NOT_FOUND, "KEY_NOT_FOUND")
    assert [r.sequence for r in receipts_of(error)] == [len(grpc_server.service.records())]
    error = refused(grpc_stub.GenerateRandom, messages.GenerateRandomRequest(parent=PARENT))
    assert [r.sequence for r in receipts_of(error)] == [len(grpc_server.service.records())]
    record = grpc_server.service.records()[-1]
    assert (record.method, record.reason) == ("GenerateRandom", "ARGUMENT_INVALID")


def test_an_internal_error_hides_its_details(grpc_server, grpc_stub, key):
    """The caller gets one text; the log has the cause under the request id."""
    grpc_server.service.eu.token.fault = RuntimeError("marker: the inside")
    request_id = str(uuid.uuid4())
    with capture_logs() as logs:
        error = refused(
            grpc_stub.Encrypt,
            messages.EncryptRequest(key=key.name, plaintext=b"x"),
            metadata=[("x-request-id", request_id)],
        )
    assert (code_of(error), reason_of(error)) == (grpc.StatusCode.INTERNAL, "INTERNAL")
    assert "marker" not in str(error)
    assert "marker" not in str(trailers(error))
    logged = [line for line in logs if line["event"] == "internal error"]
    assert [line["request_id"] for line in logged] == [request_id]
    assert "marker" in str(logged[0]["exc_info"])


def test_a_call_leaves_one_log_line_without_secrets(grpc_stub, key):
    """Method, code, principal and key; neither plaintext nor values of the context."""
    request = messages.EncryptRequest(
        key=key.name, plaintext=b"marker-plain", encryption_context={"a": "marker-context"}
    )
    with capture_logs() as logs:
        grpc_stub.Encrypt(request, timeout=TIMEOUT, metadata=[("x-request-id", "mine")])
    (line,) = [line for line in logs if line.get("request_id") == "mine"]
    assert line["rpc.method"] == "strongroom.kms.v1.KeyService/Encrypt"
    assert line["rpc.response.status_code"] == "OK"
    assert (line["principal"], line["key"]) == (ORDERS, key.name)
    assert line["request_id"] == "mine"
    assert "marker" not in str(line)


@pytest.mark.parametrize(
    ("given", "kept"),
    [("order-17", True), ("a" * 128, True), ("a" * 129, False), (None, False)],
)
def test_the_request_id_is_the_callers_or_a_new_one(grpc_server, grpc_stub, given, kept):
    """A sane x-request-id is recorded as it is, any other is replaced."""
    metadata = [] if given is None else [("x-request-id", given)]
    grpc_stub.GenerateRandom(RANDOM, timeout=TIMEOUT, metadata=metadata)
    recorded = grpc_server.service.records()[-1].request_id
    if kept:
        assert recorded == given
    else:
        assert uuid.UUID(recorded).version == 4


def test_the_requests_own_id_wins(grpc_server, grpc_stub):
    """A mutation is recorded under its request_id."""
    request_id = str(uuid.uuid4())
    grpc_stub.CreateKey(
        messages.CreateKeyRequest(parent=PARENT, request_id=request_id),
        timeout=TIMEOUT,
        metadata=[("x-request-id", "other")],
    )
    assert grpc_server.service.records()[-1].request_id == request_id


def test_too_many_calls_at_once_are_refused_at_once(grpc_server, grpc_stub, key):
    """The excess is OVERLOADED in a moment and may come back; the others are answered."""
    grpc_server.service.eu.token.delay_seconds = 1.0
    request = messages.EncryptRequest(key=key.name, plaintext=b"x")

    def one(_: int) -> tuple[str, float]:
        start = time.monotonic()
        try:
            grpc_stub.Encrypt(request, timeout=TIMEOUT)
        except grpc.RpcError as error:
            return reason_of(error), time.monotonic() - start
        return "OK", time.monotonic() - start

    with ThreadPoolExecutor(3 * MAX_CONCURRENT_CALLS) as pool:
        results = list(pool.map(one, range(3 * MAX_CONCURRENT_CALLS)))
    assert [reason for reason, _ in results].count("OK") == MAX_CONCURRENT_CALLS - 1  # one caller
    assert {reason for reason, _ in results} == {"OK", "OVERLOADED"}
    assert all(seconds < 0.9 for reason, seconds in results if reason == "OVERLOADED")
    assert grpc_stub.Encrypt(request, timeout=TIMEOUT).ciphertext


def test_a_short_deadline_ends_the_call_and_frees_its_place(grpc_server, grpc_stub, key):
    """Callers that go away do not use up the places of others."""
    grpc_server.service.eu.token.delay_seconds = 3.0
    request = messages.EncryptRequest(key=key.name, plaintext=b"x")
    for timeout in (0.001, 0.05, 0.05, 0.05, 0.05, 0.05):
        error = refused(grpc_stub.Encrypt, request, timeout=timeout)
        assert code_of(error) is grpc.StatusCode.DEADLINE_EXCEEDED
    grpc_server.service.eu.token.delay_seconds = 0.0
    assert grpc_stub.Encrypt(request, timeout=TIMEOUT).ciphertext
    waited = time.monotonic() + 5
    while ("Encrypt", "CANCELLED") not in grpc_server.seen.codes and time.monotonic() < waited:
        time.sleep(0.01)
    assert ("Encrypt", "CANCELLED") in grpc_server.seen.codes


def test_keys_look_as_the_service_says(key):
    """Every field of a new key is set."""
    assert key.spec == resources_pb2.KEY_SPEC_AES_256
    assert key.usage == resources_pb2.KEY_USAGE_ENCRYPT_DECRYPT
    assert key.state == resources_pb2.KEY_STATE_ENABLED
    assert key.key_manager == resources_pb2.KEY_MANAGER_CUSTOMER
    assert key.primary_version == f"{key.name}/versions/1"
    assert key.creator == ORDERS
    assert key.etag == "r1"
    assert key.create_time == key.update_time
