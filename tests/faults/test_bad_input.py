"""Bad input over the wire: the documented reason, and the record that it leaves."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pytest
from cryptography import x509
from cryptography.x509.oid import ObjectIdentifier
from tests.support.callers import (
    TRUST_DOMAIN,
    issue,
    issue_expired,
    issue_of_another_ca,
    issue_with_sans,
)
from tests.support.deployment import Deployment
from tests.support.wire import receipts_of, refusal, send

from strongroom.kms.v1 import key_service_pb2 as rpc
from strongroom_client import Key, KmsClient, TlsFiles, UnreachableError

pytestmark = [pytest.mark.integration, pytest.mark.hsm]

CONTEXT = {"order": "17", "tenant": "acme"}
MISSING_KEY = "00000000-0000-4000-8000-000000000000"
EU = "eu-1"


@pytest.fixture
def client(shared_deployment: Deployment) -> Iterator[KmsClient]:
    """Return a client of orders."""
    with shared_deployment.client() as client:
        yield client


@pytest.fixture
def channel(shared_deployment: Deployment) -> Iterator[grpc.Channel]:
    """Return a channel of orders to the first region."""
    with shared_deployment.channel(EU) as channel:
        yield channel


@pytest.fixture
def key(client: KmsClient) -> Key:
    """Return a new key of orders in the first region."""
    return client.create_key(EU)


def _blob(client: KmsClient, key: Key, context: dict[str, str] | None = None) -> bytes:
    return client.encrypt(key.name, b"x", encryption_context=context or {}).ciphertext


def test_sizes_at_the_limit_pass_and_beyond_it_are_refused(
    channel: grpc.Channel, client: KmsClient, key: Key
) -> None:
    """4,096 bytes, 6,144 and 8 KiB are read; one more is INVALID_ARGUMENT and names the field."""
    answer, receipts = send(
        channel, "Encrypt", rpc.EncryptRequest(key=key.name, plaintext=bytes(4096))
    )
    assert len(answer.ciphertext) == 4096 + 50
    assert len(receipts) == 1
    longest = {"k": "v" * (8192 - 3 - 4 - 1)}
    assert client.decrypt(
        key.name, _blob(client, key, longest), encryption_context=longest
    ).used_primary
    # 6,144 bytes are within the limit of the field, so what is wrong is the ciphertext.
    fits = refusal(channel, "Decrypt", rpc.DecryptRequest(key=key.name, ciphertext=bytes(6144)))
    assert (fits.code, fits.reason) == ("INVALID_ARGUMENT", "CIPHERTEXT_INVALID")
    for field, method, request in (
        ("plaintext", "Encrypt", rpc.EncryptRequest(key=key.name, plaintext=bytes(4097))),
        ("ciphertext", "Decrypt", rpc.DecryptRequest(key=key.name, ciphertext=bytes(6145))),
        (
            "encryption_context",
            "Encrypt",
            rpc.EncryptRequest(
                key=key.name, plaintext=b"x", encryption_context={"k": longest["k"] + "v"}
            ),
        ),
        (
            "encryption_context",
            "Encrypt",
            rpc.EncryptRequest(key=key.name, plaintext=b"x", encryption_context={"": "v"}),
        ),
    ):
        error = refusal(channel, method, request)
        assert (error.code, error.reason) == ("INVALID_ARGUMENT", "ARGUMENT_INVALID")
        assert str(error).startswith(field)
        # Refused before the key is looked at, and recorded where it lives.
        assert [receipt.region for receipt in error.receipts] == [EU]


@pytest.mark.parametrize(
    "name",
    [
        "",
        "keys",
        "regions/eu-1",
        f"regions/eu-1/keys/{MISSING_KEY.replace('-', '')}",
        f"regions/eu-1/keys/{MISSING_KEY}/",
        f"regions/eu-1/keys/{MISSING_KEY}/versions/1",
        f"regions/EU-1/keys/{MISSING_KEY}",
        f" regions/eu-1/keys/{MISSING_KEY}",
        f"regions/eu-1/keys/{MISSING_KEY}\n",
        f"regions/../keys/{MISSING_KEY}",
        "regions/eu-1/aliases/a//b",
        "regions/eu-1/aliases/é",
        "regions/eu-1/aliases/" + "a" * 257,
    ],
)
def test_a_malformed_name_is_an_invalid_argument(channel: grpc.Channel, name: str) -> None:
    """A name that is not canonical is ARGUMENT_INVALID, whichever call it is in."""
    for method, request in (
        ("GetKey", rpc.GetKeyRequest(name=name)),
        ("Encrypt", rpc.EncryptRequest(key=name, plaintext=b"x")),
        ("GenerateDataKey", rpc.GenerateDataKeyRequest(key=name)),
        ("DisableKey", rpc.DisableKeyRequest(name=name)),
    ):
        error = refusal(channel, method, request)
        assert (error.code, error.reason) == ("INVALID_ARGUMENT", "ARGUMENT_INVALID")
        assert len(error.receipts) == 1


@pytest.mark.parametrize("asked", ["the key", "no key"])
def test_every_flipped_bit_of_a_blob_is_refused_alike(
    shared_deployment: Deployment, channel: grpc.Channel, client: KmsClient, key: Key, asked: str
) -> None:
    """Each bit flipped: one code, reason and text, another for the key id, each on record."""
    blob, named = _blob(client, key, CONTEXT), asked == "the key"
    errors = []
    for bit in range(8 * len(blob)):
        flipped = bytearray(blob)
        flipped[bit // 8] ^= 0x80 >> bit % 8
        request = rpc.DecryptRequest(
            key=key.name if named else "", ciphertext=bytes(flipped), encryption_context=CONTEXT
        )
        errors.append(refusal(channel, "Decrypt", request))
    of_key_id = errors[2 * 8 : 18 * 8]
    others = errors[: 2 * 8] + errors[18 * 8 :]
    told = ("INVALID_ARGUMENT", "WRONG_KEY") if named else ("NOT_FOUND", "KEY_NOT_FOUND")
    assert {(e.code, e.reason) for e in of_key_id} == {told}
    assert {(e.code, e.reason) for e in others} == {("INVALID_ARGUMENT", "CIPHERTEXT_INVALID")}
    for group in (of_key_id, others):
        assert len({str(error) for error in group}) == 1
        assert len({tuple(sorted(error.metadata.items())) for error in group}) == 1
    for error, record in zip(
        errors, shared_deployment.records_of(receipts_of(errors)), strict=True
    ):
        assert (record["method"], record["outcome"]) == ("Decrypt", "REFUSED")
        assert record["reason"] == error.reason
        assert record["principal"] == f"{TRUST_DOMAIN}/orders"
        assert record["encryption_context"] == CONTEXT


def test_refusals_have_their_reason_and_their_record(
    shared_deployment: Deployment, channel: grpc.Channel, client: KmsClient, key: Key
) -> None:
    """Another key's blob, another context, a disabled and an unknown key: reason and record."""
    other, off = client.create_key(EU), client.create_key(EU)
    blob, blob_off = _blob(client, key, CONTEXT), _blob(client, off)
    client.disable_key(off.name)
    missing = f"regions/{EU}/keys/{MISSING_KEY}"
    alias = f"regions/{EU}/aliases/{uuid.uuid4()}"

    def decrypt(name: str, ciphertext: bytes, context: dict[str, str]) -> rpc.DecryptRequest:
        return rpc.DecryptRequest(key=name, ciphertext=ciphertext, encryption_context=context)

    invalid, state, absent = "INVALID_ARGUMENT", "FAILED_PRECONDITION", "NOT_FOUND"
    changed = CONTEXT | {"order": "18"}
    encrypt_off = rpc.EncryptRequest(key=off.name, plaintext=b"x")
    by_alias = rpc.GenerateDataKeyRequest(key=alias)
    get = rpc.GetKeyRequest(name=missing)
    cases = [
        # method, request, code, reason, name of the key in the record
        ("Decrypt", decrypt(other.name, blob, CONTEXT), invalid, "WRONG_KEY", other.name),
        ("Decrypt", decrypt(key.name, blob, {}), invalid, "CIPHERTEXT_INVALID", key.name),
        ("Decrypt", decrypt(key.name, blob, changed), invalid, "CIPHERTEXT_INVALID", key.name),
        ("Decrypt", decrypt(key.name, b"x", {}), invalid, "CIPHERTEXT_INVALID", key.name),
        ("Decrypt", decrypt(off.name, blob_off, {}), state, "KEY_DISABLED", off.name),
        ("Encrypt", encrypt_off, state, "KEY_DISABLED", off.name),
        ("Decrypt", decrypt(missing, blob, CONTEXT), absent, "KEY_NOT_FOUND", missing),
        ("GenerateDataKey", by_alias, absent, "KEY_NOT_FOUND", alias),
        ("GetKey", get, absent, "KEY_NOT_FOUND", missing),
    ]
    errors = [refusal(channel, method, request) for method, request, *_ in cases]
    for error, (_, _, code, reason, _) in zip(errors, cases, strict=True):
        assert (error.code, error.reason) == (code, reason)
    records = shared_deployment.records_of(receipts_of(errors))
    for record, (method, _, _, reason, name) in zip(records, cases, strict=True):
        assert (record["method"], record["outcome"], record["reason"], record["key"]) == (
            method,
            "REFUSED",
            reason,
            name,
        )
        assert record["region"] == EU


