"""The floor of any unary call: a no-op grpc.aio server with the same TLS and sizes.

    python -m tests.bench.echo_server CERT KEY CLIENT_CA

Prints its port. It decodes a GenerateDataKeyRequest and answers a response of the size
that the service answers, under uvloop, and does nothing else.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any

import grpc
import uvloop

from strongroom.kms.v1 import key_service_pb2

RESPONSE = key_service_pb2.GenerateDataKeyResponse(
    key_version="regions/eu-1/keys/00000000-0000-4000-8000-000000000000/versions/1",
    plaintext_data_key=bytes(range(32)),
    wrapped_data_key=bytes(82),
    plaintext_data_key_crc32c=0xFFFFFFFF,
    wrapped_data_key_crc32c=0xFFFFFFFF,
)
RECEIPT = (("strongroom-receipt", "v1:eu-1:1700000000000:1:" + "0" * 64),)


async def generate_data_key(request: Any, context: Any) -> Any:
    """Do nothing, and answer the same bytes every time."""
    del request
    context.set_trailing_metadata(RECEIPT)
    return RESPONSE


async def main(certificate: bytes, key: bytes, client_ca: bytes) -> None:
    """Serve until the parent goes away."""
    server = grpc.aio.server()
    handler = grpc.unary_unary_rpc_method_handler(
        generate_data_key,
        request_deserializer=key_service_pb2.GenerateDataKeyRequest.FromString,
        response_serializer=key_service_pb2.GenerateDataKeyResponse.SerializeToString,
    )
    service = grpc.method_handlers_generic_handler(
        "strongroom.kms.v1.KeyService", {"GenerateDataKey": handler}
    )
    server.add_generic_rpc_handlers((service,))
    credentials = grpc.ssl_server_credentials(
        [(key, certificate)], client_ca, require_client_auth=True
    )
    port = server.add_secure_port("127.0.0.1:0", credentials)
    await server.start()
    sys.stdout.write(f"{port}\n")
    sys.stdout.flush()
    await asyncio.to_thread(sys.stdin.read)
    await server.stop(0)


if __name__ == "__main__":
    uvloop.run(main(*(Path(argument).read_bytes() for argument in sys.argv[1:4])))
