"""The one place that speaks to NATS: TLS, streams, publishing, consuming.

    open -> streams are there, as they must be
         -> publish (waits for JetStream)  |  consume / listen (callbacks)
         -> lost is done when the connection breaks, or its certificates were replaced

A connection is used until it breaks and is never mended: whoever uses it opens another,
with the certificate files as they are then. Nothing from nats-py leaves this module.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import nats
import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js import JetStreamContext, api
from nats.js import errors as js_errors

__all__ = ["Delivery", "JetStream", "NatsEndpoint", "NatsError", "ack_subject", "batch_subject"]

CALL_SECONDS: Final = 5.0
CONNECT_SECONDS: Final = 10.0
WATCH_SECONDS: Final = 1.0
PING_SECONDS: Final = 10  # after two without an answer the connection is lost
HEARTBEAT_SECONDS: Final = 5.0
SILENCE_SECONDS: Final = 3 * HEARTBEAT_SECONDS
MAX_UNACKNOWLEDGED_MESSAGES: Final = 64  # of at most 1 MiB each
ACK_WAIT_SECONDS: Final = 3600.0
DUPLICATE_WINDOW_SECONDS: Final = 120.0

_STATUS: Final = "Status"


class NatsError(Exception):
    """NATS is away, refuses, or is not set up as it must be."""


def batch_subject(region: str) -> str:
    """Return the subject of a shard's batches."""
    return f"strongroom.audit.{region}"


def ack_subject(region: str) -> str:
    """Return the subject of what the audit log acknowledges to a shard."""
    return f"strongroom.audit-ack.{region}"


