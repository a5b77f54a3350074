"""Record before reply: what the records of good and bad outcomes say."""

from __future__ import annotations

import asyncio
import uuid

import pytest
from tests.support.memory_calls import (
    CONTEXT,
    data_key,
    decrypt,
    encrypt,
)
from tests.support.memory_service import (
    ADMIN,
    ORDERS,
    STRANGER,
    VISIBLE_TO_ALL,
    MemoryService,
    caller,
    fields,
)

from strongroom.receipts import Receipt
from strongroom.resource_names import KeyName
from strongroom_server.domain.keys import AuditMode, KeySpec, KeyUsage
from strongroom_server.errors import (
    AuditUnavailableError,
    HsmUnavailableError,
    InternalError,
    KeyNotFoundError,
    PolicyDeniedError,
    ShardUnavailableError,
)
from strongroom_server.services.changes import ChangeRequest
from strongroom_server.services.lifecycle import NewKey

NOWHERE = KeyName("eu-1", uuid.UUID(int=0))


@pytest.fixture
def service():
    return MemoryService()


async def test_a_named_key_that_is_hidden_or_missing_has_one_answer(service):
    """Message, metadata and the presence of a receipt are the same; the record is not."""
    hidden = await service.create_key()
    answers = []
    for name in (hidden.name, NOWHERE):
        with pytest.raises(KeyNotFoundError) as refusal:
            await encrypt(service, name, who=STRANGER)
        error = refusal.value
        answers.append((error.message.replace(str(name), "NAME"), error.metadata))
        assert len(error.receipts) == 1
    assert answers[0] == answers[1]
    told, untold = service.records()[-2:]
    assert fields(told) == {
        "principal": STRANGER,
        "method": "Encrypt",
        "outcome": "DENIED",
        "reason": "POLICY_DENIED",
        "policy": "default-deny",
        "request_id": "call-1",
        "key": str(hidden.name),
        "encryption_context": CONTEXT,
    }
    assert fields(untold) == {
        "principal": STRANGER,
        "method": "Encrypt",
        "outcome": "REFUSED",
        "reason": "KEY_NOT_FOUND",
        "request_id": "call-1",
        "key": str(NOWHERE),
        "encryption_context": CONTEXT,
    }


async def test_a_visible_key_is_denied_and_says_so(service):
    """Who may see the key learns that it is a matter of permission; the record names the policy."""
    key = await service.create_key(
        VISIBLE_TO_ALL + '@id("never") forbid (principal, action == Action::"Decrypt", resource);'
    )
    with pytest.raises(PolicyDeniedError, match="no policy allows Encrypt"):
        await encrypt(service, key.name, who=STRANGER)
    assert service.records()[-1].policy == "default-deny"
    blob = (await encrypt(service, key.name)).blob
    with pytest.raises(PolicyDeniedError):
        await decrypt(service, key.name, blob)
    assert fields(service.records()[-1]) == {
        "principal": ORDERS,
        "method": "Decrypt",
        "outcome": "DENIED",
        "reason": "POLICY_DENIED",
        "policy": "never",
        "request_id": "call-1",
        "key": str(key.name),
        "encryption_context": CONTEXT,
    }


async def test_a_good_answer_has_its_record_first(service):
    """The receipt in the answer is that of the record, with exactly the documented fields."""
    key = await service.create_key()
    made = await encrypt(service, key.name)
    record = service.records()[-1]
    expected = Receipt.for_record(
        region="eu-1",
        epoch=made.receipts[0].epoch,
        sequence=len(service.records()),
        record=repr(record).encode(),
    )
    assert made.receipts == (expected,)
    assert fields(record) == {
        "principal": ORDERS,
        "method": "Encrypt",
        "outcome": "OK",
        "policy": "creator",
        "request_id": "call-1",
        "key": str(key.name),
        "key_version": 1,
        "encryption_context": CONTEXT,
    }
    await encrypt(service, key.name, who=ADMIN)
    assert service.records()[-1].policy == "administrators"


async def test_no_record_no_answer(service):
    """Whatever the outcome, one that cannot be recorded is AUDIT_UNAVAILABLE."""
    key = await service.create_key()
    blob = (await encrypt(service, key.name)).blob
    trail = service.eu.trail
    trail.refuses_at = len(trail.records) + 1
    for attempt in (
        lambda: encrypt(service, key.name),
        lambda: decrypt(service, None, blob),
        lambda: decrypt(service, key.name, blob, {}),
        lambda: data_key(service, key.name),
        lambda: encrypt(service, key.name, who=STRANGER),
        lambda: encrypt(service, NOWHERE),
        lambda: service.crypto.generate_random(caller(), "eu-1", 8),
        lambda: service.lifecycle.get_key(caller(), key.name),
    ):
        with pytest.raises(AuditUnavailableError) as refusal:
            await attempt()
        assert refusal.value.receipts == ()


