"""Sections of the configuration that say where records come from."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from strongroom_auditlog.config_types import Address, Principal, Section

__all__ = ["NatsConfig", "ShardConfig"]


class ShardConfig(Section):
    """``[[shards]]``: a shard whose records go into the log."""

    region: Annotated[str, Field(pattern="^[a-z][a-z0-9-]{0,31}$")] = Field(
        description="region of the shard; records that claim another one are refused"
    )
    transport: Literal["direct", "nats"] = Field(
        "direct",
        description="how its records come: direct, from the shard over gRPC; nats, through [nats]",
    )
    endpoint: Address | None = Field(
        None,
        description="host:port of the server that hosts the shard; required by transport direct, "
        "and not for nats",
    )
    server_name: str | None = Field(
        None, min_length=1, description="name in the server's certificate, if not the host"
    )
    principal: Principal | None = Field(
        None,
        description="SPIFFE ID in the certificate of the shard's server; with it, no other "
        "server of the same CA can stand in for the shard. Required by transport nats",
    )

    @model_validator(mode="after")
    def _check_transport(self) -> Self:
        if self.transport == "nats":
            if self.principal is None:
                raise ValueError(f"{self.region}: transport nats needs principal: who signs")
            if self.endpoint is not None or self.server_name is not None:
                raise ValueError(f"{self.region}: endpoint, server_name: not with transport nats")
        elif self.endpoint is None:
            raise ValueError(f"{self.region}: transport direct needs endpoint")
        return self


class NatsConfig(Section):
    """``[nats]``: NATS JetStream, for shards with transport nats."""

    servers: Annotated[tuple[Address, ...], Field(min_length=1)] = Field(
        description="host:port of each server of the cluster; TLS with handshake_first"
    )
    certificate_file: Path | None = Field(
        None, description="PEM certificate chain towards NATS; that of [tls] when left out"
    )
    private_key_file: Path | None = Field(
        None, description="PEM private key of the certificate, mode 0600; that of [tls]"
    )
    ca_file: Path | None = Field(
        None, description="PEM certificates of the CA of the NATS servers; that of [tls]"
    )
    stream: Annotated[str, Field(pattern="^[A-Z][A-Z0-9_]{0,31}$")] = Field(
        "STRONGROOM_AUDIT", description="stream of the batches; acknowledgements: {stream}_ACKS"
    )
    replicas: int = Field(
        1, ge=1, le=5, description="copies of a stream that has to be made, in a cluster 3 or 5"
    )
    max_bytes: int = Field(
        2**30,
        ge=2**20,
        description="bytes of the stream of batches when it has to be made; at best the sum of "
        "the spools' limits",
    )

    @model_validator(mode="after")
    def _check_files(self) -> Self:
        if (self.certificate_file is None) != (self.private_key_file is None):
            raise ValueError("certificate_file and private_key_file belong together")
        return self
