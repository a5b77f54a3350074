"""Audit drafts as the outbox keeps them: one line of JSON, private to the store.

Not the audit record's format (docs/formats/audit-record-v1.md): a draft has no epoch and
no sequence yet. Members ascend by name, no white space, times in microseconds since 1970,
members that are None are left out. Exactly one text is accepted for a draft.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from typing import Any, Final

from strongroom_server.mutations import AuditDraft
from strongroom_server.store.micros import from_micros, to_micros

__all__ = ["DraftFormatError", "decode_draft", "encode_draft"]

_REQUIRED: Final[Mapping[str, type]] = {
    "encryption_context": dict,
    "id": str,
    "method": str,
    "outcome": str,
    "peer": str,
    "principal": str,
    "request_id": str,
    "time": int,
    "validate_only": bool,
}
_OPTIONAL: Final[Mapping[str, type]] = {
    "count": int,
    "details": dict,
    "identifier_key": str,
    "key": str,
    "key_version": int,
    "mode": str,
    "policy": str,
    "reason": str,
}


class DraftFormatError(ValueError):
    """The text is not an encoded draft, or the draft cannot be encoded."""


def encode_draft(draft: AuditDraft) -> str:
    """Encode a draft.

    Raises:
        DraftFormatError: A text in it has no UTF-8 form, or its time no time zone.
    """
    members: dict[str, object] = {
        "encryption_context": dict(draft.encryption_context),
        "id": str(draft.record_id),
        "method": draft.method,
        "outcome": draft.outcome,
        "peer": draft.peer,
        "principal": draft.principal,
        "request_id": draft.request_id,
        "validate_only": draft.validate_only,
    }
    optional = {
        "count": draft.count,
        "details": dict(draft.details) or None,
        "identifier_key": draft.identifier_key,
        "key": draft.key,
        "key_version": draft.key_version,
        "mode": draft.mode,
        "policy": draft.policy,
        "reason": draft.reason,
    }
    members |= {name: value for name, value in optional.items() if value is not None}
    try:
        members["time"] = to_micros(draft.time)
        text = json.dumps(members, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
        text.encode()  # a lone surrogate has no UTF-8 form
    except ValueError as exc:
        raise DraftFormatError("the draft has a text or time that cannot be stored") from exc
    return text


def decode_draft(text: str) -> AuditDraft:
    """Decode a draft.

    Raises:
        DraftFormatError: `text` is not exactly what `encode_draft` makes of a draft.
    """
    try:
        members = _check_members(json.loads(text))
        draft = AuditDraft(
            record_id=uuid.UUID(members["id"]),
            time=from_micros(members["time"]),
            principal=members["principal"],
            peer=members["peer"],
            method=members["method"],
            outcome=members["outcome"],
            request_id=members["request_id"],
            key=members.get("key"),
            key_version=members.get("key_version"),
            encryption_context=members["encryption_context"],
            reason=members.get("reason"),
            policy=members.get("policy"),
            validate_only=members["validate_only"],
            mode=members.get("mode"),
            count=members.get("count"),
            details=members.get("details", {}),
            identifier_key=members.get("identifier_key"),
        )
        canonical = encode_draft(draft) == text
    except DraftFormatError:
        raise
    except (ValueError, OverflowError, RecursionError) as exc:
        raise DraftFormatError("not an encoded draft") from exc
    # Refuses repeated members, other orders, white space and other spellings of ids.
    if not canonical:
        raise DraftFormatError("not an encoded draft: not canonical")
    return draft


def _check_members(members: Any) -> dict[str, Any]:
    if not isinstance(members, dict):
        raise DraftFormatError("not an encoded draft: not an object")
    if not _REQUIRED.keys() <= members.keys() <= _REQUIRED.keys() | _OPTIONAL.keys():
        raise DraftFormatError("not an encoded draft: unknown or missing members")
    for name, value in members.items():
        # Exact types: True is an int to isinstance.
        if type(value) is not (_REQUIRED.get(name) or _OPTIONAL[name]):
            raise DraftFormatError(f"not an encoded draft: {name} has the wrong type")
    for name in ("encryption_context", "details"):
        if not all(isinstance(text, str) for text in members.get(name, {}).values()):
            raise DraftFormatError(f"not an encoded draft: {name} has the wrong type")
    return members
