"""TLS towards callers and towards shards; replaced files are taken up without a restart.

Callers: a watcher on the event loop looks at the files once a second, and the handshake,
which runs on gRPC's own threads, only picks up what the watcher has prepared. Shards: each
connection is made with the files as they are then.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import grpc
import structlog
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from strongroom_auditlog.errors import StartRefusedError

__all__ = ["CredentialFiles", "ServerTls", "channel_credentials"]

WATCH_SECONDS: Final = 1.0

_log = structlog.stdlib.get_logger("strongroom.auditlog.tls")


@dataclass(frozen=True, slots=True)
class _Pem:
    chain: bytes
    key: bytes
    ca: bytes

    def __repr__(self) -> str:
        return "_Pem(...)"


@dataclass(frozen=True, slots=True)
class CredentialFiles:
    """Paths of PEM files: certificate chain, private key, CA of callers and shards."""

    certificate: Path
    private_key: Path
    ca: Path

    def stamp(self) -> tuple[tuple[int, int, int], ...]:
        """Return what changes when a file is replaced or written.

        Raises:
            OSError: A file is missing.
        """
        stats = [path.stat() for path in (self.certificate, self.private_key, self.ca)]
        return tuple((s.st_ino, s.st_mtime_ns, s.st_size) for s in stats)

    def load(self) -> _Pem:
        """Read the files and check that they fit together.

        Raises:
            StartRefusedError: They do not, or one cannot be read.
        """
        try:
            pem = _Pem(
                self.certificate.read_bytes(), self.private_key.read_bytes(), self.ca.read_bytes()
            )
            certificate = x509.load_pem_x509_certificates(pem.chain)[0]
            x509.load_pem_x509_certificates(pem.ca)
            private_key = serialization.load_pem_private_key(pem.key, password=None)
        except OSError as exc:
            raise StartRefusedError(f"[tls] {exc.filename}: {exc.strerror}") from exc
        except (ValueError, TypeError) as exc:
            raise StartRefusedError(f"[tls] not certificate, key and CA in PEM: {exc}") from exc
        if private_key.public_key() != certificate.public_key():
            raise StartRefusedError(
                f"[tls] {self.private_key} is not the key of {self.certificate}"
            )
        return pem


def channel_credentials(files: CredentialFiles) -> grpc.ChannelCredentials:
    """Return credentials for one connection to a shard. Reads files.

    Raises:
        StartRefusedError: As `CredentialFiles.load`.
    """
    pem = files.load()
    return grpc.ssl_channel_credentials(pem.ca, pem.key, pem.chain)


class ServerTls:
    """Loads, watches and hands out the server's certificate configuration."""

    def __init__(self, files: CredentialFiles):
        self._files = files
        self._stamp: tuple[tuple[int, int, int], ...] | None = None
        # A single reference, swapped whole by the watcher, read by gRPC's threads.
        self._current = self._load()
        self._served = self._current

    def credentials(self) -> grpc.ServerCredentials:
        """Return credentials that require a client certificate and follow the files."""
        return grpc.dynamic_ssl_server_credentials(
            self._current,
            self._fetch,  # type: ignore[arg-type]  # gRPC takes None for "nothing changed"
            require_client_authentication=True,
        )

    async def watch(self) -> None:
        """Look at the files once a second, for ever. Files that do not fit are refused."""
        while True:
            await asyncio.sleep(WATCH_SECONDS)
            try:
                if self._files.stamp() != self._stamp:
                    self._current = self._load()
                    _log.info("TLS files reloaded")
            except (OSError, StartRefusedError) as exc:
                _log.error("new TLS files refused, the old ones stay", error=str(exc))

    def _load(self) -> grpc.ServerCertificateConfiguration:
        try:
            self._stamp = self._files.stamp()
        except OSError as exc:
            raise StartRefusedError(f"[tls] {exc.filename}: {exc.strerror}") from exc
        pem = self._files.load()
        return grpc.ssl_server_certificate_configuration([(pem.key, pem.chain)], pem.ca)

    def _fetch(self) -> grpc.ServerCertificateConfiguration | None:
        current = self._current
        if current is self._served:
            return None
        self._served = current
        return current
