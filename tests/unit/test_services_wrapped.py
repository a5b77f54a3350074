"""Wrapped storage as the services see it: where material goes, and under which root."""

from __future__ import annotations

import asyncio
import uuid

import pytest
from tests.support.memory_calls import decrypt, encrypt, re_encrypt
from tests.support.memory_service import ORDERS, MemoryService, caller, fields

from strongroom.resource_names import AliasName
from strongroom_server.domain.keys import Alias, KeySpec, KeyStorage, KeyUsage, WrappedMaterial
from strongroom_server.errors import (
    AuditUnavailableError,
    HsmUnavailableError,
    KeyNotFoundError,
    KeySpecUnsupportedError,
    RequestIdReusedError,
    ShardUnavailableError,
)
from strongroom_server.mutations import AddRoot, AuditDraft, Mutation, RootState
from strongroom_server.services.answers import Answer, decode_answer, encode_answer
from strongroom_server.services.changes import ChangeRequest
from strongroom_server.services.lifecycle import NewKey
from strongroom_server.services.root_book import RootBook

WRAPPED = KeyStorage.WRAPPED
RESIDENT = KeyStorage.RESIDENT
ONCE = ChangeRequest(request_id="00000000-0000-4000-8000-000000000007")


@pytest.fixture
def service():
    return MemoryService()


def under(key, version: int = 1) -> int | None:
    """Return the root that a version lies under."""
    wrapped = key.material(version).wrapped
    return None if wrapped is None else wrapped.root


async def add_root(service: MemoryService, number: int) -> None:
    """Make a root, as a rotation does."""
    await service.eu.token.create_root(number, deadline=0)
    now = service.clock.now()
    draft = AuditDraft(uuid.uuid4(), now, "strongroom:roots", "", "RotateWrappingRoot", "OK", "")
    await service.eu.store.commit(Mutation(AddRoot(number, now), draft))


async def test_a_wrapped_key_leaves_nothing_on_the_token(service):
    """Its material is in the store under root 1, which is made with a record of its own."""
    key = await service.create_key(storage=WRAPPED)
    assert (key.storage, under(key)) == (WRAPPED, 1)
    assert not service.eu.token.materials
    assert set(service.eu.token.roots) == {1}
    assert service.eu.store.keys[key.key_id] == key
    root, created = service.records()
    assert fields(root) == {
        "principal": "strongroom:roots",
        "method": "CreateWrappingRoot",
        "outcome": "OK",
        "request_id": "",
        "key": "regions/eu-1/wrapping-roots/1",
    }
    assert fields(created)["principal"] == ORDERS
    made = await encrypt(service, key.name)
    assert (await decrypt(service, None, made.blob)).plaintext == b"secret"


async def test_the_shards_default_holds_when_nothing_is_said():
    """Who says nothing gets what the shard has; who says something gets that."""
    service = MemoryService(storage=WRAPPED)
    assert (await service.create_key()).storage is WRAPPED
    resident = await service.create_key(storage=RESIDENT)
    assert (resident.storage, under(resident)) == (RESIDENT, None)
    assert len(service.eu.token.materials) == 1


async def test_many_first_keys_make_one_root(service):
    """Creations at once, and the book asked by others meanwhile, make root 1 once."""
    book = RootBook(recorder=service.recorder, clock=service.clock)
    shard = service.topology.shard("eu-1")
    numbers = await asyncio.gather(*(book.active(shard) for _ in range(20)))
    assert numbers == [1] * 20
    assert [record.method for record in service.records()] == ["CreateWrappingRoot"]
    assert [root.state for root in await service.eu.store.list_roots()] == [RootState.ACTIVE]
    # In another region there is none yet.
    assert not await service.regions["us-1"].store.list_roots()


async def test_a_root_that_another_process_made_first_is_taken(service):
    """Of two processes that begin at once both use the one root."""
    books = [RootBook(recorder=service.recorder, clock=service.clock) for _ in range(2)]
    shard = service.topology.shard("eu-1")
    assert await asyncio.gather(*(book.active(shard) for book in books)) == [1, 1]
    assert len(service.records()) == 1


async def test_versions_lie_under_the_root_that_is_active_then(service):
    """A rotation of the key wraps under the newest root; older versions stay and decrypt."""
    key = await service.create_key(storage=WRAPPED)
    old = await encrypt(service, key.name)
    await add_root(service, 2)
    rotated, _ = await service.lifecycle.rotate_key(caller(), key.name, ChangeRequest())
    assert [under(rotated, n) for n in (1, 2)] == [1, 2]
    assert rotated.storage is WRAPPED
    new = await encrypt(service, key.name)
    for blob in (old.blob, new.blob):
        assert (await decrypt(service, key.name, blob)).plaintext == b"secret"


