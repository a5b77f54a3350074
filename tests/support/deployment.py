"""A whole deployment as real processes: two regions and the audit log, on free ports."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import random
import re
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import grpc
import psutil

from strongroom.audit.v1 import audit_service_pb2, audit_service_pb2_grpc
from strongroom.receipts import Receipt
from strongroom_auditlog.keys import load_verifier_key
from strongroom_auditlog.tiles import LogFiles
from strongroom_auditlog.verify import VerifiedLog, verify_log
from strongroom_client import ClientOptions, KmsClient, TlsFiles, UnavailableError, load_options
from strongroom_client._transport import CHANNEL_OPTIONS, channel_credentials
from strongroom_server.cli import dev_init
from strongroom_server.cli.dev_fleet import AUDIT_LOG, Fleet
from strongroom_server.cli.dev_layout import OPERATOR, Layout

__all__ = ["AUDIT_LOG", "REGIONS", "Deployment", "running"]

REGIONS: Final = ("eu-1", "us-1")
READY_SECONDS: Final = 60.0
# Below the range that the kernel takes ports of outgoing connections from: a port stays
# free while its server is down.
_LOWEST_PORT, _HIGHEST_PORT, _PORT_SPAN = 10_000, 28_000, 2029


class Deployment:
    """The files of a deployment, and its processes while they run.

    Processes are started by the thread that made them and end with it.
    """

    def __init__(self, layout: Layout):
        self.layout = layout
        self.fleet = Fleet(layout)
        self.regions = tuple(layout.server_configs())

    @classmethod
    def create(cls, directory: Path, regions: Sequence[str] = REGIONS) -> Deployment:
        """Make one that does not run yet: CA, certificates, tokens, configurations."""
        layout = Layout(directory.absolute())
        dev_init.create(layout, regions=list(regions), port_base=_free_port_base())
        return cls(layout)

    def configure(
        self, region: str, *, server: dict[str, object] | None = None, **shard: object
    ) -> None:
        """Set keys of ``[server]`` and of ``[[shards]]`` in the configuration of a region."""
        path = self.layout.server_config(region)
        text = path.read_text()
        for header, values in (("[server]", server or {}), ("[[shards]]", shard)):
            for name, value in values.items():
                text = re.sub(rf"(?m)^{name} = .*\n", "", text)
                text = text.replace(header + "\n", f"{header}\n{name} = {_toml(value)}\n")
        path.write_text(text)

    def host_all_in_first(self) -> None:
        """Have the first region's server host every region; there is no other server then."""
        first, *others = self.regions
        target = self.layout.server_config(first)
        for region in others:
            shard = self.layout.server_config(region).read_text().partition("[[shards]]")[2]
            target.write_text(f"{target.read_text()}\n[[shards]]{shard}")
            old, new = self.fleet.members[f"server-{region}"], self.fleet.members[f"server-{first}"]
            self.layout.server_config(region).unlink()
            for path in self.layout.root.glob("*.toml"):
                path.write_text(path.read_text().replace(old.address, new.address))
        self.fleet = Fleet(self.layout)

    def with_root(self, root: Path) -> Deployment:
        """Return a view on configuration files that were copied elsewhere; it runs nothing."""
        copy = object.__new__(Deployment)
        copy.layout, copy.fleet, copy.regions = Layout(root), self.fleet, self.regions
        return copy

    # Processes.

    def start(self, *names: str) -> None:
        """Start processes, all by default; do not wait."""
        for name in names or tuple(self.fleet.members):
            self.fleet.start(name)

    def is_ready(self, name: str) -> bool:
        """Ask a process on its ops port."""
        return self.fleet.members[name].is_ready()

    def wait_ready(self, seconds: float = READY_SECONDS) -> None:
        """Wait until every process that runs is ready."""
        self.fleet.wait_ready(seconds)

    async def ready_after(self, name: str, seconds: float = READY_SECONDS) -> float:
        """Wait, without blocking the loop, until a process is ready; return how long it took."""
        began = time.monotonic()
        while not await asyncio.to_thread(self.is_ready, name):
            assert self.fleet.members[name].is_running, self.log_text(name)[-2000:]
            assert time.monotonic() - began < seconds, f"{name} is not ready after {seconds} s"
            await asyncio.sleep(0.02)
        return time.monotonic() - began

    @staticmethod
    def wait_answers(client: KmsClient, region: str, seconds: float = 10.0) -> float:
        """Wait until a client reaches a region again; return how long it took."""
        began = time.monotonic()
        while True:
            try:
                client.generate_random(region, 1)
            except UnavailableError:
                assert time.monotonic() - began < seconds
            else:
                return time.monotonic() - began

    def pid(self, name: str) -> int:
        """Return the process id."""
        pid = self.fleet.members[name].process_id
        assert pid is not None
        return pid

    def worker_pids(self, region: str) -> list[int]:
        """Return the HSM workers of a region's server."""
        found = []
        for child in psutil.Process(self.pid(f"server-{region}")).children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):  # it ended meanwhile
                if "strongroom_server.hsm.worker" in child.cmdline():
                    found.append(child.pid)
        return found

    def kill(self, name: str) -> None:
        """Kill a process as a crash would."""
        self.fleet.kill(name)

    def stop(self, name: str) -> int:
        """End a process with SIGTERM; return its exit code."""
        return self.fleet.stop(name)

    def run_to_end(self, region: str, seconds: float = 30.0) -> subprocess.CompletedProcess[str]:
        """Run a server that is expected not to come up."""
        command = [sys.executable, "-m", "strongroom_server.cli", "serve", "--config"]
        return subprocess.run(
            [*command, str(self.layout.server_config(region))],
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
        )

    def log_text(self, name: str) -> str:
        """Return everything that a process has printed so far, in all its lives."""
        return self.fleet.members[name].log.read_text()

    def ops(self, name: str, path: str) -> tuple[int, str]:
        """Get a page of the ops port: status and body."""
        url = f"http://{self.fleet.members[name].ops_address}{path}"
        try:
            with urllib.request.urlopen(url, timeout=5) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as exc:
            with exc:
                return exc.code, exc.read().decode()

    def metric(self, name: str, sample: str) -> float:
        """Return the value of one sample, named with its labels."""
        for line in self.ops(name, "/metrics")[1].splitlines():
            if line.startswith(f"{sample} "):
                return float(line.rpartition(" ")[2])
        raise AssertionError(f"{name} has no sample {sample}")

    # Callers.

    def options(self, who: str = "orders", **changes: Any) -> ClientOptions:
        """Return the options of a caller."""
        layout = self.layout
        path = layout.client_config if who == OPERATOR else layout.client_config_of(who)
        return dataclasses.replace(load_options(path), **changes)

    def client(self, who: str = "orders", **changes: Any) -> KmsClient:
        """Return a client; close it."""
        return KmsClient(self.options(who, **changes))

    def tls_of(self, name: str) -> TlsFiles:
        """Return the files of a certificate that the deployment came with."""
        tls = self.layout.tls
        return TlsFiles(tls / f"{name}.pem", tls / f"{name}.key", self.layout.ca / "ca.pem")

    def address(self, region: str) -> str:
        """Return host:port of the server that hosts a region."""
        return self.options().endpoint(region).address

    def channel(self, region: str, tls: TlsFiles | None = None) -> grpc.Channel:
        """Return a blocking channel of its own."""
        credentials = channel_credentials(tls or self.tls_of("orders"))
        return grpc.secure_channel(self.address(region), credentials, options=CHANNEL_OPTIONS)

    def aio_channel(self, region: str, tls: TlsFiles | None = None) -> grpc.aio.Channel:
        """Return an asyncio channel of its own."""
        credentials = channel_credentials(tls or self.tls_of("orders"))
        return grpc.aio.secure_channel(self.address(region), credentials, options=CHANNEL_OPTIONS)

    # The audit log.

    def spool_status(self, region: str) -> audit_service_pb2.GetSpoolStatusResponse:
        """Ask a shard about its spool, as the audit log does."""
        with self.channel(region, self.tls_of("audit-log")) as channel:
            stub = audit_service_pb2_grpc.AuditServiceStub(channel)
            request = audit_service_pb2.GetSpoolStatusRequest(region=region)
            return stub.GetSpoolStatus(request, timeout=10)

    def wait_drained(self, seconds: float = 30.0) -> float:
        """Wait until the audit log has every record of every shard; return how long it took."""
        began = time.monotonic()
        for region in self.options().regions:
            while True:
                status = self.spool_status(region)
                if status.acknowledged_sequence == status.last_sequence:
                    break
                assert time.monotonic() - began < seconds, status
                time.sleep(0.05)
        return time.monotonic() - began

    def verify(self, receipts: Collection[Receipt] = ()) -> VerifiedLog:
        """Verify the whole log from its files; each receipt's record is in it exactly once."""
        unique = set(receipts)
        assert len(unique) == len(receipts), "two answers carry one receipt"
        data = self.layout.audit_log
        verified = verify_log(
            data / "log", load_verifier_key(data / "log.vkey"), receipts=unique, workers=1
        )
        assert set(verified.receipts) == unique
        assert len(set(verified.receipts.values())) == len(unique)
        return verified

    def records(self) -> list[dict[str, Any]]:
        """Return every record of the verified log, in order."""
        return list(self._records())

    def _records(self) -> Iterator[dict[str, Any]]:
        size = self.verify().checkpoint.size
        files = LogFiles(self.layout.audit_log / "log")
        for bundle in range(-(-size // 256)):
            for entry in files.read_entries(bundle, size):
                yield json.loads(entry)

    def records_of(self, receipts: Sequence[Receipt]) -> list[dict[str, Any]]:
        """Return the records of receipts, once they are in the verified log."""
        self.wait_drained()
        leaves = self.verify(receipts).receipts
        records = self.records()
        return [records[leaves[receipt]] for receipt in receipts]

    def every_byte_written(self) -> Iterator[tuple[Path, bytes]]:
        """Yield every file that the processes wrote: logs, spools, stores, the audit log."""
        layout = self.layout
        roots = [layout.logs, layout.audit_log / "log"]
        roots += [layout.shard(region) for region in self.regions]
        for root in roots:
            for path in sorted(root.rglob("*")):
                # The token is the HSM itself, and the PIN file is where the PIN belongs.
                if path.is_file() and "tokens" not in path.parts and path.name != "pin":
                    yield path, path.read_bytes()
        # State, last checkpoint and index, with their write-ahead logs.
        for path in sorted(layout.audit_log.glob("*.sqlite3*")):
            yield path, path.read_bytes()


@contextlib.contextmanager
def running(deployment: Deployment) -> Iterator[Deployment]:
    """Run every process of a deployment; at the end none is left, workers included."""
    try:
        deployment.start()
        deployment.wait_ready()
        yield deployment
    finally:
        workers = []
        for member in deployment.fleet.members.values():
            if member.is_running and member.process_id is not None:
                with contextlib.suppress(psutil.NoSuchProcess):
                    workers += psutil.Process(member.process_id).children(recursive=True)
        deployment.fleet.stop_all()
        _, left = psutil.wait_procs(workers, timeout=10)
        for process in left:
            process.kill()
        assert not left, f"processes outlive their server: {left}"


def _toml(value: object) -> str:
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{name} = {_toml(each)}" for name, each in value.items()) + " }"
    return json.dumps(value)  # the same for texts, numbers, booleans and lists of them


def _free_port_base() -> int:
    """Return a base from which `dev init` can lay its ports out."""
    for _ in range(100):
        base = random.randrange(_LOWEST_PORT, _HIGHEST_PORT)  # noqa: S311 - no secret
        ports = [base + offset for offset in (0, 1, 7, 2021, 2022, _PORT_SPAN - 2)]
        if all(_is_free(port) for port in ports):
            return base
    raise AssertionError("no free ports")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
