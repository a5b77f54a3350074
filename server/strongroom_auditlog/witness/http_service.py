"""The HTTP side of a witness (C2SP tlog-witness).

    POST /add-checkpoint                         see `rules`
    GET  /{SHA-256 of the origin, hex}/checkpoint    the last cosigned checkpoint, or 404

Anybody may ask: a request is worth as much as the signature of the log in it. Bodies,
headers, connections and their lives are bounded.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import ipaddress
import socket
from collections.abc import Generator, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Final

import structlog
import uvicorn
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from uvicorn.protocols.http.h11_impl import H11Protocol

from strongroom_auditlog.errors import LogError
from strongroom_auditlog.witness.config import HttpConfig
from strongroom_auditlog.witness.metrics import WitnessProcessMetrics
from strongroom_auditlog.witness.request import MAX_BODY_BYTES
from strongroom_auditlog.witness.rules import Accepted, Refusal, Verdict, Witness

__all__ = ["HttpServer", "WitnessService"]

SIZE_CONTENT_TYPE: Final = "text/x.tlog.size"
MAX_HEADER_BYTES: Final = 8 * 2**10
MAX_CONNECTIONS: Final = 64
BODY_SECONDS: Final = 5.0
CONNECTION_SECONDS: Final = 60.0

_log = structlog.stdlib.get_logger("strongroom.witness.http")


class WitnessService:
    """Answers HTTP requests about one witness. Owned by one event loop."""

    def __init__(self, witness: Witness, *, origins: Iterable[str], metrics: WitnessProcessMetrics):
        """Serve `witness`, which signs for `origins`."""
        self._witness = witness
        self._metrics = metrics
        self._origins = {hashlib.sha256(origin.encode()).hexdigest(): origin for origin in origins}
        # One thread: the store takes one request at a time anyhow.
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="witness")
        self.failing: str | None = None
        """Why the last request could not be decided; None when it was."""

    def build_app(self) -> Starlette:
        """Return the ASGI application."""
        return Starlette(
            routes=[
                Route("/add-checkpoint", self._add_checkpoint, methods=["POST"]),
                Route("/{origin_hash}/checkpoint", self._checkpoint, methods=["GET"]),
            ]
        )

    async def _add_checkpoint(self, request: Request) -> Response:
        try:
            async with asyncio.timeout(BODY_SECONDS):
                body = await _bounded_body(request)
            accepted = await self._in_thread(body)
        except Refusal as exc:
            return self._refuse(exc)
        except (TimeoutError, ClientDisconnect):
            return self._refuse(Refusal(Verdict.MALFORMED, "the body did not come in time"))
        except LogError as exc:
            self.failing = str(exc)
            self._metrics.ended(Verdict.FAULT)
            _log.exception("the store failed, nothing was cosigned")
            return PlainTextResponse("a fault in the witness\n", Verdict.FAULT.status)
        self.failing = None
        self._metrics.ended(Verdict.COSIGNED)
        self._metrics.cosigned(accepted)
        _log.info("cosigned", origin=accepted.origin, tree_size=accepted.size)
        return PlainTextResponse(accepted.cosignature.line)

    async def _in_thread(self, body: bytes) -> Accepted:
        return await asyncio.get_running_loop().run_in_executor(
            self._executor, partial(self._witness.add_checkpoint, body)
        )

    def _refuse(self, refusal: Refusal) -> Response:
        self._metrics.ended(refusal.verdict)
        if refusal.is_fork:
            self._metrics.forks.inc()
            # The line is worth keeping: with the checkpoint that we have it is the proof.
            _log.error("a log has signed another history", checkpoint=refusal.evidence)
        else:
            _log.info("refused", verdict=refusal.verdict.label, reason=str(refusal))
        if refusal.size is not None:
            # As a header: of a media type of text, Starlette would add a charset.
            return Response(
                f"{refusal.size}\n",
                refusal.verdict.status,
                headers={"Content-Type": SIZE_CONTENT_TYPE},
            )
        return PlainTextResponse(f"{refusal}\n", refusal.verdict.status)

    async def _checkpoint(self, request: Request) -> Response:
        origin = self._origins.get(request.path_params["origin_hash"])
        try:
            note = None
            if origin is not None:
                note = await asyncio.to_thread(self._witness.last_checkpoint, origin)
        except LogError:
            _log.exception("the store failed")
            return PlainTextResponse("a fault in the witness\n", Verdict.FAULT.status)
        if note is None:
            return PlainTextResponse("no checkpoint of such a log was cosigned\n", 404)
        return PlainTextResponse(note)


async def _bounded_body(request: Request) -> bytes:
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > MAX_BODY_BYTES:
            raise Refusal(Verdict.TOO_LARGE, f"longer than {MAX_BODY_BYTES} bytes")
    return bytes(body)


class _BoundedConnection(H11Protocol):
    """A kept HTTP/1.1 connection that ends after CONNECTION_SECONDS, between two requests.

    uvicorn's own limits begin after the first request; a peer that connects and says
    nothing would keep its place for ever.
    """

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._end_of_life = self.loop.call_later(CONNECTION_SECONDS, self._end)

    def connection_lost(self, exc: Exception | None) -> None:
        self._end_of_life.cancel()
        super().connection_lost(exc)

    def _end(self) -> None:
        if self.cycle is not None and not self.cycle.response_complete:  # type: ignore[redundant-expr]  # None before the first request
            self.cycle.keep_alive = False
            self._end_of_life = self.loop.call_later(BODY_SECONDS, self.transport.abort)
        else:
            self.transport.close()


class _EmbeddedServer(uvicorn.Server):
    """uvicorn inside a process that has its own signal handling."""

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        yield


class HttpServer:
    """The port that logs ask: bind, start, stop. Used from one event loop."""

    def __init__(self, config: HttpConfig, app: Starlette):
        """Bind at once, so that a taken port is noticed before anything else starts.

        Raises:
            OSError: The address cannot be bound, or the certificate not be read.
        """
        host, _, port = config.listen.rpartition(":")
        host = host.removeprefix("[").removesuffix("]")
        settings = uvicorn.Config(
            app,
            http=_BoundedConnection,
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            limit_concurrency=MAX_CONNECTIONS,
            h11_max_incomplete_event_size=MAX_HEADER_BYTES,
            timeout_keep_alive=int(CONNECTION_SECONDS),
            timeout_graceful_shutdown=1,
            ssl_certfile=config.certificate_file,
            ssl_keyfile=config.private_key_file,
        )
        settings.load()
        self._server = _EmbeddedServer(settings)
        self._socket = socket.create_server(
            (host, int(port)), family=_family_of(host), backlog=MAX_CONNECTIONS
        )
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Start to answer. Returns when the port accepts connections."""
        self._task = asyncio.create_task(self._server.serve(sockets=[self._socket]), name="http")
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
