"""The source of each shard's records, as the configuration says."""

from __future__ import annotations

import time

from strongroom.jetstream.endpoint import NatsEndpoint
from strongroom_auditlog.config import Config, ShardConfig
from strongroom_auditlog.direct_source import DirectSource, ShardEndpoint
from strongroom_auditlog.errors import StartRefusedError
from strongroom_auditlog.intake import Source
from strongroom_auditlog.tls import CredentialFiles

__all__ = ["source_of"]


def source_of(config: Config, shard: ShardConfig, tls: CredentialFiles) -> Source:
    """Return the source of a shard's records.

    Raises:
        StartRefusedError: It is NATS, and the extra `nats` is not installed.
    """
    nats = config.nats
    if shard.transport == "nats" and nats is not None and shard.principal is not None:
        try:
            from strongroom_auditlog.nats_source import NatsSource  # noqa: PLC0415 - the extra `nats`
        except ModuleNotFoundError as exc:
            raise StartRefusedError(f"[nats] needs {exc.name}; install strongroom[nats]") from exc
        endpoint = NatsEndpoint(
            servers=nats.servers,
            certificate=nats.certificate_file or tls.certificate,
            private_key=nats.private_key_file or tls.private_key,
            ca=nats.ca_file or tls.ca,
            stream=nats.stream,
            replicas=nats.replicas,
            max_bytes=nats.max_bytes,
            also_watched=(tls.certificate, tls.private_key, tls.ca),
        )
        return NatsSource(shard.region, shard.principal, endpoint, tls, wall_clock=time.time)
    if shard.endpoint is None:  # `load_config` refuses it, with the line
        raise StartRefusedError(f"shards: {shard.region} has no endpoint")
    return DirectSource(
        ShardEndpoint(shard.region, shard.endpoint, shard.server_name, shard.principal), tls
    )
