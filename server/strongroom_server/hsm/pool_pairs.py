"""What can be asked of a session pool: MACs, key pairs (`pair_ports.PairToken`), and export.

Like those of `pool_operations`, these operations have no side effects and may be sent to
any worker.
"""

from __future__ import annotations

from typing import Final

from strongroom_server.domain.algorithms import Algorithm
from strongroom_server.domain.keys import KeyMaterial
from strongroom_server.errors import (
    ArgumentInvalidError,
    CiphertextInvalidError,
    MacInvalidError,
    SignatureInvalidError,
)
from strongroom_server.hsm.key_kinds import kind_of
from strongroom_server.hsm.pool_operations import PoolOperations, to_wire
from strongroom_server.hsm.wire import Operation
from strongroom_server.hsm.wire_operations import MAX_PUBLIC_KEY_BYTES, MAX_RSA_BYTES

__all__ = ["PoolPairs"]

_MIN_RSA_BYTES: Final = 256
_MAX_MAC_BYTES: Final = 64


class PoolPairs(PoolOperations):
    """Operations on MAC keys and key pairs. Messages have at most 4,096 bytes."""

    async def public_key(self, material: KeyMaterial, *, deadline: float) -> bytes:
        """Return the public key of a pair, DER SubjectPublicKeyInfo.

        Raises:
            KeySpecUnsupportedError: The HSM has no such keys.
        """
        answer = await self._dispatcher.submit(
            Operation.PUBLIC_KEY, deadline, key=to_wire(material)
        )
        return answer.second

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

        Raises:
            ArgumentInvalidError: The algorithm is none of this key's, or the digest has
                another length than the algorithm's.
            KeySpecUnsupportedError: The HSM has no such keys, or not this algorithm.
        """
        _check_algorithm(material, algorithm, is_digest=is_digest)
        answer = await self._dispatcher.submit(
            Operation.SIGN_DIGEST if is_digest else Operation.SIGN,
            deadline,
            key=to_wire(material),
            number=algorithm,
            data=message,
        )
        return answer.second

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
        """Verify what `sign` returns; raises as it does.

        Raises:
            SignatureInvalidError: It does not verify.
        """
        _check_algorithm(material, algorithm, is_digest=is_digest)
        if not 0 < len(signature) <= MAX_RSA_BYTES:
            raise SignatureInvalidError
        await self._dispatcher.submit(
            Operation.VERIFY_DIGEST if is_digest else Operation.VERIFY,
            deadline,
            key=to_wire(material),
            number=algorithm,
            data=message,
            aad=signature,
        )

    async def generate_mac(
        self, material: KeyMaterial, algorithm: Algorithm, message: bytes, *, deadline: float
    ) -> bytes:
        """Return the HMAC of a message, full length; raises as `sign`."""
        _check_algorithm(material, algorithm)
        answer = await self._dispatcher.submit(
            Operation.MAC, deadline, key=to_wire(material), number=algorithm, data=message
        )
        return answer.second

    async def verify_mac(
        self,
        material: KeyMaterial,
        algorithm: Algorithm,
        message: bytes,
        mac: bytes,
        *,
        deadline: float,
    ) -> None:
        """Verify an HMAC, full length; raises as `sign`.

        Raises:
            MacInvalidError: It does not verify.
        """
        _check_algorithm(material, algorithm)
        if not 0 < len(mac) <= _MAX_MAC_BYTES:
            raise MacInvalidError
        await self._dispatcher.submit(
            Operation.VERIFY_MAC,
            deadline,
            key=to_wire(material),
            number=algorithm,
            data=message,
            aad=mac,
        )

    async def derive_shared_secret(
        self, material: KeyMaterial, public_key: bytes, *, deadline: float
    ) -> bytes:
        """Return the ECDH shared secret with another's public key.

        The x coordinate, as long as the field (SP 800-56A, 5.7.1.2); derive keys from it.

        Args:
            material: A key for KEY_AGREEMENT.
            public_key: DER SubjectPublicKeyInfo on the same curve.
            deadline: See `ports.HsmToken`.

        Raises:
            ArgumentInvalidError: It is no public key of the same curve.
            KeySpecUnsupportedError: The HSM has no such keys.
        """
        _check_public_key(public_key)
        answer = await self._dispatcher.submit(
            Operation.AGREE, deadline, key=to_wire(material), data=public_key
        )
        return answer.first

    async def rsa_encrypt(
        self, material: KeyMaterial, algorithm: Algorithm, plaintext: bytes, *, deadline: float
    ) -> bytes:
        """Encrypt by RSAES-OAEP, at most what the modulus has room for; raises as `sign`."""
        _check_algorithm(material, algorithm)
        answer = await self._dispatcher.submit(
            Operation.RSA_ENCRYPT,
            deadline,
            key=to_wire(material),
            number=algorithm,
            data=plaintext,
        )
        return answer.second

    async def rsa_decrypt(
        self, material: KeyMaterial, algorithm: Algorithm, ciphertext: bytes, *, deadline: float
    ) -> bytes:
        """Decrypt RSAES-OAEP; raises as `sign`.

        Raises:
            CiphertextInvalidError: It does not decrypt.
        """
        _check_algorithm(material, algorithm)
        if not _MIN_RSA_BYTES <= len(ciphertext) <= MAX_RSA_BYTES:
            raise CiphertextInvalidError
        answer = await self._dispatcher.submit(
            Operation.RSA_DECRYPT,
            deadline,
            key=to_wire(material),
            number=algorithm,
            data=ciphertext,
        )
        return answer.first

    async def export_material(
        self,
        material: KeyMaterial,
        public_key: bytes,
        algorithm: Algorithm,
        *,
        deadline: float,
    ) -> bytes:
        """Return wrapped material as a transfer blob (docs/formats/key-transfer-v1.md).

        Args:
            material: Of wrapped storage.
            public_key: The target's, from its `create_transfer_key`. Whoever holds its
                private half gets the key: the caller has made sure whose it is.
            algorithm: What the target said with it.
            deadline: See `ports.HsmToken`.

        Raises:
            ArgumentInvalidError: The public key is none to wrap under, or the material is
                resident.
            KeySpecUnsupportedError: The HSM cannot do this.
        """
        _check_public_key(public_key)
        if material.wrapped is None:
            raise ArgumentInvalidError.of(
                "key", "hsm.wrapped", "is a token object, which never leaves its HSM"
            )
        answer = await self._dispatcher.submit(
            Operation.EXPORT,
            deadline,
            key=to_wire(material),
            number=algorithm,
            data=public_key,
        )
        return answer.second


def _check_public_key(public_key: bytes) -> None:
    if not 0 < len(public_key) <= MAX_PUBLIC_KEY_BYTES:
        raise ArgumentInvalidError.of(
            "public_key", "hsm.length", f"must have 1 to {MAX_PUBLIC_KEY_BYTES} bytes"
        )


def _check_algorithm(
    material: KeyMaterial, algorithm: Algorithm, *, is_digest: bool = False
) -> None:
    kind = kind_of(material.spec, material.usage)
    if kind is None or algorithm not in kind.algorithms:
        raise ArgumentInvalidError.of(
            "algorithm",
            "hsm.algorithm",
            f"{algorithm.name} is no algorithm of {material.spec} keys for {material.usage}",
        )
    if is_digest and algorithm is Algorithm.ED25519:
        raise ArgumentInvalidError.of(
            "message_type", "hsm.digest", "Ed25519 signs messages, not digests (RFC 8032, 5.1)"
        )
