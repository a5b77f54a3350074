"""Operations that bring a caller's own key material."""

from __future__ import annotations

from datetime import datetime

from google.protobuf.timestamp_pb2 import Timestamp

from strongroom.kms.v1 import import_calls_pb2 as rpc
from strongroom_client._core import Call, Operation, ask, crc32c, parse_key_name
from strongroom_client._key_calls import key_from, same_key, time_from
from strongroom_client.errors import ArgumentInvalidError, ResponseInvalidError
from strongroom_client.import_results import ImportParameters, WrappingAlgorithm
from strongroom_client.results import Key

__all__ = ["delete_imported_key_material", "get_import_parameters", "import_key_material"]

_ALGORITHMS = {
    rpc.WrappingAlgorithm.Value(f"WRAPPING_ALGORITHM_{algorithm}"): algorithm
    for algorithm in WrappingAlgorithm
    if algorithm is not WrappingAlgorithm.UNKNOWN
}
_ASKED_ALGORITHMS = {algorithm: number for number, algorithm in _ALGORITHMS.items()}


def get_import_parameters(
    key: str, *, wrapping_algorithm: WrappingAlgorithm | None, request_id: str
) -> Operation[ImportParameters]:
    """Ask for a public key and a token."""
    parsed = parse_key_name("key", key)
    if wrapping_algorithm is WrappingAlgorithm.UNKNOWN:
        raise ArgumentInvalidError.of("wrapping_algorithm", "enum.defined_only", "UNKNOWN is none")
    request = rpc.GetImportParametersRequest(
        name=key,
        wrapping_algorithm=rpc.WRAPPING_ALGORITHM_UNSPECIFIED
        if wrapping_algorithm is None
        else _ASKED_ALGORITHMS[wrapping_algorithm],
        request_id=request_id,
    )
    answer, receipts = yield from ask(
        Call(parsed.region, "GetImportParameters", request), rpc.GetImportParametersResponse
    )
    if crc32c(answer.public_key) != answer.public_key_crc32c:
        raise ResponseInvalidError("the checksum of public_key does not match")
    if not answer.key_version.startswith(f"{key}/versions/"):
        raise ResponseInvalidError(f"asked for {key}, the answer is about {answer.key_version}")
    return ImportParameters(
        key_version=answer.key_version,
        public_key=answer.public_key,
        wrapping_algorithm=_ALGORITHMS.get(answer.wrapping_algorithm, WrappingAlgorithm.UNKNOWN),
        import_token=answer.import_token,
        expire_time=time_from(answer.expire_time),
        material_bytes=answer.material_bytes,
        receipts=receipts,
    )


def import_key_material(
    key: str,
    *,
    import_token: bytes,
    encrypted_material: bytes,
    valid_to: datetime | None,
    etag: str,
    request_id: str,
) -> Operation[Key]:
    """Bring wrapped material."""
    parsed = parse_key_name("key", key)
    request = rpc.ImportKeyMaterialRequest(
        name=key,
        import_token=import_token,
        encrypted_material=encrypted_material,
        encrypted_material_crc32c=crc32c(encrypted_material),
        expiration_model=rpc.EXPIRATION_MODEL_DOES_NOT_EXPIRE
        if valid_to is None
        else rpc.EXPIRATION_MODEL_EXPIRES,
        valid_to=None if valid_to is None else _timestamp(valid_to),
        etag=etag,
        request_id=request_id,
    )
    answer, receipts = yield from ask(
        Call(parsed.region, "ImportKeyMaterial", request), rpc.ImportKeyMaterialResponse
    )
    if not answer.verified_encrypted_material_crc32c:
        raise ResponseInvalidError("the service did not check the checksum of the material")
    return same_key(key, key_from(answer.key, receipts))


def delete_imported_key_material(key: str, *, etag: str, request_id: str) -> Operation[Key]:
    """Destroy imported material."""
    parsed = parse_key_name("key", key)
    request = rpc.DeleteImportedKeyMaterialRequest(name=key, etag=etag, request_id=request_id)
    answer, receipts = yield from ask(
        Call(parsed.region, "DeleteImportedKeyMaterial", request),
        rpc.DeleteImportedKeyMaterialResponse,
    )
    return same_key(key, key_from(answer.key, receipts))


def _timestamp(time: datetime) -> Timestamp:
    if time.tzinfo is None:
        raise ArgumentInvalidError.of("valid_to", "timestamp", "must be aware of its time zone")
    message = Timestamp()
    message.FromDatetime(time)
    return message
