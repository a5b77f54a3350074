"""Nothing secret is written anywhere: planted markers, and a search of every byte."""

from __future__ import annotations

import base64
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import psutil
import pytest
from tests.support.cli import Cli
from tests.support.deployment import Deployment, running
from tests.support.wire import refusal

from strongroom.kms.v1 import key_service_pb2 as rpc
from strongroom_client import AuditMode, EnvelopeClient, StrongroomError

pytestmark = [pytest.mark.integration, pytest.mark.hsm, pytest.mark.timeout(120)]

EU = "eu-1"
SERVER = f"server-{EU}"


def _spellings(secret: bytes) -> Iterator[bytes]:
    """Yield the ways in which a program might write bytes down."""
    yield secret
    yield secret.hex().encode()
    yield secret.hex().upper().encode()
    yield repr(secret)[2:-1].encode()
    yield repr(repr(secret))[3:-2].encode()
    for shift in range(3):
        # Base64 of a text that has the secret inside, wherever it begins.
        for encode in (base64.b64encode, base64.urlsafe_b64encode):
            encoded = encode(bytes(shift) + secret)
            yield encoded[4:-4]


class Secrets:
    """What must not be found, and where it was planted."""

    def __init__(self) -> None:
        self.planted: dict[str, bytes] = {}
        self.told: list[str] = []

    def plant(self, what: str, secret: bytes) -> bytes:
        """Remember a secret of at least 12 bytes."""
        assert len(secret) >= 12
        self.planted[what] = secret
        return secret

    def hear(self, error: StrongroomError) -> None:
        """Remember everything that an error says."""
        self.told.append(f"{error!r} {error} {dict(error.metadata)}")

    def found_in(self, data: bytes) -> list[str]:
        """Return which secrets are in `data`."""
        return [
            what
            for what, secret in self.planted.items()
            if any(spelling in data for spelling in _spellings(secret))
        ]


def _processes(deployment: Deployment) -> list[psutil.Process]:
    own = [psutil.Process(deployment.pid(name)) for name in deployment.fleet.members]
    return [*own, *(child for process in own for child in process.children(recursive=True))]


def _environment(process: psutil.Process) -> bytes:
    """Return a process's environment; nobody but root can read that of an HSM worker."""
    try:
        variables = process.environ()
    except psutil.AccessDenied:
        # A worker is not dumpable: the kernel keeps /proc/PID/environ from its own user.
        assert os.geteuid() != 0
        assert "strongroom_server.hsm.worker" in process.cmdline()
        return b""
    return "\0".join(f"{k}={v}" for k, v in variables.items()).encode()


def test_no_secret_is_written_anywhere(new_deployment: Deployment, tmp_path: Path) -> None:
    """Plaintexts, data keys, ciphertexts and PINs are in no file, output, argument or error."""
    for region in new_deployment.regions:
        path = new_deployment.layout.server_config(region)
        path.write_text(path.read_text().replace('level = "info"', 'level = "debug"'))
    planted = Secrets()
    for region in new_deployment.regions:
        pin = (new_deployment.layout.shard(region) / "pin").read_bytes()
        planted.plant(f"PIN of {region}", pin)
    with running(new_deployment) as deployment:
        _use(deployment, planted, tmp_path)
        for process in _processes(deployment):
            arguments = "\0".join(process.cmdline()).encode()
            assert planted.found_in(arguments + b"\0" + _environment(process)) == []
        deployment.wait_drained()
        for name in deployment.fleet.members:
            assert planted.found_in(deployment.ops(name, "/metrics")[1].encode()) == []
        # The write-ahead logs are still there: the processes run.
        _search(deployment, planted)
        deployment.kill(SERVER)
    _search(deployment, planted)
    assert planted.found_in("\n".join(planted.told).encode()) == []


