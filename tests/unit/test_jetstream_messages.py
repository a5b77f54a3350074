"""The messages through NATS: one encoding, and nothing believed that is not signed."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import NameOID
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.audit_certificates import CertificateAuthority

from strongroom.jetstream.identity import (
    ChainVerifier,
    IdentityError,
    SignatureInvalidError,
    SigningIdentity,
)
from strongroom.jetstream.messages import (
    MAX_BATCH_RECORDS,
    MAX_MESSAGE_BYTES,
    Acknowledgement,
    Batch,
    MessageInvalidError,
    open_acknowledgement,
    open_batch,
    seal_acknowledgement,
    seal_batch,
)

NOW = dt.datetime.now(dt.UTC)
PRINCIPAL = "spiffe://example.org/shard"
BATCH = Batch("eu-1", 5, 11, 7, (b"a", b"bb" * 300, b"c"))
PrivateKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> CertificateAuthority:
    """Give a CA."""
    return CertificateAuthority.create(tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="module")
def verifier(authority: CertificateAuthority) -> ChainVerifier:
    """Give who believes it."""
    return ChainVerifier((authority.directory / "ca.pem").read_bytes())


@pytest.fixture(scope="module")
def identity(authority: CertificateAuthority) -> SigningIdentity:
    """Give a signer."""
    files = authority.issue("shard")
    return SigningIdentity.from_pem(files.certificate.read_bytes(), files.private_key.read_bytes())


def pem_of(key: PrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def issue(
    authority: CertificateAuthority,
    key: PrivateKey,
    *,
    issuer: tuple[x509.Name, ec.EllipticCurvePrivateKey] | None = None,
    is_ca: bool | None = None,
    days: tuple[int, int] = (-1, 1),
    uris: tuple[str, ...] = (PRINCIPAL,),
) -> bytes:
    """Return a certificate in PEM."""
    name, signer = issuer or (authority.certificate.subject, authority.key)
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "x")]))
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(NOW + dt.timedelta(days=days[0]))
        .not_valid_after(NOW + dt.timedelta(days=days[1]))
        .add_extension(
            x509.SubjectAlternativeName(
                [x509.DNSName("x"), *map(x509.UniformResourceIdentifier, uris)]
            ),
            critical=False,
        )
    )
    if is_ca is not None:
        builder = builder.add_extension(
            x509.BasicConstraints(ca=is_ca, path_length=None), critical=True
        )
    return builder.sign(signer, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


@pytest.mark.parametrize(
    "key",
    [
        ec.generate_private_key(ec.SECP256R1()),
        ec.generate_private_key(ec.SECP384R1()),
        ec.generate_private_key(ec.SECP521R1()),
        rsa.generate_private_key(65537, 2048),
    ],
    ids=["P-256", "P-384", "P-521", "RSA"],
)
def test_a_batch_comes_out_as_it_went_in(
    authority: CertificateAuthority, verifier: ChainVerifier, key: PrivateKey
) -> None:
    """Every kind of key that TLS servers have signs and verifies."""
    signer = SigningIdentity.from_pem(issue(authority, key), pem_of(key))
    assert open_batch(seal_batch(BATCH, signer), verifier, now=NOW) == (PRINCIPAL, BATCH)
    assert signer.principal == PRINCIPAL


def test_an_acknowledgement_comes_out_as_it_went_in(
    identity: SigningIdentity, verifier: ChainVerifier
) -> None:
    """All its numbers, zeros included."""
    for what in (Acknowledgement("a", 1, 0, 0, 0), Acknowledgement("eu-1", 5, 9, 12, 2**63 - 1)):
        message = seal_acknowledgement(what, identity)
        assert open_acknowledgement(message, verifier, now=NOW) == (identity.principal, what)
        with pytest.raises(MessageInvalidError, match="magic"):
            open_batch(message, verifier, now=NOW)


@given(position=st.integers(0, 10**6), bit=st.integers(0, 7))
@settings(deadline=None, max_examples=200)
def test_no_bit_can_be_flipped(
    identity: SigningIdentity, verifier: ChainVerifier, position: int, bit: int
) -> None:
    """Wherever a bit is flipped, nothing comes out."""
    message = bytearray(seal_batch(BATCH, identity))
    message[position % len(message)] ^= 1 << bit
    with pytest.raises((MessageInvalidError, SignatureInvalidError)):
        open_batch(bytes(message), verifier, now=NOW)


def test_nothing_can_be_cut_off_or_added(
    identity: SigningIdentity, verifier: ChainVerifier
) -> None:
    """Every prefix is refused, and so is anything behind a message."""
    message = seal_batch(BATCH, identity)
    for size in range(0, len(message), 3):
        with pytest.raises((MessageInvalidError, SignatureInvalidError)):
            open_batch(message[:size], verifier, now=NOW)
    for longer in (message + b"\0", message + bytes(MAX_MESSAGE_BYTES)):
        with pytest.raises(MessageInvalidError):
            open_batch(longer, verifier, now=NOW)


@pytest.mark.parametrize(
    "batch",
    [
        Batch("eu-1", 5, 1, 0, ()),
        Batch("eu-1", 5, 1, 0, (b"",)),
        Batch("eu-1", 5, 1, 0, (b"x",) * (MAX_BATCH_RECORDS + 1)),
        Batch("eu-1", 0, 1, 0, (b"x",)),
        Batch("eu-1", 2**63, 1, 0, (b"x",)),
        Batch("eu-1", 5, 0, 0, (b"x",)),
        Batch("eu-1", 5, 1, 2**63, (b"x",)),
        Batch("EU", 5, 1, 0, (b"x",)),
        Batch("", 5, 1, 0, (b"x",)),
        Batch("a" * 33, 5, 1, 0, (b"x",)),
    ],
)
def test_what_breaks_a_limit_is_refused_however_well_signed(
    identity: SigningIdentity, verifier: ChainVerifier, batch: Batch
) -> None:
    """The shard's own signature does not make a bad batch good."""
    with pytest.raises(MessageInvalidError):
        open_batch(seal_batch(batch, identity), verifier, now=NOW)


