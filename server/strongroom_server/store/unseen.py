"""What other processes have changed: which rows, so that memory can let go of them."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Connection, Select, select

from strongroom.resource_names import AliasName
from strongroom_server.store import schema
from strongroom_server.store.digests import StoreDamagedError
from strongroom_server.store.grant_cache import GrantPlace
from strongroom_server.store.reading import read_meta

__all__ = ["MAX_CHANGED_ROWS", "Changed", "read_unseen"]

MAX_CHANGED_ROWS: Final = 10_000
"""More changed rows than this are not told one by one."""

_DATA_VERSION: Final = "strongroom_data_version"


@dataclass(frozen=True, slots=True)
class Changed:
    """What changed after some change number, up to and including `change_number`.

    `is_complete` is False when it was too much to tell: then anything may have changed.
    """

    change_number: int
    keys: tuple[tuple[uuid.UUID, int], ...] = ()
    aliases: tuple[tuple[AliasName, int], ...] = ()
    roots: bool = False
    grants: tuple[tuple[GrantPlace, int], ...] = ()
    is_complete: bool = True


def read_unseen(connection: Connection, region: str, *, since: int) -> Changed | None:
    """Read which rows changed after change number `since`, or None when nothing did.

    Nothing since this connection was last asked, that is; the cheap question of a poll.
    Whoever gets an answer has to use it: it is not offered again. Change numbers are given
    out under the write lock and committed in order, so in one transaction nothing up to
    the counter's value can be missing. The rows themselves are not read, nor their digests
    checked: that happens when they are asked for.

    Raises:
        StoreDamagedError: The counter went back: another database was put in this one's
            place; or a row is newer than the counter.
    """
    # Goes up with every commit of another connection (sqlite.org/pragma.html#pragma_data_version);
    # kept with the connection, for two connections' values cannot be compared.
    version = connection.exec_driver_sql("PRAGMA data_version").scalar_one()
    if connection.info.get(_DATA_VERSION) == version:
        return None
    changed = _read_changed(connection, region, since=since)
    connection.info[_DATA_VERSION] = version
    return changed


def _read_changed(connection: Connection, region: str, *, since: int) -> Changed:
    meta = read_meta(connection)
    if meta.change_number < since:
        raise StoreDamagedError("the change counter of shard_meta went back")
    if meta.change_number == since:
        return Changed(since)
    keys = _changed_rows(connection, select(schema.keys.c.key_id), schema.keys, since)
    aliases = _changed_rows(connection, select(schema.aliases.c.alias), schema.aliases, since)
    roots = connection.execute(
        select(schema.wrapping_roots.c.number).where(schema.wrapping_roots.c.change_number > since)
    ).first()
    books = schema.grant_books.c
    grants = _changed_rows(
        connection, select(books.key_id, books.grantee), schema.grant_books, since
    )
    if max(len(keys), len(aliases), len(grants)) > MAX_CHANGED_ROWS:
        return Changed(meta.change_number, is_complete=False)
    if any(row[-1] > meta.change_number for row in (*keys, *aliases, *grants)):
        raise StoreDamagedError("a row is newer than the change counter of shard_meta")
    try:
        return Changed(
            meta.change_number,
            tuple((uuid.UUID(bytes=key_id), number) for key_id, number in keys),
            tuple((AliasName(region, alias), number) for alias, number in aliases),
            roots is not None,
            tuple(((uuid.UUID(bytes=of), who), number) for of, who, number in grants),
        )
    except ValueError as exc:
        raise StoreDamagedError("the name of a changed row is damaged") from exc


def _changed_rows(
    connection: Connection, names: Select[Any], table: Any, since: int
) -> list[tuple[Any, ...]]:
    wanted = names.add_columns(table.c.change_number).where(table.c.change_number > since)
    return [tuple(row) for row in connection.execute(wanted.limit(MAX_CHANGED_ROWS + 1))]
