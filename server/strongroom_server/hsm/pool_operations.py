"""What services ask of a session pool, as requests to its workers (`ports.HsmToken`).

Nothing here has side effects: every operation may be sent to any worker, and to another
when the first is lost.
"""

from __future__ import annotations

from typing import Final

from strongroom_server.domain.keys import KeyMaterial, KeyOrigin, WrappedMaterial
from strongroom_server.errors import CiphertextInvalidError
from strongroom_server.hsm.dispatch import Dispatcher
from strongroom_server.hsm.wire import NO_KEY, Operation, WireKey
from strongroom_server.hsm.wire_operations import (
    ORIGIN_EXTERNAL,
    ORIGIN_HSM,
    SPEC_NUMBERS,
    USAGE_NUMBERS,
)

__all__ = ["PoolOperations", "to_root", "to_wire"]

_MIN_SEALED_BYTES: Final = 29  # docs/formats/ciphertext-blob-v1.md
_MAX_SEALED_BYTES: Final = 4124


def to_wire(material: KeyMaterial) -> WireKey:
    """Return what names material to a worker."""
    wrapped = material.wrapped
    return WireKey(
        material.ref.to_bytes(),
        SPEC_NUMBERS[material.spec],
        USAGE_NUMBERS[material.usage],
        wrapped.root if wrapped else 0,
        wrapped.wrapped if wrapped else b"",
        ORIGIN_EXTERNAL if material.origin is KeyOrigin.EXTERNAL else ORIGIN_HSM,
    )


def to_root(number: int) -> WireKey:
    """Return what names a wrapping root to a worker."""
    return WireKey(NO_KEY.ref, 0, 0, number, b"")


class PoolOperations:
    """Operations on keys for encryption.

    Sizes beyond the limits that a method's text gives are a programming error
    (`wire.WireError`).
    """

    def __init__(self, dispatcher: Dispatcher):
        """Send to a dispatcher."""
        self._dispatcher = dispatcher

    async def encrypt(
        self, material: KeyMaterial, plaintext: bytes, aad: bytes, *, deadline: float
    ) -> bytes:
        """See `ports.HsmToken.encrypt`."""
        answer = await self._dispatcher.submit(
            Operation.ENCRYPT, deadline, key=to_wire(material), data=plaintext, aad=aad
        )
        return answer.second

    async def decrypt(
        self, material: KeyMaterial, sealed: bytes, aad: bytes, *, deadline: float
    ) -> bytes:
        """See `ports.HsmToken.decrypt`."""
        _check_sealed(sealed)
        answer = await self._dispatcher.submit(
            Operation.DECRYPT, deadline, key=to_wire(material), data=sealed, aad=aad
        )
        return answer.first

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
        """See `ports.HsmToken.reencrypt`."""
        _check_sealed(sealed)
        answer = await self._dispatcher.submit(
            Operation.REENCRYPT,
            deadline,
            key=to_wire(source),
            key2=to_wire(destination),
            data=sealed,
            aad=source_aad,
            aad2=destination_aad,
        )
        return answer.second

    async def generate_data_key(
        self, material: KeyMaterial, number_of_bytes: int, aad: bytes, *, deadline: float
    ) -> tuple[bytes, bytes]:
        """See `ports.HsmToken.generate_data_key`."""
        answer = await self._dispatcher.submit(
            Operation.DATA_KEY,
            deadline,
            key=to_wire(material),
            number=number_of_bytes,
            aad=aad,
        )
        return answer.first, answer.second

    async def generate_sealed_data_key(
        self, material: KeyMaterial, number_of_bytes: int, aad: bytes, *, deadline: float
    ) -> bytes:
        """See `ports.HsmToken.generate_sealed_data_key`."""
        answer = await self._dispatcher.submit(
            Operation.SEALED_DATA_KEY,
            deadline,
            key=to_wire(material),
            number=number_of_bytes,
            aad=aad,
        )
        return answer.second

    async def generate_random(self, number_of_bytes: int, *, deadline: float) -> bytes:
        """See `ports.HsmToken.generate_random`."""
        answer = await self._dispatcher.submit(Operation.RANDOM, deadline, number=number_of_bytes)
        return answer.first

    async def rewrap(self, material: KeyMaterial, root: int, *, deadline: float) -> WrappedMaterial:
        """See `ports.HsmToken.rewrap`."""
        answer = await self._dispatcher.submit(
            Operation.REWRAP, deadline, key=to_wire(material), key2=to_root(root)
        )
        return WrappedMaterial(root, answer.second)


def _check_sealed(sealed: bytes) -> None:
    if not _MIN_SEALED_BYTES <= len(sealed) <= _MAX_SEALED_BYTES:
        raise CiphertextInvalidError
