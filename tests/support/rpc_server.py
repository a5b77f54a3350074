"""The gRPC server over ports in memory, on loopback with mTLS, in a thread of its own."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2
from tests.support.certificates import CertificateAuthority, Identity
from tests.support.memory_service import MemoryService

from strongroom.receipts import METADATA_KEY, Receipt
from strongroom_server.rpc.audit_service import AuditService
from strongroom_server.rpc.credentials import CredentialFiles, ReloadingCredentials
from strongroom_server.rpc.interceptors import Pipeline
from strongroom_server.rpc.key_service import KeyService
from strongroom_server.rpc.server import GrpcServer

MAX_CONCURRENT_CALLS = 4


class SeenCalls:
    """Counts how calls ended."""

    def __init__(self) -> None:
        self.codes: list[tuple[str, str]] = []

    def started(self, service: str, method: str) -> None:
        """Implement CallObserver."""

    def handled(self, service: str, method: str, code: str, seconds: float) -> None:
        """Implement CallObserver."""
        del service, seconds
        self.codes.append((method, code))


@dataclass
class RunningServer:
    """A server that listens, and what is behind it."""

    address: str
    service: MemoryService
    seen: SeenCalls
    authority: CertificateAuthority

    def channel(self, identity: Identity | None) -> grpc.Channel:
        """Connect with a client certificate, or without one."""
        credentials = grpc.ssl_channel_credentials(
            root_certificates=self.authority.pem,
            private_key=None if identity is None else identity.private_key,
            certificate_chain=None if identity is None else identity.certificate,
        )
        options: list[tuple[str, Any]] = [
            ("grpc.ssl_target_name_override", "localhost"),
            ("grpc.use_local_subchannel_pool", 1),  # each channel its own handshake
        ]
        return grpc.secure_channel(self.address, credentials, options)


async def _serve(
    directory: Path,
    authority: CertificateAuthority,
    started: list[RunningServer],
    ready: threading.Event,
    stop: asyncio.Event,
) -> None:
    identity = authority.issue(dns_names=["localhost"])
    files = {"cert": identity.certificate, "key": identity.private_key, "ca": authority.pem}
    for name, data in files.items():
        (directory / name).write_bytes(data)
    service, seen = MemoryService(), SeenCalls()
    pipeline = Pipeline(
        clock=service.clock,
        observer=seen,
        default_deadline_seconds=5.0,
        max_concurrent_calls=MAX_CONCURRENT_CALLS,
        quotas=service.quotas,
        refusals=service.refusals,
    )
    credentials = ReloadingCredentials(
        CredentialFiles(directory / "cert", directory / "key", directory / "ca"),
        on_expiry=_ignore,
    )
    server = GrpcServer(
        pipeline=pipeline,
        keys=KeyService(
            lifecycle=service.lifecycle,
            crypto=service.crypto,
            asymmetric=service.asymmetric,
            pairs=service.pairs,
            management=service.management,
        ),
        audit=AuditService(sources={}, consumers=frozenset()),
        credentials=credentials.server_credentials(),
        listen="127.0.0.1:0",
        max_connection_age_seconds=3600,
        with_reflection=False,
    )
    await server.start()
    started.append(RunningServer(server.address, service, seen, authority))
    ready.set()
    await stop.wait()
    await server.drain(0)


def _ignore(what: str, expiry: datetime) -> None:
    """Take no notice of an expiry."""
    del what, expiry


def trailers(call: Any) -> list[tuple[str, Any]]:
    """Return the trailing metadata of a call or of a refusal."""
    return [(name, value) for name, value in call.trailing_metadata() or ()]


def receipts_of(call: Any) -> list[Receipt]:
    """Return the receipts of a call or of a refusal."""
    return [Receipt.parse(value) for name, value in trailers(call) if name == METADATA_KEY]


def reason_of(error: grpc.RpcError) -> str:
    """Return the reason in the details of a refusal."""
    for name, value in trailers(error):
        if name == "grpc-status-details-bin":
            info = error_details_pb2.ErrorInfo()
            assert status_pb2.Status.FromString(value).details[0].Unpack(info)
            return str(info.reason)
    return ""


def code_of(error: Any) -> grpc.StatusCode:
    """Return the status code of a refusal."""
    code: grpc.StatusCode = error.code()
    return code


def refused(
    call: Any, request: Message | bytes, *, timeout: float = 10, **options: Any
) -> grpc.RpcError:
    """Call and return the refusal."""
    with pytest.raises(grpc.RpcError) as refusal:
        call(request, timeout=timeout, **options)
    return refusal.value


@contextlib.contextmanager
def running_server(directory: Path) -> Iterator[RunningServer]:
    """Start a server in a thread; stop it at the end."""
    loop = asyncio.new_event_loop()
    started: list[RunningServer] = []
    ready, stop = threading.Event(), asyncio.Event()
    work = _serve(directory, CertificateAuthority(), started, ready, stop)
    thread = threading.Thread(target=loop.run_until_complete, args=(work,))
    thread.start()
    try:
        assert ready.wait(20), "the server did not start"
        yield started[0]
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(20)
        loop.close()
