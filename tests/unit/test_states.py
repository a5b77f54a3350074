"""The state matrix: every cell of the table, and that the services keep to it."""

from __future__ import annotations

import uuid
from collections.abc import Awaitable, Callable

import pytest
from tests.support.memory_service import ORDERS, MemoryService, caller
from tests.support.store_samples import make_key

from strongroom.resource_names import AliasName, KeyVersionName
from strongroom_server.domain.keys import Key, KeyState
from strongroom_server.domain.policy import Action
from strongroom_server.domain.states import TABLE, USE, check_state
from strongroom_server.errors import KeyDisabledError, KeyStateInvalidError, StrongroomError
from strongroom_server.mutations import DestroyKey, SetState
from strongroom_server.services.changes import ChangeRequest
from strongroom_server.services.explanations import AccessQuestion
from strongroom_server.services.grants import NewGrant

# What each operation meets in ENABLED, DISABLED, PENDING_DELETION, DESTROYED, PENDING_IMPORT:
# "." allowed, "d" KEY_DISABLED, "x" KEY_STATE_INVALID.
STATES = (
    KeyState.ENABLED,
    KeyState.DISABLED,
    KeyState.PENDING_DELETION,
    KeyState.DESTROYED,
    KeyState.PENDING_IMPORT,
)
MATRIX = {
    "GetKey": ".....",
    "ListKeyVersions": ".....",
    "GetKeyVersion": ".....",
    "DeleteAlias": ".....",
    "EnableKey": "..xxx",
    "DisableKey": "..xxx",
    "UpdateKey": "..xx.",
    "TagResource": "..xx.",
    "UntagResource": "..xx.",
    "CreateAlias": "..xx.",
    "ScheduleKeyDeletion": "..xx.",
    "ScheduleKeyVersionDeletion": "..xxx",
    "CancelKeyDeletion": "xx.xx",
    "CancelKeyVersionDeletion": "...x.",
    "UpdateAlias": "...x.",
    "RotateKey": ".dxxx",
    "GetKeyPolicy": ".....",
    "ListKeyPolicyRevisions": ".....",
    "PutKeyPolicy": "...x.",
    "ExplainAccess": ".....",
    "CreateGrant": ".dxxx",
    "ListGrants": ".....",
    "RetireGrant": ".....",
    "RevokeGrant": ".....",
    "Encrypt": ".dxxx",
    "Decrypt": ".dxxx",
    "ReEncryptFrom": ".dxxx",
    "ReEncryptTo": ".dxxx",
    "GenerateDataKey": ".dxxx",
    "GenerateDataKeyWithoutPlaintext": ".dxxx",
}
# Policies, grants and imports have tests of their own.
ELSEWHERE = frozenset(
    {
        "GetKeyPolicy",
        "PutKeyPolicy",
        "ListKeyPolicyRevisions",
        "ExplainAccess",
        "CreateGrant",
        "ListGrants",
        "RetireGrant",
        "RevokeGrant",
        "GetImportParameters",
        "ImportKeyMaterial",
        "DeleteImportedKeyMaterial",
    }
)
ERRORS: dict[str, type[StrongroomError] | None] = {
    ".": None,
    "d": KeyDisabledError,
    "x": KeyStateInvalidError,
}
CELLS = [
    (operation, state, ERRORS[mark])
    for operation, row in MATRIX.items()
    for state, mark in zip(STATES, row, strict=True)
]


@pytest.mark.parametrize(("operation", "state", "error"), CELLS)
def test_each_cell_is_as_the_matrix_says(
    operation: str, state: KeyState, error: type[StrongroomError] | None
) -> None:
    """The table allows what the matrix allows, and refuses with the reason that it names."""
    key = make_key()
    object.__setattr__(key, "state", state)
    if error is None:
        check_state(Action(operation), key)
        return
    with pytest.raises(error) as refused:
        check_state(Action(operation), key)
    assert str(key.name) in refused.value.message


