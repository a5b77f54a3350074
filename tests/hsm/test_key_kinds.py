"""More kinds of key on a real token: each is made, used, verified by another, refused."""

from __future__ import annotations

import hashlib
import hmac

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa, utils
from tests.support.hsm_keys import new_key, new_resident

from strongroom_server.domain.algorithms import Algorithm
from strongroom_server.domain.keys import KeySpec, KeyUsage
from strongroom_server.hsm import ck_mechanisms as ck
from strongroom_server.hsm import key_template
from strongroom_server.hsm.asymmetric import KeyPairs
from strongroom_server.hsm.encodings import ecdsa_from_der
from strongroom_server.hsm.key_kinds import KINDS, KeyKind, Operand
from strongroom_server.hsm.key_ring import KeyRing
from strongroom_server.hsm.return_codes import (
    KeyAbsentError,
    KeyUnsafeError,
    PolicyRefusedError,
    ReturnCodeError,
    TamperedError,
)
from strongroom_server.hsm.ring_errors import ArgumentRefusedError, UnsupportedError
from strongroom_server.hsm.token import TokenSession

pytestmark = pytest.mark.hsm

HASHES: dict[str, hashes.HashAlgorithm] = {
    "sha1": hashes.SHA1(),  # noqa: S303 - for OAEP (docs/formats/key-transfer-v1.md)
    "sha256": hashes.SHA256(),
    "sha384": hashes.SHA384(),
    "sha512": hashes.SHA512(),
}
SIGNERS = [kind for kind in KINDS.values() if kind.usage is KeyUsage.SIGN_VERIFY]
AGREERS = [kind for kind in KINDS.values() if kind.usage is KeyUsage.KEY_AGREEMENT]
MACS = [kind for kind in KINDS.values() if kind.usage is KeyUsage.GENERATE_VERIFY_MAC]
PAIRS = [kind for kind in KINDS.values() if kind.operand is Operand.PAIR]
P256 = (KeySpec.EC_P256, KeyUsage.SIGN_VERIFY)
MESSAGE = b"a message"


def _name(kind: KeyKind) -> str:
    return f"{kind.spec}-{kind.usage}"


def _verify(public_key: bytes, algorithm: Algorithm, signature: bytes) -> None:
    """Verify by `cryptography`, of the message."""
    key = serialization.load_der_public_key(public_key)
    if isinstance(key, ed25519.Ed25519PublicKey):
        key.verify(signature, MESSAGE)
        return
    hashing = HASHES[algorithm.hash_name]
    if isinstance(key, ec.EllipticCurvePublicKey):
        key.verify(signature, MESSAGE, ec.ECDSA(hashing))
        return
    assert isinstance(key, rsa.RSAPublicKey)
    if "PSS" in algorithm.name:
        pss = padding.PSS(padding.MGF1(hashing), hashing.digest_size)
        key.verify(signature, MESSAGE, pss, hashing)
    else:
        key.verify(signature, MESSAGE, padding.PKCS1v15(), hashing)


@pytest.mark.parametrize("kind", SIGNERS, ids=_name)
def test_signatures(ring: KeyRing, kind: KeyKind) -> None:
    """A signature verifies here and by `cryptography`; changed in anything, it does not."""
    pairs = KeyPairs(ring)
    key = new_resident(ring, (kind.spec, kind.usage))
    public_key = pairs.public_key(key)
    for algorithm in sorted(kind.algorithms):
        signature = pairs.sign(key, algorithm, MESSAGE, is_digest=False)
        pairs.verify(key, algorithm, MESSAGE, signature, is_digest=False)
        _verify(public_key, algorithm, signature)
        if kind.modulus_bits:
            assert len(signature) == kind.modulus_bits // 8
        for message in (b"", b"another message", MESSAGE + b"\0"):
            with pytest.raises(TamperedError):
                pairs.verify(key, algorithm, message, signature, is_digest=False)
        changed = bytearray(signature)
        changed[-1] ^= 1
        for bad in (bytes(changed), signature[:-1], signature + b"\0", b"\0", bytes(512)):
            with pytest.raises(TamperedError):
                pairs.verify(key, algorithm, MESSAGE, bad, is_digest=False)
            with pytest.raises((InvalidSignature, ValueError)):
                _verify(public_key, algorithm, bad)


