"""Wrapped storage and the rotation of its root, with real processes and a real token."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from tests.support.cli import Cli, running_deployment

from strongroom_client import KeyStorage, KmsClient, load_options
from strongroom_server.cli.dev_fleet import Fleet
from strongroom_server.config import load_config

pytestmark = [pytest.mark.integration, pytest.mark.hsm, pytest.mark.timeout(300)]
REGION = "eu-1"
CONTEXT = {"order": "17"}
KEYS = 80  # more than a batch of re-wrapping


@pytest.fixture(scope="module")
def deployment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Cli, Fleet]]:
    """Run one region for this module."""
    with running_deployment(tmp_path_factory.mktemp("roots") / "dev", REGION) as made:
        yield made


@pytest.fixture(scope="module")
def cli(deployment: tuple[Cli, Fleet]) -> Cli:
    return deployment[0]


@pytest.fixture(scope="module")
def kms(cli: Cli) -> Iterator[KmsClient]:
    with KmsClient(load_options(cli.config("orders"))) as client:
        yield client


def hsm_command(cli: Cli, *arguments: str) -> list[str]:
    """Return the arguments of ``strongroom hsm ...`` on the server's configuration."""
    config = str(cli.layout.server_config(REGION))
    program = [sys.executable, "-m", "strongroom_server.cli", "hsm"]
    return [*program, *arguments, "--config", config, "-o", "json"]


@pytest.fixture(scope="module")
def hsm(cli: Cli) -> Callable[..., Any]:
    """Return what runs ``strongroom hsm ...`` on the server's configuration."""

    def call(*arguments: str, code: int = 0) -> Any:
        done = subprocess.run(
            hsm_command(cli, *arguments),
            capture_output=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == code, done.stderr.decode()
        return json.loads(done.stdout if code == 0 else done.stderr)

    return call


@pytest.fixture(scope="module")
def sealed(kms: KmsClient, hsm: Callable[..., Any]) -> dict[str, bytes]:
    """Return ciphertexts by the names of their wrapped keys; before them there was no root."""
    assert hsm("roots") == []
    assert hsm("rotate-root", code=5)["error"]["reason"] == "NO_WRAPPING_ROOT"
    made: dict[str, bytes] = {}
    for _ in range(KEYS):
        key = kms.create_key(REGION, storage=KeyStorage.WRAPPED)
        made[key.name] = kms.encrypt(
            key.name, key.name.encode(), encryption_context=CONTEXT
        ).ciphertext
    return made


def check_all_decrypt(kms: KmsClient, sealed: dict[str, bytes]) -> None:
    for name, ciphertext in sealed.items():
        opened = kms.decrypt(name, ciphertext, encryption_context=CONTEXT)
        assert opened.plaintext == name.encode()


def states(rows: list[dict[str, Any]]) -> list[tuple[int, str, int]]:
    return [(row["root"], row["state"], row["versions"]) for row in rows]


def metric(cli: Cli, name: str) -> float:
    """Return a sample of the server's metrics, from its ops port."""
    listen = load_config(cli.layout.server_config(REGION)).ops.listen
    with urllib.request.urlopen(f"http://{listen}/metrics", timeout=10) as answer:
        text = answer.read().decode()
    found = re.search(rf'^{name}{{region="{REGION}"}} (\S+)$', text, re.MULTILINE)
    assert found is not None
    return float(found[1])


def test_the_server_rotates_while_it_serves(
    cli: Cli, kms: KmsClient, hsm: Callable[..., Any], sealed: dict[str, bytes]
) -> None:
    """Every call works during a rotation; afterwards all lies under the new root, recorded."""
    assert states(hsm("roots")) == [(1, "ACTIVE", KEYS)]
    rotation = subprocess.Popen(hsm_command(cli, "rotate-root", "--wait"), stdout=subprocess.PIPE)
    try:
        ends_at = time.monotonic() + 120
        while rotation.poll() is None:
            check_all_decrypt(kms, sealed)
            assert time.monotonic() < ends_at
        output, _ = rotation.communicate()
    finally:
        rotation.kill()
        rotation.wait()
    assert rotation.returncode == 0
    assert json.loads(output) == {"region": REGION, "root": 2, "stale_versions": 0}
    assert states(hsm("roots")) == [(1, "RETIRED", 0), (2, "ACTIVE", KEYS)]
    assert metric(cli, "strongroom_rewrapped_versions_total") == KEYS
    assert metric(cli, "strongroom_wrapping_root_stale_versions") == 0
    check_all_decrypt(kms, sealed)
    methods = recorded_methods(cli)
    assert methods.count("RotateWrappingRoot") == methods.count("RetireWrappingRoot") == 1


def test_the_command_re_wraps_by_itself_without_a_server(
    deployment: tuple[Cli, Fleet], kms: KmsClient, hsm: Callable[..., Any], sealed: dict[str, bytes]
) -> None:
    """With no server running `--rewrap` does all of it; the next start has it and records it."""
    cli, fleet = deployment
    fleet.stop(f"server-{REGION}")
    newest = states(hsm("roots"))[-1][0]
    answer = hsm("rotate-root", "--rewrap")
    assert answer == {"region": REGION, "root": newest + 1, "stale_versions": 0}
    assert states(hsm("roots"))[-2:] == [
        (newest, "RETIRED", 0),
        (newest + 1, "ACTIVE", KEYS),
    ]
    before = recorded_methods(cli).count("RetireWrappingRoot")
    fleet.start(f"server-{REGION}")
    fleet.wait_ready(120)
    check_all_decrypt(kms, sealed)
    ends_at = time.monotonic() + 60
    while recorded_methods(cli).count("RetireWrappingRoot") == before:
        assert time.monotonic() < ends_at
        time.sleep(0.5)


def recorded_methods(cli: Cli) -> list[str]:
    """Return the methods in the audit log, waiting a little for what is on its way."""
    time.sleep(1.0)
    tail = cli("audit", "tail", "-n", "5000", "-o", "json", who="operator")
    return [json.loads(line)["method"] for line in tail.stdout.splitlines()]
