"""Pairs and MACs in the SDK: what it checks of arguments and answers, and the asyncio client."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from google.protobuf.message import Message

from strongroom.kms.v1 import resources_pb2 as pb
from strongroom_client import (
    Algorithm,
    ArgumentInvalidError,
    ChecksumMismatchError,
    DataKeyPairSpec,
    KeySpec,
    KeyUsage,
    KmsClient,
    ResponseInvalidError,
    SecretBytes,
    SignatureInvalidError,
)
from strongroom_client._core import Call, Reply
from strongroom_client._drivers import Driver, Limits
from strongroom_client.testing import FakeKms

CURVE = (KeySpec.EC_P256, KeyUsage.SIGN_VERIFY)
MAC = (KeySpec.HMAC_256, KeyUsage.GENERATE_VERIFY_MAC)
AGREE = (KeySpec.EC_P256, KeyUsage.KEY_AGREEMENT)
AES = (KeySpec.AES_256, KeyUsage.ENCRYPT_DECRYPT)


class Altering:
    """A transport in front of the fake that alters every answer to one method."""

    def __init__(self, fake: FakeKms, method: str, alter: Callable[[Any], None]):
        self._fake = fake
        self._method = method
        self._alter = alter
        self.calls = 0

    def call(self, call: Call, *, timeout_seconds: float) -> Reply:
        del timeout_seconds
        reply = self._fake.answer(call.region, call.method, call.request)
        if call.method == self._method:
            self.calls += 1
            self._alter(reply.message)
        return reply

    def close(self) -> None:
        """Nothing to close."""


def _altered(method: str, alter: Callable[[Any], None]) -> tuple[KmsClient, Altering]:
    fake = FakeKms()
    transport = Altering(fake, method, alter)
    return KmsClient.over(Driver(transport, Limits(5.0, 1)), fake.regions), transport


def _set(name: str, value: object) -> Callable[[Any], None]:
    return lambda message: setattr(message, name, value)


def _call(client: KmsClient, method: str) -> object:  # noqa: PLR0911 - one for each method
    """Make one call of a method with a key of its own."""
    kinds = {"Sign": CURVE, "Verify": CURVE, "GetPublicKey": CURVE, "DeriveSharedSecret": AGREE}
    kinds |= {"GenerateMac": MAC, "VerifyMac": MAC}
    spec, usage = kinds.get(method, AES)
    key = client.create_key("eu-1", spec=spec, usage=usage).name
    if method == "Sign":
        return client.sign(key, b"x", algorithm=Algorithm.ECDSA_SHA_256)
    if method == "Verify":
        return client.verify(key, b"x", client.sign(key, b"x").signature)
    if method == "GetPublicKey":
        return client.get_public_key(key)
    if method == "GenerateMac":
        return client.generate_mac(key, b"x")
    if method == "VerifyMac":
        return client.verify_mac(key, b"x", client.generate_mac(key, b"x").mac)
    if method == "DeriveSharedSecret":
        return client.derive_shared_secret(key, client.get_public_key(key).public_key)
    make: Any = client.generate_data_key_pair
    if method.endswith("WithoutPlaintext"):
        make = client.generate_data_key_pair_without_plaintext
    return make(key, DataKeyPairSpec.ED25519, encryption_context={})


@pytest.mark.parametrize(
    ("method", "field", "value"),
    [
        ("Sign", "signature_crc32c", 1),
        ("Sign", "verified_message_crc32c", False),
        ("Verify", "verified_message_crc32c", False),
        ("Verify", "verified_signature_crc32c", False),
        ("GetPublicKey", "public_key_crc32c", 1),
        ("GenerateMac", "mac_crc32c", 1),
        ("GenerateMac", "verified_message_crc32c", False),
        ("VerifyMac", "verified_message_crc32c", False),
        ("VerifyMac", "verified_mac_crc32c", False),
        ("DeriveSharedSecret", "shared_secret_crc32c", 1),
        ("DeriveSharedSecret", "verified_public_key_crc32c", False),
        ("GenerateDataKeyPair", "public_key_crc32c", 1),
        ("GenerateDataKeyPair", "plaintext_private_key_crc32c", 1),
        ("GenerateDataKeyPair", "wrapped_private_key_crc32c", 1),
        ("GenerateDataKeyPairWithoutPlaintext", "wrapped_private_key_crc32c", 1),
    ],
)
def test_a_corrupt_answer_is_asked_for_again(method: str, field: str, value: object) -> None:
    """Bytes that changed on the way are asked for three times, then CHECKSUM_MISMATCH."""
    client, transport = _altered(method, _set(field, value))
    with pytest.raises(ChecksumMismatchError):
        _call(client, method)
    assert transport.calls == 3


@pytest.mark.parametrize(
    ("method", "field", "value"),
    [
        (
            "Sign",
            "key_version",
            "regions/eu-1/keys/00000000-0000-4000-8000-000000000000/versions/1",
        ),
        ("Sign", "algorithm", pb.ALGORITHM_ED25519),
        ("Verify", "key_version", ""),
        ("GenerateMac", "key_version", "x"),
        ("DeriveSharedSecret", "algorithm", pb.ALGORITHM_HMAC_SHA_256),
        ("GenerateDataKeyPair", "spec", 1),
        ("GenerateDataKeyPairWithoutPlaintext", "spec", 0),
    ],
)
def test_an_answer_about_something_else_is_refused(method: str, field: str, value: object) -> None:
    """Another key, algorithm or kind of pair than the one asked for is RESPONSE_INVALID."""
    client, _ = _altered(method, _set(field, value))
    with pytest.raises(ResponseInvalidError):
        _call(client, method)


@pytest.mark.parametrize(
    ("method", "field"),
    [("Sign", "signature"), ("GetPublicKey", "public_key"), ("GenerateMac", "mac")],
)
def test_an_empty_answer_is_refused(method: str, field: str) -> None:
    """No signature, public key or MAC at all is never taken for one."""

    def clear(message: Message) -> None:
        setattr(message, field, b"")
        setattr(message, f"{field}_crc32c", 0)

    client, _ = _altered(method, clear)
    with pytest.raises(ResponseInvalidError):
        _call(client, method)


def test_arguments_are_checked_before_they_are_sent() -> None:
    """Sizes, names and UNKNOWN are refused by the SDK itself."""
    fake = FakeKms()
    client = fake.client()
    key = client.create_key("eu-1", spec=CURVE[0], usage=CURVE[1]).name
    before = len(fake.records)
    for call in (
        lambda: client.sign("x", b""),
        lambda: client.sign(key, bytes(4097)),
        lambda: client.sign(key, b"", algorithm=Algorithm.UNKNOWN),
        lambda: client.verify(key, b"", b""),
        lambda: client.verify(key, b"", bytes(6145)),
        lambda: client.verify_mac(key, b"", b""),
        lambda: client.generate_mac(key, bytes(4097)),
        lambda: client.derive_shared_secret(key, b""),
        lambda: client.derive_shared_secret(key, bytes(601)),
        lambda: client.create_key("eu-1", spec=KeySpec.UNKNOWN),
        lambda: client.create_key("eu-1", usage=KeyUsage.UNKNOWN),
    ):
        with pytest.raises(ArgumentInvalidError):
            call()
    assert len(fake.records) == before


def test_secrets_hide_in_repr() -> None:
    """Shared secrets and private keys are SecretBytes, which show their length only."""
    client = FakeKms().client()
    shared: Any = _call(client, "DeriveSharedSecret")
    pair: Any = _call(client, "GenerateDataKeyPair")
    for secret in (shared.shared_secret, pair.plaintext_private_key):
        assert isinstance(secret, SecretBytes)
    assert "SecretBytes of 32 bytes" in repr(shared)
    assert bytes(pair.plaintext_private_key).hex() not in repr(pair).replace("\\x", "")


async def test_the_asyncio_client_does_the_same() -> None:
    """Sign, verify, MAC, agree and make pairs from an event loop."""
    client = FakeKms().async_client()
    signer = (await client.create_key("eu-1", spec=CURVE[0], usage=CURVE[1])).name
    made = await client.sign(signer, b"x")
    await client.verify(signer, b"x", made.signature)
    with pytest.raises(SignatureInvalidError):
        await client.verify(signer, b"y", made.signature)
    mac = (await client.create_key("eu-1", spec=MAC[0], usage=MAC[1])).name
    await client.verify_mac(mac, b"x", (await client.generate_mac(mac, b"x")).mac)
    agreer = (await client.create_key("eu-1", spec=AGREE[0], usage=AGREE[1])).name
    public = await client.get_public_key(agreer)
    assert len((await client.derive_shared_secret(agreer, public.public_key)).shared_secret) == 32
    aes = (await client.create_key("eu-1")).name
    for make in (client.generate_data_key_pair, client.generate_data_key_pair_without_plaintext):
        pair = await make(aes, DataKeyPairSpec.EC_P384, encryption_context={"a": "b"})
        opened = await client.decrypt(aes, pair.wrapped_private_key, encryption_context={"a": "b"})
        assert opened.plaintext
