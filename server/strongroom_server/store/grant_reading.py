"""What is asked of the database about grants and past policies; see `reading.py`."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

from sqlalchemy import Connection, Row, Select, and_, bindparam, or_, select

from strongroom_server.domain.grants import MAX_GRANTS_PER_GRANTEE, Grant, PrincipalGrants
from strongroom_server.domain.keys import Key
from strongroom_server.domain.policy_history import FIRST_REVISION, PolicyRevision
from strongroom_server.permission_ports import Place
from strongroom_server.store import schema
from strongroom_server.store.digests import StoreDamagedError
from strongroom_server.store.grant_rows import GrantBook, book_of, grant_of, revision_of
from strongroom_server.store.micros import to_micros

__all__ = [
    "read_book",
    "read_grant",
    "read_grants",
    "read_grants_after",
    "read_last_revision",
    "read_repeat",
    "read_retirable_after",
    "read_revision",
    "read_revision_at",
    "read_revisions_after",
]

_GRANTS: Final = schema.grants.c
_AGE: Final = (_GRANTS.create_time, _GRANTS.grant_id)
_BOOK: Final = select(schema.grant_books).where(
    schema.grant_books.c.key_id == bindparam("key"),
    schema.grant_books.c.grantee == bindparam("who"),
)
_OF_KEY: Final = select(schema.grants).where(_GRANTS.key_id == bindparam("key"))
_OF_GRANTEE: Final = _OF_KEY.where(_GRANTS.grantee == bindparam("who")).order_by(*_AGE)
_GRANT: Final = select(schema.grants).where(_GRANTS.grant_id == bindparam("id"))
_REPEAT: Final = _OF_KEY.where(_GRANTS.identity == bindparam("identity"))
_RETIRABLE: Final = select(schema.grants).where(_GRANTS.retiring == bindparam("who"))
_PAST: Final = schema.policy_revisions.c
_REVISIONS: Final = select(schema.policy_revisions).where(_PAST.key_id == bindparam("key"))
_LAST_REVISION: Final = _REVISIONS.order_by(_PAST.number.desc()).limit(1)


def read_book(connection: Connection, key_id: uuid.UUID, grantee: str) -> GrantBook | None:
    """Read how many grants a principal has on a key; None when it never had one."""
    row = connection.execute(_BOOK, {"key": key_id.bytes, "who": grantee}).one_or_none()
    return None if row is None else book_of(row)


def read_grants(
    connection: Connection, region: str, key_id: uuid.UUID, grantee: str
) -> tuple[PrincipalGrants, int]:
    """Read a principal's grants on a key, and the change number that they are of.

    Raises:
        StoreDamagedError: One is damaged, or there are not as many as the book says.
    """
    book = read_book(connection, key_id, grantee)
    found = connection.execute(
        _OF_GRANTEE.limit(MAX_GRANTS_PER_GRANTEE + 1), {"key": key_id.bytes, "who": grantee}
    ).all()
    if len(found) != (0 if book is None else book.grants):
        raise StoreDamagedError(f"grants of key {key_id} are missing, or too many")
    grants = PrincipalGrants(grant_of(row, region) for row in found)
    return grants, 0 if book is None else book.change_number


def read_grant(connection: Connection, region: str, grant_id: uuid.UUID) -> Grant | None:
    """Read one grant."""
    row = connection.execute(_GRANT, {"id": grant_id.bytes}).one_or_none()
    if row is None:
        return None
    grant = grant_of(row, region)
    if grant.grant_id != grant_id:  # an index that leads to another row
        raise StoreDamagedError(f"grant {grant_id} is damaged: its index leads elsewhere")
    return grant


def read_repeat(connection: Connection, region: str, grant: Grant) -> Grant | None:
    """Read the grant of the same key with the same identity."""
    if grant.identity is None:
        return None
    asked = {"key": grant.key_id.bytes, "identity": grant.identity}
    row = connection.execute(_REPEAT, asked).one_or_none()
    return None if row is None else grant_of(row, region)


def read_grants_after(
    connection: Connection,
    region: str,
    key_id: uuid.UUID,
    *,
    grantee: str,
    after: Place | None,
    limit: int,
) -> list[Grant]:
    """Read grants of a key by age; of one principal, unless `grantee` is empty."""
    query = _OF_GRANTEE if grantee else _OF_KEY.order_by(*_AGE)
    asked = {"key": key_id.bytes} | ({"who": grantee} if grantee else {})
    return _page(connection, region, _beyond(query, after).limit(limit), asked)


def read_retirable_after(
    connection: Connection, region: str, principal: str, *, after: Place | None, limit: int
) -> list[Grant]:
    """Read grants that name a retiring principal, by age."""
    query = _RETIRABLE.order_by(*_AGE)
    return _page(connection, region, _beyond(query, after).limit(limit), {"who": principal})


def read_last_revision(connection: Connection, key: Key) -> PolicyRevision:
    """Read the policy that holds.

    Raises:
        StoreDamagedError: The history ends with another one than the key has.
    """
    row = connection.execute(_LAST_REVISION, {"key": key.key_id.bytes}).one_or_none()
    if row is None:
        return PolicyRevision.first_of(key)
    last = revision_of(row)
    if last.text != key.policy:
        raise StoreDamagedError(f"the policy history of key {key.key_id} is damaged: its end")
    return last


def read_revision(connection: Connection, key: Key, number: int) -> PolicyRevision | None:
    """Read policy `number` of a key."""
    last = read_last_revision(connection, key)
    if number >= last.number:
        return last if number == last.number else None
    if number < FIRST_REVISION:
        return None
    found = connection.execute(_REVISIONS.where(_PAST.number == number), {"key": key.key_id.bytes})
    return _expect(key, number, found.one_or_none())


def read_revision_at(connection: Connection, key: Key, time: datetime) -> PolicyRevision | None:
    """Read the policy that held at a time."""
    if time < key.create_time:
        return None
    last = read_last_revision(connection, key)
    # By number, not by time: a clock that was set back must not bring back an old policy.
    query = (
        _REVISIONS.where(_PAST.create_time <= to_micros(time))
        .order_by(_PAST.number.desc())
        .limit(1)
    )
    row = connection.execute(query, {"key": key.key_id.bytes}).one_or_none()
    return last if row is None else revision_of(row)


def read_revisions_after(
    connection: Connection, key: Key, *, after: int, limit: int
) -> list[PolicyRevision]:
    """Read policies of a key with numbers above `after`, ascending.

    Raises:
        StoreDamagedError: One between them is missing.
    """
    last = read_last_revision(connection, key)
    if last.number == FIRST_REVISION:
        return [last] if after < FIRST_REVISION and limit > 0 else []
    found = connection.execute(
        _REVISIONS.where(_PAST.number > after).order_by(_PAST.number).limit(limit),
        {"key": key.key_id.bytes},
    ).all()
    start = max(after, FIRST_REVISION - 1) + 1
    return [_expect(key, start + place, row) for place, row in enumerate(found)]


def _expect(key: Key, number: int, row: Row[Any] | None) -> PolicyRevision:
    if row is None or row.number != number:
        raise StoreDamagedError(f"policy revision {number} of key {key.key_id} is missing")
    return revision_of(row)


def _beyond(query: Select[Any], after: Place | None) -> Select[Any]:
    if after is None:
        return query
    time, grant_id = after
    since = to_micros(time)
    return query.where(
        or_(
            _GRANTS.create_time > since,
            and_(_GRANTS.create_time == since, _GRANTS.grant_id > grant_id.bytes),
        )
    )


def _page(
    connection: Connection, region: str, query: Select[Any], asked: Mapping[str, object]
) -> list[Grant]:
    return [grant_of(row, region) for row in connection.execute(query, asked)]
