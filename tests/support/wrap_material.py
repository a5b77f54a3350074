"""Material wrapped as a customer would: with `cryptography`, from docs/key-import.md alone."""

from __future__ import annotations

import os
from typing import cast

from cryptography.hazmat.primitives import hashes, keywrap, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from strongroom_server.domain.imports import WrappingAlgorithm

__all__ = ["wrap_material"]


def wrap_material(public_key: bytes, algorithm: WrappingAlgorithm, material: bytes) -> bytes:
    """Wrap material under a public key, DER SubjectPublicKeyInfo."""
    key = cast("rsa.RSAPublicKey", serialization.load_der_public_key(public_key))
    digest = hashes.SHA256() if algorithm.value.endswith("256") else hashes.SHA1()  # noqa: S303 - OAEP, RFC 8017 B.1
    oaep = padding.OAEP(padding.MGF1(digest), digest, label=None)
    if not algorithm.value.startswith("RSA_AES_KW"):
        return key.encrypt(material, oaep)
    between = os.urandom(32)
    return key.encrypt(between, oaep) + keywrap.aes_key_wrap(between, material)