@dataclass(frozen=True, slots=True)
class NatsEndpoint:
    """Where NATS is, how to be known there, and the streams."""

    servers: tuple[str, ...]
    """host:port each."""
    certificate: Path
    private_key: Path
    ca: Path
    stream: str
    replicas: int
    max_bytes: int

    @property
    def ack_stream(self) -> str:
        """Name of the stream of acknowledgements."""
        return f"{self.stream}_ACKS"

    def stamp(self) -> tuple[tuple[int, int, int], ...]:
        """Return what changes when a file is replaced or written.

        Raises:
            NatsError: A file is missing.
        """
        try:
            stats = [path.stat() for path in (self.certificate, self.private_key, self.ca)]
        except OSError as exc:
            raise NatsError(f"{exc.filename}: {exc.strerror}") from exc
        return tuple((s.st_ino, s.st_mtime_ns, s.st_size) for s in stats)

    def tls(self) -> ssl.SSLContext:
        """Read the files.

        Raises:
            NatsError: One cannot be read, or they do not fit together.
        """
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        try:
            context.load_verify_locations(cafile=self.ca)
            context.load_cert_chain(self.certificate, self.private_key)
        except (OSError, ssl.SSLError) as exc:
            raise NatsError(f"[nats] certificate, key or CA: {exc}") from exc
        return context


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
        with _translated("acknowledging"):
            await self._message.ack()

    async def drop(self) -> None:
        """Have JetStream forget it: it will never be in the log."""
        with _translated("dropping"):
            await self._message.term()


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
            await connection._ensure_streams()
            yield connection
        finally:
            watch.cancel()
            # Closing says goodbye to a server that may not listen any more.
            with contextlib.suppress(Exception):
                async with asyncio.timeout(CALL_SECONDS):
                    await client.close()

    async def publish(self, subject: str, data: bytes, message_id: str | None = None) -> None:
        """Have JetStream keep a message.

        Raises:
            NatsError: It did not say that it has it; it may have.
        """
        headers: dict[str, Any] | None = (message_id and {"Nats-Msg-Id": message_id}) or None
        with _translated(f"publishing to {subject}"):
            await self._context.publish(subject, data, timeout=CALL_SECONDS, headers=headers)

    async def last(self, stream: str, subject: str) -> bytes | None:
        """Return the last message of a subject; None when there is none.

        Raises:
            NatsError: The server does not say.
        """
        with _translated(f"reading {subject}"):
            try:
                found = await self._context.get_last_msg(stream, subject, direct=True)
            except js_errors.NotFoundError:
                return None
        return found.data

    async def listen(self, subject: str, heard: Callable[[bytes], Awaitable[None]]) -> None:
        """Call `heard` with each message of a subject from now on; some may be missed.

        Raises:
            NatsError: The server refuses.
        """

        async def take(message: Msg) -> None:
            await heard(message.data)

        with _translated(f"subscribing to {subject}"):
            await self._client.subscribe(subject, cb=take)
            await self._client.flush(int(CALL_SECONDS))

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

        with _translated(f"consuming {batch_subject(region)}"):
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
        watch = asyncio.create_task(_notice_silence(heard, self.lost), name=f"nats-{name}")
        self.lost.add_done_callback(lambda _: watch.cancel())
        return queue

    async def _ensure_streams(self) -> None:
        endpoint = self._endpoint
        await self._ensure(
            api.StreamConfig(
                name=endpoint.stream,
                subjects=[batch_subject("*")],
                retention=api.RetentionPolicy.WORK_QUEUE,
                discard=api.DiscardPolicy.NEW,
                max_bytes=endpoint.max_bytes,
                duplicate_window=DUPLICATE_WINDOW_SECONDS,
            )
        )
        await self._ensure(
            api.StreamConfig(
                name=endpoint.ack_stream,
                subjects=[ack_subject("*")],
                retention=api.RetentionPolicy.LIMITS,
                discard=api.DiscardPolicy.OLD,
                max_msgs_per_subject=1,
            )
        )

    async def _ensure(self, wanted: api.StreamConfig) -> None:
        """Make a stream when it is not there; refuse one that could lose or forget."""
        wanted = wanted.evolve(
            storage=api.StorageType.FILE,
            num_replicas=self._endpoint.replicas,
            max_age=0,
            deny_delete=True,
            deny_purge=True,
            allow_direct=True,
            sealed=False,
            no_ack=False,
        )
        with _translated(f"looking at stream {wanted.name}"):
            try:
                found = (await self._context.stream_info(str(wanted.name))).config
            except js_errors.NotFoundError:
                found = (await self._context.add_stream(wanted)).config
        differing = [
            name
            for name in (
                *("subjects", "retention", "discard", "storage", "max_age", "max_msgs_per_subject"),
                *("deny_delete", "deny_purge", "allow_direct", "sealed", "no_ack"),
            )
            if getattr(found, name) != getattr(wanted, name)
        ]
        if differing:
            raise NatsError(
                f"stream {wanted.name} has other settings than docs/formats/audit-nats-v1.md "
                f"says: {', '.join(differing)}; change them, or name another stream in [nats]"
            )


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
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                # TLS comes first: a man in the middle of NATS's own greeting could say
                # that the server has no TLS, and nats-py would go on without.
                await client.connect(
                    f"tls://{server}",
                    name=name,
                    tls=tls,
                    tls_handshake_first=True,
                    allow_reconnect=False,
                    max_reconnect_attempts=1,
                    reconnect_time_wait=0,
                    connect_timeout=int(CONNECT_SECONDS),
                    ping_interval=PING_SECONDS,
                    max_outstanding_pings=2,
                    inbox_prefix=f"_INBOX_{name}",
                    error_cb=on_error,
                    closed_cb=on_closed,
                )
        except (nats.errors.Error, OSError, TimeoutError, asyncio.IncompleteReadError) as exc:
            last = last or exc
            with contextlib.suppress(Exception):  # it may be half open
                await client.close()
            continue
        if lost.done():
            lost.exception()
            raise NatsError(f"the connection to NATS was lost: {_why(last)}")
        return client
    raise NatsError(f"no NATS server of {', '.join(endpoint.servers)} takes us: {_why(last)}")


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


@contextlib.contextmanager
def _translated(what: str) -> Any:
    try:
        yield
    except js_errors.NotFoundError as exc:
        raise NatsError(f"{what}: not found") from exc
    except (nats.errors.Error, OSError, TimeoutError, json.JSONDecodeError) as exc:
        raise NatsError(f"{what}: {_why(exc)}") from exc


def _why(exc: Exception | None) -> str:
    return "no reason given" if exc is None else str(exc) or type(exc).__name__


def _look(future: asyncio.Future[None]) -> None:
    if not future.cancelled():
        future.exception()
