"""Using keys: what is answered, and what is used."""

from __future__ import annotations

import dataclasses
import uuid

import pytest
from tests.support.memory_calls import (
    data_key,
    decrypt,
    disable,
    encrypt,
    re_encrypt,
)
from tests.support.memory_service import (
    STRANGER,
    VISIBLE_TO_ALL,
    MemoryService,
    caller,
    fields,
)

from strongroom.resource_names import AliasName, KeyName
from strongroom_server.domain.ciphertext import HEADER_BYTES, header_for
from strongroom_server.domain.keys import KeyVersionRef
from strongroom_server.domain.rotation import MAX_USES
from strongroom_server.errors import (
    CiphertextInvalidError,
    KeyDisabledError,
    KeyExhaustedError,
    KeyNotFoundError,
    PolicyDeniedError,
    StrongroomError,
    WrongKeyError,
    WrongRegionError,
)
from strongroom_server.services.changes import ChangeRequest
from strongroom_server.services.crypto import DataKey, Decrypted

NOWHERE = KeyName("eu-1", uuid.UUID(int=0))


@pytest.fixture
def service():
    return MemoryService()


async def test_what_is_encrypted_is_decrypted(service):
    """With the key's name, an alias, or no name at all, and only with the very context."""
    key = await service.create_key()
    alias = AliasName("eu-1", "payments/cards")
    await service.aliases.create(caller(), alias, key.name, ChangeRequest())
    made = await encrypt(service, alias)
    assert made.key_version == f"{key.name}/versions/1"
    assert made.blob[:HEADER_BYTES] == header_for(KeyVersionRef(key.key_id, 1))
    for name in (key.name, alias, None):
        opened = await decrypt(service, name, made.blob)
        assert opened.plaintext == b"secret"
        assert opened.used_primary
    for context in ({}, {"table": "Cards"}, {"table": "cards", "x": ""}, {"cards": "table"}):
        with pytest.raises(CiphertextInvalidError):
            await decrypt(service, key.name, made.blob, context)


async def test_older_versions_go_on_decrypting(service):
    """After a rotation new blobs name the new version and old ones still open."""
    key = await service.create_key()
    old = await encrypt(service, key.name)
    await service.lifecycle.rotate_key(caller(), key.name, ChangeRequest())
    new = await encrypt(service, key.name)
    assert new.key_version.endswith("/versions/2")
    assert not (await decrypt(service, key.name, old.blob)).used_primary
    assert (await decrypt(service, key.name, new.blob)).used_primary


