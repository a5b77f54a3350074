"""The methods of `AsyncKmsClient` for MAC keys and key pairs."""

from __future__ import annotations

from collections.abc import Mapping

from strongroom_client import _pair_calls
from strongroom_client._drivers import AsyncDriver
from strongroom_client.pair_results import (
    DataKeyPairSpec,
    GeneratedDataKeyPair,
    MacResult,
    PublicKeyResult,
    SharedSecretResult,
    SignResult,
    VerifyResult,
    WrappedDataKeyPair,
)
from strongroom_client.results import Algorithm

__all__ = ["AsyncPairMethods"]


class AsyncPairMethods:
    """Part of `AsyncKmsClient`."""

    driver: AsyncDriver

    async def sign(
        self,
        key: str,
        message: bytes,
        *,
        algorithm: Algorithm | None = None,
        is_digest: bool = False,
    ) -> SignResult:
        """Sign a message of at most 4,096 bytes, or the digest of one, inside the HSM.

        Args:
            key: A key for SIGN_VERIFY, or its alias.
            message: The message; for more, its digest.
            algorithm: Needed with an RSA key; others take one.
            is_digest: `message` is a digest, exactly as long as the algorithm's hash. Not for
                Ed25519.

        Raises:
            KeyUsageMismatchError: The key is for something else.
        """
        return await self.driver.run(
            _pair_calls.sign(key, message, algorithm=algorithm, is_digest=is_digest)
        )

    async def verify(
        self,
        key: str,
        message: bytes,
        signature: bytes,
        *,
        algorithm: Algorithm | None = None,
        is_digest: bool = False,
    ) -> VerifyResult:
        """Verify a signature inside the HSM; the other arguments as for `sign`.

        Raises:
            SignatureInvalidError: It does not verify. There is no answer that says so.
        """
        return await self.driver.run(
            _pair_calls.verify(key, message, signature, algorithm=algorithm, is_digest=is_digest)
        )

    async def get_public_key(self, key: str) -> PublicKeyResult:
        """Return the public key of a key pair, to verify or encrypt with elsewhere."""
        return await self.driver.run(_pair_calls.get_public_key(key))

    async def generate_mac(
        self, key: str, message: bytes, *, algorithm: Algorithm | None = None
    ) -> MacResult:
        """Make the HMAC of a message of at most 4,096 bytes inside the HSM."""
        return await self.driver.run(_pair_calls.generate_mac(key, message, algorithm=algorithm))

    async def verify_mac(
        self, key: str, message: bytes, mac: bytes, *, algorithm: Algorithm | None = None
    ) -> VerifyResult:
        """Verify an HMAC, full length, inside the HSM.

        Raises:
            MacInvalidError: It does not verify. There is no answer that says so.
        """
        return await self.driver.run(_pair_calls.verify_mac(key, message, mac, algorithm=algorithm))

    async def derive_shared_secret(self, key: str, public_key: bytes) -> SharedSecretResult:
        """Agree with another's public key (ECDH) inside the HSM.

        Args:
            key: A key for KEY_AGREEMENT, or its alias.
            public_key: The other's, DER SubjectPublicKeyInfo on the same curve. Whose it is,
                is for you to know.
        """
        return await self.driver.run(_pair_calls.derive_shared_secret(key, public_key))

    async def generate_data_key_pair(
        self, key: str, spec: DataKeyPairSpec, *, encryption_context: Mapping[str, str]
    ) -> GeneratedDataKeyPair:
        """Make a key pair for use outside: its private key in the clear, and wrapped by `key`.

        RSA_4096 takes up to several seconds.

        Raises:
            OverloadedError: Too many RSA pairs are being made.
        """
        return await self.driver.run(
            _pair_calls.generate_data_key_pair(key, spec, encryption_context=encryption_context)
        )

    async def generate_data_key_pair_without_plaintext(
        self, key: str, spec: DataKeyPairSpec, *, encryption_context: Mapping[str, str]
    ) -> WrappedDataKeyPair:
        """Make a key pair as `generate_data_key_pair`; its private key is returned wrapped only."""
        return await self.driver.run(
            _pair_calls.generate_data_key_pair_without_plaintext(
                key, spec, encryption_context=encryption_context
            )
        )