@pytest.mark.parametrize("kind", [kind for kind in SIGNERS if kind.curve_name], ids=_name)
def test_ecdsa_is_strict_der(ring: KeyRing, kind: KeyKind) -> None:
    """Only the one DER encoding of a signature verifies, not r || s and not a longer form."""
    pairs = KeyPairs(ring)
    key = new_resident(ring, (kind.spec, kind.usage))
    (algorithm,) = kind.algorithms
    signature = pairs.sign(key, algorithm, MESSAGE, is_digest=False)
    r, s = utils.decode_dss_signature(signature)
    size = kind.field_bytes
    raw = r.to_bytes(size, "big") + s.to_bytes(size, "big")
    assert ecdsa_from_der(signature, size) == raw
    for bad in (
        raw,
        utils.encode_dss_signature(r, 2 ** (8 * size)),
        utils.encode_dss_signature(0, s),
        utils.encode_dss_signature(r, 0),
    ):
        with pytest.raises(TamperedError):
            pairs.verify(key, algorithm, MESSAGE, bad, is_digest=False)


def test_digests_are_signed_as_messages_are(ring: KeyRing) -> None:
    """A digest gives a signature of its message; one of another length is refused."""
    pairs = KeyPairs(ring)
    for kind in (P256, (KeySpec.RSA_2048, KeyUsage.SIGN_VERIFY)):
        key = new_resident(ring, kind)
        for algorithm in sorted(KINDS[kind].algorithms):
            digest = hashlib.new(algorithm.hash_name, MESSAGE).digest()
            signature = pairs.sign(key, algorithm, digest, is_digest=True)
            pairs.verify(key, algorithm, MESSAGE, signature, is_digest=False)
            pairs.verify(key, algorithm, digest, signature, is_digest=True)
            for bad in (digest[:-1], digest + b"\0", b""):
                with pytest.raises(ArgumentRefusedError, match="bytes"):
                    pairs.sign(key, algorithm, bad, is_digest=True)
                with pytest.raises(ArgumentRefusedError, match="bytes"):
                    pairs.verify(key, algorithm, bad, signature, is_digest=True)


@pytest.mark.parametrize("kind", MACS, ids=_name)
def test_macs(ring: KeyRing, kind: KeyKind) -> None:
    """A MAC has its hash's length and verifies in full length only."""
    key = new_resident(ring, (kind.spec, kind.usage))
    (algorithm,) = kind.algorithms
    for message in (b"", MESSAGE, bytes(4096)):
        mac = ring.mac(key, algorithm, message)
        assert len(mac) == kind.key_bytes
        ring.verify_mac(key, algorithm, message, mac)
        changed = bytes([mac[0] ^ 1]) + mac[1:]
        for bad in (changed, mac[:-1], mac + b"\0", mac[:1]):
            with pytest.raises(TamperedError):
                ring.verify_mac(key, algorithm, message, bad)
        with pytest.raises(TamperedError):
            ring.verify_mac(key, algorithm, message + b"x", mac)


def test_macs_are_rfc_2104(ring: KeyRing, session: TokenSession) -> None:
    """With a key that is known, for the test alone, the module's HMAC is the standard's."""
    for name in ("sha224", "sha256", "sha384", "sha512"):
        value = hashlib.new(name, b"key").digest()
        handle = session.create_object(
            {
                "CLASS": ck.CKO_SECRET_KEY,
                "KEY_TYPE": ck.CKK_GENERIC_SECRET,
                "TOKEN": False,
                "SIGN": True,
                "VALUE": value,
            }
        )
        mac = session.sign(handle, ck.hmac(name), MESSAGE)
        assert mac == hmac.digest(value, MESSAGE, name)
    ring.check_health()


@pytest.mark.parametrize("kind", AGREERS, ids=_name)
def test_agreement(ring: KeyRing, kind: KeyKind) -> None:
    """Both sides get the same secret, of the field's full length, leading zeros and all."""
    pairs = KeyPairs(ring)
    key = new_resident(ring, (kind.spec, kind.usage))
    mine = serialization.load_der_public_key(pairs.public_key(key))
    assert isinstance(mine, ec.EllipticCurvePublicKey)
    for _ in range(20):
        other = ec.generate_private_key(mine.curve)
        secret = pairs.agree(key, _spki(other.public_key()))
        assert secret == other.exchange(ec.ECDH(), mine)
        assert len(secret) == kind.field_bytes


