"""MAC keys and key pairs in the services: what is made, refused and recorded."""

from __future__ import annotations

import asyncio
import hashlib
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from tests.support.memory_service import (
    ORDERS,
    STRANGER,
    VISIBLE_TO_ALL,
    MemoryService,
    caller,
    fields,
)

from strongroom_server.domain import ciphertext
from strongroom_server.domain.algorithms import Algorithm, algorithms_of, is_pair
from strongroom_server.domain.key_uses import takes_part
from strongroom_server.domain.keys import Key, KeySpec, KeyState, KeyStorage, KeyUsage
from strongroom_server.domain.policy import Action
from strongroom_server.errors import (
    ArgumentInvalidError,
    CiphertextInvalidError,
    KeyDisabledError,
    KeyNotFoundError,
    KeySpecUnsupportedError,
    KeyUsageMismatchError,
    MacInvalidError,
    OverloadedError,
    PolicyDeniedError,
    SignatureInvalidError,
)
from strongroom_server.services.asymmetric import Message
from strongroom_server.services.changes import ChangeRequest
from strongroom_server.services.pair_maker import DataKeyPairSpec, PairMaker

SIGN, MAC, AGREE, ENCRYPT = (
    KeyUsage.SIGN_VERIFY,
    KeyUsage.GENERATE_VERIFY_MAC,
    KeyUsage.KEY_AGREEMENT,
    KeyUsage.ENCRYPT_DECRYPT,
)
SIGNERS = [
    (spec, algorithm)
    for spec in (KeySpec.RSA_2048, KeySpec.EC_P256, KeySpec.EC_P384, KeySpec.EC_P521)
    for algorithm in algorithms_of(spec, SIGN)
]
HELLO = Message(b"hello")


@pytest.fixture
def service() -> MemoryService:
    return MemoryService()


async def sign(service: MemoryService, key: Key, message: Message, algorithm=None, **options):
    return await service.asymmetric.sign(
        caller(options.get("who", ORDERS)),
        key.name,
        message,
        algorithm,
        validate_only=options.get("validate_only", False),
    )


async def verify(service: MemoryService, key: Key, message: Message, signature, algorithm=None):
    return await service.asymmetric.verify(
        caller(), key.name, message, signature, algorithm, validate_only=False
    )


async def disable(service: MemoryService, key: Key) -> None:
    await service.lifecycle.set_state(caller(), key.name, KeyState.DISABLED, ChangeRequest())


@pytest.mark.parametrize(("spec", "algorithm"), SIGNERS, ids=str)
async def test_what_is_signed_verifies(service, spec, algorithm):
    """A message and its digest are one; another message, signature or algorithm is refused."""
    key = await service.create_key(spec=spec, usage=SIGN)
    digest = Message(hashlib.new(algorithm.hash_name, b"hello").digest(), is_digest=True)
    for signed in (HELLO, digest):
        made = await sign(service, key, signed, algorithm)
        assert made.key_version == f"{key.name}/versions/1"
        assert made.algorithm is algorithm
        for same in (HELLO, digest):
            verified = await verify(service, key, same, made.data, algorithm)
            assert verified.algorithm is algorithm
        for message, signature in (
            (Message(b"hullo"), made.data),
            (HELLO, made.data[:-1] + bytes([made.data[-1] ^ 1])),
            (HELLO, made.data + b"\0"),
            (HELLO, b"x"),
        ):
            with pytest.raises(SignatureInvalidError):
                await verify(service, key, message, signature, algorithm)


async def test_ed25519_signs_messages_only(service):
    """A digest is refused with the field and the clause; the empty message is one."""
    key = await service.create_key(spec=KeySpec.ED25519, usage=SIGN)
    made = await sign(service, key, Message(b""))
    await verify(service, key, Message(b""), made.data)
    with pytest.raises(ArgumentInvalidError, match="RFC 8032"):
        await sign(service, key, Message(bytes(64), is_digest=True))


