"""ReEncrypt: two keys, two records, two receipts."""

from __future__ import annotations

import pytest
from tests.support.memory_calls import (
    CONTEXT,
    NEW_CONTEXT,
    decrypt,
    encrypt,
    re_encrypt,
)
from tests.support.memory_service import (
    ADMIN,
    ORDERS,
    STRANGER,
    MemoryService,
    fields,
)

from strongroom_server.errors import (
    CiphertextInvalidError,
    HsmUnavailableError,
    KeyNotFoundError,
    PolicyDeniedError,
)


@pytest.fixture
def service():
    return MemoryService()


@pytest.mark.parametrize("target_region", ["eu-1", "us-1"])
async def test_re_encrypt_leaves_two_records_and_two_receipts(service, target_region):
    """Within a shard and between two: from, then to, each in its own shard."""
    source = await service.create_key()
    target = await service.create_key(region=target_region)
    blob = (await encrypt(service, source.name)).blob
    moved = await re_encrypt(service, None, blob, target.name)
    opened = await decrypt(service, target.name, moved.blob, NEW_CONTEXT)
    assert opened.plaintext == b"secret"
    assert moved.source_key_version == f"{source.name}/versions/1"
    assert moved.destination_key_version == f"{target.name}/versions/1"
    assert [receipt.region for receipt in moved.receipts] == ["eu-1", target_region]
    first = service.records()[moved.receipts[0].sequence - 1]
    second = service.records(target_region)[moved.receipts[1].sequence - 1]
    common = {
        "principal": ORDERS,
        "outcome": "OK",
        "policy": "creator",
        "request_id": "call-1",
        "key_version": 1,
    }
    assert fields(first) == common | {
        "method": "ReEncryptFrom",
        "key": str(source.name),
        "encryption_context": CONTEXT,
    }
    assert fields(second) == common | {
        "method": "ReEncryptTo",
        "key": str(target.name),
        "encryption_context": NEW_CONTEXT,
    }


async def test_re_encrypt_needs_both_permissions(service):
    """Who may only use one of the two keys is refused, in the shard that it concerns."""
    source = await service.create_key()
    blob = (await encrypt(service, source.name)).blob
    foreign = await service.create_key(
        f'permit (principal == Principal::"{ADMIN}", action, resource);'
        'permit (principal, action in Action::"ManageKey", resource);',
        region="us-1",
    )
    with pytest.raises(PolicyDeniedError):
        await re_encrypt(service, None, blob, foreign.name)
    assert fields(service.records("us-1")[-1])["method"] == "ReEncryptTo"
    assert service.records("us-1")[-1].outcome == "DENIED"
    with pytest.raises(KeyNotFoundError):
        await re_encrypt(service, source.name, blob, foreign.name, who=STRANGER)
    assert fields(service.records()[-1])["method"] == "ReEncryptFrom"
    assert service.reserved()["us-1"] == 0


@pytest.mark.parametrize("target_region", ["eu-1", "us-1"])
async def test_re_encrypt_of_a_bad_blob_is_recorded_at_the_source_only(service, target_region):
    """A blob that does not open leaves one refusal, of ReEncryptFrom."""
    source = await service.create_key()
    target = await service.create_key(region=target_region)
    blob = (await encrypt(service, source.name)).blob
    before = len(service.records(target_region))
    with pytest.raises(CiphertextInvalidError) as refusal:
        await re_encrypt(service, None, blob[:-1] + bytes([blob[-1] ^ 1]), target.name)
    assert [receipt.region for receipt in refusal.value.receipts] == ["eu-1"]
    assert service.records()[-1].method == "ReEncryptFrom"
    assert service.records()[-1].outcome == "REFUSED"
    assert len(service.records(target_region)) == before + (target_region == "eu-1")


async def test_re_encrypt_that_fails_at_the_destination_has_both_receipts(service):
    """The source was used: its record stands, and the refusal carries both receipts."""
    source, target = await service.create_key(), await service.create_key(region="us-1")
    blob = (await encrypt(service, source.name)).blob
    service.regions["us-1"].token.fault = HsmUnavailableError("us-1", "does not answer")
    with pytest.raises(HsmUnavailableError) as refusal:
        await re_encrypt(service, None, blob, target.name)
    assert [receipt.region for receipt in refusal.value.receipts] == ["eu-1", "us-1"]
    assert (service.records()[-1].method, service.records()[-1].outcome) == ("ReEncryptFrom", "OK")
    failed = service.records("us-1")[-1]
    assert (failed.method, failed.outcome) == ("ReEncryptTo", "FAILED")