def test_agreement_refuses_bad_points(ring: KeyRing) -> None:
    """A point off the curve, of another curve, compressed, or no key at all is refused."""
    pairs = KeyPairs(ring)
    key = new_resident(ring, (KeySpec.EC_P256, KeyUsage.KEY_AGREEMENT))
    good = _spki(ec.generate_private_key(ec.SECP256R1()).public_key())
    pairs.agree(key, good)
    off_curve = bytearray(good)
    off_curve[-1] ^= 1
    point = good[-65:]
    compressed = bytes([2 + (point[-1] & 1)]) + point[1:33]
    header = bytes.fromhex("3039301306072a8648ce3d020106082a8648ce3d030107032200")
    bad = [
        bytes(off_curve),
        good[:-65] + b"\x04" + bytes(64),
        good[:-1],
        good + b"\0",
        header + compressed,
        point,
        b"",
        _spki(ec.generate_private_key(ec.SECP384R1()).public_key()),
        _spki(ec.generate_private_key(ec.SECP256K1()).public_key()),
        _spki(ed25519.Ed25519PrivateKey.generate().public_key()),
        pairs.public_key(new_resident(ring, (KeySpec.RSA_2048, KeyUsage.SIGN_VERIFY))),
    ]
    for public_key in bad:
        with pytest.raises(ArgumentRefusedError) as refusal:
            pairs.agree(key, public_key)
        assert refusal.value.field == "public_key"