@pytest.mark.parametrize("size", [0, 31, 33, 48])
@pytest.mark.parametrize("validate_only", [False, True])
async def test_a_digest_has_its_length(service, size, validate_only):
    """A digest of another length is an invalid argument, in a dry run too."""
    key = await service.create_key(spec=KeySpec.EC_P256, usage=SIGN)
    with pytest.raises(ArgumentInvalidError, match="32"):
        await sign(service, key, Message(bytes(size), is_digest=True), validate_only=validate_only)


async def test_an_algorithm_is_the_keys_own(service):
    """RSA needs one named; one of another key is refused with what this one takes."""
    pair = await service.create_key(spec=KeySpec.RSA_2048, usage=SIGN)
    curve = await service.create_key(spec=KeySpec.EC_P256, usage=SIGN)
    for key, algorithm in (
        (pair, None),
        (pair, Algorithm.ECDSA_SHA_256),
        (pair, Algorithm.RSAES_OAEP_SHA_256),
        (curve, Algorithm.ECDSA_SHA_384),
        (curve, Algorithm.ED25519),
    ):
        with pytest.raises(ArgumentInvalidError) as refused:
            await sign(service, key, HELLO, algorithm)
        assert refused.value.violations[0].field == "algorithm"
    assert (await sign(service, curve, HELLO)).algorithm is Algorithm.ECDSA_SHA_256


@pytest.mark.parametrize("bits", [224, 256, 384, 512])
async def test_macs_verify(service, bits):
    """An HMAC has its full length and verifies; a changed, cut or longer one does not."""
    key = await service.create_key(spec=KeySpec[f"HMAC_{bits}"], usage=MAC)
    asymmetric = service.asymmetric
    made = await asymmetric.generate_mac(caller(), key.name, b"hello", None, validate_only=False)
    assert len(made.data) == bits // 8
    assert made.algorithm is Algorithm[f"HMAC_SHA_{bits}"]

    async def check(message: bytes, mac: bytes) -> None:
        await asymmetric.verify_mac(caller(), key.name, message, mac, None, validate_only=False)

    await check(b"hello", made.data)
    for message, mac in (
        (b"hullo", made.data),
        (b"hello", made.data[:-1]),
        (b"hello", made.data + b"\0"),
        (b"hello", bytes(len(made.data))),
    ):
        with pytest.raises(MacInvalidError):
            await check(message, mac)


async def test_two_keys_agree(service):
    """Either side gets the same secret; a key on another curve is refused."""
    one = await service.create_key(spec=KeySpec.EC_P384, usage=AGREE)
    asymmetric = service.asymmetric
    public = await asymmetric.public_key(caller(), one.name)
    assert (public.spec, public.usage, public.algorithms) == (
        KeySpec.EC_P384,
        AGREE,
        (Algorithm.ECDH,),
    )
    other = ec.generate_private_key(ec.SECP384R1())
    loaded = serialization.load_der_public_key(public.data)
    assert isinstance(loaded, ec.EllipticCurvePublicKey)
    spki = other.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    made = await asymmetric.derive_shared_secret(
        caller(), one.name, spki, None, validate_only=False
    )
    assert made.data == other.exchange(ec.ECDH(), loaded)
    elsewhere = ec.generate_private_key(ec.SECP256R1()).public_key()
    for wrong in (
        b"no key",
        elsewhere.public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        ),
    ):
        with pytest.raises(ArgumentInvalidError):
            await asymmetric.derive_shared_secret(
                caller(), one.name, wrong, None, validate_only=False
            )


