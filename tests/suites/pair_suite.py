"""MAC keys, key pairs and data key pairs: every RPC, its limits and its refusals."""

from __future__ import annotations

import functools
import hashlib
import hmac
import time
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed
from google.protobuf.message import Message
from tests.suites.under_test import KmsUnderTest

from strongroom.kms.v1 import key_service_pb2 as rpc
from strongroom.kms.v1 import resources_pb2 as pb
from strongroom_client import (
    Algorithm,
    ArgumentInvalidError,
    ChecksumMismatchError,
    CiphertextInvalidError,
    DataKeyPairSpec,
    Key,
    KeyDisabledError,
    KeySpec,
    KeySpecUnsupportedError,
    KeyStorage,
    KeyUsage,
    KeyUsageMismatchError,
    MacInvalidError,
    QuotaExceededError,
    SignatureInvalidError,
)
from strongroom_client._core import Reply, crc32c

__all__ = ["PairSuite"]

CONTEXT = {"order": "17"}
SIGN, MAC, AGREE, ENCRYPT = (
    KeyUsage.SIGN_VERIFY,
    KeyUsage.GENERATE_VERIFY_MAC,
    KeyUsage.KEY_AGREEMENT,
    KeyUsage.ENCRYPT_DECRYPT,
)
SIGNERS = (KeySpec.RSA_2048, KeySpec.EC_P256, KeySpec.EC_P384, KeySpec.EC_P521, KeySpec.ED25519)
HASHES: dict[str, hashes.HashAlgorithm] = {
    "256": hashes.SHA256(),
    "384": hashes.SHA384(),
    "512": hashes.SHA512(),
}


def _key(kms: KmsUnderTest, spec: KeySpec, usage: KeyUsage) -> Key:
    """Return a key of this service, made once: RSA takes long."""
    at = (str(spec), str(usage))
    if at not in kms.made:
        kms.made[at] = kms.client.create_key(kms.regions[0], spec=spec, usage=usage).name
    return kms.client.get_key(kms.made[at])


def _create(kms: KmsUnderTest, request: rpc.CreateKeyRequest) -> Reply:
    """Send a CreateKey as it is; wait where a caller may make no more keys for a moment."""
    while True:
        try:
            return kms.raw(kms.regions[0], "CreateKey", request)
        except QuotaExceededError as exc:
            time.sleep(exc.retry_after_seconds or 0.05)


def _spki(key: Any) -> bytes:
    data: bytes = key.public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return data


def _verify_outside(public: Any, algorithm: Algorithm, digest: bytes, signature: bytes) -> None:
    """Verify with `cryptography`; it raises InvalidSignature."""
    chosen = HASHES[algorithm.rpartition("_")[2]]
    if isinstance(public, ec.EllipticCurvePublicKey):
        public.verify(signature, digest, ec.ECDSA(Prehashed(chosen)))
        return
    scheme: Any = padding.PKCS1v15()
    if "_PSS_" in algorithm:
        scheme = padding.PSS(padding.MGF1(chosen), chosen.digest_size)
    public.verify(signature, digest, scheme, Prehashed(chosen))


