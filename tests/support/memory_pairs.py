"""MAC keys and key pairs of the token in memory: real ones, by the SDK's fake."""

from __future__ import annotations

from strongroom_client import _fake_pairs as pairs
from strongroom_client import errors as refusals
from strongroom_server.domain.algorithms import Algorithm
from strongroom_server.domain.keys import KeyMaterial, KeyVersionRef
from strongroom_server.errors import (
    ArgumentInvalidError,
    CiphertextInvalidError,
    HsmUnavailableError,
    MacInvalidError,
    SignatureInvalidError,
)


class MemoryPairs:
    """Implements PairToken; the owner counts operations and has the faults."""

    region: str
    others: dict[KeyVersionRef, bytes]
    """Material of every key that is not for AES."""

    def _operate(self) -> None:
        raise NotImplementedError

    def _other(self, material: KeyMaterial) -> bytes:
        self._operate()
        found = self.others.get(material.ref)
        if found is None:
            raise HsmUnavailableError(self.region, "does not show a version")
        return found

    async def public_key(self, material: KeyMaterial, *, deadline: float) -> bytes:
        del deadline
        return pairs.public_key(self._other(material))

    async def sign(
        self,
        material: KeyMaterial,
        algorithm: Algorithm,
        message: bytes,
        *,
        is_digest: bool = False,
        deadline: float,
    ) -> bytes:
        del deadline
        return pairs.sign(self._other(material), algorithm, message, is_digest=is_digest)

    async def verify(
        self,
        material: KeyMaterial,
        algorithm: Algorithm,
        message: bytes,
        signature: bytes,
        *,
        is_digest: bool = False,
        deadline: float,
    ) -> None:
        del deadline
        try:
            pairs.verify(self._other(material), algorithm, message, signature, is_digest=is_digest)
        except refusals.SignatureInvalidError:
            raise SignatureInvalidError from None

    async def generate_mac(
        self, material: KeyMaterial, algorithm: Algorithm, message: bytes, *, deadline: float
    ) -> bytes:
        del deadline
        return pairs.generate_mac(self._other(material), algorithm, message)

    async def verify_mac(
        self,
        material: KeyMaterial,
        algorithm: Algorithm,
        message: bytes,
        mac: bytes,
        *,
        deadline: float,
    ) -> None:
        del deadline
        try:
            pairs.verify_mac(self._other(material), algorithm, message, mac)
        except refusals.MacInvalidError:
            raise MacInvalidError from None

    async def derive_shared_secret(
        self, material: KeyMaterial, public_key: bytes, *, deadline: float
    ) -> bytes:
        del deadline
        try:
            return pairs.agree(self._other(material), public_key)
        except refusals.ArgumentInvalidError as exc:
            raise ArgumentInvalidError.of("public_key", "hsm.argument", str(exc)) from None

    async def rsa_encrypt(
        self, material: KeyMaterial, algorithm: Algorithm, plaintext: bytes, *, deadline: float
    ) -> bytes:
        del deadline
        return pairs.oaep_encrypt(self._other(material), algorithm, plaintext)

    async def rsa_decrypt(
        self, material: KeyMaterial, algorithm: Algorithm, ciphertext: bytes, *, deadline: float
    ) -> bytes:
        del deadline
        try:
            return pairs.oaep_decrypt(self._other(material), algorithm, ciphertext)
        except refusals.CiphertextInvalidError:
            raise CiphertextInvalidError from None