@pytest.mark.parametrize("algorithm", algorithms_of(KeySpec.RSA_2048, ENCRYPT), ids=str)
async def test_rsa_encrypts_what_it_has_room_for(service, algorithm):
    """The longest plaintext comes back, one byte more is refused; outsiders can encrypt too."""
    key = await service.create_key(spec=KeySpec.RSA_2048, usage=ENCRYPT)
    most = {Algorithm.RSAES_OAEP_SHA_1: 214, Algorithm.RSAES_OAEP_SHA_256: 190}[algorithm]
    crypto, plaintext = service.crypto, bytes(range(most))

    async def decrypt(blob: bytes, name=key.name, context=None) -> bytes:
        opened = await crypto.decrypt(
            caller(), name, blob, context or {}, algorithm=algorithm, validate_only=False
        )
        assert opened.used_primary
        assert opened.algorithm is algorithm
        return bytes(opened.plaintext)

    made = await crypto.encrypt(
        caller(), key.name, plaintext, {}, algorithm=algorithm, validate_only=False
    )
    assert len(made.blob) == 256
    assert await decrypt(made.blob) == plaintext
    public = await service.asymmetric.public_key(caller(), key.name)
    loaded = serialization.load_der_public_key(public.data)
    assert isinstance(loaded, rsa.RSAPublicKey)
    digest: hashes.HashAlgorithm = hashes.SHA256()
    if algorithm is Algorithm.RSAES_OAEP_SHA_1:
        digest = hashes.SHA1()  # noqa: S303 - what OAEP had first; it has to resist nothing there
    outside = loaded.encrypt(b"from outside", padding.OAEP(padding.MGF1(digest), digest, None))
    assert await decrypt(outside) == b"from outside"
    assert service.reserved() == {"eu-1": 0, "us-1": 0}
    for wrong in (made.blob[:-1] + bytes([made.blob[-1] ^ 1]), made.blob[:-1], b"x"):
        with pytest.raises(CiphertextInvalidError):
            await decrypt(wrong)
    with pytest.raises(CiphertextInvalidError):  # it says of no key that it made it
        await decrypt(made.blob, name=None)
    with pytest.raises(ArgumentInvalidError, match="context"):
        await decrypt(made.blob, context={"a": "b"})
    for data, context in ((bytes(most + 1), {}), (b"x", {"a": "b"})):
        for validate_only in (False, True):
            with pytest.raises(ArgumentInvalidError):
                await crypto.encrypt(
                    caller(),
                    key.name,
                    data,
                    context,
                    algorithm=algorithm,
                    validate_only=validate_only,
                )


async def test_a_forged_blob_cannot_name_a_pair(service):
    """A ciphertext blob with the id of an RSA key is an invalid ciphertext, named or not."""
    key = await service.create_key(spec=KeySpec.RSA_2048, usage=ENCRYPT)
    blob = ciphertext.header_for(key.version_ref(1)) + bytes(29)
    with pytest.raises(CiphertextInvalidError):
        await service.crypto.decrypt(caller(), None, blob, {}, validate_only=False)
    mac = await service.create_key(spec=KeySpec.HMAC_256, usage=MAC)
    blob = ciphertext.header_for(mac.version_ref(1)) + bytes(29)
    with pytest.raises(KeyUsageMismatchError):
        await service.crypto.decrypt(caller(), None, blob, {}, validate_only=False)


@pytest.mark.parametrize("spec", list(DataKeyPairSpec))
async def test_a_data_key_pair_is_one(service, spec):
    """Public and private half fit, and Decrypt gives the PKCS#8 that was also returned."""
    key = await service.create_key()
    context = {"table": "cards"}
    made = await service.pairs.generate(
        caller(), key.name, spec, context, with_plaintext=True, validate_only=False
    )
    private = serialization.load_der_private_key(made.private_key, None)
    assert (
        private.public_key().public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        == made.public_key
    )
    if isinstance(private, rsa.RSAPrivateKey):
        assert f"RSA_{private.key_size}" == spec
        assert private.public_key().public_numbers().e == 65537
    else:
        assert isinstance(private, ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey)
    assert len(made.private_key) <= 2400
    opened = await service.crypto.decrypt(
        caller(), key.name, made.blob, context, validate_only=False
    )
    assert opened.plaintext == made.private_key
    blind = await service.pairs.generate(
        caller(), key.name, spec, context, with_plaintext=False, validate_only=False
    )
    assert (blind.private_key, blind.public_key != made.public_key) == (b"", True)
    methods = [record.method for record in service.records()][-3:]
    assert methods == ["GenerateDataKeyPair", "Decrypt", "GenerateDataKeyPairWithoutPlaintext"]


