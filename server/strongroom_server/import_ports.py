"""What the services need of an HSM and a store for material that callers bring.

Parts of `ports.HsmToken` and `ports.KeyStore`, whose rules hold here too.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from strongroom_server.domain.imports import IssuedToken, WrappingAlgorithm
from strongroom_server.domain.keys import Key, KeyMaterial, WrappedMaterial

__all__ = ["ImportStore", "ImportToken", "ImportedMaterial", "WrappingKey"]


@dataclass(frozen=True, slots=True)
class WrappingKey:
    """What callers wrap under: the algorithm, and a public key, DER SubjectPublicKeyInfo."""

    algorithm: WrappingAlgorithm
    public_key: bytes


@dataclass(frozen=True, slots=True)
class ImportedMaterial:
    """What an import gives to be stored.

    Attributes:
        check: At most 63 bytes that show whether other material is the same; no secret.
        wrapped: None for a resident version.
    """

    check: bytes
    wrapped: WrappedMaterial | None


class ImportToken(Protocol):
    """Imports into one shard's HSM. The material is never in the clear outside of it.

    Every method raises HsmUnavailableError when the HSM fails or does not answer by
    `deadline`.
    """

    async def create_wrapping_key(
        self, transfer_id: uuid.UUID, algorithm: WrappingAlgorithm | None, *, deadline: float
    ) -> WrappingKey:
        """Make a key pair of this name whose private half unwraps and does nothing else.

        Idempotent, durable on return. Without an algorithm, the best that the HSM takes.

        Raises:
            KeySpecUnsupportedError: The HSM does not take this algorithm, or no imports.
        """
        ...

    async def destroy_wrapping_key(self, transfer_id: uuid.UUID, *, deadline: float) -> None:
        """Destroy it; idempotent. What was wrapped under it is of no use any more."""
        ...

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
        """Unwrap material inside the HSM.

        Args:
            material: Which version it is for.
            encrypted: What the caller wrapped.
            transfer_id: Under which key.
            algorithm: And how.
            root: As for `ports.HsmToken.create_version`; a token object takes the place
                of one that was imported before.
            check: Of the first import; empty for the first.
            keep: Make it the version's; else it is only compared.

        Returns:
            None when it is not the material of the first import; nothing was kept then.

        Raises:
            CiphertextInvalidError: It does not unwrap to material of this kind.
        """
        ...


class ImportStore(Protocol):
    """What a shard's metadata store knows of imports. Writes are durable on return."""

    async def find_import(self, token_sha256: bytes) -> IssuedToken | None:
        """Return what there is of a token."""
        ...

    async def count_imports(self) -> int:
        """Count the tokens whose wrapping keys are not known to be destroyed."""
        ...

    async def replace_imports(self, key_id: uuid.UUID) -> Sequence[IssuedToken]:
        """Close the OPEN tokens of a key as REPLACED.

        Returns:
            All tokens of the key whose wrapping keys are not known to be destroyed.
        """
        ...

    async def claim_import(self, token_sha256: bytes, claim: bytes) -> bool:
        """Note what an OPEN token was presented with; say whether that could be.

        It could not when something else was noted before, or it is not OPEN.
        """
        ...

    async def end_import(self, token_sha256: bytes) -> None:
        """Note that an import with an OPEN token has failed for good: it is USED."""
        ...

    async def ended_imports(self, *, now: datetime, limit: int) -> Sequence[IssuedToken]:
        """Return tokens that are over and whose wrapping keys may still be in the HSM."""
        ...

    async def forget_wrapping_key(self, token_sha256: bytes) -> None:
        """Note that a token's wrapping key is destroyed; idempotent."""
        ...

    async def expired_materials(self, *, now: datetime, limit: int) -> Sequence[Key]:
        """Return keys with imported material that has ended."""
        ...