async def test_a_full_spool_refuses_before_the_hsm_is_asked(service):
    """At the spool's limit nothing is used: no HSM operation, no use, no change."""
    key = await service.create_key()
    operations = service.eu.token.operations
    service.eu.trail.full = True
    for attempt in (
        encrypt(service, key.name),
        service.crypto.generate_random(caller(), "eu-1", 8),
        service.create_key(),
        service.lifecycle.rotate_key(caller(), key.name, ChangeRequest()),
    ):
        with pytest.raises(AuditUnavailableError):
            await attempt
    assert service.eu.token.operations == operations
    assert service.reserved()["eu-1"] == 0
    assert service.outcomes[-1] == ("eu-1", "RotateKey", "AUDIT_UNAVAILABLE")


async def test_a_fault_of_the_hsm_is_recorded_as_failed(service):
    """FAILED, with the version that was to be used; the use is spent."""
    key = await service.create_key()
    service.eu.token.fault = HsmUnavailableError("eu-1", "does not answer")
    with pytest.raises(HsmUnavailableError) as refusal:
        await encrypt(service, key.name)
    assert len(refusal.value.receipts) == 1
    assert fields(service.records()[-1]) == {
        "principal": ORDERS,
        "method": "Encrypt",
        "outcome": "FAILED",
        "reason": "HSM_UNAVAILABLE",
        "policy": "creator",
        "request_id": "call-1",
        "key": str(key.name),
        "key_version": 1,
        "encryption_context": CONTEXT,
    }
    service.eu.store.fault = ShardUnavailableError("eu-1", "the store fails")
    with pytest.raises(ShardUnavailableError):
        await encrypt(service, key.name)
    assert service.records()[-1].outcome == "FAILED"


async def test_an_unexpected_exception_is_internal_and_recorded(service):
    """What nobody foresaw is INTERNAL with its cause for the log, and FAILED in the record."""
    key = await service.create_key()
    service.eu.token.fault = RuntimeError("marker: the inside")
    with pytest.raises(InternalError) as refusal:
        await encrypt(service, key.name)
    assert "marker" not in refusal.value.message
    assert isinstance(refusal.value.__cause__, RuntimeError)
    assert len(refusal.value.receipts) == 1
    record = service.records()[-1]
    assert (record.outcome, record.reason) == ("FAILED", "INTERNAL")
    assert "marker" not in repr(record)


async def test_a_missing_version_is_a_fault_and_not_a_missing_key(service):
    """Metadata that the token does not bear out is UNAVAILABLE, never NOT_FOUND."""
    key = await service.create_key()
    service.eu.token.materials.clear()
    with pytest.raises(HsmUnavailableError):
        await encrypt(service, key.name)


async def test_concurrent_calls_have_receipts_of_their_own(service):
    """A hundred calls at once leave a hundred records, each answer with another receipt."""
    key = await service.create_key()
    before = len(service.records())
    answers = await asyncio.gather(*(encrypt(service, key.name) for _ in range(100)))
    sequences = {answer.receipts[0].sequence for answer in answers}
    assert sequences == set(range(before + 1, before + 101))
    assert len({answer.blob for answer in answers}) == 100


async def test_uses_of_a_buffered_key_do_not_wait_and_all_else_does(service):
    """Only the record of a use that succeeded is buffered; every record says the key's mode."""
    new = NewKey(
        "eu-1",
        "",
        KeySpec.AES_256,
        KeyUsage.ENCRYPT_DECRYPT,
        VISIBLE_TO_ALL,
        audit_mode=AuditMode.BUFFERED,
    )
    key, created = await service.lifecycle.create_key(caller(), new, ChangeRequest())
    assert not created.is_buffered
    made = await encrypt(service, key.name)
    opened = await decrypt(service, None, made.blob)
    assert [receipt.is_buffered for receipt in made.receipts + opened.receipts] == [True, True]
    _, seen = await service.lifecycle.get_key(caller(), key.name)
    assert not seen.is_buffered
    with pytest.raises(PolicyDeniedError) as refusal:
        await encrypt(service, key.name, who=STRANGER)
    assert [receipt.is_buffered for receipt in refusal.value.receipts] == [False]
    assert [record.mode for record in service.records()] == ["BUFFERED"] * 5
    plain = await service.create_key()
    made = await encrypt(service, plain.name)
    assert [receipt.is_buffered for receipt in made.receipts] == [False]
    assert service.records()[-1].mode is None
