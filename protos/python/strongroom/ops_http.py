"""The ops port: plain HTTP for Prometheus and for probes, shared by every process.

    GET /metrics    Prometheus text
    GET /livez      200 as long as the event loop turns
    GET /readyz     200 when every check passes, 503 with the failing ones otherwise;
                    ?verbose lists all of them, one a line, as kube-apiserver does

The port has no authentication: bind it to loopback or to the pod's own address. It shows
states and counts, never keys, principals or payloads. It answers GET and HEAD, one
request a connection, with small limits, so that a broken scraper costs little.

Starlette and uvicorn come with the extras `server` and `auditlog`; the SDK, which shares
this package, does not need them, so only processes that open an ops port import this.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import socket
from collections.abc import Awaitable, Callable, Generator, Mapping
from typing import Final

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from uvicorn.protocols.http.h11_impl import H11Protocol

__all__ = ["OpsServer", "ReadinessCheck", "build_ops_app"]

ReadinessCheck = Callable[[], str | None]
"""Return None when ready, else why not in a few words; cheap, called on the event loop."""

METRICS_CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
MAX_HEADER_BYTES: Final = 8 * 2**10
MAX_CONNECTIONS: Final = 64
CONNECTION_SECONDS: Final = 5.0


def _nothing_to_refresh() -> None:
    """Stand in for `refresh` where every metric is kept current anyway."""


def build_ops_app(
    *,
    exposition: Callable[[], bytes],
    checks: Mapping[str, ReadinessCheck],
    refresh: Callable[[], None] = _nothing_to_refresh,
) -> Starlette:
    """Return the ASGI application of the ops port.

    Args:
        exposition: Returns the metrics as Prometheus text. Runs in a worker thread, for
            it takes milliseconds that requests under way should not wait for.
        checks: Readiness checks by name. The mapping is read anew by every probe, so
            checks may be added while the process starts.
        refresh: Runs on the event loop before `exposition`; sets the gauges that mirror
            the state of the process.
    """

    async def metrics(_request: Request) -> Response:
        refresh()
        text = await asyncio.to_thread(exposition)
        return Response(text, media_type=METRICS_CONTENT_TYPE)

    async def livez(_request: Request) -> Response:
        return PlainTextResponse("ok\n")

    async def readyz(request: Request) -> Response:
        failures = {name: check() for name, check in checks.items()}
        ready = not any(failures.values())
        if ready and "verbose" not in request.query_params:
            return PlainTextResponse("ok\n")
        lines = [
            f"[-] {name}: {why}" if why else f"[+] {name}: ok" for name, why in failures.items()
        ]
        lines.append("ready" if ready else "not ready")
        return PlainTextResponse("\n".join(lines) + "\n", status_code=200 if ready else 503)

    routes: Mapping[str, Callable[[Request], Awaitable[Response]]] = {
        "/metrics": metrics,
        "/livez": livez,
        "/readyz": readyz,
    }
    return Starlette(routes=[Route(path, call, methods=["GET"]) for path, call in routes.items()])


class _BoundedConnection(H11Protocol):
    """An HTTP/1.1 connection that lives for CONNECTION_SECONDS at most.

    uvicorn's own time limits begin after the first request; a peer that connects and says
    nothing would keep its place for ever.
    """

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._end_of_life = self.loop.call_later(CONNECTION_SECONDS, transport.abort)

    def connection_lost(self, exc: Exception | None) -> None:
        self._end_of_life.cancel()
        super().connection_lost(exc)


class _EmbeddedServer(uvicorn.Server):
    """uvicorn inside a process that has its own signal handling."""

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        yield


class OpsServer:
    """The ops port of a process: bind, start, stop. Used from one event loop."""

    def __init__(self, *, listen: str, app: Starlette):
        """Bind at once, so that a taken port is noticed before anything else starts.

        Args:
            listen: ``host:port``; port 0 takes a free one; IPv6 hosts in brackets.
            app: See `build_ops_app`.

        Raises:
            OSError: The address cannot be bound.
        """
        host, _, port = listen.rpartition(":")
        host = host.removeprefix("[").removesuffix("]")
        self._socket = socket.create_server(
            (host, int(port)), family=_family_of(host), backlog=MAX_CONNECTIONS
        )
        self._server = _EmbeddedServer(
            uvicorn.Config(
                app,
                http=_BoundedConnection,
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,
                headers=[("Connection", "close"), ("Cache-Control", "no-store")],
                limit_concurrency=MAX_CONNECTIONS,
                h11_max_incomplete_event_size=MAX_HEADER_BYTES,
                timeout_graceful_shutdown=1,
            )
        )
        self._task: asyncio.Task[None] | None = None

    @property
    def address(self) -> str:
        """``host:port`` as bound."""
        host, port, *_ = self._socket.getsockname()
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    async def start(self) -> None:
        """Start to answer. Returns when the port accepts connections."""
        self._task = asyncio.create_task(self._server.serve(sockets=[self._socket]), name="ops")
        while not self._server.started:
            if self._task.done():
                await self._task
            await asyncio.sleep(0.001)

    async def stop(self) -> None:
        """Stop accepting, finish what is under way, close the port. Idempotent."""
        self._server.should_exit = True
        if self._task is not None:
            await self._task
        self._socket.close()


def _family_of(host: str) -> socket.AddressFamily:
    try:
        version = ipaddress.ip_address(host).version
    except ValueError:  # a name, such as localhost
        return socket.AF_INET
    return socket.AF_INET6 if version == 6 else socket.AF_INET  # noqa: PLR2004 - IP version 6
