"""The development CA."""

from __future__ import annotations

import datetime as dt
import stat
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from cryptography.x509.verification import PolicyBuilder, Store, VerificationError

from strongroom_server.cli.dev_ca import LEAF_LIFETIME, CertificateAuthority
from strongroom_server.cli.failures import CliError

NOW = dt.datetime(2026, 11, 1, 12, 0, tzinfo=dt.UTC)
PRINCIPAL = "spiffe://strongroom.dev/orders"


@pytest.fixture
def authority(tmp_path: Path) -> CertificateAuthority:
    """Return a CA saved in tmp_path."""
    made = CertificateAuthority.create(now=NOW)
    made.save(tmp_path)
    made.issue(tmp_path, "orders", principal=PRINCIPAL, now=NOW)
    return made


def _leaf(directory: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate((directory / "orders.pem").read_bytes())


def test_the_chain_verifies_as_server_and_client(authority, tmp_path):
    """A strict RFC 5280 verifier accepts a leaf in both roles, by its name."""
    store = Store([authority.certificate])
    builder = PolicyBuilder().store(store).time(NOW + dt.timedelta(days=1))
    builder.build_server_verifier(x509.DNSName("localhost")).verify(_leaf(tmp_path), [])
    verified = builder.build_client_verifier().verify(_leaf(tmp_path), [])
    assert verified.chain[-1] == authority.certificate


def test_the_chain_ends_in_time_and_in_its_own_ca(authority, tmp_path):
    """After 30 days, or under another CA, the same leaf is refused."""
    late = PolicyBuilder().store(Store([authority.certificate])).time(NOW + dt.timedelta(days=31))
    with pytest.raises(VerificationError):
        late.build_client_verifier().verify(_leaf(tmp_path), [])
    other = CertificateAuthority.create(now=NOW)
    strange = PolicyBuilder().store(Store([other.certificate])).time(NOW)
    with pytest.raises(VerificationError):
        strange.build_client_verifier().verify(_leaf(tmp_path), [])


@pytest.mark.usefixtures("authority")
def test_the_principal_is_the_only_uri(tmp_path):
    """The SAN has exactly one URI, the principal, beside localhost and 127.0.0.1."""
    names = _leaf(tmp_path).extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.UniformResourceIdentifier) == [PRINCIPAL]
    assert names.get_values_for_type(x509.DNSName) == ["localhost"]
    assert [str(a) for a in names.get_values_for_type(x509.IPAddress)] == ["127.0.0.1"]


def test_a_leaf_cannot_sign(authority, tmp_path):
    """A leaf is no CA, its CA signs leaves only, and it lives 30 days."""
    leaf = _leaf(tmp_path)
    assert not leaf.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    constraints = authority.certificate.extensions.get_extension_for_class(x509.BasicConstraints)
    assert constraints.critical
    assert constraints.value.path_length == 0
    assert leaf.not_valid_after_utc == NOW + LEAF_LIFETIME


@pytest.mark.usefixtures("authority")
def test_keys_are_private_files_that_fit_their_certificates(tmp_path):
    """Private keys have mode 0600 and belong to the certificate beside them."""
    for name in ("ca", "orders"):
        path = tmp_path / f"{name}.key"
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        key = load_pem_private_key(path.read_bytes(), None)
        assert isinstance(key, ec.EllipticCurvePrivateKey)
        certificate = x509.load_pem_x509_certificate((tmp_path / f"{name}.pem").read_bytes())
        assert key.public_key() == certificate.public_key()


def test_a_saved_ca_goes_on_issuing(authority, tmp_path):
    """Loaded again, the CA issues leaves that verify under the same certificate."""
    loaded = CertificateAuthority.load(tmp_path)
    first = _leaf(tmp_path)
    loaded.issue(tmp_path, "orders", principal=PRINCIPAL, now=NOW + dt.timedelta(days=29))
    renewed = _leaf(tmp_path)
    assert renewed.serial_number != first.serial_number
    later = PolicyBuilder().store(Store([authority.certificate])).time(NOW + dt.timedelta(days=40))
    later.build_client_verifier().verify(renewed, [])


@pytest.mark.usefixtures("authority")
def test_a_ca_that_does_not_fit_is_refused(tmp_path):
    """A key of another CA, a readable key and rubbish are refused with a word why."""
    key = tmp_path / "ca.key"
    key.chmod(0o644)
    with pytest.raises(CliError, match="other users"):
        CertificateAuthority.load(tmp_path)
    key.chmod(0o600)
    key.write_bytes((tmp_path / "orders.key").read_bytes())
    with pytest.raises(CliError, match="does not belong"):
        CertificateAuthority.load(tmp_path)
    (tmp_path / "ca.pem").write_bytes(b"rubbish")
    with pytest.raises(CliError, match="not a certificate authority"):
        CertificateAuthority.load(tmp_path)
