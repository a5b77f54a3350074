"""What the calls for your own key material return and take, and how material is wrapped."""

from __future__ import annotations

import enum
import os
from dataclasses import dataclass, field
from datetime import datetime

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, keywrap, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from strongroom.receipts import Receipt
from strongroom_client.errors import ArgumentInvalidError, ResponseInvalidError

__all__ = ["ImportParameters", "WrappingAlgorithm", "wrap_key_material"]

_BETWEEN_BYTES = 32


class WrappingAlgorithm(enum.StrEnum):
    """How material is wrapped for its way into the HSM; UNKNOWN for what a newer service says.

    RSAES_OAEP: the material under RSA. RSA_AES_KW: under a fresh AES-256 key (AES key wrap,
    RFC 3394), which is under RSA. SHA_1 is for HSMs that take no other hash.
    """

    UNKNOWN = "UNKNOWN"
    RSAES_OAEP_SHA_256 = "RSAES_OAEP_SHA_256"
    RSAES_OAEP_SHA_1 = "RSAES_OAEP_SHA_1"
    RSA_AES_KW_SHA_256 = "RSA_AES_KW_SHA_256"
    RSA_AES_KW_SHA_1 = "RSA_AES_KW_SHA_1"


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportParameters:
    """What material has to be wrapped with, and the token to bring it with, once.

    Attributes:
        key_version: Resource name of the version that the material is for.
        public_key: RSA, DER SubjectPublicKeyInfo.
        wrapping_algorithm: How to wrap under it.
        import_token: For `import_key_material`.
        expire_time: When key and token end.
        material_bytes: How long the material has to be.
        receipts: Where the record of the call is.
    """

    key_version: str
    public_key: bytes
    wrapping_algorithm: WrappingAlgorithm
    import_token: bytes = field(repr=False)
    expire_time: datetime
    material_bytes: int
    receipts: tuple[Receipt, ...] = field(default=(), compare=False)


def wrap_key_material(parameters: ImportParameters, material: bytes) -> bytes:
    """Wrap material as the parameters say, with `cryptography`, in this process.

    Args:
        parameters: What `get_import_parameters` returned.
        material: Exactly ``parameters.material_bytes`` bytes, from a good source of
            randomness. Python cannot wipe them from memory: do this where you may have
            them in the clear.

    Returns:
        What `import_key_material` takes.

    Raises:
        ArgumentInvalidError: The material has another length.
        ResponseInvalidError: The parameters cannot be used.
    """
    if len(material) != parameters.material_bytes:
        raise ArgumentInvalidError.of(
            "material", "material.bytes", f"must have {parameters.material_bytes} bytes"
        )
    algorithm = parameters.wrapping_algorithm
    if algorithm is WrappingAlgorithm.UNKNOWN:
        raise ResponseInvalidError("the service asks for a wrapping that this SDK does not know")
    try:
        key = serialization.load_der_public_key(parameters.public_key)
    except (ValueError, UnsupportedAlgorithm) as exc:
        raise ResponseInvalidError("the public key to wrap under is none") from exc
    if not isinstance(key, rsa.RSAPublicKey):
        raise ResponseInvalidError("the public key to wrap under is no RSA key")
    digest: hashes.HashAlgorithm
    # SHA-1: what is broken is its collision resistance, on which OAEP does not rest (RFC
    # 8017, B.1).
    digest = hashes.SHA256() if algorithm.value.endswith("_256") else hashes.SHA1()  # noqa: S303
    oaep = padding.OAEP(padding.MGF1(digest), digest, label=None)
    if not algorithm.value.startswith("RSA_AES_KW"):
        return key.encrypt(material, oaep)
    between = os.urandom(_BETWEEN_BYTES)
    return key.encrypt(between, oaep) + keywrap.aes_key_wrap(between, material)
