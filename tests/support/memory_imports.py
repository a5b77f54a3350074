"""Imports over ports in memory: real RSA and AES key wrap, and tokens in a dict."""

from __future__ import annotations

import asyncio
import dataclasses
import hmac
import uuid
from collections.abc import Sequence
from datetime import datetime
from functools import cached_property
from typing import Any

from cryptography.hazmat.primitives import hashes, keywrap, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from strongroom_server.domain.imports import (
    MATERIAL_BYTES,
    IssuedToken,
    TokenState,
    WrappingAlgorithm,
)
from strongroom_server.domain.keys import Key, KeyMaterial, KeySpec, KeyVersionRef, WrappedMaterial
from strongroom_server.errors import (
    CiphertextInvalidError,
    EtagMismatchError,
    HsmUnavailableError,
    KeySpecUnsupportedError,
)
from strongroom_server.import_ports import ImportedMaterial, WrappingKey

__all__ = ["MemoryImportStore", "MemoryImportToken"]


class MemoryImportToken:
    """Part of `MemoryToken`. RSA of 2,048 bits, because tests have little time; SHA-1 alone."""

    region: str
    materials: dict[KeyVersionRef, AESGCM]
    others: dict[KeyVersionRef, bytes]
    _operate: Any
    _root: Any

    @cached_property
    def wrapping_keys(self) -> dict[uuid.UUID, rsa.RSAPrivateKey]:
        """The wrapping keys on the token."""
        return {}

    async def create_wrapping_key(
        self, transfer_id: uuid.UUID, algorithm: WrappingAlgorithm | None, *, deadline: float
    ) -> WrappingKey:
        del deadline
        self._operate()
        await asyncio.sleep(0)
        algorithm = algorithm or WrappingAlgorithm.RSA_AES_KW_SHA_1
        if algorithm.value.endswith("256"):
            raise KeySpecUnsupportedError(self.region, algorithm)
        if transfer_id not in self.wrapping_keys:
            self.wrapping_keys[transfer_id] = rsa.generate_private_key(65537, 2048)
        public = self.wrapping_keys[transfer_id].public_key()
        return WrappingKey(
            algorithm,
            public.public_bytes(
                serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
            ),
        )

    async def destroy_wrapping_key(self, transfer_id: uuid.UUID, *, deadline: float) -> None:
        del deadline
        self._operate()
        await asyncio.sleep(0)
        self.wrapping_keys.pop(transfer_id, None)

    async def import_external(
        self,
        material: KeyMaterial,
        encrypted: bytes,
        *,
        transfer_id: uuid.UUID,
        algorithm: WrappingAlgorithm,
        root: int | None,
        check: bytes,
        keep: bool,
        deadline: float,
    ) -> ImportedMaterial | None:
        del deadline
        self._operate()
        await asyncio.sleep(0)
        private = self.wrapping_keys.get(transfer_id)
        if private is None:
            raise HsmUnavailableError(self.region, "does not show a wrapping key")
        value = _unwrap(private, algorithm, encrypted)
        if len(value) != MATERIAL_BYTES[material.spec]:
            raise CiphertextInvalidError
        made = hmac.digest(value, material.ref.to_bytes(), "sha256")
        if check and check != made:
            return None
        wrapped = None
        if keep and root is not None:
            wrapped = WrappedMaterial(root, keywrap.aes_key_wrap(self._root(root), value))
        elif keep and material.spec is KeySpec.AES_256:
            self.materials[material.ref] = AESGCM(value)
        elif keep:
            self.others[material.ref] = value
        return ImportedMaterial(made, wrapped)


def _unwrap(private: rsa.RSAPrivateKey, algorithm: WrappingAlgorithm, data: bytes) -> bytes:
    oaep = padding.OAEP(padding.MGF1(hashes.SHA1()), hashes.SHA1(), label=None)  # noqa: S303 - RFC 8017, B.1
    size = private.key_size // 8
    try:
        first = private.decrypt(data[:size], oaep)
        if not algorithm.has_key_wrap:
            return first if len(data) == size else b""
        return keywrap.aes_key_unwrap(first, data[size:])
    except (ValueError, keywrap.InvalidUnwrap):
        raise CiphertextInvalidError from None


class MemoryImportStore:
    """Part of `MemoryStore`."""

    keys: dict[uuid.UUID, Key]

    @cached_property
    def import_tokens(self) -> dict[bytes, IssuedToken]:
        """Every token, by its SHA-256."""
        return {}

    def issue(self, token: IssuedToken) -> None:
        """Keep a new token."""
        if any(
            each.state is TokenState.OPEN and each.key_id == token.key_id
            for each in self.import_tokens.values()
        ):
            raise EtagMismatchError("import token")
        self.import_tokens[token.token_sha256] = token

    def use(self, token_sha256: bytes) -> None:
        """Use the token of an import that succeeded."""
        if self.import_tokens[token_sha256].state is not TokenState.OPEN:
            raise EtagMismatchError("import token")
        self._change(token_sha256, state=TokenState.USED)

    async def find_import(self, token_sha256: bytes) -> IssuedToken | None:
        await asyncio.sleep(0)
        return self.import_tokens.get(token_sha256)

    async def count_imports(self) -> int:
        await asyncio.sleep(0)
        return sum(not each.wrapping_key_gone for each in self.import_tokens.values())

    async def replace_imports(self, key_id: uuid.UUID) -> Sequence[IssuedToken]:
        await asyncio.sleep(0)
        for each in [each for each in self.import_tokens.values() if each.key_id == key_id]:
            if each.state is TokenState.OPEN:
                self._change(each.token_sha256, state=TokenState.REPLACED)
        return [
            each
            for each in self.import_tokens.values()
            if each.key_id == key_id and not each.wrapping_key_gone
        ]

    async def claim_import(self, token_sha256: bytes, claim: bytes) -> bool:
        await asyncio.sleep(0)
        token = self.import_tokens.get(token_sha256)
        if token is None or token.state is not TokenState.OPEN or token.claim not in {b"", claim}:
            return False
        self._change(token_sha256, claim=claim)
        return True

    async def end_import(self, token_sha256: bytes) -> None:
        await asyncio.sleep(0)
        if self.import_tokens[token_sha256].state is TokenState.OPEN:
            self._change(token_sha256, state=TokenState.USED)

    async def ended_imports(self, *, now: datetime, limit: int) -> Sequence[IssuedToken]:
        await asyncio.sleep(0)
        return [
            each
            for each in self.import_tokens.values()
            if not each.wrapping_key_gone
            and (each.state is not TokenState.OPEN or each.expire_time <= now)
        ][:limit]

    async def forget_wrapping_key(self, token_sha256: bytes) -> None:
        await asyncio.sleep(0)
        self._change(token_sha256, wrapping_key_gone=True)

    async def expired_materials(self, *, now: datetime, limit: int) -> Sequence[Key]:
        await asyncio.sleep(0)
        return [
            key
            for key in self.keys.values()
            for version in key.versions
            if version.external is not None
            and version.external.expire_time is not None
            and version.external.expire_time <= now
        ][:limit]

    def _change(self, token_sha256: bytes, **changes: Any) -> None:
        self.import_tokens[token_sha256] = dataclasses.replace(
            self.import_tokens[token_sha256], **changes
        )
