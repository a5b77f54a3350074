"""The service as it is shipped: mTLS, Cedar, HSM, durable audit, its own processes."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc
import psutil
from tests.bench.measure import CpuMeter, LoadResult, run_load

from strongroom.kms.v1 import key_service_pb2, key_service_pb2_grpc
from strongroom_server.cli.dev_fleet import Fleet
from strongroom_server.cli.dev_layout import Layout

__all__ = ["CallFigures", "Service", "measure_call", "running_echo", "running_service"]

REGION = "eu-1"
SERVER = f"server-{REGION}"


@dataclass(frozen=True, slots=True)
class Service:
    """A development deployment of one region that runs."""

    directory: Path
    address: str
    server_pid: int

    @property
    def worker_pids(self) -> list[int]:
        """The HSM workers."""
        return [child.pid for child in psutil.Process(self.server_pid).children(recursive=True)]

    def tls(self, name: str) -> tuple[Path, Path, Path]:
        """Return certificate, private key and CA of a principal or server."""
        return (
            self.directory / "tls" / f"{name}.pem",
            self.directory / "tls" / f"{name}.key",
            self.directory / "ca" / "ca.pem",
        )

    def channel(self, address: str) -> grpc.aio.Channel:
        """Open a channel as the operator."""
        certificate, key, ca = (path.read_bytes() for path in self.tls("operator"))
        credentials = grpc.ssl_channel_credentials(ca, key, certificate)
        return grpc.aio.secure_channel(address, credentials)


@contextmanager
def running_service() -> Iterator[Service]:
    """Run a region and the audit log in a directory of their own."""
    strongroom = Path(sys.executable).parent / "strongroom"
    with tempfile.TemporaryDirectory(prefix="strongroom-bench-") as scratch:
        directory = Path(scratch) / "dev"
        subprocess.run(
            [strongroom, "dev", "init", "--dir", directory, "--region", REGION, "--port-base", "0"],
            check=True,
            stdout=subprocess.DEVNULL,
        )
        fleet = Fleet(Layout(directory))
        try:
            fleet.start_all()
            fleet.wait_ready()
            member = fleet.members[SERVER]
            if member.process is None:
                raise RuntimeError("the server does not run")
            yield Service(directory, member.address, member.process.pid)
        finally:
            fleet.stop_all()


@contextmanager
def running_echo(service: Service) -> Iterator[tuple[str, int]]:
    """Run the no-op server with the same certificates; yield its address and pid."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.bench.echo_server", *service.tls(SERVER)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(Path.cwd())},
    )
    try:
        if process.stdout is None or process.stdin is None:
            raise RuntimeError("no pipes")
        yield f"127.0.0.1:{int(process.stdout.readline())}", process.pid
    finally:
        process.terminate()
        process.wait(10)


@dataclass(frozen=True, slots=True)
class CallFigures:
    """A load's latencies, and CPU microseconds per call of server and workers."""

    load: LoadResult
    server_us: float
    workers_us: float


async def measure_call(
    service: Service,
    address: str,
    pid: int,
    *,
    key: str,
    calls: int,
    concurrency: int,
    workers: bool,
) -> CallFigures:
    """Call GenerateDataKey under load; the best of three rounds by server CPU."""
    request = key_service_pb2.GenerateDataKeyRequest(
        key=key, encryption_context={"tenant": "42"}, number_of_bytes=32
    )
    figures = []
    async with service.channel(address) as channel:
        stub = key_service_pb2_grpc.KeyServiceStub(channel)
        await run_load(lambda: stub.GenerateDataKey(request), calls=500, concurrency=concurrency)
        for _ in range(3):
            server = CpuMeter([pid])
            others = CpuMeter(service.worker_pids if workers else [])
            load = await run_load(
                lambda: stub.GenerateDataKey(request), calls=calls, concurrency=concurrency
            )
            figures.append(
                CallFigures(load, server.seconds() / calls * 1e6, others.seconds() / calls * 1e6)
            )
    return min(figures, key=lambda f: f.server_us + f.workers_us)


async def create_key(service: Service) -> str:
    """Create a key and return its name."""
    async with service.channel(service.address) as channel:
        stub = key_service_pb2_grpc.KeyServiceStub(channel)
        response = await stub.CreateKey(
            key_service_pb2.CreateKeyRequest(parent=f"regions/{REGION}")
        )
        return str(response.key.name)
