"""What answers say of imports, as the store keeps it under a request id (`answers.py`)."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from strongroom_server.domain.imports import WrappingAlgorithm
from strongroom_server.domain.keys import ExternalMaterial

__all__ = [
    "ImportParameters",
    "decode_external",
    "decode_parameters",
    "encode_external",
    "encode_parameters",
]


@dataclass(frozen=True, slots=True)
class ImportParameters:
    """What GetImportParameters answers.

    Attributes:
        key_version: Resource name of the version that the material is for.
        algorithm: None when nothing was asked for and nothing was made (validate_only).
        public_key: DER SubjectPublicKeyInfo.
        token: See `domain/imports.py`. Of use only to who may import into this key.
        expire_time: When both end.
        material_bytes: How long the material has to be.
    """

    key_version: str
    algorithm: WrappingAlgorithm | None
    public_key: bytes
    token: bytes
    expire_time: datetime
    material_bytes: int


def encode_parameters(parameters: ImportParameters) -> list[object]:
    """Return JSON values."""
    return [
        parameters.key_version,
        parameters.algorithm,
        base64.b64encode(parameters.public_key).decode(),
        base64.b64encode(parameters.token).decode(),
        parameters.expire_time.isoformat(),
        parameters.material_bytes,
    ]


def decode_parameters(values: Sequence[Any]) -> ImportParameters:
    """Take what `encode_parameters` made."""
    name, algorithm, public_key, token, expires, size = values
    return ImportParameters(
        name,
        None if algorithm is None else WrappingAlgorithm(algorithm),
        base64.b64decode(public_key),
        base64.b64decode(token),
        datetime.fromisoformat(expires),
        size,
    )


def encode_external(external: ExternalMaterial | None) -> list[str | None] | None:
    """Return JSON values; the check value is part of no answer."""
    if external is None:
        return None
    times = (external.import_time, external.expire_time)
    return [None if time is None else time.isoformat() for time in times]


def decode_external(rest: Sequence[Any]) -> ExternalMaterial | None:
    """Take what `encode_external` made, at the head of `rest`; older answers have none."""
    if not rest or rest[0] is None:
        return None
    times = [None if time is None else datetime.fromisoformat(time) for time in rest[0]]
    return ExternalMaterial(b"", *times)
