"""Rows to domain objects and back, each checked against its digest when it is read."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Connection, Row, Select, select

from strongroom.resource_names import AliasName
from strongroom_server.domain.keys import (
    Alias,
    Key,
    KeyManager,
    KeySpec,
    KeyState,
    KeyUsage,
    KeyVersion,
)
from strongroom_server.ports import OutboxRow, RequestMemo
from strongroom_server.store import digests, schema
from strongroom_server.store.catalog import StoredAlias, StoredKey
from strongroom_server.store.digests import StoreDamagedError, check_digest
from strongroom_server.store.draft_codec import DraftFormatError, decode_draft
from strongroom_server.store.micros import from_micros, to_micros

__all__ = [
    "ShardMeta",
    "Snapshot",
    "read_changes",
    "read_key",
    "read_memo",
    "read_meta",
    "read_outbox",
    "read_unseen",
    "to_alias_row",
    "to_key_row",
    "to_memo_row",
    "to_version_row",
]

_DATA_VERSION: Final = "strongroom_data_version"


@dataclass(frozen=True, slots=True)
class ShardMeta:
    """The shard's own row."""

    region: str
    change_number: int
    last_outbox_id: int
    create_time: int

    @property
    def digest(self) -> bytes:
        """The row's digest."""
        return digests.meta_digest(
            region=self.region,
            change_number=self.change_number,
            last_outbox_id=self.last_outbox_id,
            create_time=self.create_time,
        )

    def to_row(self) -> dict[str, object]:
        """Return the row of table shard_meta."""
        return {
            "id": 1,
            "region": self.region,
            "change_number": self.change_number,
            "last_outbox_id": self.last_outbox_id,
            "create_time": self.create_time,
            "digest": self.digest,
        }


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What changed after some change number, up to and including `change_number`."""

    change_number: int
    keys: tuple[StoredKey, ...]
    aliases: tuple[StoredAlias, ...]


def read_meta(connection: Connection) -> ShardMeta:
    """Read the shard's own row."""
    row = connection.execute(select(schema.shard_meta)).one_or_none()
    if row is None:
        raise StoreDamagedError("the row of shard_meta is missing")
    meta = ShardMeta(row.region, row.change_number, row.last_outbox_id, row.create_time)
    check_digest("shard_meta", stored=row.digest, computed=meta.digest)
    return meta


def read_changes(connection: Connection, region: str, *, since: int) -> Snapshot:
    """Read every key and alias changed after change number `since`; 0 reads all.

    Change numbers are given out under the write lock and committed in order, so in one
    transaction nothing up to the counter's value can be missing.

    Raises:
        StoreDamagedError: A row is damaged, or the counter went back: another database
            was put in this one's place.
    """
    meta = read_meta(connection)
    if meta.change_number < since:
        raise StoreDamagedError("the change counter of shard_meta went back")
    if meta.change_number == since:
        return Snapshot(since, (), ())
    changed = select(schema.keys.c.key_id).where(schema.keys.c.change_number > since)
    versions: dict[bytes, list[KeyVersion]] = {}
    for row in connection.execute(
        _versions().where(schema.key_versions.c.key_id.in_(changed)) if since else _versions()
    ):
        versions.setdefault(row.key_id, []).append(_version_of(row))
    keys = tuple(
        _key_of(row, region, tuple(versions.get(row.key_id, ())))
        for row in connection.execute(_keys().where(schema.keys.c.change_number > since))
    )
    aliases = tuple(
        _alias_of(row, region)
        for row in connection.execute(
            select(schema.aliases).where(schema.aliases.c.change_number > since)
        )
    )
    newest = max(
        max((stored.change_number for stored in keys), default=0),
        max((stored.change_number for stored in aliases), default=0),
    )
    if newest > meta.change_number:
        raise StoreDamagedError("a row is newer than the change counter of shard_meta")
    return Snapshot(meta.change_number, keys, aliases)


def read_unseen(connection: Connection, region: str, *, since: int) -> Snapshot | None:
    """Read changes like `read_changes`, or return None when nothing was committed.

    Nothing since this connection was last asked, that is; the cheap question of a poll.
    Whoever gets a snapshot has to use it: it is not offered again.
    """
    # Goes up with every commit of another connection (sqlite.org/pragma.html#pragma_data_version);
    # kept with the connection, for two connections' values cannot be compared.
    version = connection.exec_driver_sql("PRAGMA data_version").scalar_one()
    if connection.info.get(_DATA_VERSION) == version:
        return None
    snapshot = read_changes(connection, region, since=since)
    connection.info[_DATA_VERSION] = version
    return snapshot


def read_key(connection: Connection, region: str, key_id: uuid.UUID) -> StoredKey | None:
    """Read one key."""
    row = connection.execute(_keys().where(schema.keys.c.key_id == key_id.bytes)).one_or_none()
    if row is None:
        return None
    found = connection.execute(_versions().where(schema.key_versions.c.key_id == key_id.bytes))
    return _key_of(row, region, tuple(_version_of(version) for version in found))


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
    if row is None:
        return None
    memo = RequestMemo(
        principal=row.principal,
        method=row.method,
        request_id=row.request_id,
        digest=row.request_sha256,
        answer=row.answer,
    )
    computed = digests.memo_digest(memo, row.create_time)
    check_digest("a row of request_ids", stored=row.digest, computed=computed)
    return memo


