"""`strongroom dev init`, with a real SoftHSM."""

from __future__ import annotations

import hashlib
import stat
from pathlib import Path

import pytest
from cryptography import x509

from strongroom_server.cli.dev_layout import Layout, Ports, check_regions
from strongroom_server.cli.failures import CliError
from strongroom_server.cli.root import run
from strongroom_server.hsm.softhsm import find_softhsm

SECRETS = ("*.key", "pin")


def _digests(directory: Path) -> dict[str, str]:
    return {
        str(path.relative_to(directory)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(directory.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="module")
def deployment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a deployment with two regions."""
    find_softhsm()
    directory = tmp_path_factory.mktemp("deployment") / "dev"
    assert run(["dev", "init", "--dir", str(directory), "--port-base", "0"]) == 0
    return directory


@pytest.mark.hsm
def test_a_deployment_is_complete(deployment, capsys):
    """Each configuration that it holds is right, and names its region."""
    configs = sorted(path.name for path in deployment.glob("*.toml"))
    assert configs == [
        "audit-log.toml",
        "client-orders.toml",
        "client-payments.toml",
        "client.toml",
        "server-eu-1.toml",
        "server-us-1.toml",
    ]
    for name in configs:
        assert run(["config", "check", str(deployment / name)]) == 0
    assert "audit log" in capsys.readouterr().out


@pytest.mark.hsm
def test_secrets_are_the_owners_alone(deployment):
    """Private keys and PINs have mode 0600, every directory of the owner 0700."""
    secrets = [path for pattern in SECRETS for path in deployment.rglob(pattern)]
    assert len(secrets) == 1 + 6 + 1 + 2  # CA, certificates, log key, PINs
    for path in secrets:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path
    for path in (deployment, deployment / "ca", deployment / "tls", deployment / "shards/eu-1"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o700, path


@pytest.mark.hsm
def test_each_process_has_its_own_name(deployment):
    """Every certificate has one URI, and it is the holder's."""
    for name, principal in {
        "server-eu-1": "spiffe://strongroom.dev/server/eu-1",
        "audit-log": "spiffe://strongroom.dev/audit-log",
        "operator": "spiffe://strongroom.dev/operator",
        "payments": "spiffe://strongroom.dev/payments",
    }.items():
        certificate = x509.load_pem_x509_certificate((deployment / f"tls/{name}.pem").read_bytes())
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        assert names.get_values_for_type(x509.UniformResourceIdentifier) == [principal]


@pytest.mark.hsm
def test_a_second_run_changes_nothing(deployment, capsys):
    """What exists is left as it is, to the last byte."""
    before = _digests(deployment)
    assert run(["dev", "init", "--dir", str(deployment)]) == 0
    assert "left as it is" in capsys.readouterr().err
    assert _digests(deployment) == before


@pytest.mark.hsm
def test_other_regions_are_refused(deployment, capsys):
    """A deployment does not change its regions."""
    assert run(["dev", "init", "--dir", str(deployment), "--region", "ap-1"]) == 5
    assert "eu-1, us-1" in capsys.readouterr().err


@pytest.mark.hsm
def test_renewal_keeps_the_ca(deployment):
    """--renew-certificates replaces every leaf and its key, and nothing else."""
    before = _digests(deployment)
    assert run(["dev", "init", "--dir", str(deployment), "--renew-certificates"]) == 0
    after = _digests(deployment)
    changed = {name for name in after if after[name] != before[name]}
    assert changed == {name for name in after if name.startswith("tls/")}
    assert len(changed) == 12


def test_half_a_deployment_is_not_used(tmp_path, capsys):
    """A directory that holds something else is neither used nor overwritten."""
    (tmp_path / "something").touch()
    assert run(["dev", "init", "--dir", str(tmp_path)]) == 5
    assert "interrupted" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["something"]


def test_renewal_needs_a_deployment(tmp_path, capsys):
    """Without a deployment there is nothing to renew, and nothing is made."""
    assert run(["dev", "init", "--dir", str(tmp_path / "x"), "--renew-certificates"]) == 1
    assert "dev init" in capsys.readouterr().err
    assert not (tmp_path / "x").exists()


def test_ports_are_laid_out_without_clashes():
    """The default ports are the documented ones; no port comes twice, fixed or free."""
    regions = ["a", "b", "c", "d", "e", "f"]
    fixed = Ports.from_base(regions, 7443)
    assert (fixed.servers["a"].port, fixed.servers["b"].ops_port) == (7443, 9465)
    assert (fixed.audit_log.port, fixed.audit_log.ops_port) == (7450, 9470)
    for ports in (fixed, Ports.free(regions)):
        endpoints = [*ports.servers.values(), ports.audit_log]
        numbers = [n for end in endpoints for n in (end.port, end.ops_port)]
        assert len(set(numbers)) == 14


@pytest.mark.parametrize("regions", [[], ["a"] * 2, ["EU"], ["a b"], ["x" * 33], list("abcdefg")])
def test_bad_regions_are_refused(regions):
    """None, too many, one twice, or no region's name at all."""
    with pytest.raises(CliError):
        check_regions(regions)


def test_a_deployment_is_complete_when_the_operators_file_is_there(tmp_path):
    """client.toml is written last, so it is the mark."""
    layout = Layout(tmp_path)
    assert not layout.is_complete
    layout.client_config.touch()
    assert layout.is_complete
