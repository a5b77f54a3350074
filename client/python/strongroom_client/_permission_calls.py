"""Operations on policies and grants."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

from google.protobuf.timestamp_pb2 import Timestamp

from strongroom import resource_names
from strongroom.kms.v1 import permission_calls_pb2 as rpc
from strongroom.kms.v1 import permissions_pb2 as pb
from strongroom.receipts import Receipt
from strongroom.resource_names import GrantName
from strongroom_client._core import (
    Call,
    Operation,
    ask,
    encode_context,
    parse_key_name,
    parse_name,
    parse_region,
)
from strongroom_client._key_calls import Page
from strongroom_client.errors import ArgumentInvalidError, ResponseInvalidError
from strongroom_client.permission_results import (
    AccessExplanation,
    Consideration,
    ConstraintKind,
    Grant,
    GrantConstraint,
    KeyPolicy,
    Mismatch,
    MismatchPart,
)

__all__ = [
    "create_grant",
    "explain_access",
    "get_key_policy",
    "list_grants",
    "list_policy_revisions",
    "list_retirable_grants",
    "put_key_policy",
    "retire_grant",
    "revoke_grant",
]

_PARTS = {
    pb.MISMATCH_PART_PRINCIPAL: MismatchPart.PRINCIPAL,
    pb.MISMATCH_PART_OPERATION: MismatchPart.OPERATION,
    pb.MISMATCH_PART_RESOURCE: MismatchPart.RESOURCE,
    pb.MISMATCH_PART_CONDITION: MismatchPart.CONDITION,
    pb.MISMATCH_PART_CONSTRAINT: MismatchPart.CONSTRAINT,
    pb.MISMATCH_PART_ERROR: MismatchPart.ERROR,
}


def get_key_policy(key: str, *, revision: int) -> Operation[KeyPolicy]:
    """Return the policy of a key, or one that it had."""
    parsed = parse_key_name("key", key)
    request = rpc.GetKeyPolicyRequest(key=key, revision=revision)
    answer, receipts = yield from ask(
        Call(parsed.region, "GetKeyPolicy", request), rpc.GetKeyPolicyResponse
    )
    return _policy(key, answer.key_policy, receipts)


def put_key_policy(
    key: str, policy: str, *, etag: str, request_id: str, validate_only: bool
) -> Operation[KeyPolicy]:
    """Give a key another policy."""
    parsed = parse_key_name("key", key)
    request = rpc.PutKeyPolicyRequest(
        key=key, policy=policy, etag=etag, request_id=request_id, validate_only=validate_only
    )
    answer, receipts = yield from ask(
        Call(parsed.region, "PutKeyPolicy", request), rpc.PutKeyPolicyResponse
    )
    return _policy(key, answer.key_policy, receipts)


def list_policy_revisions(
    key: str, page_token: str, page_size: int, *, with_text: bool
) -> Operation[Page[KeyPolicy]]:
    """Return one page of the policies that a key has had."""
    parsed = parse_key_name("key", key)
    request = rpc.ListKeyPolicyRevisionsRequest(
        parent=key, page_size=page_size, page_token=page_token, with_text=with_text
    )
    answer, receipts = yield from ask(
        Call(parsed.region, "ListKeyPolicyRevisions", request), rpc.ListKeyPolicyRevisionsResponse
    )
    page = tuple(_policy(key, each, receipts) for each in answer.revisions)
    return page, answer.next_page_token


def create_grant(
    key: str,
    *,
    grantee_principal: str,
    operations: Sequence[str],
    constraint: GrantConstraint | None,
    retiring_principal: str,
    grant_name: str,
    request_id: str,
) -> Operation[Grant]:
    """Let a principal use a key."""
    parsed = parse_key_name("key", key)
    request = rpc.CreateGrantRequest(
        parent=key,
        grantee_principal=grantee_principal,
        operations=operations,
        retiring_principal=retiring_principal,
        grant_name=grant_name,
        request_id=request_id,
    )
    if constraint is not None:
        pairs = pb.ContextPairs(pairs=dict(constraint.pairs))
        if constraint.kind is ConstraintKind.EQUALS:
            request.constraint.encryption_context_equals.CopyFrom(pairs)
        elif constraint.kind is ConstraintKind.SUBSET:
            request.constraint.encryption_context_subset.CopyFrom(pairs)
        else:
            raise ArgumentInvalidError.of("constraint", "enum.defined_only", "EQUALS or SUBSET")
    answer, receipts = yield from ask(
        Call(parsed.region, "CreateGrant", request), rpc.CreateGrantResponse
    )
    grant = _grant(answer.grant, receipts)
    if grant.key != key:
        raise ResponseInvalidError(f"asked for {key}, the answer is about {grant.key}")
    return grant


def list_grants(
    key: str, page_token: str, page_size: int, *, grantee_principal: str
) -> Operation[Page[Grant]]:
    """Return one page of the grants of a key."""
    parsed = parse_key_name("key", key)
    request = rpc.ListGrantsRequest(
        parent=key,
        page_size=page_size,
        page_token=page_token,
        grantee_principal=grantee_principal,
    )
    answer, receipts = yield from ask(
        Call(parsed.region, "ListGrants", request), rpc.ListGrantsResponse
    )
    return tuple(_grant(each, receipts) for each in answer.grants), answer.next_page_token


def list_retirable_grants(region: str, page_token: str, page_size: int) -> Operation[Page[Grant]]:
    """Return one page of the grants of a region that the caller may retire."""
    parent = parse_region(region)
    request = rpc.ListRetirableGrantsRequest(
        parent=str(parent), page_size=page_size, page_token=page_token
    )
    answer, receipts = yield from ask(
        Call(region, "ListRetirableGrants", request), rpc.ListRetirableGrantsResponse
    )
    return tuple(_grant(each, receipts) for each in answer.grants), answer.next_page_token


def retire_grant(name: str, *, request_id: str) -> Operation[Grant]:
    """End a grant as its retiring principal or grantee."""
    parsed = _parse_grant_name(name)
    request = rpc.RetireGrantRequest(name=name, request_id=request_id)
    answer, receipts = yield from ask(
        Call(parsed.region, "RetireGrant", request), rpc.RetireGrantResponse
    )
    return _same_grant(name, _grant(answer.grant, receipts))


def revoke_grant(name: str, *, request_id: str) -> Operation[Grant]:
    """End a grant as who manages its key."""
    parsed = _parse_grant_name(name)
    request = rpc.RevokeGrantRequest(name=name, request_id=request_id)
    answer, receipts = yield from ask(
        Call(parsed.region, "RevokeGrant", request), rpc.RevokeGrantResponse
    )
    return _same_grant(name, _grant(answer.grant, receipts))


def explain_access(
    key: str,
    operation: str,
    *,
    encryption_context: Mapping[str, str],
    principal: str,
    at_time: datetime | None,
) -> Operation[AccessExplanation]:
    """Say whether, and why, a principal may do something."""
    parsed = parse_name("key", key)
    encode_context("encryption_context", encryption_context)
    request = rpc.ExplainAccessRequest(
        key=key,
        principal=principal,
        operation=operation,
        encryption_context=dict(encryption_context),
    )
    if at_time is not None:
        if at_time.tzinfo is None:
            raise ArgumentInvalidError.of("at_time", "timestamp", "it has no time zone")
        request.at_time.FromDatetime(at_time)
    answer, receipts = yield from ask(
        Call(parsed.region, "ExplainAccess", request), rpc.ExplainAccessResponse
    )
    return AccessExplanation(
        allowed=answer.allowed,
        decided_by=answer.decided_by,
        policy_revision=answer.policy_revision,
        is_administrator=answer.is_administrator,
        considerations=tuple(map(_consideration, answer.considerations)),
        receipts=receipts,
    )


def _parse_grant_name(name: str) -> GrantName:
    try:
        return GrantName.parse(name)
    except resource_names.ResourceNameError as exc:
        raise ArgumentInvalidError.of("name", "string.pattern", str(exc)) from exc


def _same_grant(asked: str, grant: Grant) -> Grant:
    if grant.name != asked:
        raise ResponseInvalidError(f"asked for {asked}, the answer is about {grant.name}")
    return grant


def _policy(key: str, policy: pb.KeyPolicy, receipts: tuple[Receipt, ...]) -> KeyPolicy:
    if policy.key != key:
        raise ResponseInvalidError(f"asked for {key}, the answer is about {policy.key}")
    return KeyPolicy(
        key=policy.key,
        policy=policy.policy,
        revision=policy.revision,
        author=policy.author,
        create_time=_time(policy.create_time),
        etag=policy.etag,
        policy_sha256=policy.policy_sha256,
        receipts=receipts,
    )


def _grant(grant: pb.Grant, receipts: tuple[Receipt, ...]) -> Grant:
    constraint = None
    if grant.HasField("constraint"):
        match grant.constraint.WhichOneof("kind"):
            case "encryption_context_equals":
                kind, pairs = ConstraintKind.EQUALS, grant.constraint.encryption_context_equals
            case "encryption_context_subset":
                kind, pairs = ConstraintKind.SUBSET, grant.constraint.encryption_context_subset
            case _:
                kind, pairs = ConstraintKind.UNKNOWN, pb.ContextPairs()
        constraint = GrantConstraint(kind, dict(pairs.pairs))
    return Grant(
        name=grant.name,
        key=grant.key,
        grantee_principal=grant.grantee_principal,
        operations=tuple(grant.operations),
        constraint=constraint,
        retiring_principal=grant.retiring_principal,
        grant_name=grant.grant_name,
        issuer=grant.issuer,
        create_time=_time(grant.create_time),
        receipts=receipts,
    )


def _consideration(each: pb.Consideration) -> Consideration:
    return Consideration(
        id=each.id,
        forbids=each.forbids,
        applies=each.applies,
        mismatches=tuple(
            Mismatch(_PARTS.get(mismatch.part, MismatchPart.UNKNOWN), mismatch.detail)
            for mismatch in each.mismatches
        ),
    )


def _time(timestamp: Timestamp) -> datetime:
    try:
        return timestamp.ToDatetime(tzinfo=UTC)
    except ValueError as exc:
        raise ResponseInvalidError("the answer has an impossible time") from exc