def test_every_row_of_the_table_is_in_the_matrix() -> None:
    """Nothing is allowed that nobody wrote down, and what has no row is a use."""
    assert {action.value for action in TABLE} <= MATRIX.keys() | ELSEWHERE
    for row in (*TABLE.values(), USE):
        assert tuple(row) == STATES


async def _in_state(service: MemoryService, state: KeyState) -> tuple[Key, bytes]:
    """Make a key with three versions, an alias ``named``, a tag, and bring it into a state."""
    key = await service.create_key()
    for _ in range(2):
        await service.lifecycle.rotate_key(caller(), key.name, ChangeRequest())
    await service.management.details.tag(caller(), key.name, {"a": "1"}, ChangeRequest())
    await service.aliases.create(caller(), AliasName("eu-1", "named"), key.name, ChangeRequest())
    sealed = await service.crypto.encrypt(caller(), key.name, b"x", {}, validate_only=False)
    await service.management.grants.create(
        caller(), NewGrant(key.name, ORDERS, ["Decrypt"], retiring=ORDERS), ChangeRequest()
    )
    deletion = service.management.deletion
    version = KeyVersionName("eu-1", key.key_id, 1)
    await deletion.schedule_version(caller(), version, 7, ChangeRequest())
    if state is KeyState.DISABLED:
        await service.lifecycle.set_state(caller(), key.name, state, ChangeRequest())
    elif state in {KeyState.PENDING_DELETION, KeyState.DESTROYED}:
        await deletion.schedule_key(caller(), key.name, 7, ChangeRequest())
    now = service.eu.store.keys[key.key_id]
    if state is KeyState.DESTROYED:
        now = DestroyKey(key.key_id, service.clock.now(), now.revision).apply(now)
    if state is KeyState.PENDING_IMPORT:
        now = SetState(key.key_id, state, service.clock.now(), now.revision).apply(now)
    service.eu.store.keys[key.key_id] = now
    assert now.state is state
    return now, sealed.blob


async def _calls(
    service: MemoryService, key: Key, blob: bytes
) -> dict[str, Callable[[], Awaitable[object]]]:
    """Return a call of each operation that would succeed if the state allowed it."""
    lifecycle, crypto = service.lifecycle, service.crypto
    details, deletion, aliases = (
        service.management.details,
        service.management.deletion,
        service.aliases,
    )
    name, alias, plain = key.name, AliasName("eu-1", "named"), ChangeRequest()
    version = KeyVersionName("eu-1", key.key_id, 1)
    policies, grants = service.management.policies, service.management.grants
    (grant,) = (each.resource_name for each in service.eu.store.permissions.grants.values())
    other = await service.create_key()
    who = caller()

    def re_encrypt(source: Key, target: Key) -> Awaitable[object]:
        return crypto.re_encrypt(
            who,
            source_name=source.name,
            blob=blob if source is key else sealed_by_other,
            source_context={},
            destination_name=target.name,
            destination_context={},
            validate_only=False,
        )

    made = await crypto.encrypt(who, other.name, b"x", {}, validate_only=False)
    sealed_by_other = made.blob
    data_key = crypto.generate_data_key
    return {
        "GetKey": lambda: lifecycle.get_key(who, name),
        "ListKeyVersions": lambda: lifecycle.list_versions(who, name, page_size=0, page_token=""),
        "GetKeyVersion": lambda: deletion.get_version(who, version),
        "DeleteAlias": lambda: aliases.delete(who, alias, plain),
        "EnableKey": lambda: lifecycle.set_state(who, name, KeyState.ENABLED, plain),
        "DisableKey": lambda: lifecycle.set_state(who, name, KeyState.DISABLED, plain),
        "UpdateKey": lambda: details.update(who, name, "new", plain),
        "TagResource": lambda: details.tag(who, name, {"b": "2"}, plain),
        "UntagResource": lambda: details.untag(who, name, ["a"], plain),
        "CreateAlias": lambda: aliases.create(who, AliasName("eu-1", "second"), name, plain),
        "ScheduleKeyDeletion": lambda: deletion.schedule_key(who, name, 30, plain),
        "ScheduleKeyVersionDeletion": lambda: deletion.schedule_version(
            who, KeyVersionName("eu-1", key.key_id, 2), 30, plain
        ),
        "CancelKeyDeletion": lambda: deletion.cancel_key(who, name, plain),
        "CancelKeyVersionDeletion": lambda: deletion.cancel_version(who, version, plain),
        "UpdateAlias": lambda: aliases.update(who, alias, other.name, plain),
        "RotateKey": lambda: lifecycle.rotate_key(who, name, plain),
        "GetKeyPolicy": lambda: policies.get(who, name, None),
        "ListKeyPolicyRevisions": lambda: policies.list_page(
            who, name, page_size=0, page_token="", with_text=True
        ),
        "PutKeyPolicy": lambda: policies.put(who, name, f"{key.policy} // again", plain),
        "ExplainAccess": lambda: service.management.explanations.explain(
            who, AccessQuestion(name, "Decrypt", {})
        ),
        "CreateGrant": lambda: grants.create(who, NewGrant(name, who.principal, ["Sign"]), plain),
        "ListGrants": lambda: grants.list_page(who, name, grantee="", page_size=0, page_token=""),
        "RetireGrant": lambda: grants.retire(who, grant, plain),
        "RevokeGrant": lambda: grants.revoke(who, grant, plain),
        "Encrypt": lambda: crypto.encrypt(who, name, b"x", {}, validate_only=False),
        "Decrypt": lambda: crypto.decrypt(who, name, blob, {}, validate_only=False),
        "ReEncryptFrom": lambda: re_encrypt(key, other),
        "ReEncryptTo": lambda: re_encrypt(other, key),
        "GenerateDataKey": lambda: data_key(
            who, name, 32, {}, with_plaintext=True, validate_only=False
        ),
        "GenerateDataKeyWithoutPlaintext": lambda: data_key(
            who, name, 32, {}, with_plaintext=False, validate_only=False
        ),
    }


