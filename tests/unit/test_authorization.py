"""Authorisation: who may, cached for as long as the policy is the same."""

from __future__ import annotations

import dataclasses

import pytest
from tests.support.memory_permissions import MemoryPermissions
from tests.support.memory_service import ADMIN, ORDERS, STRANGER, VISIBLE_TO_ALL, MemoryService

from strongroom_server.domain.policy import Action
from strongroom_server.errors import KeyNotFoundError, PolicyDeniedError, PolicyInvalidError
from strongroom_server.services import authorization as module

NONE = MemoryPermissions()
TENANT = """
@id("see") permit (principal, action == Action::"GetKey", resource);
@id("tenant") permit (principal, action, resource)
when { context.encryption_context.contains({name: "tenant", value: "7"}) };
@id("owner") permit (principal == Principal::"spiffe://example.org/orders", action, resource);
"""


@pytest.fixture
def service():
    return MemoryService()


async def test_denied_and_hidden_are_told_apart_by_sight(service):
    """Who may see the key is denied; who may not is told there is none; nothing else differs."""
    key = await service.create_key(VISIBLE_TO_ALL)
    hidden = await service.create_key()
    authorize = service.authorization.authorize
    assert (
        await authorize(ORDERS, Action.ENCRYPT, key, {}, permissions=NONE, asked_name="x")
        == "owners"
    )
    with pytest.raises(PolicyDeniedError):
        await authorize(STRANGER, Action.ENCRYPT, key, {}, permissions=NONE, asked_name="x")
    with pytest.raises(KeyNotFoundError) as refusal:
        await authorize(STRANGER, Action.ENCRYPT, hidden, {}, permissions=NONE, asked_name="asked")
    assert refusal.value.hidden
    assert refusal.value.message == KeyNotFoundError("asked").message
    assert str(hidden.key_id) not in refusal.value.message


async def test_creating_is_for_configured_principals(service):
    """Creators and administrators may create keys; each verdict is counted."""
    service.decisions.clear()
    authorize = service.authorization.authorize_create
    assert authorize(ORDERS, "regions/eu-1") == "key_creators"
    assert authorize(ADMIN, "regions/eu-1") == "administrators"
    with pytest.raises(PolicyDeniedError):
        authorize(STRANGER, "regions/eu-1")
    assert service.decisions == [True, True, False]


async def test_a_new_policy_takes_effect_at_once(service):
    """Decisions of an older policy text are never used for a newer one."""
    key = await service.create_key(VISIBLE_TO_ALL)
    authorize = service.authorization.authorize
    assert (
        await authorize(ORDERS, Action.ENCRYPT, key, {}, permissions=NONE, asked_name="")
        == "owners"
    )
    narrowed = dataclasses.replace(
        key, policy='@id("see") permit (principal, action == Action::"GetKey", resource);'
    )
    with pytest.raises(PolicyDeniedError):
        await authorize(ORDERS, Action.ENCRYPT, narrowed, {}, permissions=NONE, asked_name="")
    same_words = dataclasses.replace(key, policy="".join(list(key.policy)))
    assert same_words.policy is not key.policy
    assert (
        await authorize(ORDERS, Action.ENCRYPT, same_words, {}, permissions=NONE, asked_name="")
        == "owners"
    )


async def test_one_context_never_answers_for_another(service):
    """A decision under one context is not the decision under another, or under none."""
    key = await service.create_key(TENANT)
    for _ in range(2):  # the second time from the cache
        for context, allowed in (
            ({"tenant": "7"}, True),
            ({"tenant": "8"}, False),
            ({}, False),
            ({"tenant": "7", "x": "y"}, True),
            ({"7": "tenant"}, False),
        ):
            if allowed:
                assert (
                    await service.authorization.authorize(
                        STRANGER, Action.DECRYPT, key, context, permissions=NONE, asked_name=""
                    )
                    == "tenant"
                )
            else:
                with pytest.raises(PolicyDeniedError):
                    await service.authorization.authorize(
                        STRANGER, Action.DECRYPT, key, context, permissions=NONE, asked_name=""
                    )


