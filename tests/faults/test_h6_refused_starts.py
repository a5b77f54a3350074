"""H6 and its like: a server that must not start does not, and says what to do."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from tests.support.deployment import Deployment
from tests.support.pkcs11_shim import Shim, build_shim

from strongroom_server.hsm.softhsm import find_softhsm

pytestmark = [pytest.mark.integration, pytest.mark.hsm, pytest.mark.timeout(120)]

EU = "eu-1"
REFUSED, MISCONFIGURED = 1, 2


def _refuse(deployment: Deployment, *words: str, code: int = REFUSED) -> None:
    ended = deployment.run_to_end(EU)
    assert ended.returncode == code, ended
    for word in words:
        assert word in ended.stderr, ended.stderr
    assert "Traceback" not in ended.stderr
    assert '"event":"serving"' not in ended.stdout


def _start_once(deployment: Deployment) -> None:
    """Let the server make its store and spool, with a key and some records."""
    deployment.start(f"server-{EU}")
    try:
        deployment.wait_ready()
        with deployment.client() as client:
            key = client.create_key(EU)
            for _ in range(20):
                client.encrypt(key.name, b"x", encryption_context={})
    finally:
        assert deployment.stop(f"server-{EU}") == 0


def test_a_wrong_pin_is_tried_once(new_deployment: Deployment, tmp_path: Path) -> None:
    """A refused PIN ends the start after one login in all, and the token is not locked."""
    module = build_shim(tmp_path)
    if module is None:
        pytest.skip("no C compiler: install gcc to count logins")
    shard = new_deployment.layout.shard(EU)
    shim = Shim(module, tmp_path, find_softhsm().module)
    environment = {
        **find_softhsm().environment,
        "SOFTHSM2_CONF": str(shard / "softhsm2.conf"),
        **shim.environment,
    }
    new_deployment.configure(EU, module=str(module), module_environment=environment)
    pin = (shard / "pin").read_text()
    (shard / "pin").write_text("not-the-pin-2c1f")
    _refuse(new_deployment, "PIN", "one login was tried", "pin_file")
    assert shim.logins == 1
    assert "not-the-pin-2c1f" not in new_deployment.run_to_end(EU).stderr
    (shard / "pin").write_text(pin)
    _start_once(new_deployment)


def test_a_missing_token_refuses_the_start(new_deployment: Deployment) -> None:
    """A token that is not there, or has another label, is named with the cure."""
    tokens = new_deployment.layout.shard(EU) / "tokens"
    shutil.move(tokens, tokens.with_name("away"))
    tokens.mkdir()
    _refuse(new_deployment, "START_REFUSED", f"strongroom-{EU}", "token_label")
    tokens.rmdir()
    shutil.move(tokens.with_name("away"), tokens)
    new_deployment.configure(EU, token_label="another")  # noqa: S106 - a label is no secret
    _refuse(new_deployment, "START_REFUSED", "another", "token_label")


def test_an_unusable_pin_file_refuses_the_start(new_deployment: Deployment) -> None:
    """A PIN file that is missing, empty, ambiguous or open to all is no PIN file."""
    path = new_deployment.layout.shard(EU) / "pin"
    pin = path.read_text()
    for text, mode, word in (
        ("", 0o600, "pin_file"),
        (f"{pin}\n{pin}\n", 0o600, "pin_file"),
        (pin, 0o644, "0600"),
    ):
        path.write_text(text)
        path.chmod(mode)
        _refuse(new_deployment, "START_REFUSED", word)
    path.unlink()
    _refuse(new_deployment, "START_REFUSED", str(path))


def test_damage_at_rest_refuses_the_start(new_deployment: Deployment) -> None:
    """A damaged store and a damaged spool are told apart, named, and not repaired by guessing."""
    _start_once(new_deployment)
    shard = new_deployment.layout.shard(EU)
    store, spool = shard / "store.sqlite3", shard / "spool"
    whole = store.read_bytes()
    segment = next(spool.glob("*.seg"))
    frames = segment.read_bytes()

    damaged = bytearray(frames)
    damaged[68 + 60] ^= 1  # in the record of the first frame, whose answer was given
    segment.write_bytes(damaged)
    _refuse(new_deployment, "START_REFUSED", "spool")
    segment.unlink()
    _refuse(new_deployment, "START_REFUSED", "spool")
    segment.write_bytes(frames)

    for bad in (whole[: len(whole) // 2], b"not a database" + whole[14:]):
        store.write_bytes(bad)
        _refuse(new_deployment, "START_REFUSED", "store.sqlite3")
    store.unlink()
    # A new and empty store beside a spool with records would number its changes anew.
    _refuse(new_deployment, "START_REFUSED", "store.sqlite3")
    store.write_bytes(whole)
    _start_once(new_deployment)


@pytest.mark.parametrize(
    ("old", "new", "word"),
    [
        ("[server]", "[sever]", "sever"),
        ("[ops]\nlisten =", "[ops]\nport = 1\nlisten =", "ops.port"),
        ("[[shards]]", "[[shards]]\nsessions = 0", "sessions"),
        ("[tls]", "[tls", "server-eu-1.toml"),
    ],
)
def test_a_mistake_in_the_configuration_is_named(
    shared_deployment: Deployment, tmp_path: Path, old: str, new: str, word: str
) -> None:
    """An unknown or impossible setting refuses the start with its name."""
    source = shared_deployment.layout.server_config(EU)
    text = source.read_text()
    assert old in text
    (tmp_path / source.name).write_text(text.replace(old, new, 1))
    _refuse(shared_deployment.with_root(tmp_path), word, code=MISCONFIGURED)


def test_a_second_server_on_the_same_shard_refuses(deployment: Deployment) -> None:
    """While a server owns a shard, another one on its spool refuses and does no harm."""
    _refuse(deployment, "START_REFUSED")
    with deployment.client() as client:
        client.create_key(EU)
    deployment.wait_drained()
    deployment.verify()


def test_unusable_tls_files_refuse_the_start(new_deployment: Deployment) -> None:
    """A TLS file that is missing, of another certificate or no certificate is named."""
    path = new_deployment.layout.server_config(EU)
    whole = path.read_text()
    for name, wrong in (
        ("certificate_file", "tls/missing.pem"),
        ("private_key_file", "tls/orders.key"),
        ("client_ca_file", "tls/orders.key"),
    ):
        lines = [
            f'{name} = "{wrong}"' if line.startswith(f"{name} =") else line
            for line in whole.splitlines()
        ]
        path.write_text("\n".join(lines) + "\n")
        _refuse(new_deployment, "START_REFUSED", "TLS files")
