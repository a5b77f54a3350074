"""The one place, with `streams`, that speaks to NATS: TLS, publishing, consuming.

    open -> streams are there, as they must be
         -> publish (waits for JetStream)  |  consume / listen (callbacks)
         -> lost is done when the connection breaks, or its certificates were replaced

A connection is used until it breaks and is never mended: whoever uses it opens another,
with the certificate files as they are then. Nothing from nats-py leaves here.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from typing import Any, Final, TypeVar

import nats
import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js import JetStreamContext, api
from nats.js import errors as js_errors

from strongroom.jetstream.endpoint import NatsEndpoint, NatsError, batch_subject
from strongroom.jetstream.streams import ensure_streams

__all__ = ["Delivery", "JetStream"]

CALL_SECONDS: Final = 5.0
CONNECT_SECONDS: Final = 10.0
CLOSE_SECONDS: Final = 2.0
WATCH_SECONDS: Final = 1.0
PING_SECONDS: Final = 10  # after two without an answer the connection is lost
HEARTBEAT_SECONDS: Final = 5.0
SILENCE_SECONDS: Final = 3 * HEARTBEAT_SECONDS
MAX_UNACKNOWLEDGED_MESSAGES: Final = 64  # of at most 1 MiB each
ACK_WAIT_SECONDS: Final = 3600.0

_STATUS: Final = "Status"
_Answer = TypeVar("_Answer")


class Delivery:
    """A message that a consumer got; settled once, with `done` or `drop`."""

    def __init__(self, message: Msg):
        self._message = message

    @property
    def data(self) -> bytes:
        """Its bytes."""
        return self._message.data

    async def done(self) -> None:
        """Have JetStream forget it: it is in the log for good."""
        await _ask("acknowledging", self._message.ack())

    async def drop(self) -> None:
        """Have JetStream forget it: it will never be in the log."""
        await _ask("dropping", self._message.term())


class JetStream:
    """An open connection. Owned by one event loop."""

    def __init__(self, endpoint: NatsEndpoint, client: Client, lost: asyncio.Future[None]):
        self._endpoint = endpoint
        self._client = client
        self._context: JetStreamContext = client.jetstream(timeout=CALL_SECONDS)
        self.lost = lost
        """Fails with a NatsError when the connection cannot be used any more."""

    @property
    def max_message_bytes(self) -> int:
        """The longest message that the server takes, with its headers."""
        return self._client.max_payload

    @classmethod
    @contextlib.asynccontextmanager
    async def open(cls, endpoint: NatsEndpoint, *, name: str) -> AsyncIterator[JetStream]:
        """Connect to one of the servers, and see that the streams are there.

        Args:
            endpoint: Where to.
            name: Of the connection, and of its inbox: `_INBOX_{name}`, so that NATS can
                keep others from listening there.

        Raises:
            NatsError: No server can be reached or takes us, or a stream cannot be used.
        """
        stamp = endpoint.stamp()
        tls = await asyncio.to_thread(endpoint.tls)
        lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        lost.add_done_callback(_look)  # not everybody waits for it
        client = await _connect(endpoint, tls, name, lost)
        watch = asyncio.create_task(_watch(endpoint, stamp, lost), name=f"nats-files-{name}")
        try:
            connection = cls(endpoint, client, lost)
            await _ask("looking at the streams", ensure_streams(connection._context, endpoint))
            yield connection
        finally:
            watch.cancel()
            await _close(client)

    async def run(self, *work: Coroutine[Any, Any, None]) -> None:
        """Run all of `work` until one ends or the connection is lost; none is left behind.

        Raises:
            NatsError: The connection was lost. And what the work raises.
        """
        tasks: list[asyncio.Future[None]] = [asyncio.ensure_future(each) for each in work]
        try:
            done, _ = await asyncio.wait((*tasks, self.lost), return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        for task in (*tasks, self.lost):  # the work's own reason comes first
            if task in done:
                task.result()

    async def publish(self, subject: str, data: bytes, message_id: str | None = None) -> None:
        """Have JetStream keep a message.

        Raises:
            NatsError: It did not say that it has it; it may have.
        """
        headers: dict[str, Any] | None = (message_id and {"Nats-Msg-Id": message_id}) or None
        publishing = self._context.publish(subject, data, timeout=CALL_SECONDS, headers=headers)
        await _ask(f"publishing to {subject}", publishing)

    async def last(self, stream: str, subject: str) -> bytes | None:
        """Return the last message of a subject; None when there is none.

        Raises:
            NatsError: The server does not say.
        """

        async def read() -> bytes | None:
            try:
                return (await self._context.get_last_msg(stream, subject, direct=True)).data
            except js_errors.NotFoundError:
                return None

        return await _ask(f"reading {subject}", read())

    async def listen(self, subject: str, heard: Callable[[bytes], Awaitable[None]]) -> None:
        """Call `heard` with each message of a subject from now on; some may be missed.

        Raises:
            NatsError: The server refuses.
        """

        async def take(message: Msg) -> None:
            await heard(message.data)

        async def subscribe() -> None:
            await self._client.subscribe(subject, cb=take)
            await self._client.flush(int(CALL_SECONDS))

        await _ask(f"subscribing to {subject}", subscribe())

    async def consume(self, region: str) -> asyncio.Queue[Delivery]:
        """Have the batches of a region delivered, from the oldest that is there.

        The consumer is made anew: what an earlier session did not settle comes again,
        first and in order. At most 64 are unsettled at any time, so the queue is bounded.

        Raises:
            NatsError: The server refuses.
        """
        name, stream = f"audit-log-{region}", self._endpoint.stream
        queue: asyncio.Queue[Delivery] = asyncio.Queue()
        heard = asyncio.Event()

        async def take(message: Msg) -> None:
            heard.set()
            status = (message.headers or {}).get(_STATUS)
            if status is None:
                queue.put_nowait(Delivery(message))
            elif message.reply:  # a request for flow control
                await message.respond(b"")

        async def subscribe() -> None:
            inbox = self._client.new_inbox()
            with contextlib.suppress(js_errors.NotFoundError):
                await self._context.delete_consumer(stream, name)
            await self._client.subscribe(inbox, cb=take)
            await self._context.add_consumer(
                stream,
                api.ConsumerConfig(
                    name=name,
                    filter_subject=batch_subject(region),
                    deliver_subject=inbox,
                    ack_policy=api.AckPolicy.EXPLICIT,
                    ack_wait=ACK_WAIT_SECONDS,
                    max_ack_pending=MAX_UNACKNOWLEDGED_MESSAGES,
                    idle_heartbeat=HEARTBEAT_SECONDS,
                ),
            )

        await _ask(f"consuming {batch_subject(region)}", subscribe())
        watch = asyncio.create_task(_notice_silence(heard, self.lost), name=f"nats-{name}")
        self.lost.add_done_callback(lambda _: watch.cancel())
        return queue


async def _connect(
    endpoint: NatsEndpoint, tls: ssl.SSLContext, name: str, lost: asyncio.Future[None]
) -> Client:
    """Connect to any of the servers."""
    last: Exception | None = None

    async def on_error(exc: Exception) -> None:
        nonlocal last
        last = exc  # the reason behind `closed`, or a permission that is missing

    async def on_closed() -> None:
        if not lost.done():
            lost.set_exception(NatsError(f"the connection to NATS was lost: {_why(last)}"))

    servers = list(endpoint.servers)
    random.SystemRandom().shuffle(servers)
    for server in servers:
        client = Client()
        # TLS comes first: a man in the middle of NATS's own greeting could say that the
        # server has no TLS, and nats-py would go on without.
        connecting = client.connect(
            f"tls://{server}",
            name=name,
            tls=tls,
            tls_handshake_first=True,
            allow_reconnect=False,
            max_reconnect_attempts=1,
            reconnect_time_wait=0,
            connect_timeout=int(CALL_SECONDS),
            ping_interval=PING_SECONDS,
            max_outstanding_pings=2,
            inbox_prefix=f"_INBOX_{name}",
            error_cb=on_error,
            closed_cb=on_closed,
        )
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                await _ask(f"connecting to {server}", connecting)
        except (NatsError, TimeoutError) as exc:
            last = last or exc
            await _close(client)  # it may be half open
            continue
        except BaseException:
            await _close(client)
            raise
        if lost.done():
            lost.exception()
            raise NatsError(f"the connection to NATS was lost: {_why(last)}")
        return client
    raise NatsError(f"no NATS server of {', '.join(endpoint.servers)} takes us: {_why(last)}")


async def _close(client: Client) -> None:
    """Say goodbye, to a server that may not listen any more; do not wait long."""
    closing = asyncio.ensure_future(client.close())
    closing.add_done_callback(_look)
    await asyncio.wait([closing], timeout=CLOSE_SECONDS)
    closing.cancel()


async def _watch(
    endpoint: NatsEndpoint, stamp: tuple[tuple[int, int, int], ...], lost: asyncio.Future[None]
) -> None:
    """End the connection when its certificate was replaced: the next one takes the new one."""
    while not lost.done():
        await asyncio.sleep(WATCH_SECONDS)
        with contextlib.suppress(NatsError):  # in the middle of being replaced
            if endpoint.stamp() != stamp and not lost.done():
                lost.set_exception(NatsError("certificate, key or CA were replaced"))


async def _notice_silence(heard: asyncio.Event, lost: asyncio.Future[None]) -> None:
    """End the connection when the consumer has gone: JetStream sends heartbeats."""
    while True:
        heard.clear()
        try:
            await asyncio.wait_for(heard.wait(), SILENCE_SECONDS)
        except TimeoutError:
            if not lost.done():
                lost.set_exception(
                    NatsError("JetStream fell silent: the consumer is gone, or another's")
                )
            return


async def _ask(what: str, call: Coroutine[Any, Any, _Answer]) -> _Answer:
    """Await something of nats-py; every such call goes through here.

    In a task of its own: nats-py swallows a cancellation here and there, and our own tasks
    must end when they are told to. A call that was given up ends by its time limit.

    Raises:
        NatsError: It failed.
    """
    task = asyncio.ensure_future(call)
    try:
        await asyncio.wait([task])
    except asyncio.CancelledError:
        task.add_done_callback(_look)
        task.cancel()
        raise
    try:
        return task.result()
    except (nats.errors.Error, OSError, TimeoutError, json.JSONDecodeError) as exc:
        raise NatsError(f"{what}: {_why(exc)}") from exc


def _why(exc: Exception | None) -> str:
    return "no reason given" if exc is None else str(exc) or type(exc).__name__


def _look(future: asyncio.Future[Any]) -> None:
    """Take note of a failure that nobody waits for.

    Without it asyncio would complain that it was never retrieved.
    """
    if not future.cancelled():
        future.exception()
