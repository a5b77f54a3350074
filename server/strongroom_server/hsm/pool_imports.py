"""What a session pool does with material that callers bring (`import_ports.ImportToken`)."""

from __future__ import annotations

import uuid
from abc import ABC, abstractmethod

from strongroom_server.domain.algorithms import Algorithm
from strongroom_server.domain.imports import WrappingAlgorithm
from strongroom_server.domain.keys import KeyMaterial, KeyOrigin, WrappedMaterial
from strongroom_server.errors import CiphertextInvalidError
from strongroom_server.hsm.pool_operations import to_wire
from strongroom_server.hsm.pool_pairs import PoolPairs
from strongroom_server.hsm.wire import NO_KEY, Answer, Operation, WireKey
from strongroom_server.hsm.wire_operations import MAX_TRANSFER_BYTES, ImportForm
from strongroom_server.import_ports import ImportedMaterial, WrappingKey

__all__ = ["PoolImports", "to_transfer_key"]

_MODULUS_BITS = 3072
_PREFERRED = (WrappingAlgorithm.RSA_AES_KW_SHA_256, WrappingAlgorithm.RSA_AES_KW_SHA_1)


class PoolImports(PoolPairs, ABC):
    """Imports. All of them make or destroy objects: one at a time, in one worker."""

    @abstractmethod
    async def _make(
        self,
        operation: Operation,
        deadline: float,
        *,
        key: WireKey,
        key2: WireKey = NO_KEY,
        number: int = 0,
        data: bytes = b"",
        aad: bytes = b"",
        elsewhere: Operation | None = None,
    ) -> Answer:
        """Run an operation that makes or destroys objects."""

    async def create_wrapping_key(
        self, transfer_id: uuid.UUID, algorithm: WrappingAlgorithm | None, *, deadline: float
    ) -> WrappingKey:
        """See `import_ports.ImportToken.create_wrapping_key`."""
        answer = await self._make(
            Operation.MAKE_TRANSFER_KEY,
            deadline,
            key=to_transfer_key(transfer_id),
            number=_MODULUS_BITS,
            data=bytes([algorithm.oaep]) if algorithm else b"",
        )
        if algorithm is None:
            oaep = Algorithm(answer.first[0])
            algorithm = next(each for each in _PREFERRED if each.oaep is oaep)
        return WrappingKey(algorithm, answer.second)

    async def destroy_wrapping_key(self, transfer_id: uuid.UUID, *, deadline: float) -> None:
        """See `import_ports.ImportToken.destroy_wrapping_key`."""
        await self._make(Operation.DESTROY_TRANSFER_KEY, deadline, key=to_transfer_key(transfer_id))

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
        """See `import_ports.ImportToken.import_external`."""
        if not 0 < len(encrypted) <= MAX_TRANSFER_BYTES:
            raise CiphertextInvalidError
        form = ImportForm(0)
        if algorithm.has_key_wrap:
            form |= ImportForm.KEY_WRAP
        if keep:
            form |= ImportForm.KEEP
        bare = KeyMaterial(material.ref, material.spec, material.usage, origin=KeyOrigin.EXTERNAL)
        key = to_wire(bare)._replace(root=root or 0)
        answer = await self._make(
            Operation.IMPORT_EXTERNAL,
            deadline,
            key=key,
            key2=to_transfer_key(transfer_id),
            number=algorithm.oaep,
            data=encrypted,
            aad=bytes([form]) + check,
        )
        if not answer.first:
            return None
        if keep and root is None:
            await self._make(Operation.LOAD, deadline, key=key, elsewhere=Operation.LOAD)
        wrapped = WrappedMaterial(root, answer.second) if root and keep else None
        return ImportedMaterial(answer.first, wrapped)


def to_transfer_key(transfer_id: uuid.UUID) -> WireKey:
    """Return what names a transfer key to a worker."""
    return WireKey(transfer_id.bytes + bytes(4), 0, 0, 0, b"")
