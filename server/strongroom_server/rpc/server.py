"""The gRPC server: options, services, start and drain."""

from __future__ import annotations

from typing import Any, Final

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import aio as aio_health
from grpc_reflection.v1alpha import reflection

from strongroom.audit.v1 import audit_service_pb2
from strongroom.kms.v1 import key_service_pb2
from strongroom.rpc_handlers import generic_handler
from strongroom_server.errors import StartRefusedError
from strongroom_server.rpc import audit_service, key_service
from strongroom_server.rpc.audit_service import AuditService
from strongroom_server.rpc.interceptors import Pipeline
from strongroom_server.rpc.key_service import KeyService

__all__ = ["GrpcServer"]

MAX_MESSAGE_BYTES: Final = 256 * 1024  # requests are at most some 30 KiB; a batch is larger
MAX_SEND_BYTES: Final = 8 * 2**20  # record batches go out; see audit_service.MAX_BATCH_BYTES
MAX_STREAMS_PER_CONNECTION: Final = 256  # streams being cleaned up count too

SERVICES: Final = (key_service.SERVICE, audit_service.SERVICE)


def _options(max_connection_age_seconds: int) -> list[tuple[str, int]]:
    """Bounds against slow, oversized and half-open peers."""
    return [
        ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
        ("grpc.max_send_message_length", MAX_SEND_BYTES),
        ("grpc.max_metadata_size", 8 * 1024),
        ("grpc.max_concurrent_streams", MAX_STREAMS_PER_CONNECTION),
        ("grpc.max_connection_age_ms", max_connection_age_seconds * 1000),
        ("grpc.max_connection_age_grace_ms", 30_000),
        ("grpc.keepalive_time_ms", 30_000),
        ("grpc.keepalive_timeout_ms", 20_000),
        ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.so_reuseport", 0),
    ]


class GrpcServer:
    """One listening port with KeyService, AuditService, health and, if asked, reflection."""

    def __init__(
        self,
        *,
        pipeline: Pipeline,
        keys: KeyService,
        audit: AuditService,
        credentials: grpc.ServerCredentials,
        listen: str,
        max_connection_age_seconds: int,
        with_reflection: bool,
    ) -> None:
        """Build the server and bind its port.

        Raises:
            StartRefusedError: The port cannot be bound.
        """
        self._server = grpc.aio.server(options=_options(max_connection_age_seconds))
        self._health = aio_health.HealthServicer()
        self._audit = audit
        kms, trail = (
            key_service_pb2.DESCRIPTOR.services_by_name["KeyService"],
            audit_service_pb2.DESCRIPTOR.services_by_name["AuditService"],
        )
        for service, servicer, methods in (
            (kms, keys, key_service.METHODS),
            (trail, audit, audit_service.METHODS),
        ):
            intercepted = pipeline.intercept(service.full_name, servicer, methods)
            handler = generic_handler(service, intercepted, methods)
            self._server.add_generic_rpc_handlers((handler,))
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        if with_reflection:
            names = (*SERVICES, health_pb2.DESCRIPTOR.services_by_name["Health"].full_name)
            reflection.enable_server_reflection((*names, reflection.SERVICE_NAME), self._server)
        host = listen.rpartition(":")[0]
        try:
            self.port = self._server.add_secure_port(listen, credentials)
        except RuntimeError as exc:
            raise StartRefusedError(f"[server] listen: cannot bind {listen}: {exc}") from exc
        self.address = f"{host}:{self.port}"

    async def start(self) -> None:
        """Start to serve and tell health checks so."""
        await self._server.start()
        await self.set_serving(serving=True)

    async def set_serving(self, *, serving: bool) -> None:
        """Tell health checks whether calls are welcome."""
        status: Any = health_pb2.HealthCheckResponse.NOT_SERVING
        if serving:
            status = health_pb2.HealthCheckResponse.SERVING
        for name in ("", *SERVICES):
            await self._health.set(name, status)

    async def drain(self, seconds: float) -> None:
        """Refuse new calls, let those under way end for `seconds`, then cut the rest.

        Callers see UNAVAILABLE or a GOAWAY, which they may retry elsewhere: a refused
        call has not been begun.
        """
        await self._health.enter_graceful_shutdown()
        self._audit.end_streams()
        await self._server.stop(seconds)