def test_the_largest_numbers_are_taken(identity: SigningIdentity, verifier: ChainVerifier) -> None:
    """At the limits, not beyond them."""
    batch = Batch("a" * 32, 2**63 - 1, 2**63 - 1, 2**63 - 1, (b"x" * 65535,) + (b"y",) * 4095)
    assert open_batch(seal_batch(batch, identity), verifier, now=NOW)[1] == batch


@pytest.mark.parametrize(
    ("days", "uris", "problem"),
    [
        ((-3, -1), (PRINCIPAL,), "chain"),
        ((1, 3), (PRINCIPAL,), "chain"),
        ((-1, 1), (), "0 URI SANs"),
        ((-1, 1), (PRINCIPAL, "spiffe://example.org/b"), "2 URI SANs"),
        ((-1, 1), ("https://example.org/shard",), "spiffe"),
    ],
)
def test_a_certificate_that_names_nobody_now_signs_for_nobody(
    authority: CertificateAuthority,
    verifier: ChainVerifier,
    days: tuple[int, int],
    uris: tuple[str, ...],
    problem: str,
) -> None:
    """Expired, not yet good, without a principal, with two."""
    key = ec.generate_private_key(ec.SECP256R1())
    pem = issue(authority, key, days=days, uris=uris)
    der = x509.load_pem_x509_certificate(pem).public_bytes(serialization.Encoding.DER)
    message = seal_batch(BATCH, SigningIdentity("x", (der,), key))
    with pytest.raises(SignatureInvalidError, match=problem):
        open_batch(message, verifier, now=NOW)


def test_a_shard_cannot_issue_certificates(authority: CertificateAuthority) -> None:
    """A chain through a certificate that is no CA's does not hold; through a CA's it does."""
    root = ec.generate_private_key(ec.SECP256R1())
    root_pem = issue(authority, root, is_ca=True, uris=())
    verifier = ChainVerifier(root_pem)
    for is_ca in (None, False, True):
        middle = ec.generate_private_key(ec.SECP256R1())
        name = x509.load_pem_x509_certificate(root_pem).subject
        middle_pem = issue(authority, middle, issuer=(name, root), is_ca=is_ca)
        key = ec.generate_private_key(ec.SECP256R1())
        leaf = issue(authority, key, issuer=(name, middle))
        signer = SigningIdentity.from_pem(leaf + middle_pem, pem_of(key))
        message = seal_batch(BATCH, signer)
        if is_ca:
            assert open_batch(message, verifier, now=NOW)[0] == PRINCIPAL
        else:
            with pytest.raises(SignatureInvalidError, match="chain"):
                open_batch(message, verifier, now=NOW)


def test_files_that_cannot_sign_are_refused_with_the_reason(
    authority: CertificateAuthority, tmp_path: Path
) -> None:
    """Keys of other kinds, a key of another certificate, and what is no PEM."""
    del tmp_path
    good = ec.generate_private_key(ec.SECP256R1())
    other = pem_of(ec.generate_private_key(ec.SECP256R1()))
    edwards = ed25519.Ed25519PrivateKey.generate()
    small = ec.generate_private_key(ec.SECP256K1())
    for chain, key, problem in (
        (issue(authority, good), other, "not the one"),
        (issue(authority, edwards), pem_of(edwards), "ECDSA or RSA"),
        (issue(authority, small), pem_of(small), "P-256"),
        (b"x", other, "PEM"),
        (issue(authority, good), b"x", "PEM"),
        (issue(authority, good, uris=()), pem_of(good), "0 URI SANs"),
    ):
        with pytest.raises(IdentityError, match=problem):
            SigningIdentity.from_pem(chain, key)
    with pytest.raises(IdentityError, match="CA"):
        ChainVerifier(b"x")


def test_a_signer_does_not_show_its_key(identity: SigningIdentity) -> None:
    """Its repr is its name."""
    assert repr(identity) == "SigningIdentity(spiffe://example.org/shard)"
