"""The part of a shard's store that is asked about imports (`import_ports.ImportStore`)."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from datetime import datetime

from strongroom_server.domain.imports import IssuedToken
from strongroom_server.domain.keys import Key
from strongroom_server.store import imports
from strongroom_server.store.deletion_store import DeletionStore

__all__ = ["ImportStore"]


class ImportStore(DeletionStore):
    """Base of `SqliteKeyStore`. Nothing of this is in memory."""

    async def find_import(self, token_sha256: bytes) -> IssuedToken | None:
        """Return what there is of a token."""
        with self._database.answering():
            return await self._database.reader.run(
                lambda connection: imports.read(connection, token_sha256)
            )

    async def count_imports(self) -> int:
        """Count the tokens whose wrapping keys are not known to be destroyed."""
        with self._database.answering():
            return await self._database.reader.run(imports.count)

    async def replace_imports(self, key_id: uuid.UUID) -> Sequence[IssuedToken]:
        """Close the OPEN tokens of a key; see import_ports.ImportStore."""
        self._database.ensure_whole()
        with self._database.answering():
            return await self._database.writer.run(
                lambda connection: imports.replace_all(connection, key_id)
            )

    async def claim_import(self, token_sha256: bytes, claim: bytes) -> bool:
        """Note what an OPEN token was presented with; see import_ports.ImportStore."""
        self._database.ensure_whole()
        with self._database.answering():
            return await self._database.writer.run(
                lambda connection: imports.claim(connection, token_sha256, claim)
            )

    async def end_import(self, token_sha256: bytes) -> None:
        """Note that an import with an OPEN token has failed for good."""
        self._database.ensure_whole()
        with self._database.answering():
            await self._database.writer.run(
                lambda connection: imports.use(connection, token_sha256)
            )

    async def ended_imports(self, *, now: datetime, limit: int) -> Sequence[IssuedToken]:
        """Return tokens that are over and whose wrapping keys may still be in the HSM."""
        with self._database.answering():
            return await self._database.reader.run(
                lambda connection: imports.read_ended(connection, now=now, limit=limit)
            )

    async def wrapping_keys(self) -> Sequence[uuid.UUID]:
        """Return the names of all wrapping keys that are not known to be destroyed."""
        with self._database.answering():
            return await self._database.reader.run(imports.read_wrapping_keys)

    async def forget_wrapping_key(self, token_sha256: bytes) -> None:
        """Note that a token's wrapping key is destroyed; idempotent."""
        self._database.ensure_whole()
        with self._database.answering():
            await self._database.writer.run(
                lambda connection: imports.forget_wrapping_key(connection, token_sha256)
            )

    async def expired_materials(self, *, now: datetime, limit: int) -> Sequence[Key]:
        """Return keys with imported material that has ended."""
        region = self._database.region
        with self._database.answering():
            found = await self._database.reader.run(
                lambda connection: imports.read_expired(connection, region, now=now, limit=limit)
            )
        return [stored.key for stored in found]