class PairSuite:
    """MAC keys, key pairs and data key pairs: every RPC, its limits and its refusals."""

    @pytest.mark.parametrize("spec", SIGNERS)
    def test_signatures_verify_here_and_elsewhere(self, kms: KmsUnderTest, spec: KeySpec) -> None:
        """Verify and `cryptography` take what Sign returned, of a message and of its digest."""
        key, client = _key(kms, spec, SIGN), kms.client
        shown = client.get_public_key(key.name)
        assert (shown.spec, shown.usage, shown.algorithms) == (spec, SIGN, key.algorithms)
        assert shown.key_version == key.primary_version
        public = serialization.load_pem_public_key(shown.pem.encode())
        assert _spki(public) == shown.public_key
        for algorithm in shown.algorithms:
            made = client.sign(key.name, b"hello", algorithm=algorithm)
            assert (made.algorithm, made.key_version) == (algorithm, key.primary_version)
            verified = client.verify(key.name, b"hello", made.signature, algorithm=algorithm)
            assert verified.algorithm is algorithm
            if isinstance(public, ed25519.Ed25519PublicKey):
                public.verify(made.signature, b"hello")
                continue
            digest = hashlib.new(HASHES[algorithm.rpartition("_")[2]].name, b"hello").digest()
            _verify_outside(public, algorithm, digest, made.signature)
            made = client.sign(key.name, digest, algorithm=algorithm, is_digest=True)
            client.verify(key.name, b"hello", made.signature, algorithm=algorithm)
            _verify_outside(public, algorithm, digest, made.signature)

    @pytest.mark.parametrize("spec", SIGNERS)
    def test_what_does_not_verify_is_an_error(self, kms: KmsUnderTest, spec: KeySpec) -> None:
        """Another message, an altered, cut or longer signature is SIGNATURE_INVALID."""
        key, client = _key(kms, spec, SIGN), kms.client
        algorithm = key.algorithms[0]
        good = client.sign(key.name, b"hello", algorithm=algorithm).signature
        for message, signature in (
            (b"hullo", good),
            (b"", good),
            (b"hello", good[:-1] + bytes([good[-1] ^ 1])),
            (b"hello", good[:-1]),
            (b"hello", good + b"\0"),
            (b"hello", b"\0"),
            (b"hello", bytes(len(good))),
            (b"hello", bytes(6144)),
        ):
            with pytest.raises(SignatureInvalidError) as refused:
                client.verify(key.name, message, signature, algorithm=algorithm)
            assert len(refused.value.receipts) == 1

    def test_messages_have_a_limit(self, kms: KmsUnderTest) -> None:
        """0 and 4,096 bytes are signed, 4,097 are ARGUMENT_INVALID."""
        key, region = _key(kms, KeySpec.EC_P256, SIGN).name, kms.regions[0]
        for size in (0, 1, 4096):
            made = kms.client.sign(key, bytes(size))
            kms.client.verify(key, bytes(size), made.signature)
        with pytest.raises(ArgumentInvalidError):
            kms.client.sign(key, bytes(4097))
        mac = _key(kms, KeySpec.HMAC_256, MAC).name
        for method, request in (
            ("Sign", rpc.SignRequest(key=key, message=bytes(4097))),
            ("Verify", rpc.VerifyRequest(key=key, message=bytes(4097), signature=b"x")),
            ("Verify", rpc.VerifyRequest(key=key)),
            ("Verify", rpc.VerifyRequest(key=key, signature=bytes(6145))),
            ("GenerateMac", rpc.GenerateMacRequest(key=mac, message=bytes(4097))),
            ("VerifyMac", rpc.VerifyMacRequest(key=mac)),
            ("VerifyMac", rpc.VerifyMacRequest(key=mac, mac=bytes(6145))),
            ("GenerateDataKeyPair", rpc.GenerateDataKeyPairRequest(key=key)),
        ):
            with pytest.raises(ArgumentInvalidError):
                kms.raw(region, method, request)

    def test_digests_have_a_length(self, kms: KmsUnderTest) -> None:
        """A digest of another length, and any for Ed25519, is ARGUMENT_INVALID."""
        curve = _key(kms, KeySpec.EC_P384, SIGN).name
        edwards = _key(kms, KeySpec.ED25519, SIGN).name
        for key, size in ((curve, 0), (curve, 32), (curve, 47), (curve, 49), (edwards, 64)):
            with pytest.raises(ArgumentInvalidError):
                kms.client.sign(key, bytes(size), is_digest=True)
            with pytest.raises(ArgumentInvalidError):
                kms.client.verify(key, bytes(size), b"x", is_digest=True)

    def test_algorithms_are_the_keys_own(self, kms: KmsUnderTest) -> None:
        """RSA needs one named; one that the key does not take is ARGUMENT_INVALID."""
        pair, curve = (_key(kms, s, SIGN).name for s in (KeySpec.RSA_2048, KeySpec.EC_P256))
        for key, algorithm in (
            (pair, None),
            (pair, Algorithm.ECDSA_SHA_256),
            (pair, Algorithm.RSAES_OAEP_SHA_256),
            (curve, Algorithm.ECDSA_SHA_384),
            (curve, Algorithm.UNKNOWN),
        ):
            with pytest.raises(ArgumentInvalidError):
                kms.client.sign(key, b"x", algorithm=algorithm)

    @pytest.mark.parametrize("bits", [224, 256, 384, 512])
    def test_macs_verify(self, kms: KmsUnderTest, bits: int) -> None:
        """An HMAC verifies; one that is altered, cut or of another message is MAC_INVALID."""
        key, client = _key(kms, KeySpec[f"HMAC_{bits}"], MAC), kms.client
        assert key.algorithms == (Algorithm[f"HMAC_SHA_{bits}"],)
        made = client.generate_mac(key.name, b"hello")
        assert (len(made.mac), made.algorithm) == (bits // 8, key.algorithms[0])
        assert client.generate_mac(key.name, b"hello").mac == made.mac
        client.verify_mac(key.name, b"hello", made.mac, algorithm=key.algorithms[0])
        for message, mac in (
            (b"hullo", made.mac),
            (b"hello", made.mac[:-1]),
            (b"hello", made.mac + b"\0"),
            (b"hello", bytes(64)),
            (b"hello", bytes(65)),
        ):
            with pytest.raises(MacInvalidError):
                client.verify_mac(key.name, message, mac)

    @pytest.mark.parametrize("spec", [KeySpec.EC_P256, KeySpec.EC_P384, KeySpec.EC_P521])
    def test_both_sides_agree(self, kms: KmsUnderTest, spec: KeySpec) -> None:
        """DeriveSharedSecret gives what the other side gets from GetPublicKey."""
        key = _key(kms, spec, AGREE).name
        mine = serialization.load_der_public_key(kms.client.get_public_key(key).public_key)
        assert isinstance(mine, ec.EllipticCurvePublicKey)
        other = ec.generate_private_key(mine.curve)
        made = kms.client.derive_shared_secret(key, _spki(other.public_key()))
        assert bytes(made.shared_secret) == other.exchange(ec.ECDH(), mine)
        assert made.algorithm is Algorithm.ECDH
        others = ec.generate_private_key(ec.SECP256K1()).public_key()
        for wrong in (b"nothing", _spki(others), _spki(other.public_key()) + b"\0"):
            with pytest.raises(ArgumentInvalidError):
                kms.client.derive_shared_secret(key, wrong)

    @pytest.mark.parametrize(
        "algorithm", [Algorithm.RSAES_OAEP_SHA_256, Algorithm.RSAES_OAEP_SHA_1]
    )
    def test_rsa_encrypts(self, kms: KmsUnderTest, algorithm: Algorithm) -> None:
        """Decrypt takes what Encrypt or an outsider made; no context, and nothing too long."""
        key, client = _key(kms, KeySpec.RSA_2048, ENCRYPT), kms.client
        if algorithm is Algorithm.RSAES_OAEP_SHA_256 and kms.oaep_sha1_only:
            with pytest.raises(KeySpecUnsupportedError):
                client.encrypt(key.name, b"x", encryption_context={}, algorithm=algorithm)
            return
        encrypt = functools.partial(client.encrypt, key.name, algorithm=algorithm)
        decrypt = functools.partial(client.decrypt, key.name, algorithm=algorithm)
        most = 190 if algorithm is Algorithm.RSAES_OAEP_SHA_256 else 214
        made = encrypt(bytes(most), encryption_context={})
        assert (len(made.ciphertext), made.algorithm) == (256, algorithm)
        opened = decrypt(made.ciphertext, encryption_context={})
        assert (opened.plaintext, opened.used_primary) == (bytes(most), True)
        assert opened.key_version == made.key_version == key.primary_version
        public = serialization.load_der_public_key(client.get_public_key(key.name).public_key)
        assert isinstance(public, rsa.RSAPublicKey)
        digest: hashes.HashAlgorithm = hashes.SHA256()
        if algorithm is Algorithm.RSAES_OAEP_SHA_1:
            digest = hashes.SHA1()  # noqa: S303 - what OAEP had first
        sealed = public.encrypt(b"outside", padding.OAEP(padding.MGF1(digest), digest, None))
        assert decrypt(sealed, encryption_context={}).plaintext == b"outside"
        for wrong in (sealed[:-1], sealed[:-1] + bytes([sealed[-1] ^ 1]), b"x", bytes(256)):
            with pytest.raises(CiphertextInvalidError):
                decrypt(wrong, encryption_context={})
        for call in (
            lambda: encrypt(bytes(most + 1), encryption_context={}),
            lambda: encrypt(b"x", encryption_context=CONTEXT),
            lambda: decrypt(sealed, encryption_context=CONTEXT),
            lambda: client.encrypt(key.name, b"x", encryption_context={}),
            lambda: client.decrypt(key.name, sealed, encryption_context={}),
        ):
            with pytest.raises(ArgumentInvalidError):
                call()

    @pytest.mark.parametrize("spec", list(DataKeyPairSpec))
    def test_data_key_pairs(self, kms: KmsUnderTest, spec: DataKeyPairSpec) -> None:
        """The halves fit, and Decrypt of the wrapped private key gives the plaintext one."""
        key, client = _key(kms, KeySpec.AES_256, ENCRYPT).name, kms.client
        made = client.generate_data_key_pair(key, spec, encryption_context=CONTEXT)
        private: Any = serialization.load_der_private_key(bytes(made.plaintext_private_key), None)
        assert _spki(private.public_key()) == made.public_key
        opened = client.decrypt(key, made.wrapped_private_key, encryption_context=CONTEXT)
        assert opened.plaintext == bytes(made.plaintext_private_key)
        with pytest.raises(CiphertextInvalidError):
            client.decrypt(key, made.wrapped_private_key, encryption_context={})
        if spec.startswith("RSA") and spec is not DataKeyPairSpec.RSA_2048:
            return
        blind = client.generate_data_key_pair_without_plaintext(
            key, spec, encryption_context=CONTEXT
        )
        opened = client.decrypt(key, blind.wrapped_private_key, encryption_context=CONTEXT)
        private = serialization.load_der_private_key(opened.plaintext, None)
        assert _spki(private.public_key()) == blind.public_key != made.public_key

    def test_keys_are_for_one_thing(self, kms: KmsUnderTest) -> None:
        """A call that is not for a key's spec or usage is KEY_USAGE_MISMATCH."""
        client = kms.client
        aes, mac = _key(kms, KeySpec.AES_256, ENCRYPT), _key(kms, KeySpec.HMAC_256, MAC)
        signer, agreer = _key(kms, KeySpec.EC_P256, SIGN), _key(kms, KeySpec.EC_P256, AGREE)
        opener = _key(kms, KeySpec.RSA_2048, ENCRYPT)
        calls: list[tuple[Any, tuple[Key, ...]]] = [
            (lambda k: client.sign(k, b"x"), (aes, mac, agreer, opener)),
            (lambda k: client.verify(k, b"x", b"x"), (aes, mac, agreer, opener)),
            (client.get_public_key, (aes, mac)),
            (lambda k: client.generate_mac(k, b"x"), (aes, signer, agreer, opener)),
            (lambda k: client.verify_mac(k, b"x", b"x"), (aes, signer, agreer, opener)),
            (lambda k: client.derive_shared_secret(k, b"x"), (aes, mac, signer, opener)),
            (lambda k: client.encrypt(k, b"x", encryption_context={}), (mac, signer, agreer)),
            (
                lambda k: client.generate_data_key(k, encryption_context={}),
                (mac, signer, agreer, opener),
            ),
            (
                lambda k: client.generate_data_key_pair(
                    k, DataKeyPairSpec.ED25519, encryption_context={}
                ),
                (mac, signer, agreer, opener),
            ),
            (client.rotate_key, (mac, signer, agreer, opener)),
        ]
        for call, keys in calls:
            for key in keys:
                with pytest.raises(KeyUsageMismatchError):
                    call(key.name)

    @pytest.mark.parametrize("spec", [s for s in KeySpec if s is not KeySpec.UNKNOWN])
    @pytest.mark.parametrize("usage", [None, *(u for u in KeyUsage if u is not KeyUsage.UNKNOWN)])
    def test_spec_and_usage_have_to_fit(
        self, kms: KmsUnderTest, spec: KeySpec, usage: KeyUsage | None
    ) -> None:
        """Pairs that do not exist are ARGUMENT_INVALID, and only AES may leave the usage out."""
        request = rpc.CreateKeyRequest(
            parent=f"regions/{kms.regions[0]}",
            spec=pb.KeySpec.Value(f"KEY_SPEC_{spec}"),
            usage=pb.KeyUsage.Value(f"KEY_USAGE_{usage or 'UNSPECIFIED'}"),
            validate_only=True,
        )
        table: dict[str, set[KeyUsage | None]] = {
            "AES": {None, ENCRYPT},
            "HMAC": {MAC},
            "RSA": {ENCRYPT, SIGN},
            "EC": {SIGN} if spec is KeySpec.EC_SECP256K1 else {SIGN, AGREE},
            "ED25519": {SIGN},
        }
        if usage in table[spec.partition("_")[0]]:
            assert _create(kms, request).receipts
            return
        with pytest.raises(ArgumentInvalidError):
            _create(kms, request)

    def test_pairs_are_resident(self, kms: KmsUnderTest) -> None:
        """Wrapped storage is KEY_SPEC_UNSUPPORTED for pairs and HMAC_224, and fine for HMAC_256."""
        region = kms.regions[0]
        for spec, usage in ((KeySpec.EC_P256, SIGN), (KeySpec.HMAC_224, MAC)):
            with pytest.raises(KeySpecUnsupportedError):
                kms.client.create_key(region, spec=spec, usage=usage, storage=KeyStorage.WRAPPED)
        wrapped = kms.client.create_key(
            region, spec=KeySpec.HMAC_256, usage=MAC, storage=KeyStorage.WRAPPED
        )
        assert wrapped.storage is KeyStorage.WRAPPED
        made = kms.client.generate_mac(wrapped.name, b"x")
        kms.client.verify_mac(wrapped.name, b"x", made.mac)

    def test_checksums_of_pairs_are_checked(self, kms: KmsUnderTest) -> None:
        """A wrong CRC32C is CHECKSUM_MISMATCH, a right one is confirmed, none is not."""
        signer, mac = _key(kms, KeySpec.EC_P256, SIGN).name, _key(kms, KeySpec.HMAC_256, MAC).name
        region, wrong = kms.regions[0], crc32c(b"y")
        requests: list[tuple[str, Message]] = [
            ("Sign", rpc.SignRequest(key=signer, message=b"x", message_crc32c=wrong)),
            ("Verify", rpc.VerifyRequest(key=signer, signature=b"x", signature_crc32c=wrong)),
            ("GenerateMac", rpc.GenerateMacRequest(key=mac, message=b"x", message_crc32c=wrong)),
            ("VerifyMac", rpc.VerifyMacRequest(key=mac, mac=b"x", mac_crc32c=wrong)),
        ]
        for method, request in requests:
            with pytest.raises(ChecksumMismatchError):
                kms.raw(region, method, request)
        answer = kms.raw(region, "Sign", rpc.SignRequest(key=signer, message=b"x")).message
        assert isinstance(answer, rpc.SignResponse)
        assert not answer.verified_message_crc32c
        assert answer.signature_crc32c == crc32c(answer.signature)

    def test_a_dry_run_makes_nothing(self, kms: KmsUnderTest) -> None:
        """With validate_only the answer names version and algorithm and has no bytes."""
        signer, mac = _key(kms, KeySpec.EC_P256, SIGN), _key(kms, KeySpec.HMAC_256, MAC)
        aes, region = _key(kms, KeySpec.AES_256, ENCRYPT), kms.regions[0]
        request: Message = rpc.SignRequest(key=signer.name, message=b"x", validate_only=True)
        answer: Any = kms.raw(region, "Sign", request).message
        assert (answer.key_version, answer.signature) == (signer.primary_version, b"")
        assert answer.algorithm == pb.ALGORITHM_ECDSA_SHA_256
        request = rpc.VerifyRequest(key=signer.name, signature=b"wrong", validate_only=True)
        assert kms.raw(region, "Verify", request).receipts
        request = rpc.VerifyMacRequest(key=mac.name, mac=b"wrong", validate_only=True)
        assert kms.raw(region, "VerifyMac", request).receipts
        request = rpc.GenerateDataKeyPairRequest(
            key=aes.name, spec=rpc.DATA_KEY_PAIR_SPEC_RSA_4096, validate_only=True
        )
        answer = kms.raw(region, "GenerateDataKeyPair", request).message
        assert (answer.public_key, answer.plaintext_private_key) == (b"", b"")

    def test_a_disabled_pair_is_not_used(self, kms: KmsUnderTest) -> None:
        """A disabled key signs nothing, verifies nothing and shows no public key."""
        client = kms.client
        key = client.create_key(kms.regions[0], spec=KeySpec.EC_P256, usage=SIGN).name
        made = client.sign(key, b"x")
        client.disable_key(key)
        for call in (
            lambda: client.sign(key, b"x"),
            lambda: client.verify(key, b"x", made.signature),
            lambda: client.get_public_key(key),
        ):
            with pytest.raises(KeyDisabledError):
                call()
        client.enable_key(key)
        client.verify(key, b"x", made.signature)

    def test_mac_keys_differ(self, kms: KmsUnderTest) -> None:
        """Two HMAC keys make two MACs, and neither that of a key of zeros."""
        one, two = (
            kms.client.create_key(kms.regions[0], spec=KeySpec.HMAC_256, usage=MAC).name
            for _ in range(2)
        )
        macs = {kms.client.generate_mac(key, b"x").mac for key in (one, two)}
        assert len(macs | {hmac.digest(bytes(32), b"x", "sha256")}) == 3
