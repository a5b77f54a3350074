"""Makes key pairs for use outside the HSM, in this process.

Their private keys are to leave in the clear, now or after Decrypt, so there is nothing for an
HSM to keep: what counts is their randomness, and that they lie in memory for a moment only
(docs/threat-model.md, Data keys and data key pairs). PKCS#11 gives a private key out in the
clear from few modules, and every one in another form.

    EC        d = (c mod (n - 1)) + 1 of 64 bits more than the order's, from the HSM
              (FIPS 186-5, A.2.1)
    Ed25519   the seed, from the HSM (RFC 8032, 5.1.5)
    RSA       OpenSSL (FIPS 186-5, A.1), from the operating system's random numbers
"""

from __future__ import annotations

import asyncio
import enum
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Final

from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from strongroom_server.errors import OverloadedError

if TYPE_CHECKING:
    from strongroom_server.ports import Clock

__all__ = ["DataKeyPairSpec", "PairMaker"]

RSA_EXPONENT: Final = 65537
# A pair of RSA_4096 takes a core for a fifth of a second to several seconds.
MAX_RSA_AT_ONCE: Final = 2
_EXTRA_BITS: Final = 64

Random = Callable[[int], Awaitable[bytes]]
_PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey


class DataKeyPairSpec(enum.StrEnum):
    """Kinds of pairs for use outside; the names of the API's enum."""

    RSA_2048 = "RSA_2048"
    RSA_3072 = "RSA_3072"
    RSA_4096 = "RSA_4096"
    EC_P256 = "EC_P256"
    EC_P384 = "EC_P384"
    EC_P521 = "EC_P521"
    EC_SECP256K1 = "EC_SECP256K1"
    ED25519 = "ED25519"


_CURVES: Final[dict[DataKeyPairSpec, ec.EllipticCurve]] = {
    DataKeyPairSpec.EC_P256: ec.SECP256R1(),
    DataKeyPairSpec.EC_P384: ec.SECP384R1(),
    DataKeyPairSpec.EC_P521: ec.SECP521R1(),
    DataKeyPairSpec.EC_SECP256K1: ec.SECP256K1(),
}


class PairMaker:
    """Makes pairs, few of the slow ones at once. Owned by the event loop."""

    def __init__(self, clock: Clock, *, max_rsa_at_once: int = MAX_RSA_AT_ONCE) -> None:
        """Take the clock that deadlines are of."""
        self._clock = clock
        self._slots = asyncio.Semaphore(max_rsa_at_once)

    async def make(
        self, spec: DataKeyPairSpec, random: Random, *, deadline: float
    ) -> tuple[bytes, bytes]:
        """Make a pair.

        Args:
            spec: Which kind.
            random: Returns random bytes from the HSM.
            deadline: In seconds of the clock; only RSA takes long.

        Returns:
            DER SubjectPublicKeyInfo, and DER PrivateKeyInfo (PKCS#8), unencrypted.

        Raises:
            OverloadedError: No RSA pair by the deadline: too many are being made.
            HsmUnavailableError: Raised by `random`.
        """
        key: _PrivateKey
        if spec in _CURVES:
            curve = _CURVES[spec]
            order = curve.group_order
            c = await random((order.bit_length() + _EXTRA_BITS + 7) // 8)
            key = ec.derive_private_key(int.from_bytes(c, "big") % (order - 1) + 1, curve)
        elif spec is DataKeyPairSpec.ED25519:
            key = ed25519.Ed25519PrivateKey.from_private_bytes(await random(32))
        else:
            key = await self._make_rsa(int(spec.removeprefix("RSA_")), deadline)
        public = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        return public, key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())

    async def _make_rsa(self, bits: int, deadline: float) -> rsa.RSAPrivateKey:
        # In a thread: OpenSSL lets the interpreter go meanwhile. It cannot be stopped, so
        # the place is free again when the thread is done, not when the caller has gone.
        try:
            async with asyncio.timeout(max(0.0, deadline - self._clock.monotonic())):
                await self._slots.acquire()
                work = asyncio.ensure_future(
                    asyncio.to_thread(rsa.generate_private_key, RSA_EXPONENT, bits)
                )
                work.add_done_callback(lambda _: self._slots.release())
                return await asyncio.shield(work)
        except TimeoutError:
            raise OverloadedError(
                "too many RSA key pairs are being made", retry_after_seconds=1.0
            ) from None
