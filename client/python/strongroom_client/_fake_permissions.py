"""The fake's policies and grants. See testing.py for its limits.

It has one principal, which may do everything, and does not read Cedar: a policy is kept,
and refused when it permits nothing at all. What grants allow is answered by ExplainAccess.
"""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Final, TypeAlias, TypeVar

from google.protobuf.message import Message

from strongroom import resource_names
from strongroom.kms.v1 import permission_calls_pb2 as rpc
from strongroom.kms.v1 import permissions_pb2 as pb
from strongroom.resource_names import GrantName
from strongroom_client._fake_shards import FakeKey, FakeShards, refuse
from strongroom_client.errors import (
    EtagMismatchError,
    GrantNotFoundError,
    KeyDisabledError,
    PolicyInvalidError,
)

__all__ = ["FakePermissions"]

#: The answer, and which records it leaves: region and method of each.
Answer: TypeAlias = tuple[Message, tuple[tuple[str, str], ...]]

_Item = TypeVar("_Item", pb.Grant, pb.KeyPolicy)

MAX_POLICY_BYTES: Final = 32_768
WITHOUT_CONTEXT: Final = frozenset({"GetKey", "CreateGrant", "RetireGrant"})
WITH_CONTEXT: Final = frozenset(
    {
        "Decrypt",
        "Encrypt",
        "GenerateDataKey",
        "GenerateDataKeyPair",
        "GenerateDataKeyPairWithoutPlaintext",
        "GenerateDataKeyWithoutPlaintext",
        "ReEncryptFrom",
        "ReEncryptTo",
    }
)
OTHER_USES: Final = frozenset(
    {"DeriveSharedSecret", "GenerateMac", "GetPublicKey", "Sign", "Verify", "VerifyMac"}
)


class FakePermissions:
    """Answers requests about the keys of `FakeShards`."""

    def __init__(self, shards: FakeShards, *, principal: str, now: Callable[[], datetime]):
        self._shards = shards
        self._principal = principal
        self._now = now
        self._hosted: tuple[str, ...] = ()
        self._policies: dict[uuid.UUID, list[pb.KeyPolicy]] = {}
        self._grants: dict[str, pb.Grant] = {}

    def handlers(self, hosted: tuple[str, ...]) -> Mapping[str, Callable[..., Answer]]:
        """Return what answers each method, at a server that hosts the shards `hosted`."""
        self._hosted = hosted
        return {
            "GetKeyPolicy": self._get_policy,
            "PutKeyPolicy": self._put_policy,
            "ListKeyPolicyRevisions": self._list_revisions,
            "CreateGrant": self._create_grant,
            "ListGrants": self._list_grants,
            "ListRetirableGrants": self._list_retirable,
            "RetireGrant": self._retire,
            "RevokeGrant": self._revoke,
            "ExplainAccess": self._explain,
        }

    def _get_policy(self, request: rpc.GetKeyPolicyRequest) -> Answer:
        key = self._shards.find_exact(request.key, "key", self._hosted)
        every = self._policies_of(key)
        if request.revision > len(every):
            raise refuse("revision", "policy.revision", "the key has had no such policy")
        policy = every[request.revision - 1 if request.revision else -1]
        return rpc.GetKeyPolicyResponse(key_policy=policy), ((key.name.region, "GetKeyPolicy"),)

    def _put_policy(self, request: rpc.PutKeyPolicyRequest) -> Answer:
        key = self._shards.find_exact(request.key, "key", self._hosted)
        every = self._policies_of(key)
        if not 1 <= len(request.policy.encode()) <= MAX_POLICY_BYTES:
            raise refuse("policy", "string.max_bytes", f"1 to {MAX_POLICY_BYTES:,} bytes")
        if request.etag and request.etag != every[-1].etag:
            raise EtagMismatchError(f"the policy of {key.name} changed since it was read")
        if "permit" not in request.policy:
            raise PolicyInvalidError("policy: locks everybody out")
        policy = every[-1]
        if request.policy != policy.policy:
            policy = self._policy(key, request.policy, len(every) + 1, self._now())
            if not request.validate_only:
                every.append(policy)
                key.revision += 1
        return rpc.PutKeyPolicyResponse(key_policy=policy), ((key.name.region, "PutKeyPolicy"),)

    def _list_revisions(self, request: rpc.ListKeyPolicyRevisionsRequest) -> Answer:
        key = self._shards.find_exact(request.parent, "parent", self._hosted)
        size = min(request.page_size or 100, 20 if request.with_text else 1_000)
        page, token = _page(self._policies_of(key), request.page_token, size)
        answer = rpc.ListKeyPolicyRevisionsResponse(revisions=page, next_page_token=token)
        if not request.with_text:
            for each in answer.revisions:
                each.policy = ""
        return answer, ((key.name.region, "ListKeyPolicyRevisions"),)

    def _create_grant(self, request: rpc.CreateGrantRequest) -> Answer:
        key = self._shards.find_exact(request.parent, "parent", self._hosted)
        constrained = request.HasField("constraint")
        for operation in request.operations:
            if operation not in WITH_CONTEXT | WITHOUT_CONTEXT | OTHER_USES:
                raise refuse("operations", "grant.operation", "cannot be granted")
            if constrained and operation in OTHER_USES:
                raise refuse("constraint", "grant.constraint", "takes no encryption context")
        if not request.operations:
            raise refuse("operations", "repeated.min_items", "1 to 32")
        if not request.grantee_principal.startswith("spiffe://"):
            raise refuse("grantee_principal", "string.pattern", "expected spiffe://...")
        if not key.enabled:
            raise KeyDisabledError(f"{key.name} is disabled")
        grant_id = uuid.UUID(bytes=self._shards.random_bytes(16), version=4)
        grant = pb.Grant(
            name=str(GrantName(key.name.region, key.name.key_id, grant_id)),
            key=str(key.name),
            grantee_principal=request.grantee_principal,
            operations=sorted(request.operations),
            constraint=request.constraint if constrained else None,
            retiring_principal=request.retiring_principal,
            grant_name=request.grant_name,
            issuer=self._principal,
        )
        grant.create_time.FromDatetime(self._now())
        repeated = self._repeated(grant)
        if repeated is None and not request.validate_only:
            self._grants[grant.name] = grant
        answer = rpc.CreateGrantResponse(grant=repeated or grant)
        return answer, ((key.name.region, "CreateGrant"),)

    def _list_grants(self, request: rpc.ListGrantsRequest) -> Answer:
        key = self._shards.find_exact(request.parent, "parent", self._hosted)
        wanted = [
            grant
            for grant in self._grants.values()
            if grant.key == str(key.name)
            and request.grantee_principal in ("", grant.grantee_principal)
        ]
        page, token = _page(wanted, request.page_token, request.page_size or 100)
        answer = rpc.ListGrantsResponse(grants=page, next_page_token=token)
        return answer, ((key.name.region, "ListGrants"),)

    def _list_retirable(self, request: rpc.ListRetirableGrantsRequest) -> Answer:
        wanted = [
            grant
            for grant in self._grants.values()
            if grant.retiring_principal == self._principal
            and grant.name.startswith(f"{request.parent}/")
        ]
        page, token = _page(wanted, request.page_token, request.page_size or 100)
        answer = rpc.ListRetirableGrantsResponse(grants=page, next_page_token=token)
        return answer, ((request.parent.removeprefix("regions/"), "ListRetirableGrants"),)

    def _retire(self, request: rpc.RetireGrantRequest) -> Answer:
        grant, region = self._end(request.name, dry=request.validate_only)
        return rpc.RetireGrantResponse(grant=grant), ((region, "RetireGrant"),)

    def _revoke(self, request: rpc.RevokeGrantRequest) -> Answer:
        grant, region = self._end(request.name, dry=request.validate_only)
        return rpc.RevokeGrantResponse(grant=grant), ((region, "RevokeGrant"),)

    def _end(self, name: str, *, dry: bool) -> tuple[pb.Grant, str]:
        try:
            parsed = GrantName.parse(name)
        except resource_names.ResourceNameError as exc:
            raise refuse("name", "string.pattern", str(exc)) from None
        self._shards.find_exact(str(parsed.key), "name", self._hosted)
        grant = self._grants.get(name)
        if grant is None:
            raise GrantNotFoundError(f"no grant {name}, or it is not for you to end")
        if not dry:
            del self._grants[name]
        return grant, parsed.region

    def _explain(self, request: rpc.ExplainAccessRequest) -> Answer:
        key = self._shards.find(request.key, "key", self._hosted)
        own = request.principal in ("", self._principal)
        answer = rpc.ExplainAccessResponse(
            allowed=own,
            decided_by="creator" if own else "default-deny",
            policy_revision=len(self._policies_of(key)),
        )
        for grant in self._grants.values():
            if grant.key != str(key.name) or grant.grantee_principal != request.principal:
                continue
            each = _considered(grant, request)
            answer.considerations.append(each)
            if each.applies and not answer.allowed:
                answer.allowed = True
                answer.decided_by = each.id
        return answer, ((key.name.region, "ExplainAccess"),)

    def _policies_of(self, key: FakeKey) -> list[pb.KeyPolicy]:
        if key.name.key_id not in self._policies:
            text = (
                '@id("creator")\n'
                f'permit (principal == Principal::"{key.creator}", action, resource);\n'
            )
            first = self._policy(key, text, 1, key.create_time)
            self._policies[key.name.key_id] = [first]
        return self._policies[key.name.key_id]

    def _policy(self, key: FakeKey, text: str, number: int, time: datetime) -> pb.KeyPolicy:
        policy = pb.KeyPolicy(
            key=str(key.name),
            policy=text,
            revision=number,
            author=self._principal,
            etag=f"p{number}",
            policy_sha256=hashlib.sha256(text.encode()).digest(),
        )
        policy.create_time.FromDatetime(time)
        return policy

    def _repeated(self, grant: pb.Grant) -> pb.Grant | None:
        if not grant.grant_name:
            return None
        for each in self._grants.values():
            alike = pb.Grant()
            alike.CopyFrom(each)
            alike.name = grant.name
            alike.create_time.CopyFrom(grant.create_time)
            if alike == grant:
                return each
        return None


def _considered(grant: pb.Grant, request: rpc.ExplainAccessRequest) -> pb.Consideration:
    each = pb.Consideration(id=f"grant/{grant.name.rpartition('/')[2]}", applies=True)
    part: pb.MismatchPart.ValueType = pb.MISMATCH_PART_UNSPECIFIED
    if request.operation not in grant.operations:
        part = pb.MISMATCH_PART_OPERATION
    elif request.operation not in WITHOUT_CONTEXT and grant.HasField("constraint"):
        context = set(request.encryption_context.items())
        equals = set(grant.constraint.encryption_context_equals.pairs.items())
        subset = set(grant.constraint.encryption_context_subset.pairs.items())
        if not subset <= context or (equals and equals != context):
            part = pb.MISMATCH_PART_CONSTRAINT
    if part:
        each.applies = False
        each.mismatches.add(part=part)
    return each


def _page(every: list[_Item], token: str, size: int) -> tuple[list[_Item], str]:
    start = int(token) if token.isascii() and token.isdigit() else 0
    if token and not start:
        raise refuse("page_token", "page_token", "not a token of this call")
    end = start + size
    return every[start:end], str(end) if end < len(every) else ""
