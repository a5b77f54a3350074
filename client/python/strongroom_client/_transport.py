"""Channels to the regions' endpoints: mutual TLS, sync and asyncio, one class each."""

from __future__ import annotations

import threading
from typing import Any, Final, Protocol, cast

import grpc
import grpc.aio

from strongroom.audit.v1.audit_log_service_pb2_grpc import AuditLogServiceStub
from strongroom.kms.v1.key_service_pb2_grpc import KeyServiceStub
from strongroom_client._core import AUDIT_LOG, Call, Reply
from strongroom_client._status import error_from_status, receipts_from_metadata
from strongroom_client.errors import ClientClosedError, NoEndpointError, OptionsError
from strongroom_client.options import ClientOptions, TlsFiles

__all__ = [
    "AsyncGrpcTransport",
    "AsyncTransport",
    "GrpcTransport",
    "Transport",
    "channel_credentials",
]

CHANNEL_OPTIONS: Final = (
    # Come back soon after an outage: the default backs off to two minutes, and meanwhile
    # every call fails without a packet being sent.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 1000),
    ("grpc.max_reconnect_backoff_ms", 1000),
    # Two clients with different certificates never share a connection.
    ("grpc.use_local_subchannel_pool", 1),
    # What may be retried is decided in _retry.py, never by a DNS TXT record.
    ("grpc.service_config_disable_resolution", 1),
    # No proxy of the environment sees these connections.
    ("grpc.enable_http_proxy", 0),
)


class Transport(Protocol):
    """Makes calls. Safe to use from several threads."""

    def call(self, call: Call, *, timeout_seconds: float) -> Reply:
        """Make one attempt. Raises StrongroomError and nothing else."""
        ...

    def close(self) -> None:
        """Close every channel; calls under way fail."""
        ...


class AsyncTransport(Protocol):
    """Makes calls from one event loop."""

    async def call(self, call: Call, *, timeout_seconds: float) -> Reply:
        """Make one attempt. Raises StrongroomError and nothing else."""
        ...

    async def close(self) -> None:
        """Close every channel; calls under way fail."""
        ...


def channel_credentials(tls: TlsFiles) -> grpc.ChannelCredentials:
    """Read the TLS files.

    Raises:
        OptionsError: One cannot be read. The message names the file, never its content.
    """
    try:
        return grpc.ssl_channel_credentials(
            root_certificates=tls.ca_file.read_bytes(),
            private_key=tls.private_key_file.read_bytes(),
            certificate_chain=tls.certificate_file.read_bytes(),
        )
    except OSError as exc:
        raise OptionsError(f"{exc.filename}: {exc.strerror}") from exc


def _address(options: ClientOptions, region: str) -> str:
    if region != AUDIT_LOG:
        return options.endpoint(region).address
    if options.audit_log_endpoint is None:
        raise NoEndpointError(
            "the options do not say where the audit log is; add [audit_log] with "
            'endpoint = "host:port"'
        )
    return options.audit_log_endpoint


def _stub_kind(region: str) -> type[KeyServiceStub | AuditLogServiceStub]:
    return KeyServiceStub if region != AUDIT_LOG else AuditLogServiceStub


class GrpcTransport:
    """Calls over sync channels, opened on first use."""

    def __init__(self, options: ClientOptions):
        self._options = options
        # Guards the two fields below.
        self._lock = threading.Lock()
        self._channels: dict[str, tuple[grpc.Channel, Any]] = {}
        self._closed = False

    def call(self, call: Call, *, timeout_seconds: float) -> Reply:
        """Make one attempt."""
        method = getattr(self._stub(call.region), call.method)
        try:
            message, rpc = method.with_call(call.request, timeout=timeout_seconds)
        except grpc.RpcError as exc:
            # What a blocking call raises is always a grpc.Call as well.
            failed = cast("grpc.Call", exc)
            raise error_from_status(
                call.region, failed.code(), failed.details(), failed.trailing_metadata()
            ) from exc
        except ValueError as exc:
            # gRPC's word for a channel that another thread closed meanwhile.
            if self._closed:
                raise ClientClosedError("the client is closed") from exc
            raise
        return Reply(message, receipts_from_metadata(rpc.trailing_metadata()))

    def close(self) -> None:
        """Close every channel."""
        with self._lock:
            self._closed = True
            channels, self._channels = self._channels, {}
        for channel, _ in channels.values():
            channel.close()

    def _stub(self, region: str) -> Any:
        with self._lock:
            if self._closed:
                raise ClientClosedError("the client is closed")
            entry = self._channels.get(region)
            if entry is None:
                channel = grpc.secure_channel(
                    _address(self._options, region),
                    channel_credentials(self._options.tls),
                    options=CHANNEL_OPTIONS,
                )
                entry = self._channels[region] = (channel, _stub_kind(region)(channel))
            return entry[1]


class AsyncGrpcTransport:
    """Calls over asyncio channels, opened on first use, in the loop that uses them."""

    def __init__(self, options: ClientOptions):
        self._options = options
        # The event loop's own; no lock.
        self._channels: dict[str, tuple[grpc.aio.Channel, Any]] = {}
        self._closed = False

    async def call(self, call: Call, *, timeout_seconds: float) -> Reply:
        """Make one attempt."""
        rpc = getattr(self._stub(call.region), call.method)(call.request, timeout=timeout_seconds)
        try:
            message = await rpc
            metadata = await rpc.trailing_metadata()
        except grpc.aio.AioRpcError as exc:
            raise error_from_status(
                call.region, exc.code(), exc.details(), exc.trailing_metadata()
            ) from exc
        except grpc.aio.UsageError as exc:
            if self._closed:
                raise ClientClosedError("the client is closed") from exc
            raise
        return Reply(message, receipts_from_metadata(metadata))

    async def close(self) -> None:
        """Close every channel."""
        self._closed = True
        channels, self._channels = self._channels, {}
        for channel, _ in channels.values():
            await channel.close()

    def _stub(self, region: str) -> Any:
        if self._closed:
            raise ClientClosedError("the client is closed")
        entry = self._channels.get(region)
        if entry is None:
            channel = grpc.aio.secure_channel(
                _address(self._options, region),
                channel_credentials(self._options.tls),
                options=CHANNEL_OPTIONS,
            )
            entry = self._channels[region] = (channel, _stub_kind(region)(channel))
        return entry[1]
