"""What waits for its destruction, and for how long the shard has been looked after."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import Column, ColumnElement, Connection, Table, and_, or_, select
from sqlalchemy.dialects.sqlite import insert as upsert

from strongroom_server.store import schema
from strongroom_server.store.digests import check_digest, observed_digest
from strongroom_server.store.key_cache import StoredKey
from strongroom_server.store.micros import to_micros
from strongroom_server.store.reading import read_keys

__all__ = ["advance_observed", "has_deletions", "read_due", "read_observed"]


def read_observed(connection: Connection, region: str) -> int:
    """Return the count in seconds; 0 when there is none yet."""
    row = connection.execute(select(schema.observed_time)).one_or_none()
    if row is None:
        return 0
    check_digest("observed_time", stored=row.digest, computed=observed_digest(region, row.seconds))
    return int(row.seconds)


def advance_observed(connection: Connection, region: str, *, expected: int, seconds: int) -> bool:
    """Move the count on by `seconds` when it is still `expected`; say whether it was."""
    if read_observed(connection, region) != expected:
        return False
    row: dict[str, object] = {
        "id": 1,
        "seconds": expected + seconds,
        "digest": observed_digest(region, expected + seconds),
    }
    connection.execute(
        upsert(schema.observed_time)
        .values(row)
        .on_conflict_do_update(index_elements=[schema.observed_time.c.id], set_=row)
    )
    return True


def has_deletions(connection: Connection) -> bool:
    """Say whether a key or a version waits for its destruction."""
    return any(
        connection.execute(
            select(table.c.key_id).where(table.c.deletion_time.is_not(None)).limit(1)
        ).first()
        is not None
        for table in (schema.keys, schema.key_versions)
    )


def read_due(
    connection: Connection, region: str, *, now: datetime, observed: int, limit: int
) -> Sequence[StoredKey]:
    """Read at most `limit` keys of which all, or a version, is to be destroyed now."""
    ids: dict[uuid.UUID, None] = {}
    for table in (schema.keys, schema.key_versions):
        wanted = (
            select(table.c.key_id)
            .where(_is_due(table, to_micros(now), observed))
            .order_by(table.c.deletion_time)
            .limit(limit)
        )
        ids |= {uuid.UUID(bytes=row.key_id): None for row in connection.execute(wanted)}
    found = read_keys(connection, region, list(ids)[:limit])
    return list(found.values())


def _is_due(table: Table, now: int, observed: int) -> ColumnElement[bool]:
    time: Column[int] = table.c.deletion_time
    mark: Column[int] = table.c.deletion_mark
    return and_(time.is_not(None), or_(mark.is_(None), and_(time <= now, mark <= observed)))