@pytest.mark.parametrize("byte", [0, 1, 255])
@pytest.mark.parametrize(
    "spec", [spec for spec in DataKeyPairSpec if not spec.startswith("RSA")], ids=str
)
async def test_private_keys_come_from_the_hsm_alone(service, spec, byte):
    """The same random bytes make the same pair, whatever they are; RSA is OpenSSL's."""
    maker, asked = PairMaker(service.clock), []

    async def random(size: int) -> bytes:
        asked.append(size)
        return bytes([byte]) * size

    first = await maker.make(spec, random, deadline=service.clock.monotonic() + 5)
    assert await maker.make(spec, random, deadline=service.clock.monotonic() + 5) == first
    # FIPS 186-5, A.2.1: 64 bits more than the order's.
    assert asked == [{"EC_P384": 56, "EC_P521": 74, "ED25519": 32}.get(spec, 40)] * 2


async def test_too_many_rsa_pairs_are_refused_in_time(service):
    """Who waits for a place beyond the deadline is OVERLOADED, and places come back."""
    maker = PairMaker(service.clock, max_rsa_at_once=1)

    async def random(size: int) -> bytes:
        return bytes(size)

    def make(seconds: float):
        deadline = service.clock.monotonic() + seconds
        return maker.make(DataKeyPairSpec.RSA_4096, random, deadline=deadline)

    first = asyncio.create_task(make(60))
    await asyncio.sleep(0)
    with pytest.raises(OverloadedError):
        await make(0)
    await first
    public, _ = await make(60)
    assert public


async def test_every_action_is_for_its_keys(service):
    """A use that is not for a kind of key is KEY_USAGE_MISMATCH, recorded as refused."""
    calls = service.asymmetric
    for spec, usage in (
        (KeySpec.AES_256, ENCRYPT),
        (KeySpec.HMAC_256, MAC),
        (KeySpec.RSA_2048, ENCRYPT),
        (KeySpec.EC_P256, SIGN),
        (KeySpec.EC_P256, AGREE),
    ):
        key = await service.create_key(spec=spec, usage=usage)
        name = key.name
        uses: dict[Action, Any] = {
            Action.SIGN: lambda n=name: calls.sign(caller(), n, HELLO, None, validate_only=True),
            Action.VERIFY: lambda n=name: calls.verify(
                caller(), n, HELLO, b"x", None, validate_only=True
            ),
            Action.GET_PUBLIC_KEY: lambda n=name: calls.public_key(caller(), n),
            Action.GENERATE_MAC: lambda n=name: calls.generate_mac(
                caller(), n, b"", None, validate_only=True
            ),
            Action.VERIFY_MAC: lambda n=name: calls.verify_mac(
                caller(), n, b"", b"x", None, validate_only=True
            ),
            Action.DERIVE_SHARED_SECRET: lambda n=name: calls.derive_shared_secret(
                caller(), n, b"x", None, validate_only=True
            ),
            Action.GENERATE_DATA_KEY_PAIR: lambda n=name: service.pairs.generate(
                caller(),
                n,
                DataKeyPairSpec.ED25519,
                {},
                with_plaintext=True,
                validate_only=True,
            ),
            Action.GENERATE_DATA_KEY: lambda n=name: service.crypto.generate_data_key(
                caller(), n, 32, {}, with_plaintext=True, validate_only=True
            ),
            Action.ROTATE_KEY: lambda n=name: service.lifecycle.rotate_key(
                caller(), n, ChangeRequest(validate_only=True)
            ),
        }
        for action, use in uses.items():
            if takes_part(action, spec, usage):
                await use()
                continue
            with pytest.raises(KeyUsageMismatchError, match=action):
                await use()
            record = service.records()[-1]
            assert (record.method, record.outcome, record.reason) == (
                action,
                "REFUSED",
                "KEY_USAGE_MISMATCH",
            )


