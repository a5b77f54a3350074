"""What is asked of the database. Each function is one question on the caller's transaction.

Statements are built once: SQLAlchemy recognises them and keeps their SQL.
"""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby
from typing import Any, Final

from sqlalchemy import (
    ColumnElement,
    Connection,
    Integer,
    Row,
    bindparam,
    func,
    literal_column,
    select,
    tuple_,
)

from strongroom.resource_names import AliasName
from strongroom_server.domain.keys import KeyMaterial, KeyState, KeyVersion, KeyVersionRef
from strongroom_server.mutations import OutboxRow, RequestMemo, WrappingRoot
from strongroom_server.store import rows, schema
from strongroom_server.store.digests import StoreDamagedError
from strongroom_server.store.key_cache import StoredAlias, StoredKey
from strongroom_server.store.micros import to_micros
from strongroom_server.store.rows import ShardMeta

__all__ = [
    "PLACE",
    "FoundKey",
    "StoreCounts",
    "count_rows",
    "count_stale",
    "read_alias",
    "read_aliases",
    "read_aliases_after",
    "read_each",
    "read_key",
    "read_keys",
    "read_keys_after",
    "read_keys_by_place",
    "read_memo",
    "read_meta",
    "read_outbox",
    "read_roots",
    "read_stale",
]

# SQLite's limit is 32,766 variables in a statement (sqlite.org/limits.html).
_IDS_PER_STATEMENT: Final = 1000

_META: Final = select(schema.shard_meta)
# Outer join: a key whose policy row is lost must show as damaged, not be skipped.
_KEYS: Final = select(schema.keys, schema.policies.c.cedar).outerjoin_from(
    schema.keys, schema.policies
)
_KEY: Final = _KEYS.where(schema.keys.c.key_id == bindparam("id"))
_KEYS_OF_IDS: Final = _KEYS.where(schema.keys.c.key_id.in_(bindparam("ids", expanding=True)))
_AGE: Final = tuple_(schema.keys.c.create_time, schema.keys.c.key_id)
_KEYS_BY_AGE: Final = _KEYS.order_by(schema.keys.c.create_time, schema.keys.c.key_id).limit(
    bindparam("count")
)
_KEYS_AFTER: Final = _KEYS_BY_AGE.where(tuple_(bindparam("time"), bindparam("id")) < _AGE)
_NEWEST_KEYS: Final = _KEYS.order_by(
    schema.keys.c.create_time.desc(), schema.keys.c.key_id.desc()
).limit(bindparam("count"))
_NEWEST_KEYS_AFTER: Final = _NEWEST_KEYS.where(tuple_(bindparam("time"), bindparam("id")) > _AGE)
PLACE: Final[ColumnElement[int]] = literal_column("keys.rowid", Integer)
"""Where a key is in the file; never used again, for keys are never deleted."""
_KEYS_BY_PLACE: Final = (
    _KEYS.add_columns(PLACE.label("place"))
    .where(bindparam("place_before", type_=Integer) < PLACE)
    .order_by(PLACE)
    .limit(bindparam("count"))
)
_VERSIONS: Final = select(schema.key_versions)
_VERSIONS_OF_KEY: Final = _VERSIONS.where(schema.key_versions.c.key_id == bindparam("id")).order_by(
    schema.key_versions.c.number
)
_VERSIONS_OF_IDS: Final = _VERSIONS.where(
    schema.key_versions.c.key_id.in_(bindparam("ids", expanding=True))
).order_by(schema.key_versions.c.key_id, schema.key_versions.c.number)
_POLICY: Final = select(schema.policies.c.key_id).where(schema.policies.c.key_id == bindparam("id"))
_ALIAS: Final = select(schema.aliases).where(schema.aliases.c.alias == bindparam("name"))
_ROOTS: Final = select(schema.wrapping_roots).order_by(schema.wrapping_roots.c.number)
_ROOT_COLUMN: Final = schema.key_versions.c.wrapped_root


@dataclass(frozen=True, slots=True)
class StoreCounts:
    """How much is in the store, for metrics. Every state has an entry."""

    keys_by_state: Mapping[KeyState, int]
    versions: int
    aliases: int


FoundKey = StoredKey | StoreDamagedError | None
"""A key; or that it is damaged; or that there is none."""


