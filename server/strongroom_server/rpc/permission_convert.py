"""Between the messages of policies and grants and plain types; see `convert.py`."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final

from google.protobuf.timestamp_pb2 import Timestamp

from strongroom.kms.v1 import permission_calls_pb2 as messages
from strongroom.kms.v1 import permissions_pb2 as resources
from strongroom.resource_names import GrantName, KeyName, ResourceNameError
from strongroom_server.domain.explaining import Consideration, MismatchPart
from strongroom_server.domain.grants import Constraint, ConstraintKind, Grant
from strongroom_server.domain.policy_history import PolicyRevision
from strongroom_server.errors import ArgumentInvalidError
from strongroom_server.services.explanations import Explanation

__all__ = [
    "constraint_of",
    "explanation_message",
    "grant_message",
    "grant_name",
    "policy_message",
    "time_of",
]

_PARTS: Final = {
    MismatchPart.PRINCIPAL: resources.MISMATCH_PART_PRINCIPAL,
    MismatchPart.OPERATION: resources.MISMATCH_PART_OPERATION,
    MismatchPart.RESOURCE: resources.MISMATCH_PART_RESOURCE,
    MismatchPart.CONDITION: resources.MISMATCH_PART_CONDITION,
    MismatchPart.CONSTRAINT: resources.MISMATCH_PART_CONSTRAINT,
    MismatchPart.ERROR: resources.MISMATCH_PART_ERROR,
}


def grant_name(field: str, text: str) -> GrantName:
    """Parse the name of a grant; raise ArgumentInvalidError naming `field`."""
    try:
        return GrantName.parse(text)
    except ResourceNameError as exc:
        raise ArgumentInvalidError.of(field, "resource_name", str(exc)) from exc


def constraint_of(request: messages.CreateGrantRequest) -> Constraint | None:
    """Return the constraint asked for."""
    match request.constraint.WhichOneof("kind"):
        case "encryption_context_equals":
            kind, pairs = ConstraintKind.EQUALS, request.constraint.encryption_context_equals
        case "encryption_context_subset":
            kind, pairs = ConstraintKind.SUBSET, request.constraint.encryption_context_subset
        case _:  # a message without a kind is refused before: the field's rule
            return None
    return Constraint(kind, tuple(sorted(pairs.pairs.items())))


def time_of(field: str, time: Timestamp) -> datetime:
    """Return a point in time; raise ArgumentInvalidError naming `field`."""
    try:
        return time.ToDatetime(tzinfo=UTC)
    except ValueError as exc:
        raise ArgumentInvalidError.of(field, "timestamp", "not a time of our era") from exc


def policy_message(
    region: str, revision: PolicyRevision, *, with_text: bool
) -> resources.KeyPolicy:
    """Return the message of a policy."""
    message = resources.KeyPolicy(
        key=str(KeyName(region, revision.key_id)),
        policy=revision.text if with_text else "",
        revision=revision.number,
        author=revision.author,
        etag=revision.etag,
        policy_sha256=revision.sha256,
    )
    message.create_time.FromDatetime(revision.time)
    return message


def grant_message(grant: Grant) -> resources.Grant:
    """Return the message of a grant."""
    message = resources.Grant(
        name=str(grant.resource_name),
        key=str(grant.resource_name.key),
        grantee_principal=grant.grantee,
        operations=[operation.value for operation in grant.operations],
        retiring_principal=grant.retiring,
        grant_name=grant.name,
        issuer=grant.issuer,
    )
    if grant.constraint is not None:
        pairs = resources.ContextPairs(pairs=dict(grant.constraint.pairs))
        if grant.constraint.kind is ConstraintKind.EQUALS:
            message.constraint.encryption_context_equals.CopyFrom(pairs)
        else:
            message.constraint.encryption_context_subset.CopyFrom(pairs)
    message.create_time.FromDatetime(grant.create_time)
    return message


def explanation_message(explanation: Explanation) -> messages.ExplainAccessResponse:
    """Return the message of an explanation."""
    return messages.ExplainAccessResponse(
        allowed=explanation.allowed,
        decided_by=explanation.decided_by,
        policy_revision=explanation.policy_revision,
        is_administrator=explanation.is_administrator,
        considerations=map(_consideration, explanation.considerations),
    )


def _consideration(each: Consideration) -> resources.Consideration:
    return resources.Consideration(
        id=each.policy_id,
        forbids=each.forbids,
        applies=each.applies,
        mismatches=[
            resources.Mismatch(part=_PARTS[mismatch.part], detail=mismatch.detail)
            for mismatch in each.mismatches
        ],
    )
