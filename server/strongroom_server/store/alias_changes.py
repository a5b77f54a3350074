"""Aliases in a write transaction: made, pointed elsewhere, deleted.

What a deletion leaves is a row that says so (`schema.py`); the next alias of the name takes
its place.
"""

from __future__ import annotations

from sqlalchemy import Connection
from sqlalchemy.dialects.sqlite import insert as upsert

from strongroom.resource_names import AliasName, KeyName
from strongroom_server.domain.keys import Alias
from strongroom_server.errors import AliasExistsError, EtagMismatchError, KeyNotFoundError
from strongroom_server.mutations import DeleteAlias, UpdateAlias
from strongroom_server.store import schema
from strongroom_server.store.key_cache import StoredAlias
from strongroom_server.store.reading import read_alias, read_key
from strongroom_server.store.rows import to_alias_row

__all__ = ["create", "delete", "update"]


def create(connection: Connection, region: str, alias: Alias, change_number: int) -> StoredAlias:
    """Insert an alias.

    Raises:
        AliasExistsError: There is one of this name.
        KeyNotFoundError: Its key does not exist.
    """
    _check(connection, region, alias)
    there = read_alias(connection, region, alias.name)
    if there is not None and not there.deleted:
        raise AliasExistsError(f"{alias.name} exists already")
    return _write(connection, alias, change_number)


def update(
    connection: Connection, region: str, change: UpdateAlias, change_number: int
) -> StoredAlias:
    """Point an alias elsewhere.

    Raises:
        EtagMismatchError: It has been deleted, or names another key than expected.
        KeyNotFoundError: Its new key does not exist.
    """
    _check(connection, region, change.alias)
    _expect(connection, region, change.alias.name, change)
    return _write(connection, change.alias, change_number)


def delete(
    connection: Connection, region: str, change: DeleteAlias, change_number: int
) -> StoredAlias:
    """Delete an alias.

    Raises:
        EtagMismatchError: It has been deleted already, or names another key than expected.
    """
    there = _expect(connection, region, change.name, change)
    return _write(connection, there.alias, change_number, deleted=True)


def _check(connection: Connection, region: str, alias: Alias) -> None:
    if alias.name.region != region:
        raise ValueError("an alias must be of this region")
    if read_key(connection, region, alias.key_id) is None:
        raise KeyNotFoundError(str(KeyName(region, alias.key_id)))


def _expect(
    connection: Connection, region: str, name: AliasName, change: UpdateAlias | DeleteAlias
) -> StoredAlias:
    there = read_alias(connection, region, name)
    if there is None or there.deleted or there.alias.key_id != change.expected_key_id:
        raise EtagMismatchError(str(name))
    return there


def _write(
    connection: Connection, alias: Alias, change_number: int, *, deleted: bool = False
) -> StoredAlias:
    row = to_alias_row(alias, change_number, deleted=deleted)
    columns = {name: value for name, value in row.items() if name != "alias"}
    connection.execute(
        upsert(schema.aliases)
        .values(row)
        .on_conflict_do_update(index_elements=[schema.aliases.c.alias], set_=columns)
    )
    return StoredAlias(alias, change_number, deleted=deleted)