def _search(deployment: Deployment, planted: Secrets) -> None:
    places = list(deployment.every_byte_written())
    assert len(places) > 10
    for path, data in places:
        assert planted.found_in(data) == [], path
    # The search works: what may be written is found where it belongs.
    allowed = Secrets()
    allowed.plant("context", b"context-value-7d31")
    with_context = [path for path, data in places if allowed.found_in(data)]
    assert any(path.name.startswith("index.sqlite3") for path, _ in places)
    assert any("spool" in path.parts for path in with_context)
    assert any("entries" in path.parts for path in with_context)
    assert not any("logs" in path.parts for path in with_context)


def _use(deployment: Deployment, planted: Secrets, directory: Path) -> None:
    context = {"tenant": "context-value-7d31"}
    with deployment.client() as client, deployment.channel(EU) as channel:
        key = client.create_key(EU).name
        marker = planted.plant("plaintext", b"plaintext-" + secrets.token_bytes(24))
        made = client.encrypt(key, marker, encryption_context=context)
        planted.plant("ciphertext", made.ciphertext[22:])
        assert client.decrypt(key, made.ciphertext, encryption_context=context).plaintext == marker
        data_key = client.generate_data_key(key, encryption_context=context)
        planted.plant("data key", bytes(data_key.plaintext_data_key))
        planted.plant("wrapped data key", data_key.wrapped_data_key[22:])
        planted.plant("random bytes", bytes(client.generate_random(EU, 32).random))
        moved = client.re_encrypt(
            made.ciphertext,
            source_key=key,
            source_encryption_context=context,
            destination_key=key,
            destination_encryption_context={},
        )
        planted.plant("moved ciphertext", moved.ciphertext[22:])
        # A key that is recorded behind its answers keeps their plaintexts no longer.
        often = client.create_key(EU, audit_mode=AuditMode.BUFFERED).name
        for _ in range(20):
            client.encrypt(often, marker, encryption_context=context)
        misplaced = planted.plant("misplaced", secrets.token_hex(16).encode()).decode()
        long = planted.plant("too long", b"too-long-" + secrets.token_bytes(24)) * 200
        for method, request in (
            ("Encrypt", rpc.EncryptRequest(key=key, plaintext=long)),
            ("Encrypt", rpc.EncryptRequest(key="nonsense", plaintext=marker)),
            ("Encrypt", rpc.EncryptRequest(key=misplaced, plaintext=b"x")),
            ("GetKey", rpc.GetKeyRequest(name=f"regions/{EU}/keys/{misplaced}")),
            ("CreateKey", rpc.CreateKeyRequest(parent=misplaced, policy=misplaced)),
            ("Encrypt", rpc.EncryptRequest(key=f"regions/mars/keys/{uuid4()}", plaintext=marker)),
            ("Encrypt", rpc.EncryptRequest(key=key, plaintext=marker, plaintext_crc32c=1)),
            ("Decrypt", rpc.DecryptRequest(key=key, ciphertext=made.ciphertext)),
            ("Decrypt", rpc.DecryptRequest(key=key, ciphertext=long)),
        ):
            planted.hear(refusal(channel, method, request))
        client.disable_key(key)
        planted.hear(refusal(channel, "Encrypt", rpc.EncryptRequest(key=key, plaintext=marker)))
        client.enable_key(key)
        secret_file = directory / "secret-file"
        secret_file.write_bytes(planted.plant("file", b"file-" + secrets.token_bytes(24)) * 999)
        envelopes = EnvelopeClient(client, keys=[key])
        envelopes.encrypt(secret_file.read_bytes(), encryption_context=context)
    cli = Cli(deployment.layout)
    outputs = [
        cli.process("encrypt", secret_file, "--key", key),
        cli.process("decrypt", f"{secret_file}.srm", "--out", directory / "opened"),
        cli.process("decrypt", secret_file, "--out", directory / "none", code=6),
        cli.process("datakey", "--key", key, "--plaintext-file", directory / "key", code=0),
    ]
    planted.plant("data key of a file", (directory / "key").read_bytes())
    planted.told += [output.stderr for output in outputs]
