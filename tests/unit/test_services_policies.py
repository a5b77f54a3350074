"""Policies replaced and explained: what is checked, kept, recorded and told."""

from __future__ import annotations

import hashlib
from datetime import timedelta

import pytest
from tests.support.memory_calls import encrypt
from tests.support.memory_service import (
    ADMIN,
    ORDERS,
    STRANGER,
    VISIBLE_TO_ALL,
    MemoryService,
    caller,
)

from strongroom_server.domain.explaining import MismatchPart
from strongroom_server.domain.keys import Key
from strongroom_server.errors import (
    ArgumentInvalidError,
    EtagMismatchError,
    KeyNotFoundError,
    PolicyDeniedError,
    PolicyInvalidError,
)
from strongroom_server.services.changes import ChangeRequest
from strongroom_server.services.explanations import AccessQuestion, Explanation
from strongroom_server.services.grants import NewGrant

FOR_ALL = """
@id("all") permit (principal, action, resource);
@id("admins") forbid (principal in Role::"administrator", action in Action::"UseKey", resource);
"""
PARTS = """
@id("owner") permit (principal == Principal::"spiffe://example.org/orders", action, resource);
@id("visible") permit (principal, action == Action::"GetKey", resource);
@id("tenant") permit (
  principal == Principal::"spiffe://example.org/stranger",
  action in Action::"UseKey", resource
) when {
  context.encryption_context.contains({name: "tenant", value: "7"}) &&
  context.encryption_context.contains({name: "table", value: "cards"})
} unless {
  context.encryption_context.contains({name: "secret", value: "yes"})
};
@id("elsewhere") permit (principal, action, resource == Key::"regions/eu-1/keys/x");
"""


@pytest.fixture
def service() -> MemoryService:
    """Give a service."""
    return MemoryService()


async def explain(
    service: MemoryService,
    key: Key,
    operation: str = "Decrypt",
    *,
    by: str = ORDERS,
    **asked: object,
) -> Explanation:
    """Ask about somebody's access."""
    question = AccessQuestion(key.name, operation, asked.pop("context", {}), **asked)  # type: ignore[arg-type] # tests name fields
    found, _ = await service.management.explanations.explain(caller(by), question)
    return found


async def test_a_new_policy_decides_at_once(service: MemoryService) -> None:
    """The next call is decided by it, and its record has revision and hash."""
    key = await service.create_key()
    with pytest.raises(KeyNotFoundError):
        await encrypt(service, key.name, who=STRANGER)
    await service.management.policies.put(caller(), key.name, FOR_ALL, ChangeRequest())
    record = service.records()[-1]
    assert record.details == {
        "policy_revision": "2",
        "policy_sha256": hashlib.sha256(FOR_ALL.encode()).hexdigest(),
    }
    await encrypt(service, key.name, who=STRANGER)
    assert service.records()[-1].policy == "all"
    with pytest.raises(PolicyDeniedError):
        await encrypt(service, key.name, who=ADMIN)


@pytest.mark.parametrize(
    "text",
    [
        "permit everything;",
        "forbid (principal, action, resource);",
        '@id("grant/1") permit (principal, action, resource);',
        'permit (principal, action == Action::"GetKey", resource);',
        'permit (principal == Principal::"spiffe://example.org/other", action, resource);',
    ],
)
async def test_a_policy_that_cannot_be_is_refused(service: MemoryService, text: str) -> None:
    """Schema, lock-out, ids like those of grants: refused, recorded, and nothing changes."""
    key = await service.create_key()
    with pytest.raises(PolicyInvalidError):
        await service.management.policies.put(caller(), key.name, text, ChangeRequest())
    assert service.records()[-1].reason == "POLICY_INVALID"
    assert service.eu.store.keys[key.key_id].policy == key.policy


async def test_reading_and_putting_are_for_those_who_may(service: MemoryService) -> None:
    """Each by its own action; whoever may see the key may not read its policy for that."""
    key = await service.create_key(VISIBLE_TO_ALL)
    policies = service.management.policies
    who = caller(STRANGER)
    with pytest.raises(PolicyDeniedError):
        await policies.get(who, key.name, None)
    with pytest.raises(PolicyDeniedError):
        await policies.put(who, key.name, FOR_ALL, ChangeRequest())
    with pytest.raises(PolicyDeniedError):
        await policies.list_page(who, key.name, page_size=0, page_token="", with_text=False)


