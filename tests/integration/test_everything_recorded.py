"""Everything that happens to a server is in the audit log, and nothing that is to be hidden."""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from tests.support.callers import TRUST_DOMAIN, issue_with_sans
from tests.support.deployment import Deployment, running
from tests.support.wire import refusal, send

from strongroom.kms.v1 import key_service_pb2 as rpc
from strongroom.receipts import Receipt
from strongroom_client import AuditMode, KmsClient

pytestmark = [pytest.mark.integration, pytest.mark.hsm, pytest.mark.timeout(120)]

EU = "eu-1"
SERVER = f"server-{EU}"


def of_region(deployment: Deployment, region: str = EU) -> list[dict[str, Any]]:
    """Return the records of a region in the verified log, in order."""
    return [record for record in deployment.records() if record["region"] == region]


def methods(records: list[dict[str, Any]]) -> list[str]:
    return [record["method"] for record in records]


def wait_for(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.05)


def strongroom(*arguments: str | Path) -> str:
    """Run a command that asks no service; return what it prints."""
    command = [sys.executable, "-m", "strongroom_server.cli", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    return done.stdout.strip()


def test_a_run_is_framed_by_its_start_and_its_stop(new_deployment: Deployment) -> None:
    """The first record says program and configuration, the last that it ended; a crash has none."""
    with running(new_deployment) as deployment:
        with deployment.client() as client:
            client.generate_random(EU, 1)
        deployment.stop(SERVER)
        deployment.start(SERVER)
        deployment.wait_ready()
        with deployment.client() as client:
            deployment.wait_answers(client, EU)
        deployment.kill(SERVER)
        deployment.start(SERVER)
        deployment.wait_ready()
        deployment.wait_drained()
        records = of_region(deployment)
    digest = strongroom("config", "digest", deployment.layout.server_config(EU))
    calls = [name for name in methods(records) if name != "GenerateRandom"]
    assert calls == ["ServerStarted", "ServerStopped", "ServerStarted", "ServerStarted"]
    assert methods(records)[0] == "ServerStarted"
    assert methods(records)[1:3] == ["GenerateRandom", "ServerStopped"]
    started = records[0]
    assert started["principal"] == "strongroom:server"
    assert started["peer"] == ""
    assert started["details"]["config_sha256"] == digest
    assert started["details"]["version"]


def test_a_lost_worker_is_on_record(new_deployment: Deployment) -> None:
    """Who kills an HSM worker leaves a trace, with its process id."""
    with running(new_deployment) as deployment:
        pid = deployment.worker_pids(EU)[0]
        os.kill(pid, signal.SIGKILL)
        wait_for(lambda: pid not in deployment.worker_pids(EU))
        with deployment.client() as client:
            client.generate_random(EU, 1)
        deployment.wait_drained()
        replaced = [r for r in of_region(deployment) if r["method"] == "HsmWorkerReplaced"]
    assert [record["details"]["worker_pid"] for record in replaced] == [str(pid)]
    assert replaced[0]["outcome"] == "FAILED"
    assert replaced[0]["details"]["cause"]


def test_a_flood_without_identity_is_counted(new_deployment: Deployment, tmp_path: Path) -> None:
    """Many refused calls leave few records, and every one of them is counted."""
    uri = x509.UniformResourceIdentifier
    two = [uri(f"{TRUST_DOMAIN}/orders"), uri(f"{TRUST_DOMAIN}/payments")]
    with running(new_deployment) as deployment:
        tls = issue_with_sans(deployment.layout.ca, tmp_path, "two", two)
        request = rpc.GenerateRandomRequest(parent=f"regions/{EU}", number_of_bytes=1)
        began = time.monotonic()
        with deployment.channel(EU, tls) as channel:
            for _ in range(200):
                assert refusal(channel, "GenerateRandom", request).code == "UNAUTHENTICATED"
        seconds = time.monotonic() - began
        deployment.stop(SERVER)  # writes what was counted before it ends
        deployment.start(SERVER)
        deployment.wait_ready()
        deployment.wait_drained()
        refused = [r for r in of_region(deployment) if r.get("reason") == "PEER_UNAUTHENTICATED"]
    single = [record for record in refused if record["method"] == "GenerateRandom"]
    counted = [record for record in refused if record["method"] == "PeerRefused"]
    assert 1 <= len(single) <= seconds + 1
    assert len(single) + sum(record["count"] for record in counted) == 200
    assert {record["peer"] for record in counted} == {"ipv4:127.0.0.1"}
    assert {record["principal"] for record in refused} == {"strongroom:unauthenticated"}
    assert {record["outcome"] for record in refused} == {"DENIED"}


def test_a_crash_of_buffered_keys_is_told(new_deployment: Deployment) -> None:
    """Every answer that did not wait is in the log, or covered by a record of the loss."""
    new_deployment.configure(EU, buffered_records=200, buffered_seconds=5.0)
    with running(new_deployment) as deployment:
        with deployment.client() as client:
            key = client.create_key(EU, audit_mode=AuditMode.BUFFERED).name
            receipts: list[Receipt] = []
            # The first has the mark written; from some call on, answers are early.
            wait_for(lambda: _is_early(receipts, client, key))
            early: list[Receipt] = []
            for _ in range(20):
                early += client.encrypt(key, b"x", encryption_context={}).receipts
            assert all(receipt.is_buffered for receipt in early)
            client.disable_key(key)  # waits, and takes the others along
            client.enable_key(key)
            lost: list[Receipt] = []
            for _ in range(20):
                lost += client.encrypt(key, b"x", encryption_context={}).receipts
        deployment.kill(SERVER)
        deployment.start(SERVER)
        deployment.wait_ready()
        deployment.wait_drained()
        deployment.verify([*receipts, *early])
        records = of_region(deployment)
    assert all(receipt.is_buffered for receipt in lost)
    uses = [r for r in records if r.get("key") == key]
    assert {record["mode"] for record in uses} == {"BUFFERED"}
    (told,) = [r for r in records if r["method"] == "BufferedRecordsLost"]
    assert told["count"] == 200
    known = {record["sequence"]: record for record in records}
    for receipt in lost:
        there = known.get(receipt.sequence, {})
        if there.get("method") != "Encrypt":
            assert told["sequence"] <= receipt.sequence < told["sequence"] + told["count"]
    assert methods(records)[-1] == "ServerStarted"


def _is_early(receipts: list[Receipt], client: KmsClient, key: str) -> bool:
    receipts += client.encrypt(key, b"x", encryption_context={}).receipts
    return receipts[-1].is_buffered


def test_hashed_identifiers_are_nowhere(new_deployment: Deployment, tmp_path: Path) -> None:
    """Context values and request ids are in no file as they are; who has the key finds them."""
    key_file = tmp_path / "identifiers.key"
    key_file.write_text(secrets.token_hex(32) + "\n")
    key_file.chmod(0o600)
    path = new_deployment.layout.server_config(EU)
    path.write_text(
        f'{path.read_text()}\n[audit]\nidentifier_key_file = "{key_file}"\nhash_identifiers = '
        '["peer", "principal", "request_id", "encryption_context"]\n'
    )
    tenant = f"tenant-{secrets.token_hex(8)}"
    with running(new_deployment) as deployment:
        with deployment.client() as client:
            key = client.create_key(EU).name
            made = client.encrypt(key, b"x", encryption_context={"tenant": tenant})
        with deployment.channel(EU) as channel:
            wrong = rpc.DecryptRequest(
                key=key, ciphertext=made.ciphertext, encryption_context={"tenant": tenant + "!"}
            )
            assert refusal(channel, "Decrypt", wrong).reason == "CIPHERTEXT_INVALID"
            right = rpc.DecryptRequest(
                key=key, ciphertext=made.ciphertext, encryption_context={"tenant": tenant}
            )
            send(channel, "Decrypt", right)
        deployment.wait_drained()
        records = of_region(deployment)
        for file, data in deployment.every_byte_written():
            assert tenant.encode() not in data, file
    principal, hashed, address = (
        strongroom("audit", "hash-identifier", value, "--key-file", key_file)
        for value in (f"{TRUST_DOMAIN}/orders", tenant, "ipv4:127.0.0.1")
    )
    found = [r for r in records if r["encryption_context"].get("tenant") == hashed]
    assert methods(found) == ["Encrypt", "Decrypt"]
    assert {record["principal"] for record in found} == {principal}
    assert {record["peer"] for record in found} == {address}
    assert len({record["identifier_key"] for record in records}) == 1
    assert records[0]["principal"] == "strongroom:server"
