"""Peers, when `make bench-peers` has installed them: OpenBao, aws-encryption-sdk, age.

What is not there is left out of the table. age comes from the system's packages.
"""

from __future__ import annotations

import http.client
import importlib.util
import json
import shutil
import ssl
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.bench.measure import CpuMeter
from tests.support.ports import free_port

__all__ = ["OpenBaoFigures", "age_program", "aws_sdk_figures", "openbao_figures"]

PEERS = Path(sys.executable).parent

OPENBAO_CONFIG = """
storage "inmem" {{}}
listener "tcp" {{
  address         = "127.0.0.1:{port}"
  tls_cert_file   = "{certificate}"
  tls_key_file    = "{key}"
  tls_min_version = "tls13"
}}
audit "file" "to-file" {{
  options {{
    file_path = "{audit}"
  }}
}}
disable_mlock = true
log_level     = "error"
"""

AWS_SDK_PROGRAM = """
import json, sys, time
import aws_encryption_sdk
from aws_encryption_sdk.identifiers import EncryptionKeyType, WrappingAlgorithm
from aws_encryption_sdk.internal.crypto.wrapping_keys import WrappingKey
from aws_encryption_sdk.key_providers.raw import RawMasterKeyProvider
class Provider(RawMasterKeyProvider):
    provider_id = "bench"
    def _get_raw_key(self, key_id):
        return WrappingKey(WrappingAlgorithm.AES_256_GCM_IV12_TAG16_NO_PADDING, bytes(range(32)),
                           EncryptionKeyType.SYMMETRIC)
provider = Provider()
provider.add_master_key("bench")
client = aws_encryption_sdk.EncryptionSDKClient()
figures = {}
for size, rounds in ((1024, 300), (2**20, 20), (2**24, 3)):
    data = bytes(size)
    client.encrypt(source=data, key_provider=provider, encryption_context={"tenant": "42"})
    best = 1e9
    for _ in range(3):
        start = time.perf_counter()
        for _ in range(rounds):
            client.encrypt(source=data, key_provider=provider, encryption_context={"tenant": "42"})
        best = min(best, (time.perf_counter() - start) / rounds)
    figures[str(size)] = best
json.dump(figures, sys.stdout)
"""


@dataclass(frozen=True, slots=True)
class OpenBaoFigures:
    """CPU microseconds of the server per data key, alone and in batches of 100."""

    version: str
    datakey_cpu_us: float
    batch_cpu_us: float


def openbao_figures(certificate: Path, key: Path, ca: Path, *, calls: int) -> OpenBaoFigures | None:
    """Measure OpenBao Transit with TLS 1.3 and its file audit device; None when absent."""
    program = PEERS / "bao"
    if not program.exists():
        return None
    version = subprocess.run([program, "version"], capture_output=True, text=True, check=True)
    with (
        tempfile.TemporaryDirectory() as scratch,
        _openbao(program, Path(scratch), certificate, key, ca) as server,
    ):
        body = json.dumps({"context": ""}).encode()
        single = server.load("/v1/transit/datakey/plaintext/bench", body, calls)
        items = [{"plaintext": "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="}] * 100
        batch_body = json.dumps({"batch_input": items}).encode()
        batch = server.load("/v1/transit/encrypt/bench", batch_body, max(calls // 50, 20))
        return OpenBaoFigures(version.stdout.split(",")[0], single, batch / 100)


class _OpenBao:
    def __init__(self, pid: int, port: int, tls: ssl.SSLContext) -> None:
        self.pid = pid
        self.port = port
        self.tls = tls
        self.token = ""

    def connect(self) -> http.client.HTTPSConnection:
        return http.client.HTTPSConnection("127.0.0.1", self.port, context=self.tls, timeout=10)

    def call(self, method: str, path: str, document: object) -> dict[str, object]:
        connection = self.connect()
        headers = {"X-Vault-Token": self.token} if self.token else {}
        connection.request(method, path, json.dumps(document).encode(), headers)
        response = connection.getresponse()
        text = response.read()
        connection.close()
        if response.status >= 300:
            raise RuntimeError(f"OpenBao: {path}: {response.status} {text[:300]!r}")
        answer: dict[str, object] = json.loads(text) if text else {}
        return answer

    def load(self, path: str, body: bytes, calls: int) -> float:
        """Return CPU microseconds of the server per call, 8 connections at a time."""

        def work(count: int) -> None:
            connection = self.connect()
            for _ in range(count):
                connection.request("POST", path, body, {"X-Vault-Token": self.token})
                response = connection.getresponse()
                response.read()
                if response.status != http.client.OK:
                    raise RuntimeError(f"OpenBao: {path}: {response.status}")
            connection.close()

        work(20)
        meter = CpuMeter([self.pid])
        threads = [threading.Thread(target=work, args=(calls // 8,)) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return meter.seconds() / (calls // 8 * 8) * 1e6


@contextmanager
def _openbao(
    program: Path, scratch: Path, certificate: Path, key: Path, ca: Path
) -> Iterator[_OpenBao]:
    port = free_port()
    config = scratch / "bao.hcl"
    config.write_text(
        OPENBAO_CONFIG.format(
            port=port, certificate=certificate, key=key, audit=scratch / "audit.log"
        )
    )
    process = subprocess.Popen(
        [program, "server", f"-config={config}"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        tls = ssl.create_default_context(cafile=str(ca))
        server = _OpenBao(process.pid, port, tls)
        _wait_until_listening(server)
        keys = server.call("PUT", "/v1/sys/init", {"secret_shares": 1, "secret_threshold": 1})
        unseal_keys = keys["keys"]
        if not isinstance(unseal_keys, list):
            raise TypeError("OpenBao: unexpected answer to init")
        server.call("PUT", "/v1/sys/unseal", {"key": unseal_keys[0]})
        server.token = str(keys["root_token"])
        server.call("POST", "/v1/sys/mounts/transit", {"type": "transit"})
        server.call("POST", "/v1/transit/keys/bench", {"type": "aes256-gcm96"})
        yield server
    finally:
        process.terminate()
        process.wait(10)


def _wait_until_listening(server: _OpenBao) -> None:
    for _ in range(100):
        try:
            server.connect().connect()
        except OSError:
            time.sleep(0.1)
        else:
            return
    raise RuntimeError("OpenBao does not listen")


def aws_sdk_figures() -> dict[int, float] | None:
    """Return seconds per encryption by size for aws-encryption-sdk; None when absent."""
    if importlib.util.find_spec("aws_encryption_sdk") is None:
        return None
    run = subprocess.run(
        [sys.executable, "-c", AWS_SDK_PROGRAM], capture_output=True, text=True, check=False
    )
    if run.returncode != 0:
        raise RuntimeError(f"aws-encryption-sdk: {run.stderr[-500:]}")
    return {int(size): seconds for size, seconds in json.loads(run.stdout).items()}


def age_program() -> str | None:
    """Return the path of age; None when absent."""
    return shutil.which("age")