def read_meta(connection: Connection) -> ShardMeta:
    """Read the shard's own row."""
    return rows.meta_of(connection.execute(_META).one_or_none())


def read_key(connection: Connection, region: str, key_id: uuid.UUID) -> StoredKey | None:
    """Read one key.

    Raises:
        StoreDamagedError: It is damaged, or only a part of it is there: a key that the
            database knows of is never said to be absent.
    """
    asked = {"id": key_id.bytes}
    row = connection.execute(_KEY, asked).one_or_none()
    versions = connection.execute(_VERSIONS_OF_KEY, asked).all()
    if row is None:
        if versions or connection.execute(_POLICY, asked).first() is not None:
            raise StoreDamagedError(f"key {key_id} is damaged: its row is missing")
        return None
    return _expect(key_id, rows.key_of(row, region, tuple(map(rows.version_of, versions))))


def read_keys(
    connection: Connection, region: str, key_ids: Sequence[uuid.UUID]
) -> dict[uuid.UUID, StoredKey]:
    """Read many keys; one that is not there is left out."""
    found: dict[uuid.UUID, StoredKey] = {}
    for start in range(0, len(key_ids), _IDS_PER_STATEMENT):
        ids = [key_id.bytes for key_id in key_ids[start : start + _IDS_PER_STATEMENT]]
        for stored in _complete(connection, region, connection.execute(_KEYS_OF_IDS, {"ids": ids})):
            found[stored.key.key_id] = stored
    return found


def read_each(
    connection: Connection, region: str, key_ids: Sequence[uuid.UUID]
) -> dict[uuid.UUID, FoundKey]:
    """Read keys as `read_key` does, together; a damaged one spoils only itself."""
    found: dict[uuid.UUID, FoundKey] = {}
    if len(key_ids) > 1:
        with contextlib.suppress(StoreDamagedError):  # which of them, is found out below
            found |= read_keys(connection, region, key_ids)
    for key_id in key_ids:
        if key_id not in found:
            try:
                found[key_id] = read_key(connection, region, key_id)
            except StoreDamagedError as exc:
                found[key_id] = exc
    return found


def read_keys_after(
    connection: Connection,
    region: str,
    *,
    after: tuple[datetime, uuid.UUID] | None,
    limit: int,
    newest_first: bool = False,
) -> list[StoredKey]:
    """Read at most `limit` keys by (create_time, key_id), from beyond `after`."""
    if after is None:
        statement = _NEWEST_KEYS if newest_first else _KEYS_BY_AGE
        found = connection.execute(statement, {"count": limit})
    else:
        time, key_id = after
        statement = _NEWEST_KEYS_AFTER if newest_first else _KEYS_AFTER
        found = connection.execute(
            statement, {"count": limit, "time": to_micros(time), "id": key_id.bytes}
        )
    return _complete(connection, region, found)


def read_keys_by_place(
    connection: Connection, region: str, *, after: int, limit: int
) -> list[tuple[int, StoredKey]]:
    """Read at most `limit` keys in the order of the file, each with its place."""
    found = connection.execute(_KEYS_BY_PLACE, {"count": limit, "place_before": after}).all()
    return [
        (row.place, stored)
        for row, stored in zip(found, _complete(connection, region, found), strict=True)
    ]


def read_alias(connection: Connection, region: str, name: AliasName) -> StoredAlias | None:
    """Read one alias."""
    row = connection.execute(_ALIAS, {"name": name.alias}).one_or_none()
    return None if row is None else rows.alias_of(row, region)


def read_aliases_after(
    connection: Connection, region: str, *, key_id: uuid.UUID | None, after: str, limit: int
) -> list[StoredAlias]:
    """Read at most `limit` aliases by name, from beyond `after`; those of one key, or all."""
    table = schema.aliases.c
    wanted = select(schema.aliases).where(table.alias > after, table.deleted == 0)
    if key_id is not None:
        wanted = wanted.where(table.key_id == key_id.bytes)
    found = connection.execute(wanted.order_by(table.alias).limit(limit))
    return [rows.alias_of(row, region) for row in found]


def read_aliases(connection: Connection, region: str) -> Iterator[StoredAlias]:
    """Read every alias, one after the other, and what is left of deleted ones."""
    for row in connection.execute(select(schema.aliases)):
        yield rows.alias_of(row, region)


