"""Starts what brings a shard's records to the audit log, when the log does not fetch them."""

from __future__ import annotations

import contextlib
import random
from collections.abc import AsyncIterator, Callable

from strongroom.jetstream.endpoint import NatsEndpoint
from strongroom_server.audit.spool import Spool
from strongroom_server.config import Config, ShardConfig
from strongroom_server.errors import StartRefusedError
from strongroom_server.ports import Clock

__all__ = ["publishing"]


@contextlib.asynccontextmanager
async def publishing(
    config: Config, shard: ShardConfig, spool: Spool, *, clock: Clock, on_error: Callable[[], None]
) -> AsyncIterator[None]:
    """Publish the spool through NATS while the block runs; nothing for transport direct.

    NATS need not be there: the spool takes records meanwhile, up to its limits.

    Raises:
        StartRefusedError: The extra `nats` is not installed.
    """
    nats, tls = config.nats, config.tls
    if shard.transport != "nats" or nats is None:
        yield
        return
    try:
        from strongroom_server.audit.nats_publisher import (  # noqa: PLC0415 - the extra `nats`
            NatsPublisher,
            SigningFiles,
        )
    except ModuleNotFoundError as exc:
        raise StartRefusedError(f"[nats] needs {exc.name}; install strongroom[nats]") from exc
    signing = SigningFiles(tls.certificate_file, tls.private_key_file, tls.client_ca_file)
    publisher = NatsPublisher(
        shard.region,
        spool,
        NatsEndpoint(
            servers=nats.servers,
            certificate=nats.certificate_file or signing.certificate,
            private_key=nats.private_key_file or signing.private_key,
            ca=nats.ca_file or signing.ca,
            stream=nats.stream,
            replicas=nats.replicas,
            max_bytes=nats.max_bytes,
            also_watched=(signing.certificate, signing.private_key, signing.ca),
        ),
        signing,
        consumers=frozenset(config.access.audit_consumers),
        clock=clock,
        random=random.SystemRandom().random,
        on_error=on_error,
    )
    publisher.start()
    try:
        yield
    finally:
        await publisher.close()
