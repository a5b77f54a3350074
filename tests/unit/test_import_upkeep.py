"""Material, tokens and wrapping keys that end; deletions that were cut off."""

from __future__ import annotations

import dataclasses
import uuid
from datetime import timedelta

import pytest
from tests.support.importing import KNOWN, importing_key
from tests.support.memory_service import caller
from tests.support.wrap_material import wrap_material

from strongroom_server.domain.imports import (
    MAX_OPEN_IMPORTS,
    IssuedToken,
    TokenState,
)
from strongroom_server.domain.keys import (
    KeyState,
    KeyStorage,
)
from strongroom_server.errors import (
    ArgumentInvalidError,
    EtagMismatchError,
    HsmUnavailableError,
    ImportTokenUsedError,
    KeyStateInvalidError,
    LimitExceededError,
)
from strongroom_server.services.changes import ChangeRequest

STORAGES = pytest.mark.parametrize("storage", list(KeyStorage))


async def test_a_claimed_token_takes_the_same_bytes_again() -> None:
    """While the HSM is away a token stays good for what it was presented with alone."""
    importing = await importing_key()
    made = await importing.parameters()
    assert made.algorithm is not None
    encrypted = wrap_material(made.public_key, made.algorithm, KNOWN)
    importing.service.eu.token.fault = HsmUnavailableError("eu-1", "away")
    with pytest.raises(HsmUnavailableError):
        await importing.send_wrapped(made.token, encrypted)
    importing.service.eu.token.fault = None
    with pytest.raises(ImportTokenUsedError):
        await importing.send(made)
    assert (await importing.send_wrapped(made.token, encrypted)).state is KeyState.ENABLED


async def test_wrapping_keys_are_bounded() -> None:
    """A shard has so many open tokens and no more; ended ones make room."""
    importing = await importing_key()
    tokens = importing.service.eu.store.import_tokens
    ends = importing.service.clock.now() + timedelta(days=1)
    for n in range(MAX_OPEN_IMPORTS):
        digest = n.to_bytes(32, "big")
        tokens[digest] = IssuedToken(digest, uuid.uuid4(), uuid.uuid4(), ends)
    with pytest.raises(LimitExceededError):
        await importing.parameters()
    assert importing.service.eu.token.wrapping_keys == {}
    tokens[digest] = dataclasses.replace(tokens[digest], state=TokenState.USED)
    await importing.upkeep.look()
    assert (await importing.parameters()).token


@STORAGES
async def test_material_ends(storage: KeyStorage) -> None:
    """At its end the upkeep destroys material, once, with records; the key waits again."""
    importing = await importing_key(storage)
    ends = importing.service.clock.now() + timedelta(days=365)
    await importing.send(await importing.parameters(), expire_time=ends)
    blob = await importing.encrypt()
    await importing.upkeep.look()
    assert importing.state() is KeyState.ENABLED
    importing.service.clock.jump(timedelta(days=365))
    await importing.upkeep.look()
    await importing.upkeep.look()
    assert importing.heard.names == [str(importing.name)]
    assert importing.state() is KeyState.PENDING_IMPORT
    assert importing.service.eu.token.materials == {}
    methods = [(r.method, r.principal) for r in importing.service.records()[-2:]]
    assert methods == [
        ("BeginImportedMaterialDeletion", "strongroom:import"),
        ("ExpireImportedKeyMaterial", "strongroom:import"),
    ]
    await importing.send(await importing.parameters())
    assert await importing.decrypt(blob) == b"x"


@pytest.mark.parametrize("days", [-1, 0, 366])
async def test_an_end_that_cannot_be(days: int) -> None:
    """Material ends in the future, at most 365 days ahead; the token stays good."""
    importing = await importing_key()
    made = await importing.parameters()
    ends = importing.service.clock.now() + timedelta(days=days)
    with pytest.raises(ArgumentInvalidError, match="valid_to"):
        await importing.send(made, expire_time=ends)
    assert (await importing.send(made)).state is KeyState.ENABLED


@STORAGES
async def test_a_deletion_that_was_cut_off_is_gone_on_with(storage: KeyStorage) -> None:
    """While the HSM is away the key cannot be used or filled; later the upkeep ends it."""
    importing = await importing_key(storage)
    await importing.send(await importing.parameters())
    importing.service.eu.token.fault = HsmUnavailableError("eu-1", "away")
    with pytest.raises(HsmUnavailableError):
        await importing.delete()
    assert importing.state() is KeyState.PENDING_IMPORT
    importing.service.eu.token.fault = None
    with pytest.raises(KeyStateInvalidError, match="losing its material"):
        await importing.send(await importing.parameters())
    with pytest.raises(EtagMismatchError):
        await importing.delete()  # another server might still be at it
    await importing.upkeep.look()
    assert importing.heard.names == []
    importing.service.clock.jump(timedelta(minutes=2))
    await importing.upkeep.look()
    assert importing.heard.names == [str(importing.name)]
    assert importing.service.eu.token.materials == {}
    assert (await importing.send(await importing.parameters())).state is KeyState.ENABLED


async def test_a_key_that_waits_for_its_deletion() -> None:
    """It takes no import, may lose its material, and comes back by what it has."""
    importing = await importing_key()
    deletion = importing.service.management.deletion
    await importing.send(await importing.parameters())
    await deletion.schedule_key(caller(), importing.name, 7, ChangeRequest())
    with pytest.raises(KeyStateInvalidError):
        await importing.parameters()
    assert (await importing.delete()).state is KeyState.PENDING_DELETION
    back, _ = await deletion.cancel_key(caller(), importing.name, ChangeRequest())
    assert back.state is KeyState.PENDING_IMPORT
    await importing.send(await importing.parameters())
    await deletion.schedule_key(caller(), importing.name, 7, ChangeRequest())
    back, _ = await deletion.cancel_key(caller(), importing.name, ChangeRequest())
    assert back.state is KeyState.DISABLED


@pytest.mark.parametrize("state", [KeyState.ENABLED, KeyState.DISABLED])
async def test_a_key_without_material_is_not_switched(state: KeyState) -> None:
    """EnableKey and DisableKey are not for a key that waits for an import."""
    importing = await importing_key()
    with pytest.raises(KeyStateInvalidError):
        await importing.service.lifecycle.set_state(
            caller(), importing.name, state, ChangeRequest()
        )
