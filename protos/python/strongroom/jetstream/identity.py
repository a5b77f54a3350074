"""Who signed a message: the TLS key that signs, and the chain that says whose it is.

Format: docs/formats/audit-nats-v1.md#a-message.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Self

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.x509 import verification

from strongroom.peers import PeerIdentityError, validate_spiffe_id

__all__ = ["ChainVerifier", "IdentityError", "SignatureInvalidError", "SigningIdentity"]

# RFC 8446, section 4.4.3, with a context that TLS does not have.
_PREFIX: Final = b"\x20" * 64 + b"strongroom audit-nats v1\x00"
_PSS_SALT_BYTES: Final = 32
_MIN_RSA_BITS: Final = 2048
_HASHES: Final[dict[type[ec.EllipticCurve], hashes.HashAlgorithm]] = {
    ec.SECP256R1: hashes.SHA256(),
    ec.SECP384R1: hashes.SHA384(),
    ec.SECP521R1: hashes.SHA512(),
}

_PrivateKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


class IdentityError(Exception):
    """Certificate and key cannot sign messages; the text says why."""


class SignatureInvalidError(Exception):
    """A message is not of whom it should be of: chain, principal or signature."""


@dataclass(frozen=True, slots=True)
class SigningIdentity:
    """The chain and the key of a TLS certificate."""

    principal: str
    chain: tuple[bytes, ...]
    """DER, the certificate of the key first."""
    _key: _PrivateKey

    @classmethod
    def from_pem(cls, chain: bytes, key: bytes) -> Self:
        """Take the contents of PEM files.

        Raises:
            IdentityError: They are not PEM, do not fit together, name no principal, or the
                key is of a kind that this format has not.
        """
        try:
            certificates = x509.load_pem_x509_certificates(chain)
            private_key = serialization.load_pem_private_key(key, password=None)
        except (ValueError, TypeError) as exc:
            raise IdentityError(f"not certificate and key in PEM: {exc}") from exc
        leaf = certificates[0]
        if private_key.public_key() != leaf.public_key():
            raise IdentityError("the private key is not the one of the certificate")
        if not isinstance(private_key, ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey):
            raise IdentityError("expected an ECDSA or RSA key")
        try:
            _check_key(private_key.public_key())
            principal = _principal_of(leaf)
        except SignatureInvalidError as exc:
            raise IdentityError(str(exc)) from exc
        der = tuple(each.public_bytes(serialization.Encoding.DER) for each in certificates)
        return cls(principal, der, private_key)

    def __repr__(self) -> str:
        return f"SigningIdentity({self.principal})"

    def sign(self, content: bytes) -> bytes:
        """Return the signature of `content`."""
        data = _PREFIX + content
        if isinstance(self._key, rsa.RSAPrivateKey):
            return self._key.sign(data, _pss(), hashes.SHA256())
        return self._key.sign(data, ec.ECDSA(_HASHES[type(self._key.curve)]))


class ChainVerifier:
    """Believes certificates of one CA. Thread safety: immutable."""

    def __init__(self, ca: bytes):
        """Take the CA's certificates in PEM.

        Raises:
            IdentityError: It is none.
        """
        try:
            store = verification.Store(x509.load_pem_x509_certificates(ca))
        except ValueError as exc:
            raise IdentityError(f"not a CA in PEM: {exc}") from exc
        # What TLS asks of a chain (RFC 5280, section 6); the purposes that a certificate
        # lists are those of TLS, and this is not TLS.
        authority = verification.ExtensionPolicy.permit_all().require_present(
            x509.BasicConstraints, verification.Criticality.AGNOSTIC, _check_authority
        )
        leaf = verification.ExtensionPolicy.permit_all().require_present(
            x509.SubjectAlternativeName, verification.Criticality.AGNOSTIC, None
        )
        self._policy = (
            verification.PolicyBuilder()
            .store(store)
            .extension_policies(ca_policy=authority, ee_policy=leaf)
        )

    def verify(
        self, chain: Sequence[bytes], content: bytes, signature: bytes, *, now: datetime
    ) -> str:
        """Return the principal that signed `content`.

        Args:
            chain: DER certificates, the signer's first.
            content: What was signed.
            signature: As the signer's key makes them.
            now: When the chain has to be good.

        Raises:
            SignatureInvalidError: The chain does not lead to the CA, names no principal, or
                the signature does not verify.
        """
        try:
            leaf, *others = [x509.load_der_x509_certificate(each) for each in chain]
            self._policy.time(now).build_client_verifier().verify(leaf, others)
        except (verification.VerificationError, ValueError) as exc:
            raise SignatureInvalidError(f"the certificate chain does not hold: {exc}") from exc
        principal = _principal_of(leaf)
        key = _check_key(leaf.public_key())
        data = _PREFIX + content
        try:
            if isinstance(key, rsa.RSAPublicKey):
                key.verify(signature, data, _pss(), hashes.SHA256())
            else:
                key.verify(signature, data, ec.ECDSA(_HASHES[type(key.curve)]))
        except InvalidSignature as exc:
            raise SignatureInvalidError("the signature does not verify") from exc
        return principal


def _check_authority(
    policy: verification.Policy, certificate: x509.Certificate, extension: x509.BasicConstraints
) -> None:
    """Let nobody issue certificates but a CA (RFC 5280, section 6.1.4 (k))."""
    del policy, certificate
    if not extension.ca:
        raise ValueError("a certificate was issued by one that is no CA")


def _pss() -> padding.PSS:
    return padding.PSS(padding.MGF1(hashes.SHA256()), _PSS_SALT_BYTES)


def _check_key(key: object) -> ec.EllipticCurvePublicKey | rsa.RSAPublicKey:
    if isinstance(key, ec.EllipticCurvePublicKey) and type(key.curve) in _HASHES:
        return key
    if isinstance(key, rsa.RSAPublicKey) and key.key_size >= _MIN_RSA_BITS:
        return key
    raise SignatureInvalidError(
        f"expected a key on P-256, P-384 or P-521, or RSA of at least {_MIN_RSA_BITS} bits"
    )


def _principal_of(certificate: x509.Certificate) -> str:
    """Return the one URI SAN (SPIFFE X509-SVID, section 2)."""
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (x509.ExtensionNotFound, x509.DuplicateExtension, ValueError) as exc:
        raise SignatureInvalidError("the certificate has no SAN") from exc
    uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    if len(uris) != 1:
        raise SignatureInvalidError(
            f"the certificate has {len(uris)} URI SANs, it must have exactly one"
        )
    try:
        return validate_spiffe_id(uris[0])
    except PeerIdentityError as exc:
        raise SignatureInvalidError(str(exc)) from exc
