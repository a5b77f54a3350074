"""The ops port: probes, metrics, limits."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest

from strongroom import ops_http
from strongroom.ops_http import OpsServer, build_ops_app


async def exchange(address: str, request: bytes) -> bytes:
    """Send bytes to the port and return everything until it closes."""
    host, _, port = address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(request)
    answer = await asyncio.wait_for(reader.read(), timeout=10)
    writer.close()
    return answer


async def ask(address: str, path: str, method: str = "GET") -> tuple[int, str]:
    """Make one request; return status and body."""
    request = f"{method} {path} HTTP/1.1\r\nHost: ops\r\n\r\n".encode()
    head, _, body = (await exchange(address, request)).partition(b"\r\n\r\n")
    return int(head.split()[1]), body.decode()


class Process:
    """What a process shows on its ops port."""

    def __init__(self) -> None:
        self.store_fault: str | None = None
        self.refreshed = 0

    def refresh(self) -> None:
        self.refreshed += 1

    def exposition(self) -> bytes:
        return f"refreshed {self.refreshed}\n".encode()


@pytest.fixture
def process() -> Process:
    return Process()


@pytest.fixture
async def server(process: Process) -> AsyncIterator[OpsServer]:
    app = build_ops_app(
        exposition=process.exposition,
        refresh=process.refresh,
        checks={"hsm": lambda: None, "store": lambda: process.store_fault},
    )
    ops = OpsServer(listen="127.0.0.1:0", app=app)
    await ops.start()
    yield ops
    await ops.stop()


async def test_livez_answers_while_the_loop_turns(server: OpsServer) -> None:
    """A live process says ok."""
    assert await ask(server.address, "/livez") == (200, "ok\n")


async def test_readyz_names_the_check_that_fails(server: OpsServer, process: Process) -> None:
    """Not ready is 503 and says why; ready again is 200 without a restart."""
    assert await ask(server.address, "/readyz") == (200, "ok\n")
    process.store_fault = "database is locked"
    status, body = await ask(server.address, "/readyz")
    assert status == 503
    assert "[-] store: database is locked" in body
    assert body.endswith("not ready\n")
    process.store_fault = None
    assert await ask(server.address, "/readyz") == (200, "ok\n")


async def test_readyz_verbose_lists_every_check(server: OpsServer) -> None:
    """?verbose shows the checks that pass as well."""
    assert await ask(server.address, "/readyz?verbose") == (
        200,
        "[+] hsm: ok\n[+] store: ok\nready\n",
    )


async def test_metrics_are_refreshed_before_each_scrape(server: OpsServer) -> None:
    """A scrape sees the state of its own moment."""
    assert await ask(server.address, "/metrics") == (200, "refreshed 1\n")
    assert await ask(server.address, "/metrics") == (200, "refreshed 2\n")


async def test_answers_carry_the_prometheus_type_and_close(server: OpsServer) -> None:
    """The content type is the text format's, and a connection serves one request."""
    answer = await exchange(server.address, b"GET /metrics HTTP/1.1\r\nHost: ops\r\n\r\n")
    head = answer.partition(b"\r\n\r\n")[0].lower()
    assert b"content-type: text/plain; version=0.0.4; charset=utf-8" in head
    assert b"connection: close" in head
    assert b"server:" not in head


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("POST", "/livez", 405),
        ("DELETE", "/metrics", 405),
        ("GET", "/", 404),
        ("HEAD", "/livez", 200),
    ],
)
async def test_only_get_and_head_of_known_paths(
    server: OpsServer, method: str, path: str, status: int
) -> None:
    """Everything else is refused."""
    assert (await ask(server.address, path, method))[0] == status


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"GET /livez HTTP/1.1\r\nX: " + b"a" * 9000 + b"\r\n\r\n",
        b"GET /livez\r\n\r\n",
    ],
    ids=["TLS hello", "headers over 8 KiB", "no version"],
)
async def test_bytes_that_are_not_http_get_400(server: OpsServer, request_bytes: bytes) -> None:
    """Malformed and oversized requests end the connection with 400, the port lives on."""
    answer = await exchange(server.address, request_bytes + b"\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert (await ask(server.address, "/livez"))[0] == 200


async def test_a_silent_connection_is_closed(
    server: OpsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A peer that connects and says nothing does not keep its place."""
    monkeypatch.setattr(ops_http, "CONNECTION_SECONDS", 0.2)
    with contextlib.suppress(ConnectionResetError):  # abort() may reset instead of closing
        assert await exchange(server.address, b"") == b""


async def test_a_taken_port_is_refused_at_once(server: OpsServer) -> None:
    """Two processes cannot share an ops port unnoticed."""
    with pytest.raises(OSError, match="in use"):
        OpsServer(listen=server.address, app=build_ops_app(exposition=bytes, checks={}))


async def test_stop_is_idempotent_and_frees_the_port(process: Process) -> None:
    """After stop the port can be bound again, and a second stop does nothing."""
    app = build_ops_app(exposition=process.exposition, checks={})
    first = OpsServer(listen="127.0.0.1:0", app=app)
    address = first.address
    await first.start()
    await first.stop()
    await first.stop()
    second = OpsServer(listen=address, app=app)
    await second.stop()


async def test_ipv6_addresses_keep_their_brackets(process: Process) -> None:
    """[::1]:0 binds and prints as an address again."""
    ops = OpsServer(listen="[::1]:0", app=build_ops_app(exposition=process.exposition, checks={}))
    assert ops.address.startswith("[::1]:")
    await ops.stop()