def test_another_region_is_named(
    shared_deployment: Deployment, channel: grpc.Channel, client: KmsClient
) -> None:
    """A key of a region that the server does not host is WRONG_REGION, recorded at its home."""
    there = client.create_key("us-1")
    for name, region in ((there.name, "us-1"), (f"regions/mars/keys/{MISSING_KEY}", "mars")):
        error = refusal(channel, "Encrypt", rpc.EncryptRequest(key=name, plaintext=b"x"))
        assert (error.code, error.reason) == ("FAILED_PRECONDITION", "WRONG_REGION")
        assert error.metadata == {"region": region, "hostedRegions": EU}
        assert region in str(error)
        (record,) = shared_deployment.records_of(error.receipts)
        assert (record["region"], record["key"]) == (EU, name)
        assert (record["outcome"], record["reason"]) == ("REFUSED", "WRONG_REGION")


def test_a_stranger_learns_nothing_of_a_key(
    shared_deployment: Deployment, client: KmsClient, key: Key, tmp_path: Path
) -> None:
    """To a principal without permission a key is as if it did not exist; the record says why."""
    tls = issue(shared_deployment.layout.ca, tmp_path, "stranger")
    missing = f"regions/{EU}/keys/{MISSING_KEY}"
    blob = _blob(client, key)
    with shared_deployment.channel(EU, tls) as channel:
        hidden, absent = (
            [
                refusal(channel, "GetKey", rpc.GetKeyRequest(name=name)),
                refusal(channel, "Encrypt", rpc.EncryptRequest(key=name, plaintext=b"x")),
                refusal(channel, "Decrypt", rpc.DecryptRequest(key=name, ciphertext=blob)),
                refusal(channel, "DisableKey", rpc.DisableKeyRequest(name=name)),
            ]
            for name in (key.name, missing)
        )
        unnamed = refusal(channel, "Decrypt", rpc.DecryptRequest(ciphertext=blob))
        creation = refusal(channel, "CreateKey", rpc.CreateKeyRequest(parent=f"regions/{EU}"))
    for seen, not_there in zip(hidden, absent, strict=True):
        assert (seen.code, seen.reason) == ("NOT_FOUND", "KEY_NOT_FOUND")
        assert (not_there.code, not_there.reason) == ("NOT_FOUND", "KEY_NOT_FOUND")
        assert str(seen).replace(key.name, missing) == str(not_there)
    assert unnamed.reason == "KEY_NOT_FOUND"
    assert (creation.code, creation.reason) == ("PERMISSION_DENIED", "POLICY_DENIED")
    records = shared_deployment.records_of(receipts_of([*hidden, unnamed, creation]))
    assert {record["outcome"] for record in records} == {"DENIED"}
    assert {record["reason"] for record in records} == {"POLICY_DENIED"}
    assert {record["principal"] for record in records} == {f"{TRUST_DOMAIN}/stranger"}
    assert all(record["key"] == key.name for record in records[:-1])


