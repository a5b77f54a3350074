"""Grants in the services: what they allow, who may make and end them, what is recorded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest
from tests.support.memory_calls import decrypt, encrypt
from tests.support.memory_service import ADMIN, ORDERS, STRANGER, MemoryService, caller

from strongroom.resource_names import GrantName
from strongroom_server.domain.grants import Constraint, ConstraintKind, Grant
from strongroom_server.domain.keys import Key
from strongroom_server.domain.policy import Action
from strongroom_server.errors import (
    GrantNotFoundError,
    KeyNotFoundError,
    PolicyDeniedError,
    StrongroomError,
)
from strongroom_server.services.changes import ChangeRequest
from strongroom_server.services.grants import NewGrant

WORKER = "spiffe://example.org/worker"
HELPER = "spiffe://example.org/helper"
SUBSET = Constraint(ConstraintKind.SUBSET, (("table", "cards"),))
EQUALS = Constraint(ConstraintKind.EQUALS, (("table", "cards"),))
FORBIDS = """
@id("owner") permit (principal == Principal::"spiffe://example.org/orders", action, resource);
@id("never") forbid (principal == Principal::"spiffe://example.org/worker", action, resource)
when { context.encryption_context.contains({name: "secret", value: "yes"}) };
@id("no-reencrypt") forbid (principal, action == Action::"ReEncryptFrom", resource);
"""


@pytest.fixture(params=[False, True], ids=["in memory", "read when asked"])
def service(request: pytest.FixtureRequest) -> MemoryService:
    """Give a service, whose grants are in memory or not."""
    service = MemoryService()
    for region in service.regions.values():
        region.store.permissions.forgets = request.param
    return service


async def grant_to(
    service: MemoryService,
    key: Key,
    grantee: str,
    operations: Sequence[str],
    *,
    who: str = ORDERS,
    constraint: Constraint | None = None,
    retiring: str = "",
) -> Grant:
    """Make a grant."""
    new = NewGrant(key.name, grantee, operations, constraint, retiring)
    grant, _ = await service.management.grants.create(caller(who), new, ChangeRequest())
    return grant


async def allowed(
    service: MemoryService,
    key: Key,
    who: str,
    action: Action,
    context: Mapping[str, str] | None = None,
) -> str:
    """Return what allows, or the name of the refusal."""
    try:
        return await service.authorization.authorize(
            who,
            action,
            key,
            context or {},
            asked_name="x",
            permissions=service.eu.store.permissions,
        )
    except StrongroomError as error:
        return type(error).__name__


async def test_a_grant_works_at_once_and_no_longer(service: MemoryService) -> None:
    """From CreateGrant's return to RevokeGrant's, and its id is in the record of each use."""
    key = await service.create_key()
    with pytest.raises(KeyNotFoundError):
        await encrypt(service, key.name, who=WORKER)
    grant = await grant_to(service, key, WORKER, ["Encrypt"])
    await encrypt(service, key.name, who=WORKER)
    record = service.records()[-1]
    assert (record.outcome, record.policy) == ("OK", f"grant/{grant.grant_id}")
    with pytest.raises(KeyNotFoundError):
        await encrypt(service, key.name, who=HELPER)
    await service.management.grants.revoke(caller(), grant.resource_name, ChangeRequest())
    with pytest.raises(KeyNotFoundError):
        await encrypt(service, key.name, who=WORKER)
    assert service.records()[-1].policy == "default-deny"


async def test_a_grant_allows_its_operations_only(service: MemoryService) -> None:
    """No other operation, no other key, and no management."""
    key, other = await service.create_key(), await service.create_key()
    grant = await grant_to(service, key, WORKER, ["Decrypt", "GetKey"])
    expected = {Action.DECRYPT: grant.policy_id, Action.GET_KEY: grant.policy_id}
    for action in Action:
        assert await allowed(service, key, WORKER, action) == expected.get(
            action, "PolicyDeniedError"
        )
        assert await allowed(service, other, WORKER, action) == "KeyNotFoundError"


async def test_a_forbid_beats_a_grant(service: MemoryService) -> None:
    """What the policy forbids, no grant allows, and the policy is what decided."""
    key = await service.create_key(FORBIDS)
    grant = await grant_to(service, key, WORKER, ["Decrypt", "ReEncryptFrom", "GetKey"])
    assert await allowed(service, key, WORKER, Action.DECRYPT, {"a": "b"}) == grant.policy_id
    assert (
        await allowed(service, key, WORKER, Action.DECRYPT, {"secret": "yes"})
        == "PolicyDeniedError"
    )
    assert await allowed(service, key, WORKER, Action.RE_ENCRYPT_FROM) == "PolicyDeniedError"
    with pytest.raises(PolicyDeniedError) as refused:
        await service.crypto.decrypt(
            caller(WORKER), key.name, b"\x01" * 60, {"secret": "yes"}, validate_only=False
        )
    assert refused.value.policy_id == "never"
    assert service.records()[-1].policy == "never"


@pytest.mark.parametrize(
    ("constraint", "context", "fits"),
    [
        (SUBSET, {"table": "cards"}, True),
        (SUBSET, {"table": "cards", "order": "17"}, True),
        (SUBSET, {"table": "other"}, False),
        (SUBSET, {"Table": "cards"}, False),
        (SUBSET, {}, False),
        (EQUALS, {"table": "cards"}, True),
        (EQUALS, {"table": "cards", "order": "17"}, False),
        (EQUALS, {}, False),
    ],
)
async def test_a_constraint_is_on_the_encryption_context(
    service: MemoryService, constraint: Constraint, context: dict[str, str], *, fits: bool
) -> None:
    """Exactly these pairs, or these among others; GetKey has no context and is not concerned."""
    key = await service.create_key()
    grant = await grant_to(service, key, WORKER, ["Decrypt", "GetKey"], constraint=constraint)
    expected = grant.policy_id if fits else "PolicyDeniedError"
    assert await allowed(service, key, WORKER, Action.DECRYPT, context) == expected
    assert await allowed(service, key, WORKER, Action.GET_KEY) == grant.policy_id


async def test_a_grantee_passes_on_no_more_than_it_has(service: MemoryService) -> None:
    """A subset of the operations, under no weaker a constraint, of one grant, not of several."""
    key = await service.create_key()
    await grant_to(service, key, WORKER, ["CreateGrant", "Decrypt", "GetKey"], constraint=SUBSET)
    await grant_to(service, key, WORKER, ["Encrypt"])
    stricter = Constraint(ConstraintKind.SUBSET, (("table", "cards"), ("x", "y")))
    for operations, constraint in (
        (["Decrypt"], SUBSET),
        (["Decrypt"], EQUALS),
        (["Decrypt", "GetKey"], stricter),
        (["CreateGrant", "Decrypt"], SUBSET),
    ):
        grant = await grant_to(service, key, HELPER, operations, who=WORKER, constraint=constraint)
        assert grant.issuer == WORKER
    weaker: list[tuple[list[str], Constraint | None]] = [
        (["Decrypt"], None),
        (["Decrypt"], Constraint(ConstraintKind.SUBSET, (("x", "y"),))),
        (["Encrypt"], SUBSET),
        (["Decrypt", "Encrypt"], SUBSET),
        (["RetireGrant"], SUBSET),
    ]
    for operations, wanted in weaker:
        with pytest.raises(PolicyDeniedError):
            await grant_to(service, key, HELPER, operations, who=WORKER, constraint=wanted)
    with pytest.raises(KeyNotFoundError):
        await grant_to(service, key, HELPER, ["Decrypt"], who=STRANGER)


async def test_a_forbid_stops_passing_on(service: MemoryService) -> None:
    """A policy that forbids CreateGrant beats the grant that has it."""
    key = await service.create_key(
        '@id("a") permit (principal == Principal::"spiffe://example.org/orders", action, resource);'
        '@id("no") forbid (principal, action == Action::"CreateGrant", resource) unless '
        '{ principal == Principal::"spiffe://example.org/orders" };'
    )
    await grant_to(service, key, WORKER, ["CreateGrant", "Decrypt", "GetKey"])
    with pytest.raises(PolicyDeniedError):
        await grant_to(service, key, HELPER, ["Decrypt"], who=WORKER)


async def test_who_may_retire(service: MemoryService) -> None:
    """Its retiring principal, its grantee when it says so, who may by policy; nobody else."""
    key = await service.create_key()
    retire = service.management.grants.retire
    for operations, retiring, who, may in (
        (["Decrypt"], HELPER, HELPER, True),
        (["Decrypt", "RetireGrant"], "", WORKER, True),
        (["Decrypt"], "", ORDERS, True),
        (["Decrypt"], "", ADMIN, True),
        (["Decrypt"], HELPER, WORKER, False),
        (["Decrypt", "RetireGrant"], "", HELPER, False),
    ):
        grant = await grant_to(service, key, WORKER, operations, retiring=retiring)
        if may:
            await retire(caller(who), grant.resource_name, ChangeRequest())
        else:
            with pytest.raises(KeyNotFoundError):
                await retire(caller(who), grant.resource_name, ChangeRequest())
            assert grant.grant_id in service.eu.store.permissions.grants
            assert service.records()[-1].reason == "POLICY_DENIED"
    with pytest.raises(KeyNotFoundError):
        await service.management.grants.revoke(caller(HELPER), grant.resource_name, ChangeRequest())


async def test_a_grants_id_under_another_key_names_nothing(service: MemoryService) -> None:
    """The name of a grant is that of its key and its own: no other key's policy decides."""
    key, other = await service.create_key(), await service.create_key()
    grant = await grant_to(service, key, WORKER, ["Decrypt"])
    wrong = GrantName("eu-1", other.key_id, grant.grant_id)
    for end in (service.management.grants.retire, service.management.grants.revoke):
        with pytest.raises(GrantNotFoundError):
            await end(caller(), wrong, ChangeRequest())
    assert grant.grant_id in service.eu.store.permissions.grants