async def test_states_and_permission_come_first(service):
    """A disabled key, a caller without permission and one who may not see the key are refused."""
    key = await service.create_key(VISIBLE_TO_ALL, spec=KeySpec.EC_P256, usage=SIGN)
    hidden = await service.create_key(spec=KeySpec.EC_P256, usage=SIGN)
    with pytest.raises(PolicyDeniedError):
        await sign(service, key, HELLO, who=STRANGER)
    with pytest.raises(KeyNotFoundError):
        await sign(service, hidden, HELLO, who=STRANGER)
    await disable(service, key)
    for use in (
        sign(service, key, HELLO),
        verify(service, key, HELLO, b"x"),
        service.asymmetric.public_key(caller(), key.name),
    ):
        with pytest.raises(KeyDisabledError):
            await use


async def test_records_say_what_was_done(service):
    """Method, key, version and outcome of a signature, and of one that does not verify."""
    key = await service.create_key(spec=KeySpec.EC_P256, usage=SIGN)
    made = await sign(service, key, HELLO)
    assert fields(service.records()[-1]) == {
        "principal": ORDERS,
        "method": "Sign",
        "outcome": "OK",
        "request_id": "call-1",
        "key": str(key.name),
        "key_version": 1,
        "policy": "creator",
    }
    assert made.receipt.sequence == len(service.records())
    with pytest.raises(SignatureInvalidError) as refused:
        await verify(service, key, HELLO, b"x")
    record = service.records()[-1]
    assert (record.method, record.outcome, record.reason) == (
        "Verify",
        "REFUSED",
        "SIGNATURE_INVALID",
    )
    assert len(refused.value.receipts) == 1


async def test_a_dry_run_uses_nothing(service):
    """With validate_only the HSM is not asked, and the record says so."""
    key = await service.create_key(spec=KeySpec.EC_P256, usage=SIGN)
    before = service.eu.token.operations
    made = await sign(service, key, HELLO, validate_only=True)
    assert (made.data, made.key_version) == (b"", f"{key.name}/versions/1")
    assert service.eu.token.operations == before
    assert service.records()[-1].validate_only


async def test_pairs_are_resident(service):
    """Asked for wrapped storage they are refused; by default they are resident where AES is not."""
    wrapped = MemoryService(storage=KeyStorage.WRAPPED)
    for spec, usage in ((KeySpec.EC_P256, SIGN), (KeySpec.HMAC_224, MAC)):
        with pytest.raises(KeySpecUnsupportedError, match="wrapped storage"):
            await service.create_key(storage=KeyStorage.WRAPPED, spec=spec, usage=usage)
        key = await wrapped.create_key(spec=spec, usage=usage)
        assert key.storage is KeyStorage.RESIDENT
    assert (await wrapped.create_key()).storage is KeyStorage.WRAPPED


async def test_what_the_hsm_lacks_is_unsupported(service):
    """A spec that the HSM does not have is KEY_SPEC_UNSUPPORTED, and no key is made."""
    with pytest.raises(KeySpecUnsupportedError):
        await service.create_key(spec=KeySpec.EC_SECP256K1, usage=SIGN)
    assert service.records()[-1].outcome == "REFUSED"


def test_the_table_knows_every_spec():
    """Every spec has a usage, and pairs are those with a public key."""
    for spec in KeySpec:
        assert any(algorithms_of(spec, usage) for usage in KeyUsage)
        assert is_pair(spec) == (not spec.startswith(("AES", "HMAC")))
        assert any(takes_part(Action.GET_PUBLIC_KEY, spec, u) for u in KeyUsage) == is_pair(spec)
