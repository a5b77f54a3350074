"""The server's TLS credentials; new files are taken up without a restart.

A watcher on the event loop looks at the files once a second; the handshake, which runs
on gRPC's own threads, only picks up what the watcher has prepared: no I/O there. Files
that do not fit together are refused and the old credentials stay.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final

import grpc
import structlog
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from strongroom_server.errors import StartRefusedError

__all__ = ["CredentialFiles", "ReloadingCredentials"]

WATCH_SECONDS: Final = 1.0

_log = structlog.stdlib.get_logger("strongroom.tls")


@dataclass(frozen=True, slots=True)
class CredentialFiles:
    """Paths of PEM files: certificate chain, private key, CA of the callers."""

    certificate: Path
    private_key: Path
    client_ca: Path

    def stamp(self) -> tuple[tuple[int, int, int], ...]:
        """Return what changes when a file is replaced or written."""
        stats = [path.stat() for path in (self.certificate, self.private_key, self.client_ca)]
        return tuple((s.st_ino, s.st_mtime_ns, s.st_size) for s in stats)


@dataclass(frozen=True, slots=True)
class _Loaded:
    configuration: grpc.ServerCertificateConfiguration
    expiry: datetime


class ReloadingCredentials:
    """Loads, watches and hands out the server's certificate configuration."""

    def __init__(
        self, files: CredentialFiles, *, on_expiry: Callable[[str, datetime], None]
    ) -> None:
        """Load the files; `on_expiry` hears when ``server`` and ``client_ca`` end.

        Raises:
            StartRefusedError: A file is missing, malformed, or the key does not belong to
                the certificate.
        """
        self._files = files
        self._on_expiry = on_expiry
        self._stamp, self._loaded = self._load()
        # Handed from the watcher to gRPC's threads; a single reference, swapped whole.
        self._current = self._loaded.configuration
        self._served = self._current

    def server_credentials(self) -> grpc.ServerCredentials:
        """Return credentials that require a client certificate and follow the files."""
        return grpc.dynamic_ssl_server_credentials(
            self._current,
            self._fetch,  # type: ignore[arg-type]  # gRPC takes None for "nothing changed"
            require_client_authentication=True,
        )

    async def watch(self) -> None:
        """Look at the files once a second, for ever."""
        refused_stamp = None
        while True:
            await asyncio.sleep(WATCH_SECONDS)
            try:
                stamp = self._files.stamp()
                if stamp in (self._stamp, refused_stamp):
                    continue
                refused_stamp = stamp
                self._stamp, loaded = self._load()
            except (OSError, StartRefusedError) as exc:
                _log.error("new TLS files refused, the old ones stay", error=str(exc))
                continue
            self._current = loaded.configuration
            _log.info("TLS files reloaded", expiry=loaded.expiry.isoformat())

    def _fetch(self) -> grpc.ServerCertificateConfiguration | None:
        """Give a handshake the new configuration, once; None means nothing changed."""
        current = self._current
        if current is self._served:
            return None
        self._served = current
        return current

    def _load(self) -> tuple[tuple[tuple[int, int, int], ...], _Loaded]:
        files = self._files
        try:
            stamp = files.stamp()
            chain = files.certificate.read_bytes()
            key = files.private_key.read_bytes()
            client_ca = files.client_ca.read_bytes()
            certificate = x509.load_pem_x509_certificates(chain)[0]
            authorities = x509.load_pem_x509_certificates(client_ca)
            private_key = serialization.load_pem_private_key(key, password=None)
        except (OSError, ValueError, TypeError) as exc:
            raise StartRefusedError(f"TLS files: {exc}") from exc
        if private_key.public_key() != certificate.public_key():
            raise StartRefusedError(
                f"TLS files: {files.private_key} is not the key of {files.certificate}"
            )
        self._on_expiry("server", certificate.not_valid_after_utc)
        self._on_expiry("client_ca", min(ca.not_valid_after_utc for ca in authorities))
        configuration = grpc.ssl_server_certificate_configuration([(key, chain)], client_ca)
        return stamp, _Loaded(configuration, certificate.not_valid_after_utc)
