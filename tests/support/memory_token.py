"""An HSM token in this process: real AES-256-GCM and AES key wrap, no PKCS#11."""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass, field

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.keywrap import InvalidUnwrap, aes_key_unwrap, aes_key_wrap
from tests.support.memory_imports import MemoryImportToken
from tests.support.memory_pairs import MemoryPairs

from strongroom.kms.v1 import resources_pb2
from strongroom_client._fake_pairs import make_material
from strongroom_server.domain.keys import (
    KeyMaterial,
    KeySpec,
    KeyUsage,
    KeyVersionRef,
    WrappedMaterial,
)
from strongroom_server.errors import (
    CiphertextInvalidError,
    HsmUnavailableError,
    KeySpecUnsupportedError,
)


@dataclass
class MemoryToken(MemoryPairs, MemoryImportToken):
    """Keys of every kind but EC_SECP256K1.

    `fault` and `delay_seconds` are as long as they are set.
    """

    region: str
    materials: dict[KeyVersionRef, AESGCM] = field(default_factory=dict)
    others: dict[KeyVersionRef, bytes] = field(default_factory=dict)
    roots: dict[int, bytes] = field(default_factory=dict)
    operations: int = 0
    fault: Exception | None = None
    delay_seconds: float = 0.0

    async def create_version(
        self,
        ref: KeyVersionRef,
        *,
        spec: KeySpec,
        usage: KeyUsage,
        root: int | None,
        deadline: float,
    ) -> KeyMaterial:
        del deadline
        self._operate()
        await asyncio.sleep(0)
        if spec is KeySpec.EC_SECP256K1:
            raise KeySpecUnsupportedError(self.region, f"{spec} for {usage}")
        if spec is not KeySpec.AES_256:
            if root is not None:
                raise KeySpecUnsupportedError(self.region, f"{spec} in wrapped storage")
            number = resources_pb2.KeySpec.Value(f"KEY_SPEC_{spec}")
            self.others.setdefault(ref, make_material(number, os.urandom))
            return KeyMaterial(ref, spec, usage)
        if root is None:
            self.materials.setdefault(ref, AESGCM(AESGCM.generate_key(256)))
            return KeyMaterial(ref, spec, usage)
        wrapped = aes_key_wrap(self._root(root), AESGCM.generate_key(256))
        return KeyMaterial(ref, spec, usage, WrappedMaterial(root, wrapped))

    async def destroy_version(self, material: KeyMaterial, *, deadline: float) -> None:
        del deadline
        self._operate()
        await asyncio.sleep(0)
        self.materials.pop(material.ref, None)
        self.others.pop(material.ref, None)

    async def create_root(self, root: int, *, deadline: float) -> None:
        del deadline
        self._operate()
        await asyncio.sleep(0)
        self.roots.setdefault(root, os.urandom(32))

    async def rewrap(self, material: KeyMaterial, root: int, *, deadline: float) -> WrappedMaterial:
        del deadline
        self._operate()
        await asyncio.sleep(0)
        if material.wrapped is None:
            raise ValueError("a resident version cannot be re-wrapped")
        return WrappedMaterial(root, aes_key_wrap(self._root(root), self._unwrap(material.wrapped)))

    async def encrypt(
        self, material: KeyMaterial, plaintext: bytes, aad: bytes, *, deadline: float
    ) -> bytes:
        del deadline
        await asyncio.sleep(self.delay_seconds)
        iv = os.urandom(12)
        return iv + self._use(material).encrypt(iv, plaintext, aad)

    async def decrypt(
        self, material: KeyMaterial, sealed: bytes, aad: bytes, *, deadline: float
    ) -> bytes:
        del deadline
        try:
            return self._use(material).decrypt(sealed[:12], sealed[12:], aad)
        except InvalidTag:
            raise CiphertextInvalidError from None

    async def reencrypt(
        self,
        source: KeyMaterial,
        sealed: bytes,
        source_aad: bytes,
        destination: KeyMaterial,
        destination_aad: bytes,
        *,
        deadline: float,
    ) -> bytes:
        plaintext = await self.decrypt(source, sealed, source_aad, deadline=deadline)
        return await self.encrypt(destination, plaintext, destination_aad, deadline=deadline)

    async def generate_data_key(
        self, material: KeyMaterial, number_of_bytes: int, aad: bytes, *, deadline: float
    ) -> tuple[bytes, bytes]:
        data_key = os.urandom(number_of_bytes)
        return data_key, await self.encrypt(material, data_key, aad, deadline=deadline)

    async def generate_sealed_data_key(
        self, material: KeyMaterial, number_of_bytes: int, aad: bytes, *, deadline: float
    ) -> bytes:
        return (await self.generate_data_key(material, number_of_bytes, aad, deadline=deadline))[1]

    async def generate_random(self, number_of_bytes: int, *, deadline: float) -> bytes:
        del deadline
        self._operate()
        return os.urandom(number_of_bytes)

    def _use(self, material: KeyMaterial) -> AESGCM:
        self._operate()
        if material.wrapped is not None:
            return AESGCM(self._unwrap(material.wrapped))
        resident = self.materials.get(material.ref)
        if resident is None:
            raise HsmUnavailableError(self.region, "does not show a version")
        return resident

    def _operate(self) -> None:
        self.operations += 1
        if self.fault is not None:
            raise self.fault

    def _root(self, number: int) -> bytes:
        root = self.roots.get(number)
        if root is None:
            raise HsmUnavailableError(self.region, "does not show a root")
        return root

    def _unwrap(self, wrapped: WrappedMaterial) -> bytes:
        try:
            return aes_key_unwrap(self._root(wrapped.root), wrapped.wrapped)
        except InvalidUnwrap:
            raise HsmUnavailableError(self.region, "wrapped material is damaged") from None
