"""Where NATS is, and what the two sides call things there."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path

__all__ = ["NatsEndpoint", "NatsError", "ack_subject", "batch_subject"]


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
    also_watched: tuple[Path, ...] = ()
    """Further files that the user of a connection depends on: what it signs with."""

    @property
    def ack_stream(self) -> str:
        """Name of the stream of acknowledgements."""
        return f"{self.stream}_ACKS"

    @property
    def _files(self) -> tuple[Path, Path, Path]:
        return self.certificate, self.private_key, self.ca

    def stamp(self) -> tuple[tuple[int, int, int], ...]:
        """Return what changes when a file is replaced or written.

        Raises:
            NatsError: A file is missing.
        """
        try:
            stats = [path.stat() for path in (*self._files, *self.also_watched)]
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
