"""Grants and policies in a write transaction."""

from __future__ import annotations

import dataclasses
import uuid
from dataclasses import dataclass

from sqlalchemy import Connection, delete, insert, update
from sqlalchemy.dialects.sqlite import insert as upsert

from strongroom.resource_names import KeyName
from strongroom_server.domain.grants import MAX_GRANTS_PER_GRANTEE, MAX_GRANTS_PER_KEY, Grant
from strongroom_server.domain.keys import Key
from strongroom_server.errors import (
    EtagMismatchError,
    GrantNotFoundError,
    KeyNotFoundError,
    LimitExceededError,
)
from strongroom_server.mutations import SetPolicy
from strongroom_server.store import schema
from strongroom_server.store.digests import StoreDamagedError
from strongroom_server.store.grant_reading import (
    read_book,
    read_grant,
    read_last_revision,
    read_repeat,
)
from strongroom_server.store.grant_rows import (
    ALL_GRANTEES,
    GrantBook,
    to_grant_row,
    to_revision_row,
)
from strongroom_server.store.reading import read_key

__all__ = ["GrantsChanged", "create", "end", "set_policy"]


@dataclass(frozen=True, slots=True)
class GrantsChanged:
    """Whose grants on which key are not as they were."""

    key_id: uuid.UUID
    grantee: str


def create(connection: Connection, region: str, grant: Grant, change_number: int) -> GrantsChanged:
    """Insert a grant.

    Raises:
        KeyNotFoundError: Its key does not exist.
        LimitExceededError: The key, or the principal on it, has as many as there may be.
        EtagMismatchError: Another process was first with the same name.
    """
    name = KeyName(region, grant.key_id)
    if read_key(connection, region, grant.key_id) is None:
        raise KeyNotFoundError(str(name))
    if read_repeat(connection, region, grant) is not None:
        raise EtagMismatchError(f"grants of {name}")
    _count(connection, grant, 1, change_number)
    connection.execute(insert(schema.grants), to_grant_row(grant))
    return GrantsChanged(grant.key_id, grant.grantee)


def end(connection: Connection, region: str, grant: Grant, change_number: int) -> GrantsChanged:
    """Take a grant away.

    Raises:
        GrantNotFoundError: It is not there any more.
    """
    if read_grant(connection, region, grant.grant_id) is None:
        raise GrantNotFoundError(str(grant.resource_name))
    connection.execute(
        delete(schema.grants).where(schema.grants.c.grant_id == grant.grant_id.bytes)
    )
    _count(connection, grant, -1, change_number)
    return GrantsChanged(grant.key_id, grant.grantee)


def set_policy(connection: Connection, key: Key, change: SetPolicy) -> None:
    """Put another policy in the place of a key's, and keep both in the history.

    The first time, the history begins with the policy that the key was made with.

    Raises:
        EtagMismatchError: Another process was first.
    """
    last = read_last_revision(connection, key)
    if change.number != last.number + 1:
        raise EtagMismatchError(str(key.name))
    after = dataclasses.replace(
        last, number=change.number, text=change.policy, author=change.author, time=change.time
    )
    kept = [last] if change.number == 2 else []  # noqa: PLR2004 - the second
    connection.execute(
        insert(schema.policy_revisions), [to_revision_row(each) for each in (*kept, after)]
    )
    connection.execute(
        update(schema.policies)
        .where(schema.policies.c.key_id == key.key_id.bytes)
        .values(cedar=change.policy)
    )


def _count(connection: Connection, grant: Grant, step: int, change_number: int) -> None:
    for grantee, limit in (
        (ALL_GRANTEES, MAX_GRANTS_PER_KEY),
        (grant.grantee, MAX_GRANTS_PER_GRANTEE),
    ):
        book = read_book(connection, grant.key_id, grantee)
        grants = (0 if book is None else book.grants) + step
        if grants < 0:
            raise StoreDamagedError(f"the grants of key {grant.key_id} are counted wrong")
        if step > 0 and grants > limit:
            whose = "the key" if grantee == ALL_GRANTEES else "this principal, on this key,"
            raise LimitExceededError(f"{whose} has {limit:,} grants, which is the limit")
        row = GrantBook(grant.key_id, grantee, grants, change_number).to_row()
        connection.execute(
            upsert(schema.grant_books)
            .values(row)
            .on_conflict_do_update(index_elements=["key_id", "grantee"], set_=row)
        )
