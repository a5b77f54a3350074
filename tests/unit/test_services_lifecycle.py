"""Keys and aliases: made once, changed once, recorded with their change."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Awaitable, Callable

import pytest
from tests.support.memory_service import (
    ADMIN,
    ORDERS,
    STRANGER,
    VISIBLE_TO_ALL,
    MemoryService,
    caller,
    fields,
)

from strongroom.resource_names import AliasName, KeyName
from strongroom_server.domain.keys import KeySpec, KeyState, KeyUsage, KeyVersionRef
from strongroom_server.domain.policy import default_policy
from strongroom_server.errors import (
    AliasExistsError,
    ArgumentInvalidError,
    AuditUnavailableError,
    EtagMismatchError,
    HsmUnavailableError,
    KeyDisabledError,
    KeyNotFoundError,
    PolicyDeniedError,
    RequestIdReusedError,
    WrongRegionError,
)
from strongroom_server.services.answers import Answer, decode_answer, encode_answer
from strongroom_server.services.changes import ChangeRequest
from strongroom_server.services.lifecycle import NewKey

ID = str(uuid.UUID(int=7))
ONCE = ChangeRequest(request_id=ID)


@pytest.fixture
def service():
    return MemoryService()


def new_key(description: str = "cards", region: str = "eu-1", policy: str = "") -> NewKey:
    """Return what CreateKey is told."""
    return NewKey(region, description, KeySpec.AES_256, KeyUsage.ENCRYPT_DECRYPT, policy)


async def test_a_new_key_is_enabled_with_one_version(service):
    """Key, material, record and receipt are there when the answer is."""
    key, receipt = await service.lifecycle.create_key(caller(), new_key(), ChangeRequest())
    assert key.state is KeyState.ENABLED
    assert [version.number for version in key.versions] == [key.primary_version] == [1]
    assert key.policy == default_policy(ORDERS)
    assert service.eu.store.keys[key.key_id] == key
    assert set(service.eu.token.materials) == {KeyVersionRef(key.key_id, 1)}
    assert receipt.sequence == len(service.records()) == 1
    assert fields(service.records()[0]) == {
        "principal": ORDERS,
        "method": "CreateKey",
        "outcome": "OK",
        "policy": "key_creators",
        "request_id": "call-1",
        "key": str(key.name),
        "key_version": 1,
    }


async def test_only_creators_and_administrators_create(service):
    """Others are denied, on record, and no material is made."""
    with pytest.raises(PolicyDeniedError):
        await service.lifecycle.create_key(caller(STRANGER), new_key(), ChangeRequest())
    assert fields(service.records()[-1]) == {
        "principal": STRANGER,
        "method": "CreateKey",
        "outcome": "DENIED",
        "reason": "POLICY_DENIED",
        "policy": "default-deny",
        "request_id": "call-1",
    }
    assert not service.eu.token.materials
    await service.lifecycle.create_key(caller(ADMIN), new_key(), ChangeRequest())
    with pytest.raises(WrongRegionError):
        await service.lifecycle.create_key(caller(), new_key(region="ap-1"), ChangeRequest())


async def test_a_repeat_has_the_first_answer(service):
    """One key, whatever happened since; the repeat is recorded as what it is."""
    first, _ = await service.lifecycle.create_key(caller(), new_key(), ONCE)
    await service.lifecycle.set_state(caller(), first.name, KeyState.DISABLED, ChangeRequest())
    again, receipt = await service.lifecycle.create_key(caller(), new_key(), ONCE)
    assert (again.key_id, again.state, again.etag) == (first.key_id, KeyState.ENABLED, first.etag)
    assert len(service.eu.store.keys) == len(service.eu.token.materials) == 1
    assert receipt.sequence == len(service.records()) == 3
    assert service.records()[-1].policy == "first-answer"
    assert service.records()[-1].key == str(first.name)


async def test_a_request_id_with_another_body_is_refused(service):
    """Each field of the request counts; another principal or method has its own ids."""
    await service.lifecycle.create_key(caller(), new_key(), ONCE)
    for other in (new_key("other"), new_key(policy=VISIBLE_TO_ALL)):
        with pytest.raises(RequestIdReusedError):
            await service.lifecycle.create_key(caller(), other, ONCE)
    assert service.records()[-1].reason == "REQUEST_ID_REUSED"
    key, _ = await service.lifecycle.create_key(caller(ADMIN), new_key("other"), ONCE)
    await service.lifecycle.rotate_key(caller(ADMIN), key.name, ONCE)
    with pytest.raises(RequestIdReusedError):
        await service.lifecycle.rotate_key(caller(ADMIN), key.name, ChangeRequest(ID, etag="r2"))
    assert len(service.eu.store.keys) == 2


async def test_the_same_request_id_at_once_makes_one_change(service):
    """Twenty callers with one id get one key; twenty rotations with one id are one."""
    made = await asyncio.gather(
        *(service.lifecycle.create_key(caller(), new_key(), ONCE) for _ in range(20))
    )
    assert len({key.key_id for key, _ in made}) == len(service.eu.store.keys) == 1
    assert len({receipt.sequence for _, receipt in made}) == 20
    name = made[0][0].name
    rotated = await asyncio.gather(
        *(service.lifecycle.rotate_key(caller(), name, ONCE) for _ in range(20))
    )
    assert {key.primary_version for key, _ in rotated} == {2}
    assert len(service.eu.token.materials) == 2


async def test_at_once_with_different_bodies_one_wins(service):
    """Of different requests under one id, the first is made and the others refused."""
    made = await asyncio.gather(
        *(service.lifecycle.create_key(caller(), new_key(str(n)), ONCE) for n in range(10)),
        return_exceptions=True,
    )
    refused = [result for result in made if isinstance(result, RequestIdReusedError)]
    assert len(refused) == 9
    assert len(service.eu.store.keys) == 1


async def test_a_failed_change_can_be_repeated_under_its_id(service):
    """What was refused or failed is not remembered: the repeat is a new attempt."""
    service.eu.token.fault = HsmUnavailableError("eu-1", "does not answer")
    with pytest.raises(HsmUnavailableError):
        await service.lifecycle.create_key(caller(), new_key(), ONCE)
    assert not service.eu.store.keys
    service.eu.token.fault = None
    await service.lifecycle.create_key(caller(), new_key(), ONCE)
    assert len(service.eu.store.keys) == 1


async def test_a_committed_change_without_its_record_is_not_answered(service):
    """The change stands, its record waits in the outbox, and the repeat gets the first answer."""
    service.eu.trail.refuses_at = 1
    with pytest.raises(AuditUnavailableError):
        await service.lifecycle.create_key(caller(), new_key(), ONCE)
    assert len(service.eu.store.keys) == len(service.eu.store.outbox) == 1
    assert not service.records()
    service.eu.trail.refuses_at = None
    key, _ = await service.lifecycle.create_key(caller(), new_key(), ONCE)
    assert {key.key_id} == set(service.eu.store.keys)


async def test_validate_only_changes_nothing(service):
    """Same checks, same refusals, no material, no change, no memo; a record that says so."""
    dry = ChangeRequest(ID, validate_only=True)
    key = await service.create_key(VISIBLE_TO_ALL)
    before = dict(service.eu.store.keys), set(service.eu.token.materials)
    await service.lifecycle.create_key(caller(), new_key(), dry)
    await service.lifecycle.rotate_key(caller(), key.name, dry)
    await service.lifecycle.set_state(caller(), key.name, KeyState.DISABLED, dry)
    await service.aliases.create(caller(), AliasName("eu-1", "a"), key.name, dry)
    assert (dict(service.eu.store.keys), set(service.eu.token.materials)) == before
    assert not service.eu.store.aliases
    assert not service.eu.store.memos
    assert [record.validate_only for record in service.records()] == [False, True, True, True, True]
    with pytest.raises(PolicyDeniedError):
        await service.lifecycle.rotate_key(caller(STRANGER), key.name, dry)


async def test_states_change_and_are_recorded(service):
    """Disable and enable; setting the state that is there changes nothing and is recorded."""
    key = await service.create_key()
    for state, method in ((KeyState.DISABLED, "DisableKey"), (KeyState.ENABLED, "EnableKey")):
        after, _ = await service.lifecycle.set_state(caller(), key.name, state, ChangeRequest())
        assert after.state is service.eu.store.keys[key.key_id].state is state
        again, _ = await service.lifecycle.set_state(caller(), key.name, state, ChangeRequest())
        assert again.etag == after.etag
        assert [record.method for record in service.records()[-2:]] == [method, method]
        assert fields(service.records()[-1]) == {
            "principal": ORDERS,
            "method": method,
            "outcome": "OK",
            "policy": "creator",
            "request_id": "call-1",
            "key": str(key.name),
        }


async def test_an_old_etag_is_refused(service):
    """A key that changed since it was read is refused, and not changed."""
    key = await service.create_key()
    rotated, _ = await service.lifecycle.rotate_key(
        caller(), key.name, ChangeRequest(etag=key.etag)
    )
    assert rotated.etag != key.etag
    for attempt in (
        service.lifecycle.rotate_key(caller(), key.name, ChangeRequest(etag=key.etag)),
        service.lifecycle.set_state(
            caller(), key.name, KeyState.DISABLED, ChangeRequest(etag=key.etag)
        ),
        service.lifecycle.rotate_key(caller(), key.name, ChangeRequest(etag="garbage")),
    ):
        with pytest.raises(EtagMismatchError):
            await attempt
    assert service.records()[-1].reason == "ETAG_MISMATCH"
    assert service.eu.store.keys[key.key_id] == rotated
    assert len(service.eu.token.materials) == 2


async def test_a_disabled_key_is_not_rotated(service):
    """Rotation of a disabled key is refused; nothing is generated."""
    key = await service.create_key()
    await service.lifecycle.set_state(caller(), key.name, KeyState.DISABLED, ChangeRequest())
    with pytest.raises(KeyDisabledError):
        await service.lifecycle.rotate_key(caller(), key.name, ChangeRequest())
    assert len(service.eu.token.materials) == 1


async def test_hidden_and_missing_keys_have_one_answer(service):
    """Every operation on a key answers the same for one that is hidden and one that is not."""
    hidden, missing = (await service.create_key()).name, KeyName("eu-1", uuid.uuid4())
    stranger = caller(STRANGER)
    operations: tuple[Callable[[KeyName], Awaitable[object]], ...] = (
        lambda name: service.lifecycle.get_key(stranger, name),
        lambda name: service.lifecycle.rotate_key(stranger, name, ChangeRequest()),
        lambda name: service.lifecycle.set_state(
            stranger, name, KeyState.DISABLED, ChangeRequest()
        ),
        lambda name: service.lifecycle.list_versions(stranger, name, page_size=0, page_token=""),
        lambda name: service.aliases.create(
            stranger, AliasName("eu-1", "a"), name, ChangeRequest()
        ),
    )
    for operation in operations:
        texts = set()
        for name in (hidden, missing):
            with pytest.raises(KeyNotFoundError) as refusal:
                await operation(name)
            texts.add(refusal.value.message.replace(str(name), "NAME"))
        assert len(texts) == 1


async def test_aliases_name_keys_of_their_own_region(service):
    """An alias is made once, in the region of its key, outside `service/`, by who may."""
    key = await service.create_key(VISIBLE_TO_ALL)
    name = AliasName("eu-1", "payments/cards")
    create = service.aliases.create
    alias, _ = await create(caller(), name, key.name, ONCE)
    assert (alias.name, alias.key_id) == (name, key.key_id)
    assert (await service.lifecycle.get_key(caller(STRANGER), name))[0] == key
    assert (await create(caller(), name, key.name, ONCE))[0] == alias
    with pytest.raises(AliasExistsError):
        await create(caller(), name, key.name, ChangeRequest())
    assert service.records()[-1].reason == "ALIAS_EXISTS"
    with pytest.raises(PolicyDeniedError):
        await create(caller(STRANGER), AliasName("eu-1", "b"), key.name, ChangeRequest())
    with pytest.raises(ArgumentInvalidError, match="reserved"):
        await create(caller(), AliasName("eu-1", "service/x"), key.name, ChangeRequest())
    with pytest.raises(ArgumentInvalidError, match="regions/us-1"):
        await create(caller(), AliasName("us-1", "a"), key.name, ChangeRequest())
    for unknown in (AliasName("eu-1", "payments"), AliasName("us-1", "payments/cards")):
        with pytest.raises(KeyNotFoundError):
            await service.lifecycle.get_key(caller(), unknown)
    assert set(service.eu.store.aliases) == {name}


async def test_two_callers_at_once_make_one_alias(service):
    """Of two aliases of one name at once, one is made and the other refused."""
    one, two = await service.create_key(), await service.create_key()
    name = AliasName("eu-1", "a")
    results = await asyncio.gather(
        *(service.aliases.create(caller(), name, key.name, ChangeRequest()) for key in (one, two)),
        return_exceptions=True,
    )
    assert sum(isinstance(result, AliasExistsError) for result in results) == 1


async def test_first_answers_survive_their_encoding(service):
    """What is kept under a request id decodes to the same answer, without the policy."""
    key = await service.create_key(VISIBLE_TO_ALL)
    alias, _ = await service.aliases.create(
        caller(), AliasName("eu-1", "a"), key.name, ChangeRequest()
    )
    decoded = decode_answer(encode_answer(Answer(key=key, alias=alias)))
    assert decoded.alias == alias
    assert decoded.key is not None
    assert (decoded.key.policy, decoded.key.versions) == ("", key.versions)
    assert decoded.key.etag == key.etag
    assert decode_answer(encode_answer(Answer())) == Answer()
