"""TLS towards callers and towards shards; replaced files are taken up without a restart.

Callers: a watcher on the event loop looks at the files once a second, and the handshake,
which runs on gRPC's own threads, only picks up what the watcher has prepared. Shards: each
connection is made with the files as they are then.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import grpc
import structlog
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from strongroom_auditlog.errors import StartRefusedError

__all__ = ["CredentialFiles", "ServerTls", "channel_credentials", "pin_peer"]

WATCH_SECONDS: Final = 1.0
CONNECT_SECONDS: Final = 10.0

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


def channel_credentials(
    files: CredentialFiles, *, root: bytes | None = None
) -> grpc.ChannelCredentials:
    """Return credentials for one connection to a shard. Reads files.

    Args:
        files: Ours.
        root: PEM of the one certificate that is believed, from `pin_peer`; without it the
            CA is.

    Raises:
        StartRefusedError: As `CredentialFiles.load`.
    """
    pem = files.load()
    return grpc.ssl_channel_credentials(pem.ca if root is None else root, pem.key, pem.chain)


def pin_peer(
    endpoint: str, files: CredentialFiles, *, server_name: str | None, principal: str
) -> bytes:
    """Look who answers at `endpoint`; return its certificate in PEM. Blocks.

    The chain has to lead to our CA and the certificate to carry the host's name, as in any
    other connection, and its one URI SAN has to be `principal`.

    Raises:
        StartRefusedError: It is somebody else, nobody answers, or as `CredentialFiles.load`.
    """
    files.load()
    host, _, port = endpoint.rpartition(":")
    host = host.strip("[]")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["h2"])
    try:
        context.load_verify_locations(cafile=files.ca)
        context.load_cert_chain(files.certificate, files.private_key)
        with (
            socket.create_connection((host, int(port)), timeout=CONNECT_SECONDS) as plain,
            context.wrap_socket(plain, server_hostname=server_name or host) as secure,
        ):
            der = secure.getpeercert(binary_form=True)
    except OSError as exc:  # ssl.SSLError is one
        raise StartRefusedError(f"{endpoint}: {exc}") from exc
    certificate = x509.load_der_x509_certificate(der or b"")
    found = _uris_of(certificate)
    if found != [principal]:
        raise StartRefusedError(
            f"{endpoint}: the peer is {', '.join(found) or 'nobody'}, not {principal}"
        )
    return certificate.public_bytes(serialization.Encoding.PEM)


def _uris_of(certificate: x509.Certificate) -> list[str]:
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (x509.ExtensionNotFound, x509.DuplicateExtension, ValueError):
        return []
    return names.get_values_for_type(x509.UniformResourceIdentifier)


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
