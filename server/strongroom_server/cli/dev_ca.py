"""The certificate authority of a development deployment.

One P-256 CA signs every certificate: EC, because BoringSSL (gRPC) offers no Ed25519
certificates. Profile: RFC 5280, and SPIFFE X509-SVID, section 4 for the leaves.
Development only: the CA's key lies beside the deployment in a file.
"""

from __future__ import annotations

import datetime as dt
import ipaddress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from strongroom_server.cli.dev_files import read_private, write_private, write_public
from strongroom_server.cli.failures import CliError

__all__ = ["CA_LIFETIME", "LEAF_LIFETIME", "CertificateAuthority"]

CA_LIFETIME: Final = dt.timedelta(days=825)
LEAF_LIFETIME: Final = dt.timedelta(days=30)
# Clocks of containers and hosts disagree by seconds; a certificate made now must be
# valid on all of them.
BACKDATE: Final = dt.timedelta(minutes=5)


@dataclass(frozen=True, slots=True)
class CertificateAuthority:
    """A CA certificate and its key."""

    certificate: x509.Certificate
    _private_key: ec.EllipticCurvePrivateKey

    @classmethod
    def create(cls, *, now: dt.datetime) -> CertificateAuthority:
        """Make a CA that may sign leaves and no further CA."""
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Strongroom development CA")])
        certificate = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - BACKDATE)
            .not_valid_after(now + CA_LIFETIME)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_key_usage(signs_certificates=True), critical=True)
            .add_extension(
                x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False
            )
            .sign(key, hashes.SHA256())
        )
        return cls(certificate, key)

    @classmethod
    def load(cls, directory: Path) -> CertificateAuthority:
        """Load ``ca.pem`` and ``ca.key``.

        Raises:
            CliError: They are not what `save` wrote.
        """
        try:
            certificate = x509.load_pem_x509_certificate((directory / "ca.pem").read_bytes())
            key = serialization.load_pem_private_key(read_private(directory / "ca.key"), None)
        except ValueError as exc:
            raise CliError("FILE", f"{directory}: not a certificate authority: {exc}") from exc
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise CliError("FILE", f"{directory / 'ca.key'}: not an EC key")
        if key.public_key() != certificate.public_key():
            raise CliError("FILE", f"{directory}: ca.key does not belong to ca.pem")
        return cls(certificate, key)

    def save(self, directory: Path) -> None:
        """Write ``ca.pem``, and ``ca.key`` with mode 0600."""
        write_private(directory / "ca.key", _pem_of_key(self._private_key))
        write_public(directory / "ca.pem", self.certificate.public_bytes(_PEM))

    def issue(self, directory: Path, name: str, *, principal: str, now: dt.datetime) -> None:
        """Write ``{name}.pem`` and ``{name}.key``, good for 30 days, as server and client.

        `principal` becomes the only URI SAN (SPIFFE X509-SVID, section 2); the DNS name and
        the address let clients on this machine check whom they reached.
        """
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
            .issuer_name(self.certificate.subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - BACKDATE)
            .not_valid_after(min(now + LEAF_LIFETIME, self.certificate.not_valid_after_utc))
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_key_usage(signs_certificates=False), critical=True)
            .add_extension(
                x509.ExtendedKeyUsage(
                    [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
                ),
                critical=False,
            )
            .add_extension(
                x509.SubjectAlternativeName(
                    [
                        x509.UniformResourceIdentifier(principal),
                        x509.DNSName("localhost"),
                        x509.IPAddress(ipaddress.IPv4Address("127.0.0.1")),
                    ]
                ),
                critical=False,
            )
            .add_extension(
                x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False
            )
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(
                    self.certificate.extensions.get_extension_for_class(
                        x509.SubjectKeyIdentifier
                    ).value
                ),
                critical=False,
            )
            .sign(self._private_key, hashes.SHA256())
        )
        # The key first: a server that reloads on the certificate's change then finds both.
        write_private(directory / f"{name}.key", _pem_of_key(key))
        write_public(directory / f"{name}.pem", certificate.public_bytes(_PEM))


_PEM: Final = serialization.Encoding.PEM


def _pem_of_key(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(_PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())


def _key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )
