"""Policies and grants: every RPC, its limits and its refusals."""

from __future__ import annotations

import hashlib
import uuid
from typing import Any

import pytest
from tests.suites.under_test import KmsUnderTest, refusal_of

from strongroom.kms.v1 import permission_calls_pb2 as rpc
from strongroom_client import (
    ArgumentInvalidError,
    ConstraintKind,
    EtagMismatchError,
    GrantConstraint,
    GrantNotFoundError,
    Key,
    KeyDisabledError,
    KeyNotFoundError,
    MismatchPart,
    PolicyInvalidError,
    RequestIdReusedError,
)

__all__ = ["PermissionSuite"]

WORKER = "spiffe://example.org/worker"
SUBSET = GrantConstraint(ConstraintKind.SUBSET, {"tenant": "7"})
EQUALS = GrantConstraint(ConstraintKind.EQUALS, {"tenant": "7", "table": "cards"})


def _new_key(kms: KmsUnderTest) -> Key:
    return kms.client.create_key(kms.regions[0], description="permissions")


def _grant(kms: KmsUnderTest, key: Key, **fields: Any) -> Any:
    given: dict[str, Any] = {"grantee_principal": WORKER, "operations": ["Decrypt"]} | fields
    return kms.client.create_grant(key.name, **given)


class PermissionSuite:
    """Policies and grants: every RPC, its limits and its refusals."""

    def test_a_new_key_has_its_first_policy(self, kms: KmsUnderTest) -> None:
        """Without one of its own, a key is for its creator, as revision 1."""
        key = _new_key(kms)
        policy = kms.client.get_key_policy(key.name)
        assert (policy.key, policy.revision, policy.author) == (key.name, 1, key.creator)
        assert policy.create_time == key.create_time
        assert key.creator in policy.policy
        assert policy.policy_sha256 == hashlib.sha256(policy.policy.encode()).digest()
        assert list(kms.client.list_policy_revisions(key.name, with_text=True)) == [policy]

    def test_policies_are_replaced_and_kept(self, kms: KmsUnderTest) -> None:
        """Each policy is a revision that can be read for ever; the same text makes none."""
        key = _new_key(kms)
        first = kms.client.get_key_policy(key.name)
        texts = [first.policy]
        for number in range(2, 5):
            texts.append(f"{first.policy}// {number}\n")
            put = kms.client.put_key_policy(key.name, texts[-1], etag=f"p{number - 1}")
            assert (put.revision, put.policy) == (number, texts[-1])
            assert kms.client.get_key_policy(key.name) == put
        assert kms.client.put_key_policy(key.name, texts[-1]).revision == 4
        for page_size in (1, 2, 100):
            history = list(
                kms.client.list_policy_revisions(key.name, with_text=True, page_size=page_size)
            )
            assert [each.policy for each in history] == texts
            assert [each.revision for each in history] == [1, 2, 3, 4]
        without = list(kms.client.list_policy_revisions(key.name))
        assert {each.policy for each in without} == {""}
        assert kms.client.get_key_policy(key.name, revision=2).policy == texts[1]
        assert kms.client.get_key(key.name).etag != key.etag

    def test_a_policy_that_was_changed_meanwhile_is_not_replaced(self, kms: KmsUnderTest) -> None:
        """An old etag is refused; validate_only and a wrong policy change nothing."""
        key = _new_key(kms)
        first = kms.client.get_key_policy(key.name)
        other = f"{first.policy}// other\n"
        planned = kms.client.put_key_policy(key.name, other, validate_only=True)
        assert planned.revision == 2
        with pytest.raises(PolicyInvalidError):
            kms.client.put_key_policy(key.name, "forbid (principal, action, resource);")
        assert kms.client.get_key_policy(key.name) == first
        kms.client.put_key_policy(key.name, other, etag=first.etag)
        with pytest.raises(EtagMismatchError):
            kms.client.put_key_policy(key.name, first.policy, etag=first.etag)
        assert kms.client.get_key_policy(key.name).policy == other

    def test_a_policy_put_twice_under_one_id_is_put_once(self, kms: KmsUnderTest) -> None:
        """A repeat gets the first answer, also after another policy; another text is refused."""
        key = _new_key(kms)
        first = kms.client.get_key_policy(key.name)
        request_id = str(uuid.uuid4())
        text = f"{first.policy}// a\n"
        put = kms.client.put_key_policy(key.name, text, request_id=request_id)
        kms.client.put_key_policy(key.name, f"{first.policy}// b\n")
        assert kms.client.put_key_policy(key.name, text, request_id=request_id) == put
        assert kms.client.get_key_policy(key.name).revision == 3
        with pytest.raises(RequestIdReusedError):
            kms.client.put_key_policy(key.name, first.policy, request_id=request_id)

    def test_what_there_never_was_is_told(self, kms: KmsUnderTest) -> None:
        """A revision beyond the last, and a key that does not exist."""
        key = _new_key(kms)
        with pytest.raises(ArgumentInvalidError):
            kms.client.get_key_policy(key.name, revision=2)
        with pytest.raises(KeyNotFoundError):
            kms.client.get_key_policy(f"regions/{kms.regions[0]}/keys/{uuid.uuid4()}")

    def test_a_grant_is_as_it_was_asked_for(self, kms: KmsUnderTest) -> None:
        """Operations in order, constraint, names; listed until it ends."""
        key = _new_key(kms)
        grant = _grant(
            kms,
            key,
            operations=["GenerateDataKey", "Decrypt"],
            constraint=SUBSET,
            retiring_principal=key.creator,
            grant_name="job-17",
        )
        assert grant.name.startswith(f"{key.name}/grants/")
        assert grant.operations == ("Decrypt", "GenerateDataKey")
        assert (grant.constraint, grant.issuer) == (SUBSET, key.creator)
        assert (grant.grantee_principal, grant.retiring_principal) == (WORKER, key.creator)
        plain = _grant(kms, key, constraint=EQUALS)
        for page_size in (1, 100):
            assert list(kms.client.list_grants(key.name, page_size=page_size)) == [grant, plain]
        assert list(kms.client.list_grants(key.name, grantee_principal=WORKER)) == [grant, plain]
        assert list(kms.client.list_grants(key.name, grantee_principal=f"{WORKER}x")) == []
        mine = [g.name for g in kms.client.list_retirable_grants(kms.regions[0], page_size=3)]
        assert grant.name in mine
        assert plain.name not in mine
        assert kms.client.retire_grant(grant.name) == grant
        assert kms.client.revoke_grant(plain.name) == plain
        assert list(kms.client.list_grants(key.name)) == []
        for end in (kms.client.retire_grant, kms.client.revoke_grant):
            with pytest.raises(GrantNotFoundError):
                end(grant.name)

    def test_a_named_grant_is_made_once(self, kms: KmsUnderTest) -> None:
        """The same name and all else alike: the same grant; anything else: another one."""
        key = _new_key(kms)
        grant = _grant(kms, key, grant_name="job")
        assert _grant(kms, key, grant_name="job") == grant
        assert _grant(kms, key, grant_name="job", operations=["Encrypt"]).name != grant.name
        assert _grant(kms, key, grant_name="job", constraint=SUBSET).name != grant.name
        assert _grant(kms, key).name != _grant(kms, key).name
        kms.client.revoke_grant(grant.name)
        assert _grant(kms, key, grant_name="job").name != grant.name

    def test_a_repeated_request_id_makes_one_grant(self, kms: KmsUnderTest) -> None:
        """A repeat gets the first answer, also when the grant has ended."""
        key = _new_key(kms)
        request_id = str(uuid.uuid4())
        grant = _grant(kms, key, request_id=request_id)
        kms.client.revoke_grant(grant.name, request_id=request_id)
        assert kms.client.revoke_grant(grant.name, request_id=request_id) == grant
        assert _grant(kms, key, request_id=request_id) == grant
        assert list(kms.client.list_grants(key.name)) == []

    @pytest.mark.parametrize(
        "fields",
        [
            {"operations": []},
            {"operations": ["PutKeyPolicy"]},
            {"operations": ["ListGrants"]},
            {"operations": ["decrypt"]},
            {"operations": ["Sign"], "constraint": SUBSET},
            {"grantee_principal": "worker"},
        ],
    )
    def test_a_grant_that_cannot_be_is_refused(
        self, kms: KmsUnderTest, fields: dict[str, Any]
    ) -> None:
        """Management, unknown operations, constraints without a context, no principal."""
        key = _new_key(kms)
        with pytest.raises(ArgumentInvalidError):
            _grant(kms, key, **fields)
        assert list(kms.client.list_grants(key.name)) == []

    def test_a_disabled_key_gets_no_grants(self, kms: KmsUnderTest) -> None:
        """Those that it has can be seen and ended."""
        key = _new_key(kms)
        grant = _grant(kms, key)
        kms.client.disable_key(key.name)
        with pytest.raises(KeyDisabledError):
            _grant(kms, key)
        assert kms.client.revoke_grant(grant.name) == grant

    def test_validate_only_makes_and_ends_nothing(self, kms: KmsUnderTest) -> None:
        """All is checked, nothing changed."""
        key = _new_key(kms)
        grant = _grant(kms, key)
        region = kms.regions[0]
        request = rpc.RevokeGrantRequest(name=grant.name, validate_only=True)
        kms.raw(region, "RevokeGrant", request)
        create = rpc.CreateGrantRequest(
            parent=key.name,
            grantee_principal=WORKER,
            operations=["Encrypt"],
            validate_only=True,
        )
        kms.raw(region, "CreateGrant", create)
        assert list(kms.client.list_grants(key.name)) == [grant]

    def test_an_explanation_says_what_decided(self, kms: KmsUnderTest) -> None:
        """Own access by the policy; another's by a grant, or by nothing and why."""
        key = _new_key(kms)
        own = kms.client.explain_access(key.name, "Decrypt", encryption_context={})
        assert own.allowed
        assert own.policy_revision == 1
        grant = _grant(kms, key, constraint=SUBSET)
        for context, allowed in (({"tenant": "7", "x": "y"}, True), ({"tenant": "8"}, False)):
            asked = kms.client.explain_access(
                key.name, "Decrypt", encryption_context=context, principal=WORKER
            )
            assert asked.allowed is allowed
            considered = asked.considerations[-1]
            assert considered.id == f"grant/{grant.name.rpartition('/')[2]}"
            assert considered.applies is allowed
            assert asked.decided_by == (considered.id if allowed else "default-deny")
            parts = [mismatch.part for mismatch in considered.mismatches]
            assert parts == ([] if allowed else [MismatchPart.CONSTRAINT])
        other = kms.client.explain_access(
            key.name, "Encrypt", encryption_context={"tenant": "7"}, principal=WORKER
        )
        assert not other.allowed
        assert other.considerations[-1].mismatches[0].part is MismatchPart.OPERATION

    def test_bad_page_tokens_are_refused(self, kms: KmsUnderTest) -> None:
        """A token of another list, or of none."""
        key = _new_key(kms)
        request = rpc.ListGrantsRequest(parent=key.name, page_token="x" * 8)
        refusal = refusal_of(lambda: kms.raw(kms.regions[0], "ListGrants", request))
        assert isinstance(refusal, ArgumentInvalidError)
