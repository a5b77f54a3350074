"""Certificates beside those of a deployment: of strangers, and such as must be refused."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from strongroom_client import TlsFiles
from strongroom_server.cli.dev_ca import LEAF_LIFETIME, CertificateAuthority

__all__ = ["TRUST_DOMAIN", "issue", "issue_expired", "issue_of_another_ca", "issue_with_sans"]

TRUST_DOMAIN: Final = "spiffe://strongroom.dev"


def issue(ca: Path, directory: Path, name: str) -> TlsFiles:
    """Issue a good certificate to a principal that no configuration names."""
    authority = CertificateAuthority.load(ca)
    return _issue(authority, ca / "ca.pem", directory, name, dt.datetime.now(dt.UTC))


def issue_expired(ca: Path, directory: Path, name: str) -> TlsFiles:
    """Issue a certificate that ended yesterday to the principal `name`."""
    then = dt.datetime.now(dt.UTC) - LEAF_LIFETIME - dt.timedelta(days=1)
    return _issue(CertificateAuthority.load(ca), ca / "ca.pem", directory / "expired", name, then)


def issue_of_another_ca(ca: Path, directory: Path, name: str) -> TlsFiles:
    """Issue a certificate to the principal `name` by a CA that nobody configured."""
    now = dt.datetime.now(dt.UTC)
    other = CertificateAuthority.create(now=now)
    return _issue(other, ca / "ca.pem", directory / "other-ca", name, now)


def _issue(
    authority: CertificateAuthority, ca_file: Path, directory: Path, name: str, now: dt.datetime
) -> TlsFiles:
    directory.mkdir(parents=True, exist_ok=True)
    authority.issue(directory, name, principal=f"{TRUST_DOMAIN}/{name}", now=now)
    return TlsFiles(directory / f"{name}.pem", directory / f"{name}.key", ca_file)


def issue_with_sans(
    ca: Path, directory: Path, common_name: str, sans: Sequence[x509.GeneralName]
) -> TlsFiles:
    """Issue a certificate of the deployment's CA with these SANs, or none."""
    authority = CertificateAuthority.load(ca)
    key = ec.generate_private_key(ec.SECP256R1())
    now = dt.datetime.now(dt.UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)]))
        .issuer_name(authority.certificate.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(minutes=5))
        .not_valid_after(now + dt.timedelta(days=1))
    )
    if sans:
        builder = builder.add_extension(x509.SubjectAlternativeName(sans), critical=False)
    certificate = builder.sign(authority._private_key, hashes.SHA256())
    stem = directory / f"sans-{len(list(directory.iterdir()))}"
    stem.with_suffix(".pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    stem.with_suffix(".key").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return TlsFiles(stem.with_suffix(".pem"), stem.with_suffix(".key"), ca / "ca.pem")