def read_roots(connection: Connection, region: str) -> tuple[WrappingRoot, ...]:
    """Read the wrapping roots by ascending number."""
    return tuple(rows.root_of(row, region) for row in connection.execute(_ROOTS))


def read_stale(
    connection: Connection, region: str, *, root: int, limit: int
) -> tuple[KeyMaterial, ...]:
    """Read at most `limit` wrapped versions that lie under another root than `root`."""
    table = schema.key_versions.c
    places: list[Row[Any]] = []
    for condition in (root > _ROOT_COLUMN, root < _ROOT_COLUMN):  # each by its index
        wanted = select(table.key_id, table.number).where(condition).limit(limit - len(places))
        places += connection.execute(wanted)
    ids = list(dict.fromkeys(uuid.UUID(bytes=place.key_id) for place in places))
    stored = read_keys(connection, region, ids)
    found = []
    for place in places:
        ref = KeyVersionRef(uuid.UUID(bytes=place.key_id), place.number)
        if ref.key_id not in stored:
            raise StoreDamagedError(f"a version of key {ref.key_id} belongs to nothing")
        found.append(stored[ref.key_id].key.material(ref.version))
    return tuple(found)


def count_stale(connection: Connection, *, root: int) -> int:
    """Count the wrapped versions that lie under another root than `root`."""
    counted = select(func.count()).select_from(schema.key_versions)
    return sum(
        connection.execute(counted.where(condition)).scalar_one()
        for condition in (root > _ROOT_COLUMN, root < _ROOT_COLUMN)
    )


def count_rows(connection: Connection) -> StoreCounts:
    """Count keys by state, versions and aliases: a pass over an index each."""
    by_state = dict.fromkeys(KeyState, 0)
    for row in connection.execute(
        select(schema.keys.c.state, func.count()).group_by(schema.keys.c.state)
    ):
        try:
            by_state[KeyState(row[0])] = row[1]
        except ValueError as exc:
            raise StoreDamagedError("a state of a key is damaged") from exc
    versions = connection.execute(select(func.count()).select_from(schema.key_versions))
    aliases = connection.execute(
        select(func.count()).select_from(schema.aliases).where(schema.aliases.c.deleted == 0)
    )
    return StoreCounts(by_state, versions.scalar_one(), aliases.scalar_one())


def read_memo(
    connection: Connection, principal: str, method: str, request_id: str
) -> RequestMemo | None:
    """Read the memo of a request id."""
    table = schema.request_ids.c
    row = connection.execute(
        select(schema.request_ids).where(
            table.principal == principal,
            table.method == method,
            table.request_id == request_id,
        )
    ).one_or_none()
    return None if row is None else rows.memo_of(row)


def read_outbox(connection: Connection, *, after: int, limit: int) -> list[OutboxRow]:
    """Read outbox rows beyond `after`, ascending."""
    found = connection.execute(
        select(schema.outbox)
        .where(schema.outbox.c.outbox_id > after)
        .order_by(schema.outbox.c.outbox_id)
        .limit(limit)
    )
    return [rows.outbox_row_of(row) for row in found]


def _complete(connection: Connection, region: str, found: Iterable[Row[Any]]) -> list[StoredKey]:
    """Add the versions to rows of keys, in the order of the rows."""
    key_rows = list(found)
    versions: dict[bytes, tuple[KeyVersion, ...]] = {}
    for start in range(0, len(key_rows), _IDS_PER_STATEMENT):
        ids = [row.key_id for row in key_rows[start : start + _IDS_PER_STATEMENT]]
        of_keys = connection.execute(_VERSIONS_OF_IDS, {"ids": ids})
        for key_id, group in groupby(of_keys, lambda row: row.key_id):
            versions[key_id] = tuple(map(rows.version_of, group))
    return [rows.key_of(row, region, versions.get(row.key_id, ())) for row in key_rows]


def _expect(key_id: uuid.UUID, stored: StoredKey) -> StoredKey:
    # An index that leads to another row must not give a caller another key.
    if stored.key.key_id != key_id:
        raise StoreDamagedError(f"key {key_id} is damaged: its index leads elsewhere")
    return stored
