"""Grants, books of grants and past policies: rows to domain objects and back, checked."""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Row

from strongroom_server.domain.grants import Constraint, ConstraintKind, Grant
from strongroom_server.domain.policy import Action
from strongroom_server.domain.policy_history import PolicyRevision
from strongroom_server.store.digests import StoreDamagedError, check_digest
from strongroom_server.store.micros import from_micros, to_micros

__all__ = [
    "ALL_GRANTEES",
    "GrantBook",
    "book_of",
    "grant_of",
    "revision_of",
    "to_grant_row",
    "to_revision_row",
]

ALL_GRANTEES: Final = ""
"""In the place of a grantee: the book of the whole key. No principal is empty."""

# Made once: a principal's grants are read at its first use of a key.
_TEXT: Final = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))
_ASCII: Final = json.JSONEncoder(separators=(",", ":"))


@dataclass(frozen=True, slots=True)
class GrantBook:
    """How many grants a principal has on a key, and when that last changed."""

    key_id: uuid.UUID
    grantee: str
    grants: int
    change_number: int

    def to_row(self) -> dict[str, object]:
        """Return the row of table grant_books."""
        return {
            "key_id": self.key_id.bytes,
            "grantee": self.grantee,
            "grants": self.grants,
            "change_number": self.change_number,
            "digest": self.digest,
        }

    @property
    def digest(self) -> bytes:
        """The row's digest."""
        return _digest_of(
            "grant-book", self.key_id.hex, self.grantee, self.grants, self.change_number
        )


def book_of(row: Row[Any]) -> GrantBook:
    """Return a book.

    Raises:
        StoreDamagedError: It is not as it was written.
    """
    book = GrantBook(uuid.UUID(bytes=row.key_id), row.grantee, row.grants, row.change_number)
    check_digest("a row of grant_books", stored=row.digest, computed=book.digest)
    return book


def to_grant_row(grant: Grant) -> dict[str, object]:
    """Return the row of table grants."""
    fields = _grant_fields(grant)
    return fields | {"digest": _grant_digest(fields)}


def _grant_fields(grant: Grant) -> dict[str, object]:
    return {
        "grant_id": grant.grant_id.bytes,
        "key_id": grant.key_id.bytes,
        "grantee": grant.grantee,
        "operations": _pack([operation.value for operation in grant.operations]),
        "context": _pack_constraint(grant.constraint),
        "retiring": grant.retiring or None,
        "name": grant.name or None,
        "identity": grant.identity,
        "issuer": grant.issuer,
        "create_time": to_micros(grant.create_time),
    }


def _grant_digest(fields: Mapping[str, object]) -> bytes:
    return _digest_of(
        "grant",
        *(value.hex() if isinstance(value, bytes) else value for value in fields.values()),
    )


def grant_of(row: Row[Any], region: str) -> Grant:
    """Return a grant.

    Raises:
        StoreDamagedError: It is not as it was written.
    """
    try:
        grant = Grant(
            grant_id=uuid.UUID(bytes=row.grant_id),
            region=region,
            key_id=uuid.UUID(bytes=row.key_id),
            grantee=row.grantee,
            operations=tuple(Action(operation) for operation in json.loads(row.operations)),
            constraint=_unpack_constraint(row.context),
            retiring=row.retiring or "",
            name=row.name or "",
            issuer=row.issuer,
            create_time=from_micros(row.create_time),
        )
    except (ValueError, TypeError, OverflowError) as exc:
        raise StoreDamagedError(f"grant {row.grant_id.hex()} is damaged: {exc}") from exc
    # Of the row as it would be written now: what does not come back the same is damaged too.
    check_digest(
        f"grant {grant.grant_id}", stored=row.digest, computed=_grant_digest(_grant_fields(grant))
    )
    return grant


def to_revision_row(revision: PolicyRevision) -> dict[str, object]:
    """Return the row of table policy_revisions."""
    return {
        "key_id": revision.key_id.bytes,
        "number": revision.number,
        "cedar": revision.text,
        "author": revision.author,
        "create_time": to_micros(revision.time),
        "digest": _revision_digest(revision),
    }


def revision_of(row: Row[Any]) -> PolicyRevision:
    """Return a past policy, or the present one.

    Raises:
        StoreDamagedError: It is not as it was written.
    """
    key_id = uuid.UUID(bytes=row.key_id)
    name = f"policy revision {row.number} of key {key_id}"
    try:
        time = from_micros(row.create_time)
    except OverflowError as exc:
        raise StoreDamagedError(f"{name} is damaged: its time") from exc
    revision = PolicyRevision(key_id, row.number, row.cedar, row.author, time)
    check_digest(name, stored=row.digest, computed=_revision_digest(revision))
    return revision


def _revision_digest(revision: PolicyRevision) -> bytes:
    return _digest_of(
        "policy-revision",
        revision.key_id.hex,
        revision.number,
        revision.text,
        revision.author,
        to_micros(revision.time),
    )


def _pack(value: object) -> str:
    return _TEXT.encode(value)


def _pack_constraint(constraint: Constraint | None) -> str | None:
    if constraint is None:
        return None
    return _pack([constraint.kind.value, [list(pair) for pair in constraint.pairs]])


def _unpack_constraint(text: str | None) -> Constraint | None:
    if text is None:
        return None
    kind, pairs = json.loads(text)
    return Constraint(ConstraintKind(kind), tuple((str(name), str(value)) for name, value in pairs))


def _digest_of(*fields: object) -> bytes:
    # A JSON array keeps neighbours apart, as in digests.py.
    return hashlib.sha256(_ASCII.encode(fields).encode("ascii")).digest()
