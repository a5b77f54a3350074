"""Calls of the crypto service as tests make them: ORDERS asks, under CONTEXT."""

from __future__ import annotations

from collections.abc import Mapping

from tests.support.memory_service import ORDERS, MemoryService, caller

from strongroom_server.domain.keys import Key, KeyState
from strongroom_server.services.changes import ChangeRequest
from strongroom_server.services.crypto import DataKey, Decrypted, Encrypted, ReEncrypted
from strongroom_server.services.key_access import KeyOrAlias

CONTEXT = {"table": "cards"}
NEW_CONTEXT = {"new": "context"}


async def encrypt(
    service: MemoryService,
    name: KeyOrAlias,
    *,
    who: str = ORDERS,
    validate_only: bool = False,
) -> Encrypted:
    """Encrypt ``secret``."""
    return await service.crypto.encrypt(
        caller(who), name, b"secret", CONTEXT, validate_only=validate_only
    )


async def decrypt(
    service: MemoryService,
    name: KeyOrAlias | None,
    blob: bytes,
    context: Mapping[str, str] | None = None,
    *,
    who: str = ORDERS,
    validate_only: bool = False,
) -> Decrypted:
    """Decrypt, under CONTEXT when nothing is said."""
    return await service.crypto.decrypt(
        caller(who),
        name,
        blob,
        CONTEXT if context is None else context,
        validate_only=validate_only,
    )


async def re_encrypt(
    service: MemoryService,
    source: KeyOrAlias | None,
    blob: bytes,
    target: KeyOrAlias,
    *,
    who: str = ORDERS,
    validate_only: bool = False,
) -> ReEncrypted:
    """Re-encrypt from CONTEXT to NEW_CONTEXT."""
    return await service.crypto.re_encrypt(
        caller(who),
        source_name=source,
        blob=blob,
        source_context=CONTEXT,
        destination_name=target,
        destination_context=NEW_CONTEXT,
        validate_only=validate_only,
    )


async def data_key(
    service: MemoryService,
    name: KeyOrAlias,
    size: int = 32,
    *,
    who: str = ORDERS,
    with_plaintext: bool = True,
    validate_only: bool = False,
) -> DataKey:
    """Generate a data key of `size` bytes."""
    return await service.crypto.generate_data_key(
        caller(who),
        name,
        size,
        CONTEXT,
        with_plaintext=with_plaintext,
        validate_only=validate_only,
    )


async def disable(service: MemoryService, key: Key) -> Key:
    """Disable a key."""
    after, _ = await service.lifecycle.set_state(
        caller(), key.name, KeyState.DISABLED, ChangeRequest()
    )
    return after