@pytest.mark.parametrize(("operation", "state", "error"), CELLS)
async def test_the_services_keep_to_the_matrix(
    operation: str, state: KeyState, error: type[StrongroomError] | None
) -> None:
    """A call in a state succeeds or is refused as its cell says; a refusal changes nothing."""
    service = MemoryService()
    key, blob = await _in_state(service, state)
    call = (await _calls(service, key, blob))[operation]
    before = service.eu.store.keys[key.key_id]
    aliases = dict(service.eu.store.aliases)
    if error is None:
        await call()
        assert service.records()[-1].outcome == "OK"
        return
    with pytest.raises(error):
        await call()
    assert service.eu.store.keys[key.key_id] == before
    assert service.eu.store.aliases == aliases
    assert service.records()[-1].outcome == "REFUSED"
    assert service.records()[-1].reason == error.reason


async def test_a_stranger_hears_nothing_of_a_state() -> None:
    """Who may not see a key is told that there is none, whatever became of it."""
    for state in STATES:
        service = MemoryService()
        key, blob = await _in_state(service, state)
        stranger = caller("spiffe://example.org/stranger")
        for call in (
            service.crypto.decrypt(stranger, key.name, blob, {}, validate_only=False),
            service.management.deletion.cancel_key(stranger, key.name, ChangeRequest()),
            service.aliases.delete(stranger, AliasName("eu-1", "named"), ChangeRequest()),
        ):
            with pytest.raises(StrongroomError) as refused:
                await call
            assert refused.value.reason == "KEY_NOT_FOUND"


async def test_an_id_is_never_used_again() -> None:
    """The tombstone of a destroyed key keeps its place: its name names no other key."""
    service = MemoryService()
    key, _ = await _in_state(service, KeyState.DESTROYED)
    found, _ = await service.lifecycle.get_key(caller(), key.name)
    assert found.state is KeyState.DESTROYED
    assert isinstance(found.key_id, uuid.UUID)
    assert all(version.wrapped is None for version in found.versions)