def read_outbox(connection: Connection, *, after: int, limit: int) -> list[OutboxRow]:
    """Read outbox rows beyond `after`, ascending."""
    rows = connection.execute(
        select(schema.outbox)
        .where(schema.outbox.c.outbox_id > after)
        .order_by(schema.outbox.c.outbox_id)
        .limit(limit)
    )
    return [_outbox_row_of(row) for row in rows]


def to_key_row(key: Key, change_number: int) -> dict[str, object]:
    """Return the row of table keys, with the digest over policy and versions too."""
    return {
        "key_id": key.key_id.bytes,
        "spec": key.spec.value,
        "usage": key.usage.value,
        "state": key.state.value,
        "manager": key.manager.value,
        "description": key.description,
        "primary_version": key.primary_version,
        "creator": key.creator,
        "create_time": to_micros(key.create_time),
        "update_time": to_micros(key.update_time),
        "revision": key.revision,
        "change_number": change_number,
        "digest": digests.key_digest(key, change_number),
    }


def to_version_row(key_id: uuid.UUID, version: KeyVersion) -> dict[str, object]:
    """Return the row of table key_versions."""
    return {
        "key_id": key_id.bytes,
        "number": version.number,
        "create_time": to_micros(version.create_time),
        "reserved_uses": version.reserved_uses,
    }


def to_alias_row(alias: Alias, change_number: int) -> dict[str, object]:
    """Return the row of table aliases."""
    return {
        "alias": alias.name.alias,
        "key_id": alias.key_id.bytes,
        "create_time": to_micros(alias.create_time),
        "change_number": change_number,
        "digest": digests.alias_digest(alias, change_number),
    }


def to_memo_row(memo: RequestMemo, create_time: int) -> dict[str, object]:
    """Return the row of table request_ids."""
    return {
        "principal": memo.principal,
        "method": memo.method,
        "request_id": memo.request_id,
        "request_sha256": memo.digest,
        "answer": memo.answer,
        "create_time": create_time,
        "digest": digests.memo_digest(memo, create_time),
    }


def _keys() -> Select[Any]:
    # Outer join: a key whose policy row is lost must show as damaged, not be skipped.
    return select(schema.keys, schema.policies.c.cedar).outerjoin_from(schema.keys, schema.policies)


def _versions() -> Select[Any]:
    table = schema.key_versions.c
    return select(schema.key_versions).order_by(table.key_id, table.number)


def _version_of(row: Row[Any]) -> KeyVersion:
    try:
        return KeyVersion(row.number, from_micros(row.create_time), row.reserved_uses)
    except OverflowError as exc:
        raise StoreDamagedError("a row of key_versions is damaged: its time") from exc


def _key_of(row: Row[Any], region: str, versions: tuple[KeyVersion, ...]) -> StoredKey:
    try:
        key = Key(
            key_id=uuid.UUID(bytes=row.key_id),
            region=region,
            spec=KeySpec(row.spec),
            usage=KeyUsage(row.usage),
            state=KeyState(row.state),
            manager=KeyManager(row.manager),
            description=row.description,
            primary_version=row.primary_version,
            creator=row.creator,
            create_time=from_micros(row.create_time),
            update_time=from_micros(row.update_time),
            revision=row.revision,
            policy=row.cedar,
            versions=versions,
        )
    except (ValueError, OverflowError) as exc:
        raise StoreDamagedError(f"key {row.key_id.hex()} is damaged: {exc}") from exc
    computed = digests.key_digest(key, row.change_number)
    check_digest(f"key {key.key_id}", stored=row.digest, computed=computed)
    return StoredKey(key, row.change_number)


def _alias_of(row: Row[Any], region: str) -> StoredAlias:
    try:
        alias = Alias(
            name=AliasName(region, row.alias),
            key_id=uuid.UUID(bytes=row.key_id),
            create_time=from_micros(row.create_time),
        )
    except (ValueError, OverflowError) as exc:
        raise StoreDamagedError(f"alias {row.alias} is damaged: {exc}") from exc
    computed = digests.alias_digest(alias, row.change_number)
    check_digest(f"alias {row.alias}", stored=row.digest, computed=computed)
    return StoredAlias(alias, row.change_number)


def _outbox_row_of(row: Row[Any]) -> OutboxRow:
    computed = digests.outbox_digest(row.outbox_id, row.draft)
    check_digest(f"outbox row {row.outbox_id}", stored=row.digest, computed=computed)
    try:
        return OutboxRow(row.outbox_id, decode_draft(row.draft))
    except DraftFormatError as exc:
        raise StoreDamagedError(f"outbox row {row.outbox_id} is damaged: {exc}") from exc