async def test_wrapped_and_resident_keys_re_encrypt_into_each_other(service):
    """Each side is used where its material is."""
    wrapped, resident = [await service.create_key(storage=s) for s in (WRAPPED, RESIDENT)]
    blob = (await encrypt(service, wrapped.name)).blob
    moved = await re_encrypt(service, wrapped.name, blob, resident.name)
    opened = await decrypt(service, resident.name, moved.blob, {"new": "context"})
    assert opened.plaintext == b"secret"


async def test_a_key_that_cannot_be_made_is_not_there(service):
    """With the HSM failing, or of a kind it does not have, nothing is stored."""
    service.eu.token.fault = HsmUnavailableError("eu-1", "gone")
    with pytest.raises(HsmUnavailableError):
        await service.create_key(storage=WRAPPED)
    assert not await service.eu.store.list_roots()
    service.eu.token.fault = None
    new = NewKey("eu-1", "", KeySpec.EC_SECP256K1, KeyUsage.SIGN_VERIFY, "")
    with pytest.raises(KeySpecUnsupportedError):
        await service.lifecycle.create_key(caller(), new, ChangeRequest())
    assert not service.eu.store.keys
    assert [record.reason for record in service.records()] == [
        "HSM_UNAVAILABLE",
        "KEY_SPEC_UNSUPPORTED",
    ]


async def test_a_root_without_its_record_is_not_used_yet(service):
    """When the root's record cannot be made durable, the key is refused; a repeat goes on."""
    service.eu.trail.refuses_at = 1
    with pytest.raises(AuditUnavailableError):
        await service.create_key(storage=WRAPPED)
    assert not service.eu.store.keys
    service.eu.trail.refuses_at = None
    assert under(await service.create_key(storage=WRAPPED)) == 1


async def test_validate_only_makes_no_root(service):
    """Nothing is made by a call that only asks."""
    new = NewKey("eu-1", "", KeySpec.AES_256, KeyUsage.ENCRYPT_DECRYPT, "", WRAPPED)
    key, _ = await service.lifecycle.create_key(caller(), new, ChangeRequest(validate_only=True))
    assert key.storage is WRAPPED
    assert not service.eu.token.roots
    assert not service.eu.store.roots


async def test_a_repeat_must_ask_for_the_same_storage(service):
    """The storage is part of the request; saying nothing is another request."""

    def new(storage: KeyStorage | None) -> NewKey:
        return NewKey("eu-1", "", KeySpec.AES_256, KeyUsage.ENCRYPT_DECRYPT, "", storage)

    first, _ = await service.lifecycle.create_key(caller(), new(WRAPPED), ONCE)
    again, _ = await service.lifecycle.create_key(caller(), new(WRAPPED), ONCE)
    assert (again.key_id, again.storage) == (first.key_id, WRAPPED)
    for other in (None, RESIDENT):
        with pytest.raises(RequestIdReusedError):
            await service.lifecycle.create_key(caller(), new(other), ONCE)


async def test_first_answers_keep_the_storage_and_not_the_material(service):
    """A memo shows what the answer showed; one from before there was a choice is resident."""
    key = await service.create_key(storage=WRAPPED)
    text = encode_answer(Answer(key=key))
    decoded = decode_answer(text).key
    assert decoded is not None
    assert decoded.storage is WRAPPED
    assert decoded.versions[0].wrapped is None
    wrapped = key.material(1).wrapped
    assert isinstance(wrapped, WrappedMaterial)
    assert wrapped.wrapped.hex() not in text
    old = decode_answer(text.replace(',"storage":"WRAPPED"', "")).key
    assert old is not None
    assert old.storage is RESIDENT


async def test_keys_that_are_not_in_memory_are_read(service):
    """Every operation works on a key that has to be read first."""
    key = await service.create_key(storage=WRAPPED)
    service.eu.store.forgets = True
    blob = (await encrypt(service, key.name)).blob
    for name in (key.name, None):
        assert (await decrypt(service, name, blob)).plaintext == b"secret"
    assert (await service.lifecycle.get_key(caller(), key.name))[0] == key
    shard, owned = await service.topology.owner_of(key.key_id)
    assert (shard.region, owned) == ("eu-1", key)


async def test_a_store_that_cannot_tell_is_not_a_key_that_is_not_there(service):
    """While one shard's store fails, its keys are unavailable and never "not found"."""
    key = await service.create_key(region="us-1")
    blob = (await encrypt(service, key.name)).blob
    store = service.regions["us-1"].store
    store.forgets = True
    store.fault = ShardUnavailableError("us-1", "damaged")
    for attempt in (
        encrypt(service, key.name),
        decrypt(service, key.name, blob),
        decrypt(service, None, blob),
        service.lifecycle.get_key(caller(), key.name),
    ):
        with pytest.raises(ShardUnavailableError):
            await attempt
    store.fault = None
    alias = Alias(AliasName("us-1", "a"), key.key_id, service.clock.now())
    store.aliases[alias.name] = alias
    del store.keys[key.key_id]
    with pytest.raises(ShardUnavailableError):
        await encrypt(service, alias.name)
    with pytest.raises(KeyNotFoundError):
        await encrypt(service, key.name)