async def test_every_altered_bit_has_the_one_answer(service):
    """A blob with a flipped bit is invalid or another key's; the text never says why."""
    key = await service.create_key()
    blob = (await encrypt(service, key.name)).blob
    texts = set()
    for bit in range(len(blob) * 8):
        flipped = bytearray(blob)
        flipped[bit // 8] ^= 1 << bit % 8
        in_key_id = 2 <= bit // 8 < 18
        with pytest.raises((CiphertextInvalidError, WrongKeyError)) as refusal:
            await decrypt(service, key.name, bytes(flipped))
        assert isinstance(refusal.value, WrongKeyError) == in_key_id
        texts.add(refusal.value.message)
    assert len(texts) == 2
    for length in range(len(blob)):
        with pytest.raises(CiphertextInvalidError):
            await decrypt(service, key.name, blob[:length])
    assert service.records()[-1].outcome == "REFUSED"


async def test_a_blob_without_a_name_tells_nothing_about_hidden_keys(service):
    """An unknown key, a hidden key and a key elsewhere are the same to who names none."""
    hidden = await service.create_key()
    blob = (await encrypt(service, hidden.name)).blob
    unknown = header_for(KeyVersionRef(uuid.uuid4(), 1)) + blob[HEADER_BYTES:]
    with pytest.raises(KeyNotFoundError) as first:
        await decrypt(service, None, blob, who=STRANGER)
    with pytest.raises(KeyNotFoundError) as second:
        await decrypt(service, None, unknown, who=STRANGER)
    assert first.value.message == second.value.message
    assert first.value.metadata == second.value.metadata == {}


async def test_the_state_of_a_key_is_told_only_to_who_may_use_it(service):
    """A disabled key is disabled for its users, denied or not there for the others."""
    visible = await disable(service, await service.create_key(VISIBLE_TO_ALL))
    hidden = await disable(service, await service.create_key())
    for operation in (encrypt, data_key):
        with pytest.raises(KeyDisabledError):
            await operation(service, visible.name)
        with pytest.raises(PolicyDeniedError):
            await operation(service, visible.name, who=STRANGER)
        with pytest.raises(KeyNotFoundError):
            await operation(service, hidden.name, who=STRANGER)
    refused = service.records()[-3]
    assert (refused.outcome, refused.reason, refused.policy) == (
        "REFUSED",
        "KEY_DISABLED",
        "owners",
    )
    assert service.reserved() == {"eu-1": 0, "us-1": 0}


async def test_a_blob_of_another_key_is_told_apart(service):
    """WRONG_KEY when another key is named, also when the blob's key is hidden or unknown."""
    one, two = await service.create_key(), await service.create_key()
    blob = (await encrypt(service, one.name)).blob
    with pytest.raises(WrongKeyError):
        await decrypt(service, two.name, blob)
    assert service.records()[-1].reason == "WRONG_KEY"
    assert service.records()[-1].key == str(two.name)
    unknown = header_for(KeyVersionRef(uuid.uuid4(), 1)) + blob[HEADER_BYTES:]
    with pytest.raises(WrongKeyError):
        await decrypt(service, two.name, unknown)


async def test_an_unknown_version_is_an_invalid_ciphertext(service):
    """A version that the key does not have never reaches the HSM."""
    key = await service.create_key()
    blob = (await encrypt(service, key.name)).blob
    operations = service.eu.token.operations
    for number in (2, 2**32 - 1):
        future = header_for(KeyVersionRef(key.key_id, number)) + blob[HEADER_BYTES:]
        for name in (key.name, None):
            with pytest.raises(CiphertextInvalidError):
                await decrypt(service, name, future)
    assert service.eu.token.operations == operations


async def test_another_region_is_never_asked(service):
    """A region that is not hosted is an error that says what is; nothing is recorded."""
    for attempt in (
        encrypt(service, KeyName("ap-1", uuid.UUID(int=0))),
        decrypt(service, AliasName("ap-1", "x"), bytes(60)),
        service.crypto.generate_random(caller(), "ap-1", 16),
    ):
        with pytest.raises(WrongRegionError) as refusal:
            await attempt
        assert refusal.value.metadata == {"region": "ap-1", "hostedRegions": "eu-1,us-1"}
    assert not service.records()
    key = await service.create_key()
    with pytest.raises(KeyNotFoundError):
        await encrypt(service, KeyName("us-1", key.key_id))


async def test_validate_only_uses_nothing(service):
    """No HSM operation, no use and no output; the same refusals; a record that says so."""
    key, other = await service.create_key(), await service.create_key(region="us-1")
    blob = (await encrypt(service, key.name)).blob
    operations, reserved = service.eu.token.operations, service.reserved()
    assert (await encrypt(service, key.name, validate_only=True)).blob == b""
    assert (await decrypt(service, key.name, blob, validate_only=True)).plaintext == b""
    moved = await re_encrypt(service, None, blob, other.name, validate_only=True)
    assert moved.blob == b""
    for plain in (True, False):
        made = await data_key(service, key.name, with_plaintext=plain, validate_only=True)
        assert (made.plaintext, made.blob) == (b"", b"")
    assert (service.eu.token.operations, service.reserved()) == (operations, reserved)
    assert [record.validate_only for record in service.records()[-5:]] == [True] * 5
    assert service.records("us-1")[-1].validate_only
    for attempt in (
        encrypt(service, key.name, who=STRANGER, validate_only=True),
        encrypt(service, NOWHERE, validate_only=True),
        decrypt(service, key.name, blob[:40], validate_only=True),
    ):
        with pytest.raises(StrongroomError):
            await attempt
    assert (service.eu.token.operations, service.reserved()) == (operations, reserved)


@pytest.mark.parametrize("with_plaintext", [True, False])
@pytest.mark.parametrize("size", [1, 16, 32, 1024])
async def test_data_keys_open_with_decrypt(service, size, with_plaintext):
    """A data key has the length asked for, is fresh, and Decrypt gives the same bytes."""
    key = await service.create_key()
    made = await data_key(service, key.name, size, with_plaintext=with_plaintext)
    opened = await decrypt(service, None, made.blob)
    assert len(opened.plaintext) == size
    assert made.plaintext == (opened.plaintext if with_plaintext else b"")
    method = "GenerateDataKey" if with_plaintext else "GenerateDataKeyWithoutPlaintext"
    record = service.records()[-2]
    assert (record.method, record.key_version, record.outcome) == (method, 1, "OK")


def test_secrets_are_not_in_representations():
    """Plaintext and data keys do not appear when a result is printed."""
    for result in (
        Decrypted("v", b"marker", True, ()),  # noqa: FBT003 - a dataclass field
        DataKey("v", b"marker", b"", ()),
    ):
        assert "marker" not in repr(result)


async def test_random_bytes_are_for_everybody_and_recorded(service):
    """Any principal may ask; the record has no key."""
    random, receipt = await service.crypto.generate_random(caller(STRANGER), "us-1", 24)
    assert len(random) == 24
    assert receipt.region == "us-1"
    assert fields(service.records("us-1")[-1]) == {
        "principal": STRANGER,
        "method": "GenerateRandom",
        "outcome": "OK",
        "policy": "any-principal",
        "request_id": "call-1",
    }


async def test_an_exhausted_version_refuses_to_encrypt_and_still_decrypts(service):
    """After 2^32 uses only a rotation helps; nothing reaches the HSM."""
    key = await service.create_key()
    blob = (await encrypt(service, key.name)).blob
    worn = MemoryService("eu-1")
    worn.eu.store.keys.update(service.eu.store.keys)
    worn.eu.token.materials.update(service.eu.token.materials)
    worn.eu.store.reserved[KeyVersionRef(key.key_id, 1)] = MAX_USES
    for attempt in (encrypt, data_key):
        with pytest.raises(KeyExhaustedError):
            await attempt(worn, key.name)
    assert worn.records()[-1].reason == "KEY_EXHAUSTED"
    assert worn.eu.token.operations == 0
    assert (await decrypt(worn, None, blob)).plaintext == b"secret"
    await worn.lifecycle.rotate_key(caller(), key.name, ChangeRequest())
    assert (await encrypt(worn, key.name)).key_version.endswith("/versions/2")


async def test_rotation_due_is_heard_by_the_service(service):
    """A key whose primary version reaches 2^30 uses is announced with the use that reaches it."""
    key = await service.create_key()
    service.eu.store.reserved[KeyVersionRef(key.key_id, 1)] = 2**30
    await encrypt(service, key.name)
    await encrypt(service, key.name)
    assert [due.key_id for due in service.rotation_due] == [key.key_id]
    shard = service.topology.shard("eu-1")
    await service.lifecycle.rotate_worn(
        dataclasses.replace(caller("spiffe://service"), request_id="rotation"), shard, key.name
    )
    assert service.records()[-1].policy == "rotation-by-use"
    assert (await encrypt(service, key.name)).key_version.endswith("/versions/2")