@pytest.mark.parametrize("bits", [2048, 3072])
def test_rsa_encryption(ring: KeyRing, bits: int) -> None:
    """What is encrypted, here or by `cryptography`, decrypts; up to the modulus' room."""
    pairs = KeyPairs(ring)
    kind = KINDS[KeySpec[f"RSA_{bits}"], KeyUsage.ENCRYPT_DECRYPT]
    key = new_resident(ring, (kind.spec, kind.usage))
    public = serialization.load_der_public_key(pairs.public_key(key))
    assert isinstance(public, rsa.RSAPublicKey)
    for algorithm in sorted(ring.capabilities.algorithms_of(kind)):
        hashing = HASHES[algorithm.hash_name]
        room = bits // 8 - 2 * hashing.digest_size - 2
        oaep = padding.OAEP(padding.MGF1(hashing), hashing, None)
        for plaintext in (b"", b"x", bytes(room)):
            sealed = pairs.encrypt(key, algorithm, plaintext)
            assert pairs.decrypt(key, algorithm, sealed) == plaintext
            assert pairs.decrypt(key, algorithm, public.encrypt(plaintext, oaep)) == plaintext
        with pytest.raises(ArgumentRefusedError, match=f"at most {room} bytes"):
            pairs.encrypt(key, algorithm, bytes(room + 1))
        sealed = pairs.encrypt(key, algorithm, b"x")
        changed = sealed[:-1] + bytes([sealed[-1] ^ 1])
        pkcs1 = public.encrypt(b"x", padding.PKCS1v15())
        for bad in (changed, sealed[1:], sealed + b"\0", pkcs1, bytes(bits // 8), b"\xff" * 256):
            with pytest.raises(TamperedError):
                pairs.decrypt(key, algorithm, bad)
    ring.check_health()


def test_what_the_module_lacks_is_unsupported(ring: KeyRing) -> None:
    """An algorithm that the module does not list is refused before anything is tried."""
    pairs = KeyPairs(ring)
    assert not ring.capabilities.oaep_sha256  # SoftHSM 2.6
    key = new_resident(ring, (KeySpec.RSA_2048, KeyUsage.ENCRYPT_DECRYPT))
    with pytest.raises(UnsupportedError, match="RSAES_OAEP_SHA_256 with RSA_2048"):
        pairs.encrypt(key, Algorithm.RSAES_OAEP_SHA_256, b"x")
    with pytest.raises(UnsupportedError, match="ECDSA_SHA_256 with RSA_2048"):
        pairs.sign(key, Algorithm.ECDSA_SHA_256, b"x", is_digest=False)


@pytest.mark.parametrize("kind", [kind for kind in PAIRS if kind.modulus_bits <= 3072], ids=_name)
def test_pairs_can_do_their_one_thing(ring: KeyRing, session: TokenSession, kind: KeyKind) -> None:
    """The private half shows its one use and no other, and does not get out (H8)."""
    key = new_resident(ring, (kind.spec, kind.usage))
    (private,) = session.find({"ID": key.ref, "CLASS": ck.CKO_PRIVATE_KEY})
    (public,) = session.find({"ID": key.ref, "CLASS": ck.CKO_PUBLIC_KEY})
    uses = ("DECRYPT", "SIGN", "SIGN_RECOVER", "UNWRAP", "DERIVE")
    shown = session.attributes(private, (*uses, "SENSITIVE", "EXTRACTABLE", "MODIFIABLE"))
    assert {use for use in uses if shown[use]} == kind.uses
    assert (shown["SENSITIVE"], shown["EXTRACTABLE"], shown["MODIFIABLE"]) == (True, False, False)
    others = ("ENCRYPT", "VERIFY", "VERIFY_RECOVER", "WRAP")
    shown = session.attributes(public, (*others, "PRIVATE", "MODIFIABLE", "LABEL"))
    assert {use for use in others if shown[use]} == kind.public_uses
    assert (shown["PRIVATE"], shown["MODIFIABLE"]) == (True, False)
    assert shown["LABEL"] == key_template.label_for(key.ref) + "/public"
    for use in ("DECRYPT", "SIGN", "DERIVE", "UNWRAP", "EXTRACTABLE"):
        with pytest.raises(ReturnCodeError):
            session.set_attributes(private, {use: True})
    assert session.attributes(private, ("VALUE",)) == {}


def test_pairs_survive_a_restart(ring: KeyRing) -> None:
    """Keys of every kind are found again, and nothing else is counted."""
    pairs = KeyPairs(ring)
    kinds = [
        P256,
        (KeySpec.ED25519, KeyUsage.SIGN_VERIFY),
        (KeySpec.EC_P384, KeyUsage.KEY_AGREEMENT),
    ]
    keys = [new_resident(ring, kind) for kind in kinds]
    public_keys = [pairs.public_key(key) for key in keys]
    ring.load_all()
    assert ring.key_count == 3
    assert [KeyPairs(ring).public_key(key) for key in keys] == public_keys


def test_another_public_half_is_not_believed(ring: KeyRing, session: TokenSession) -> None:
    """A public key put in the place of the right one verifies nothing."""
    pairs = KeyPairs(ring)
    key, other = new_resident(ring, P256), new_resident(ring, P256)
    signature = pairs.sign(other, Algorithm.ECDSA_SHA_256, MESSAGE, is_digest=False)
    (mine,) = session.find({"ID": key.ref, "CLASS": ck.CKO_PUBLIC_KEY})
    (theirs,) = session.find({"ID": other.ref, "CLASS": ck.CKO_PUBLIC_KEY})
    point = session.attributes(theirs, ("EC_POINT",))
    session.destroy(mine)
    template = key_template.public_half(KINDS[P256]).named(
        key.ref, key_template.label_for(key.ref) + "/public"
    )
    session.create_object({**template.fixed, **template.asked, **point})
    ring.load(key)
    for call in (
        lambda: pairs.verify(key, Algorithm.ECDSA_SHA_256, MESSAGE, signature, is_digest=False),
        lambda: pairs.public_key(key),
    ):
        with pytest.raises(PolicyRefusedError):
            call()
    ring.check_health()


def test_half_a_pair_is_replaced_at_creation(ring: KeyRing, session: TokenSession) -> None:
    """What a crash amid a generation left is made anew, whichever half it is."""
    for lost in (ck.CKO_PUBLIC_KEY, ck.CKO_PRIVATE_KEY):
        key = new_resident(ring, P256)
        for handle in session.find({"ID": key.ref, "CLASS": lost}):
            session.destroy(handle)
        ring.create(key)
        pairs = KeyPairs(ring)
        signature = pairs.sign(key, Algorithm.ECDSA_SHA_256, MESSAGE, is_digest=False)
        pairs.verify(key, Algorithm.ECDSA_SHA_256, MESSAGE, signature, is_digest=False)
        assert len(session.find({"ID": key.ref})) == 2


def test_a_public_half_alone_is_no_key(ring: KeyRing, session: TokenSession) -> None:
    """Without its private half a key is absent, and does not stop a start."""
    key = new_resident(ring, P256)
    (private,) = session.find({"ID": key.ref, "CLASS": ck.CKO_PRIVATE_KEY})
    session.destroy(private)
    ring.load_all()
    assert ring.key_count == 0
    with pytest.raises(KeyAbsentError):
        KeyPairs(ring).public_key(key)


def test_a_weak_private_key_stops_the_start(ring: KeyRing, session: TokenSession) -> None:
    """A private key that could be extracted, or does two things, is refused at the start."""
    for change in ({"EXTRACTABLE": True}, {"DERIVE": True}, {"UNWRAP": True}):
        key = new_key(P256)
        label = key_template.label_for(key.ref)
        nothing = key_template.Hardening(modifiable=False, copyable=False, allowed_mechanisms=False)
        public = key_template.public_half(KINDS[P256]).named(key.ref, label + "/public")
        private = key_template.private_half(KINDS[P256]).named(key.ref, label)
        made = session.generate_key_pair(
            ck.plain(ck.CKM_EC_KEY_PAIR_GEN),
            public.to_make(nothing),
            {**private.to_make(nothing), **change},
        )
        with pytest.raises(KeyUnsafeError, match=f"CKA_{next(iter(change))}"):
            ring.load_all()
        for handle in made:
            session.destroy(handle)
    ring.load_all()


def _spki(key: ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey) -> bytes:
    return key.public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
