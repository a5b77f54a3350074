"""A CA and certificates with SPIFFE ids, made for one test."""

from __future__ import annotations

import datetime as dt
import ipaddress
from dataclasses import dataclass
from pathlib import Path

import grpc
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
)
from cryptography.x509.oid import NameOID

from strongroom_auditlog.tls import CredentialFiles

__all__ = ["CertificateAuthority"]

_DAY = dt.timedelta(days=1)


@dataclass(frozen=True)
class CertificateAuthority:
    """Issues certificates into a directory."""

    directory: Path
    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate

    @classmethod
    def create(cls, directory: Path) -> CertificateAuthority:
        """Make a CA and write `ca.pem`."""
        directory.mkdir(parents=True, exist_ok=True)
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test CA")])
        certificate = (
            _builder(name, name, key)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .sign(key, hashes.SHA256())
        )
        (directory / "ca.pem").write_bytes(certificate.public_bytes(Encoding.PEM))
        return cls(directory, key, certificate)

    def issue(self, name: str, *uris: str, dns: str | None = None) -> CredentialFiles:
        """Issue a certificate with `uris`; by default one SPIFFE id of `name`.

        It is for 127.0.0.1, or for the host `dns` alone.
        """
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        host = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
        names: list[x509.GeneralName] = [host if dns is None else x509.DNSName(dns)]
        uris = uris or (f"spiffe://example.org/{name}",)
        names.extend(x509.UniformResourceIdentifier(uri) for uri in uris)
        certificate = (
            _builder(subject, self.certificate.subject, key)
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .sign(self.key, hashes.SHA256())
        )
        files = CredentialFiles(
            self.directory / f"{name}.pem",
            self.directory / f"{name}.key",
            self.directory / "ca.pem",
        )
        files.certificate.write_bytes(certificate.public_bytes(Encoding.PEM))
        files.private_key.write_bytes(
            key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        )
        return files

    def server_credentials(self, files: CredentialFiles) -> grpc.ServerCredentials:
        """Return credentials of a server that requires certificates of this CA."""
        pair = (files.private_key.read_bytes(), files.certificate.read_bytes())
        return grpc.ssl_server_credentials(
            [pair], root_certificates=files.ca.read_bytes(), require_client_auth=True
        )


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey
) -> x509.CertificateBuilder:
    now = dt.datetime.now(dt.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _DAY)
        .not_valid_after(now + _DAY)
    )
