"""``[nats]``: how audit records reach the audit log, when it is not directly."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Final, Self

from pydantic import AfterValidator, Field, model_validator

from strongroom_server.config_types import Section

__all__ = ["NatsConfig"]

_SERVER: Final = re.compile(r"(.+):([0-9]{1,5})", re.ASCII)


def _check_server(text: str) -> str:
    found = _SERVER.fullmatch(text)
    if found is None or not 0 < int(found[2]) < 2**16:
        raise ValueError("expected host:port")
    return text


class NatsConfig(Section):
    """``[nats]``: NATS JetStream, for shards with transport nats."""

    servers: Annotated[
        tuple[Annotated[str, AfterValidator(_check_server)], ...], Field(min_length=1)
    ] = Field(description="host:port of each server of the cluster; TLS with handshake_first")
    certificate_file: Path | None = Field(
        None, description="PEM certificate chain towards NATS; that of [tls] when left out"
    )
    private_key_file: Path | None = Field(
        None, description="PEM private key of the certificate, mode 0600; that of [tls]"
    )
    ca_file: Path | None = Field(
        None, description="PEM certificates of the CA of the NATS servers; client_ca_file of [tls]"
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

    def relative_to(self, base: Path) -> Self:
        """Return it with paths that are relative to `base`."""
        names = ("certificate_file", "private_key_file", "ca_file")
        return self.model_copy(
            update={n: base / p for n in names if (p := getattr(self, n)) is not None}
        )
