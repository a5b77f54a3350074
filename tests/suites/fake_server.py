"""The fake service behind real gRPC with mutual TLS, to prove the SDK's transport."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime as dt
import ipaddress
from collections.abc import Callable, Iterator
from concurrent import futures
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from google.protobuf import any_pb2
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_status import rpc_status

from strongroom.kms.v1 import key_service_pb2 as rpc
from strongroom.receipts import METADATA_KEY
from strongroom_client import (
    ArgumentInvalidError,
    ClientOptions,
    Endpoint,
    StrongroomError,
    TlsFiles,
)
from strongroom_client.testing import FakeKms

__all__ = ["FakeServer", "TestCa", "rich_status"]

SERVICE = rpc.DESCRIPTOR.services_by_name["KeyService"]


class TestCa:
    """A certificate authority of a minute's life, in a directory."""

    __test__ = False

    def __init__(self, directory: Path, name: str = "ca"):
        self._directory = directory
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self.ca_file = directory / f"{name}.pem"
        certificate = self._build(self._name, self._key.public_key(), ca=True)
        self.ca_file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))

    def issue(self, name: str, *sans: x509.GeneralName) -> TlsFiles:
        """Issue a certificate with the given SANs."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        certificate = self._build(subject, key.public_key(), *sans)
        files = TlsFiles(
            self._directory / f"{name}.pem", self._directory / f"{name}.key", self.ca_file
        )
        files.certificate_file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        files.private_key_file.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )
        return files

    def _build(
        self,
        subject: x509.Name,
        key: ec.EllipticCurvePublicKey,
        *sans: x509.GeneralName,
        ca: bool = False,
    ) -> x509.Certificate:
        now = dt.datetime.now(dt.UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - dt.timedelta(minutes=1))
            .not_valid_after(now + dt.timedelta(hours=1))
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        )
        if sans:
            builder = builder.add_extension(x509.SubjectAlternativeName(sans), critical=False)
        return builder.sign(self._key, hashes.SHA256())


@dataclass(frozen=True, slots=True)
class _Handlers(grpc.GenericRpcHandler):
    region: str
    answer: Callable[[str, str, Message, Any], Message]

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        service, _, method = handler_call_details.method.removeprefix("/").rpartition("/")
        if service != SERVICE.full_name or method not in SERVICE.methods_by_name:
            return None
        request_type = GetMessageClass(SERVICE.methods_by_name[method].input_type)

        def unary(request: Message, context: grpc.ServicerContext) -> Message:
            return self.answer(self.region, method, request, context)

        return grpc.unary_unary_rpc_method_handler(
            unary,
            request_deserializer=request_type.FromString,
            response_serializer=lambda message: message.SerializeToString(),
        )


class FakeServer:
    """One gRPC server per region in front of a FakeKms; each can be stopped and started."""

    def __init__(self, fake: FakeKms, directory: Path):
        self._fake = fake
        ca = TestCa(directory)
        self._server_files = ca.issue("server", x509.IPAddress(ipaddress.ip_address("127.0.0.1")))
        uri = x509.UniformResourceIdentifier("spiffe://example.org/test")
        self.client_files = ca.issue("client", uri)
        self._servers: dict[str, grpc.Server] = {}
        self._ports = dict.fromkeys(fake.regions, 0)
        for region in fake.regions:
            self.start(region)

    def options(self, **changes: Any) -> ClientOptions:
        """Return options for a client of these servers."""
        endpoints = tuple(
            Endpoint(region, f"127.0.0.1:{port}") for region, port in self._ports.items()
        )
        options = ClientOptions(tls=self.client_files, endpoints=endpoints)
        return dataclasses.replace(options, **changes)

    def start(self, region: str) -> None:
        """Start the server of a region, on the port it had before."""
        server = grpc.server(
            futures.ThreadPoolExecutor(max_workers=4), options=(("grpc.so_reuseport", 0),)
        )
        server.add_generic_rpc_handlers((_Handlers(region, self._answer),))
        files = self._server_files
        credentials = grpc.ssl_server_credentials(
            [(files.private_key_file.read_bytes(), files.certificate_file.read_bytes())],
            root_certificates=files.ca_file.read_bytes(),
            require_client_auth=True,
        )
        address = f"127.0.0.1:{self._ports[region]}"
        self._ports[region] = server.add_secure_port(address, credentials)
        server.start()
        self._servers[region] = server

    def stop(self, region: str) -> None:
        """Stop the server of a region."""
        self._servers.pop(region).stop(grace=0).wait()

    @contextlib.contextmanager
    def down(self, region: str) -> Iterator[None]:
        """Keep a region down for the block."""
        self.stop(region)
        try:
            yield
        finally:
            self.start(region)

    def close(self) -> None:
        """Stop every server."""
        for region in list(self._servers):
            self.stop(region)

    def _answer(self, region: str, method: str, request: Message, context: Any) -> Message:
        try:
            reply = self._fake.answer(region, method, request)
        except StrongroomError as exc:
            context.set_trailing_metadata(
                (
                    *((METADATA_KEY, str(receipt)) for receipt in exc.receipts),
                    *rpc_status.to_status(rich_status(exc)).trailing_metadata,
                )
            )
            context.abort(getattr(grpc.StatusCode, exc.code), str(exc))
            raise AssertionError("abort returned") from exc
        context.set_trailing_metadata(
            tuple((METADATA_KEY, str(receipt)) for receipt in reply.receipts)
        )
        return reply.message


def rich_status(error: StrongroomError) -> status_pb2.Status:
    """Return the rich status that the service sends for an error."""
    status = status_pb2.Status(code=code_pb2.Code.Value(error.code), message=str(error))
    details: list[Message] = [
        error_details_pb2.ErrorInfo(
            reason=error.reason, domain="strongroom", metadata=dict(error.metadata)
        )
    ]
    if error.retry_after_seconds is not None:
        retry = error_details_pb2.RetryInfo()
        retry.retry_delay.FromMilliseconds(int(1000 * error.retry_after_seconds))
        details.append(retry)
    if isinstance(error, ArgumentInvalidError):
        bad_request = error_details_pb2.BadRequest()
        for violation in error.violations:
            bad_request.field_violations.add(
                field=violation.field, description=violation.description, reason=violation.rule
            )
        details.append(bad_request)
    for detail in details:
        packed = any_pb2.Any()
        packed.Pack(detail)
        status.details.append(packed)
    return status