def test_who_is_not_of_the_ca_gets_no_connection(
    shared_deployment: Deployment, tmp_path: Path
) -> None:
    """No certificate, one of another CA, an expired one: no call reaches the service."""
    ca = shared_deployment.layout.ca
    request = rpc.GenerateRandomRequest(parent=f"regions/{EU}", number_of_bytes=1)
    bare = grpc.ssl_channel_credentials((ca / "ca.pem").read_bytes())
    channels: list[Callable[[], grpc.Channel]] = [
        lambda: grpc.secure_channel(shared_deployment.address(EU), bare),
        lambda: grpc.insecure_channel(shared_deployment.address(EU)),
        lambda: shared_deployment.channel(EU, issue_of_another_ca(ca, tmp_path, "orders")),
        lambda: shared_deployment.channel(EU, issue_expired(ca, tmp_path, "orders")),
    ]
    sample = (
        'grpc_server_started_total{grpc_method="GenerateRandom",'
        'grpc_service="strongroom.kms.v1.KeyService",grpc_type="unary"}'
    )
    before = shared_deployment.metric("server-eu-1", sample)
    for make in channels:
        with make() as channel:
            error = refusal(channel, "GenerateRandom", request)
            assert isinstance(error, UnreachableError), error
            assert error.code == "UNAVAILABLE"
    assert shared_deployment.metric("server-eu-1", sample) == before
    with shared_deployment.channel(EU) as channel:
        send(channel, "GenerateRandom", request)
    assert shared_deployment.metric("server-eu-1", sample) == before + 1


