"""What the services need of an HSM beyond symmetric encryption: MACs and key pairs.

Part of `ports.HsmToken`, whose rules hold here too: every method raises
HsmUnavailableError when the HSM fails, does not answer by `deadline`, or does not show a
version that the caller knows to exist; and KeySpecUnsupportedError when it has no such keys,
or not this algorithm. No method has side effects.

The caller has checked that the key takes the algorithm, that messages have at most 4,096
bytes, and that a digest has the algorithm's length.
"""

from __future__ import annotations

from typing import Protocol

from strongroom_server.domain.algorithms import Algorithm
from strongroom_server.domain.keys import KeyMaterial

__all__ = ["PairToken"]


class PairToken(Protocol):
    """Operations on MAC keys and key pairs of one shard's HSM."""

    async def public_key(self, material: KeyMaterial, *, deadline: float) -> bytes:
        """Return the public key of a pair, DER SubjectPublicKeyInfo."""
        ...

    async def sign(
        self,
        material: KeyMaterial,
        algorithm: Algorithm,
        message: bytes,
        *,
        is_digest: bool = False,
        deadline: float,
    ) -> bytes:
        """Sign a message, or its digest.

        Returns:
            RSA: as long as the modulus; ECDSA: DER (RFC 3279, 2.2.3); Ed25519: 64 bytes.
        """
        ...

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
        """Verify what `sign` returns, of any length.

        Raises:
            SignatureInvalidError: It does not verify (and the HSM is well).
        """
        ...

    async def generate_mac(
        self, material: KeyMaterial, algorithm: Algorithm, message: bytes, *, deadline: float
    ) -> bytes:
        """Return the HMAC of a message, full length."""
        ...

    async def verify_mac(
        self,
        material: KeyMaterial,
        algorithm: Algorithm,
        message: bytes,
        mac: bytes,
        *,
        deadline: float,
    ) -> None:
        """Verify an HMAC, full length, in constant time.

        Raises:
            MacInvalidError: It does not verify.
        """
        ...

    async def derive_shared_secret(
        self, material: KeyMaterial, public_key: bytes, *, deadline: float
    ) -> bytes:
        """Return the ECDH shared secret, as long as the field (SP 800-56A, 5.7.1.2).

        Raises:
            ArgumentInvalidError: `public_key` is no SubjectPublicKeyInfo on the same curve.
        """
        ...

    async def rsa_encrypt(
        self, material: KeyMaterial, algorithm: Algorithm, plaintext: bytes, *, deadline: float
    ) -> bytes:
        """Encrypt by RSAES-OAEP what there is room for in the modulus."""
        ...

    async def rsa_decrypt(
        self, material: KeyMaterial, algorithm: Algorithm, ciphertext: bytes, *, deadline: float
    ) -> bytes:
        """Decrypt RSAES-OAEP.

        Raises:
            CiphertextInvalidError: It does not decrypt; nobody is told why.
        """
        ...