async def test_one_principal_or_action_never_answers_for_another(service):
    """Cached decisions are bound to principal, action and key."""
    one, two = await service.create_key(VISIBLE_TO_ALL), await service.create_key()
    for _ in range(2):
        for principal, key, action, allowed in (
            (ORDERS, one, Action.ENCRYPT, True),
            (STRANGER, one, Action.ENCRYPT, False),
            (STRANGER, one, Action.GET_KEY, True),
            (ADMIN, one, Action.ENCRYPT, False),
            (ADMIN, two, Action.ENCRYPT, True),
            (STRANGER, two, Action.GET_KEY, False),
        ):
            try:
                await service.authorization.authorize(
                    principal, action, key, {}, permissions=NONE, asked_name=""
                )
            except (PolicyDeniedError, KeyNotFoundError):
                assert not allowed
            else:
                assert allowed


async def test_the_cache_is_bounded(service, monkeypatch):
    """Neither many contexts nor many keys make it grow beyond its limits, or answer wrongly."""
    monkeypatch.setattr(module, "MAX_CACHED_KEYS", 3)
    monkeypatch.setattr(module, "MAX_CACHED_DECISIONS_PER_KEY", 5)
    keys = [await service.create_key(TENANT) for _ in range(6)]
    for key in keys:
        for n in range(20):
            await service.authorization.authorize(
                STRANGER,
                Action.DECRYPT,
                key,
                {"tenant": "7", "n": str(n)},
                permissions=NONE,
                asked_name="",
            )
    cached = service.authorization._keys
    assert len(cached) <= 3
    assert all(len(decisions.decisions) <= 5 for decisions in cached.values())
    entries = [entry for decisions in cached.values() for entry in decisions.decisions]
    assert all(len(bound) <= 32 for _, _, bound in entries)


async def test_decisions_are_bounded_over_all_keys(service, monkeypatch):
    """Together they stay within their bound; who was asked for last stays, and is right."""
    monkeypatch.setattr(module, "MAX_CACHED_DECISIONS", 7)
    monkeypatch.setattr(module, "MAX_CACHED_DECISIONS_PER_KEY", 4)
    authorization = service.authorization
    keys = [await service.create_key(TENANT) for _ in range(5)]
    for n in range(60):
        key = keys[n * 7 % 5]
        context = {"tenant": "7", "n": str(n)}
        await authorization.authorize(
            STRANGER, Action.DECRYPT, key, context, permissions=NONE, asked_name=""
        )
        counted = sum(len(cached.decisions) for cached in authorization._keys.values())
        assert counted == authorization._decisions <= 7
        assert list(authorization._keys)[-1] == key.key_id


async def test_keys_with_the_same_policy_share_its_compiled_form(service, monkeypatch):
    """A text is compiled once for all its keys; no more texts are kept than the bound says."""
    monkeypatch.setattr(module, "MAX_SHARED_POLICIES", 2)
    authorization = service.authorization
    keys = [await service.create_key(text) for text in (TENANT, TENANT, VISIBLE_TO_ALL, "")]
    for key in keys:
        await authorization.authorize(
            ORDERS, Action.ENCRYPT, key, {}, permissions=NONE, asked_name=""
        )
    compiled = [authorization._keys[key.key_id].compiled for key in keys]
    assert compiled[0] is compiled[1]
    assert len({id(each) for each in compiled}) == 3
    assert len(authorization._policies) == 2


async def test_listing_puts_nobody_out(service, monkeypatch):
    """Going over many keys keeps the decisions of those in use, and answers the same."""
    monkeypatch.setattr(module, "MAX_CACHED_KEYS", 2)
    used = await service.create_key(VISIBLE_TO_ALL)
    await service.authorization.authorize(
        ORDERS, Action.ENCRYPT, used, {}, permissions=NONE, asked_name=""
    )
    keys = [await service.create_key(VISIBLE_TO_ALL if n % 2 else "") for n in range(6)]
    service.authorization._keys.pop(keys[-1].key_id, None)
    for key in (used, *keys):
        for principal in (ORDERS, STRANGER, ADMIN):
            listed = service.authorization.may_list(principal, key)
            assert used.key_id in service.authorization._keys
            fresh = MemoryService().authorization
            assert listed == await fresh.may_see(principal, key, NONE)


async def test_a_policy_is_checked_before_it_is_stored(service):
    """A malformed policy and one that locks everybody out are refused; nothing is made."""
    other = 'permit (principal == Principal::"x", action, resource);'
    for policy in ("permit everything;", other):
        with pytest.raises(PolicyInvalidError):
            await service.create_key(policy)
    for policy in ("permit everything;", other, ""):
        with pytest.raises(PolicyInvalidError):
            service.authorization.check_new_policy(policy, creator=ORDERS, key_name="k")
    assert not service.eu.store.keys
    assert not service.eu.token.materials