def test_a_certificate_must_name_one_principal(
    shared_deployment: Deployment, client: KmsClient, key: Key, tmp_path: Path
) -> None:
    """Two URIs, a name as CN, DNS or e-mail only, a malformed id: UNAUTHENTICATED."""
    orders, payments = (f"{TRUST_DOMAIN}/{name}" for name in ("orders", "payments"))
    uri = x509.UniformResourceIdentifier
    blob = _blob(client, key)
    for cn, sans in (
        ("two", [uri(orders), uri(payments)]),
        ("twice", [uri(orders), uri(orders)]),
        ("mixed", [uri(orders), uri("https://example.org/orders")]),
        ("scheme", [uri("https://strongroom.dev/orders")]),
        ("query", [uri(orders + "?x=y")]),
        ("case", [uri(orders.replace("strongroom", "Strongroom"))]),
        (orders, []),
        (orders, [x509.DNSName("orders")]),
        (orders, [x509.RFC822Name("orders@strongroom.dev")]),
        (orders, [x509.RegisteredID(ObjectIdentifier("1.2.3.4"))]),
    ):
        tls: TlsFiles = issue_with_sans(shared_deployment.layout.ca, tmp_path, cn, sans)
        with shared_deployment.channel(EU, tls) as channel:
            request = rpc.DecryptRequest(key=key.name, ciphertext=blob)
            error = refusal(channel, "Decrypt", request)
            assert (error.code, error.reason) == ("UNAUTHENTICATED", "PEER_UNAUTHENTICATED"), cn
            assert error.receipts == ()


def test_a_disabled_key_is_refused_within_a_second(
    shared_deployment: Deployment, channel: grpc.Channel, client: KmsClient, key: Key
) -> None:
    """From the answer of DisableKey on, no caller on any connection uses the key."""
    blob = _blob(client, key)
    with shared_deployment.channel(EU, shared_deployment.tls_of("operator")) as other:
        assert send(other, "Decrypt", rpc.DecryptRequest(key=key.name, ciphertext=blob))
        send(channel, "DisableKey", rpc.DisableKeyRequest(name=key.name))
        for caller in (channel, other):
            error = refusal(caller, "Decrypt", rpc.DecryptRequest(key=key.name, ciphertext=blob))
            assert error.reason == "KEY_DISABLED"