async def test_a_change_between_reading_and_writing_is_noticed(service: MemoryService) -> None:
    """A policy that another server put meanwhile is not overwritten unseen."""
    key = await service.create_key()
    policies = service.management.policies
    await policies.put(caller(), key.name, FOR_ALL, ChangeRequest(etag="p1"))
    with pytest.raises(EtagMismatchError):
        await policies.put(caller(), key.name, VISIBLE_TO_ALL, ChangeRequest(etag="p1"))
    # Memory that is a moment behind the history, as another server's change leaves it.
    stale = service.eu.store.keys[key.key_id]
    object.__setattr__(stale, "policy", key.policy)
    with pytest.raises(EtagMismatchError):
        await policies.put(caller(), key.name, VISIBLE_TO_ALL, ChangeRequest())


async def test_an_explanation_names_the_parts_that_fail(service: MemoryService) -> None:
    """Principal, operation, resource, the condition that fails, and the one after `unless`."""
    key = await service.create_key(PARTS)
    full = {"tenant": "7", "table": "cards"}
    for context, failing in (
        (full, ""),
        ({"tenant": "7"}, 'value: "cards"'),
        ({"table": "cards"}, 'value: "7"'),
        ({}, 'value: "7"'),
        (full | {"secret": "yes"}, "unless"),
    ):
        found = await explain(service, key, principal=STRANGER, context=context)
        assert [each.policy_id for each in found.considerations] == [
            "owner",
            "visible",
            "tenant",
            "elsewhere",
        ]
        parts = [[m.part for m in each.mismatches] for each in found.considerations]
        assert parts[0] == [MismatchPart.PRINCIPAL]
        assert parts[1] == [MismatchPart.OPERATION]
        assert parts[2] == ([MismatchPart.CONDITION] if failing else [])
        assert parts[3] == [MismatchPart.RESOURCE]
        if failing:
            assert failing in found.considerations[2].mismatches[0].detail
        assert (found.allowed, found.decided_by) == (
            (False, "default-deny") if failing else (True, "tenant")
        )


async def test_an_error_in_a_condition_is_told(service: MemoryService) -> None:
    """A policy whose condition overflows does not apply, and the explanation says so."""
    text = (
        '@id("owner") permit (principal == Principal::"spiffe://example.org/orders",'
        " action, resource);"
        '@id("big") permit (principal, action, resource) '
        "when { 9223372036854775807 + 1 > 0 };"
    )
    key = await service.create_key(text)
    found = await explain(service, key, principal=STRANGER)
    assert not found.allowed
    assert found.considerations[1].mismatches[0].part is MismatchPart.ERROR
    assert "overflow" in found.considerations[1].mismatches[0].detail


async def test_own_access_is_explained_to_who_sees_the_key(service: MemoryService) -> None:
    """About oneself, and of the policies for oneself only; about others it is denied."""
    key, hidden = await service.create_key(PARTS), await service.create_key()
    found = await explain(service, key, by=STRANGER)
    assert [each.policy_id for each in found.considerations] == ["visible", "tenant", "elsewhere"]
    assert service.records()[-1].policy == "own-access"
    with pytest.raises(PolicyDeniedError):
        await explain(service, key, by=STRANGER, principal=ORDERS)
    with pytest.raises(KeyNotFoundError):
        await explain(service, hidden, by=STRANGER)


async def test_an_explanation_of_then_is_by_the_policy_of_then(service: MemoryService) -> None:
    """Each policy for its time; grants made later do not count; before the key there is none."""
    key = await service.create_key()
    policies = service.management.policies
    second, _ = await policies.put(caller(), key.name, FOR_ALL, ChangeRequest())
    grant = NewGrant(key.name, STRANGER, ["Decrypt"])
    await service.management.grants.create(caller(), grant, ChangeRequest())
    third, _ = await policies.put(caller(), key.name, key.policy, ChangeRequest())
    moment = timedelta(microseconds=1)
    for time, revision, allowed in (
        (key.create_time, 1, False),
        (second.time - moment, 1, False),
        (second.time, 2, True),
        (third.time, 3, True),
        (None, 3, True),
    ):
        found = await explain(service, key, principal=STRANGER, at_time=time)
        assert (found.policy_revision, found.allowed) == (revision, allowed)
    with pytest.raises(ArgumentInvalidError):
        await explain(service, key, at_time=key.create_time - moment)


async def test_an_operation_that_is_none_is_refused(service: MemoryService) -> None:
    """Only actions of policies can be asked about."""
    key = await service.create_key()
    for operation in ("decrypt", "CreateKey", "ReEncrypt", ""):
        with pytest.raises(ArgumentInvalidError):
            await explain(service, key, operation)
    assert (await explain(service, key, "Decrypt", principal=ADMIN)).is_administrator