async def test_the_record_says_what_was_granted(service: MemoryService) -> None:
    """Grant, grantee and operations, for making and for ending."""
    key = await service.create_key()
    grant = await grant_to(service, key, WORKER, ["GetKey", "Decrypt"], retiring=HELPER)
    await service.management.grants.retire(caller(HELPER), grant.resource_name, ChangeRequest())
    for record in service.records()[-2:]:
        assert record.details == {
            "grant": str(grant.grant_id),
            "grantee": WORKER,
            "operations": "Decrypt,GetKey",
            "retiring": HELPER,
        }
        assert record.key == str(key.name)
    assert service.records()[-1].policy == f"grant/{grant.grant_id}"


async def test_lists_are_for_those_who_may(service: MemoryService) -> None:
    """A key's grants by policy; those to retire by being named in them."""
    key = await service.create_key()
    grants = service.management.grants
    mine = await grant_to(service, key, WORKER, ["Decrypt"], retiring=HELPER)
    with pytest.raises(KeyNotFoundError):
        await grants.list_page(caller(WORKER), key.name, grantee="", page_size=0, page_token="")
    found, token, _ = await grants.list_retirable_page(
        caller(HELPER), "eu-1", page_size=0, page_token=""
    )
    assert (list(found), token) == ([mine], "")
    found, _, _ = await grants.list_retirable_page(
        caller(WORKER), "eu-1", page_size=0, page_token=""
    )
    assert not found


async def test_a_grant_survives_what_the_key_goes_through(service: MemoryService) -> None:
    """Another policy, a rotation: the grant holds; and its holder decrypts what others made."""
    key = await service.create_key()
    await grant_to(service, key, WORKER, ["Decrypt"], constraint=SUBSET)
    sealed = await encrypt(service, key.name)
    await service.lifecycle.rotate_key(caller(), key.name, ChangeRequest())
    policy, _ = await service.management.policies.get(caller(), key.name, None)
    await service.management.policies.put(
        caller(), key.name, f"{policy.text}// again", ChangeRequest()
    )
    opened = await decrypt(service, key.name, sealed.blob, who=WORKER)
    assert opened.plaintext == b"secret"
