"""KeyService's methods for material that callers bring: parse, call, format."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final

from strongroom.kms.v1 import import_calls_pb2 as messages
from strongroom_server.domain.imports import WrappingAlgorithm
from strongroom_server.errors import ArgumentInvalidError
from strongroom_server.rpc import convert
from strongroom_server.rpc.call import Call
from strongroom_server.services.changes import ChangeRequest
from strongroom_server.services.key_import import KeyImport, NewMaterial

__all__ = ["KeyImportMethods"]

_ALGORITHMS: Final = {
    WrappingAlgorithm.RSAES_OAEP_SHA_256: messages.WRAPPING_ALGORITHM_RSAES_OAEP_SHA_256,
    WrappingAlgorithm.RSAES_OAEP_SHA_1: messages.WRAPPING_ALGORITHM_RSAES_OAEP_SHA_1,
    WrappingAlgorithm.RSA_AES_KW_SHA_256: messages.WRAPPING_ALGORITHM_RSA_AES_KW_SHA_256,
    WrappingAlgorithm.RSA_AES_KW_SHA_1: messages.WRAPPING_ALGORITHM_RSA_AES_KW_SHA_1,
}
_ASKED_ALGORITHMS: Final = {number: algorithm for algorithm, number in _ALGORITHMS.items()}


class KeyImportMethods:
    """Part of KeyService; the names are those of gRPC methods."""

    def __init__(self, *, imports: KeyImport) -> None:
        """Take the service; holds no state of its own."""
        self._imports = imports

    async def GetImportParameters(  # noqa: N802 - see the class
        self, request: messages.GetImportParametersRequest, call: Call
    ) -> messages.GetImportParametersResponse:
        call.key = request.name
        made, receipt = await self._imports.get_parameters(
            call.caller(request.request_id),
            convert.key_name("name", request.name),
            _ASKED_ALGORITHMS.get(request.wrapping_algorithm),
            ChangeRequest(request.request_id, "", request.validate_only),
        )
        call.receipts.append(receipt)
        algorithm = made.algorithm
        return messages.GetImportParametersResponse(
            key_version=made.key_version,
            public_key=made.public_key,
            public_key_crc32c=convert.crc32c(made.public_key),
            wrapping_algorithm=(
                messages.WRAPPING_ALGORITHM_UNSPECIFIED
                if algorithm is None
                else _ALGORITHMS[algorithm]
            ),
            import_token=made.token,
            expire_time=convert.timestamp(made.expire_time),
            material_bytes=made.material_bytes,
        )

    async def ImportKeyMaterial(  # noqa: N802
        self, request: messages.ImportKeyMaterialRequest, call: Call
    ) -> messages.ImportKeyMaterialResponse:
        call.key = request.name
        given = (
            request.encrypted_material_crc32c
            if request.HasField("encrypted_material_crc32c")
            else None
        )
        verified = convert.check_crc32c(
            "encrypted_material", request.encrypted_material, given=given
        )
        key, receipt = await self._imports.import_material(
            call.caller(request.request_id),
            convert.key_name("name", request.name),
            NewMaterial(request.import_token, request.encrypted_material, _end_of(request)),
            ChangeRequest(request.request_id, request.etag, request.validate_only),
        )
        call.receipts.append(receipt)
        return messages.ImportKeyMaterialResponse(
            key=convert.key_message(key),
            key_version=convert.version_message(key, key.versions[-1]),
            verified_encrypted_material_crc32c=verified,
        )

    async def DeleteImportedKeyMaterial(  # noqa: N802
        self, request: messages.DeleteImportedKeyMaterialRequest, call: Call
    ) -> messages.DeleteImportedKeyMaterialResponse:
        call.key = request.name
        key, receipt = await self._imports.delete_material(
            call.caller(request.request_id),
            convert.key_name("name", request.name),
            ChangeRequest(request.request_id, request.etag, request.validate_only),
        )
        call.receipts.append(receipt)
        return messages.DeleteImportedKeyMaterialResponse(key=convert.key_message(key))


def _end_of(request: messages.ImportKeyMaterialRequest) -> datetime | None:
    """Return when the material ends; that it goes with EXPIRES alone was checked before."""
    if not request.HasField("valid_to"):
        return None
    try:
        return request.valid_to.ToDatetime(tzinfo=UTC)
    except ValueError as exc:
        raise ArgumentInvalidError.of("valid_to", "timestamp", "is no time") from exc
