"""What one write transaction does. All of it runs under SQLite's write lock.

The caller's block begins with BEGIN IMMEDIATE and commits when nothing is raised; the
functions here never commit.
"""

from __future__ import annotations

import dataclasses
import uuid
from datetime import datetime, timedelta
from typing import Final

from sqlalchemy import Connection, bindparam, delete, insert, select, tuple_, update
from sqlalchemy.dialects.sqlite import insert as insert_or_ignore

from strongroom.resource_names import KeyName
from strongroom_server.domain.keys import Key, KeyStorage, KeyVersion, WrappedMaterial
from strongroom_server.errors import EtagMismatchError, RequestIdReusedError
from strongroom_server.mutations import (
    AddRoot,
    AddVersion,
    Change,
    CreateAlias,
    CreateGrant,
    CreateKey,
    DeleteAlias,
    EndGrant,
    ImportMaterial,
    IssueImportToken,
    KeyChange,
    Mutation,
    RequestMemo,
    RetireRoot,
    SetPolicy,
    UpdateAlias,
)
from strongroom_server.store import (
    alias_changes,
    digests,
    grant_changes,
    imports,
    root_changes,
    schema,
)
from strongroom_server.store.draft_codec import encode_draft
from strongroom_server.store.grant_changes import GrantsChanged
from strongroom_server.store.key_cache import StoredAlias, StoredKey
from strongroom_server.store.micros import to_micros
from strongroom_server.store.reading import read_key, read_meta
from strongroom_server.store.rows import (
    ShardMeta,
    to_key_row,
    to_memo_row,
    to_version_row,
)

__all__ = ["MEMO_RETENTION", "apply_mutation", "count_change", "delete_outbox"]

# Twice what the API promises: a wall clock that is set forward by less than a day does not
# make a repeat into a second key.
MEMO_RETENTION: Final = timedelta(hours=48)
# Old memos deleted by one commit: more than a commit adds, little enough not to be felt.
_PURGE_ROWS: Final = 16
_SET_VERSION: Final = (
    update(schema.key_versions)
    .where(schema.key_versions.c.key_id == bindparam("new_key_id"))
    .where(schema.key_versions.c.number == bindparam("new_number"))
    .values(
        {
            column.name: bindparam(f"new_{column.name}")
            for column in schema.key_versions.columns
            if not column.primary_key
        }
    )
)


def apply_mutation(
    connection: Connection, region: str, mutation: Mutation, *, now: datetime
) -> tuple[int, StoredKey | StoredAlias | GrantsChanged | None]:
    """Write a change, its audit record and its memo.

    Returns:
        The outbox id of the record, and the key or alias that the change left in the
        store, or whose grants it changed; None when it was about a wrapping root, or there
        was none.

    Raises:
        RequestIdReusedError: The memo's request id is taken. Looked at first: a repeat of
            CreateAlias has to hear this and not that the alias exists.
        EtagMismatchError: The key is not there in the expected revision; or a wrapping
            root is not in a state that allows the change (`root_changes.py`).
        AliasExistsError: The alias exists.
        KeyNotFoundError: The alias, or the key of the alias or grant, does not exist.
        GrantNotFoundError, LimitExceededError: As `grant_changes.py` says.
        StoreDamagedError: What the change would build on is damaged.
        ValueError: The change breaks a rule that its maker has to keep.
    """
    if mutation.memo is not None:
        _insert_memo(connection, mutation.memo, now=now)
    meta = count_change(connection, for_record=True)
    result = _apply_change(connection, region, mutation.change, meta.change_number)
    draft = encode_draft(mutation.draft)
    connection.execute(
        insert(schema.outbox),
        {
            "outbox_id": meta.last_outbox_id,
            "draft": draft,
            "digest": digests.outbox_digest(meta.last_outbox_id, draft),
        },
    )
    return meta.last_outbox_id, result


def delete_outbox(connection: Connection, *, through: int) -> None:
    """Delete outbox rows up to and including an id."""
    connection.execute(delete(schema.outbox).where(schema.outbox.c.outbox_id <= through))


def _apply_change(  # noqa: C901, PLR0911 - one for each kind of change: it is a table
    connection: Connection, region: str, change: Change | None, change_number: int
) -> StoredKey | StoredAlias | GrantsChanged | None:
    match change:
        case None:
            return None
        case CreateKey():
            return _create_key(connection, region, change.key, change_number)
        case CreateAlias():
            return alias_changes.create(connection, region, change.alias, change_number)
        case UpdateAlias():
            return alias_changes.update(connection, region, change, change_number)
        case DeleteAlias():
            return alias_changes.delete(connection, region, change, change_number)
        case CreateGrant():
            return grant_changes.create(connection, region, change.grant, change_number)
        case EndGrant():
            return grant_changes.end(connection, region, change.grant, change_number)
        case IssueImportToken():
            imports.issue(connection, change.issued)
            return None
        case AddRoot():
            root_changes.add(connection, region, change, change_number)
            return None
        case RetireRoot():
            root_changes.retire(connection, region, change, change_number)
            return None
        case _:
            return _change_key(connection, region, change, change_number)


def _change_key(
    connection: Connection, region: str, change: KeyChange, change_number: int
) -> StoredKey:
    key = _expect_key(connection, region, change.key_id, change.expected_revision)
    if isinstance(change, AddVersion):
        if change.version.number <= key.versions[-1].number:
            raise ValueError("a new version's number must be above all others")
        _check_material(connection, region, key.storage, change.version)
        connection.execute(
            insert(schema.key_versions), to_version_row(change.key_id, change.version)
        )
    if isinstance(change, SetPolicy):
        grant_changes.set_policy(connection, key, change)
    if isinstance(change, ImportMaterial):
        imports.use_for(connection, change)
        _check_root(connection, region, change.wrapped)
    changed = change.apply(key)
    _update_versions(connection, key, changed)
    return _update_key(connection, changed, change_number, expected_revision=key.revision)


def _update_versions(connection: Connection, before: Key, after: Key) -> None:
    """Write the versions that are not as they were; one that was destroyed loses its material.

    The writer's pages are wiped, not only freed (`connection.py`, secure_delete).
    """
    changed = [
        {f"new_{name}": value for name, value in to_version_row(after.key_id, version).items()}
        for version, old in zip(after.versions, before.versions, strict=False)
        if version != old
    ]
    if changed:
        connection.execute(_SET_VERSION, changed)


def _create_key(connection: Connection, region: str, key: Key, change_number: int) -> StoredKey:
    numbers = [version.number for version in key.versions]
    if key.region != region or numbers != sorted(set(numbers)):
        raise ValueError("a new key must be of this region, its versions ascending")
    if not key.has_version(key.primary_version):
        raise ValueError("a new key must have its primary version")
    for version in key.versions:
        _check_material(connection, region, key.storage, version)
    connection.execute(insert(schema.keys), to_key_row(key, change_number))
    connection.execute(insert(schema.policies), {"key_id": key.key_id.bytes, "cedar": key.policy})
    connection.execute(
        insert(schema.key_versions),
        [to_version_row(key.key_id, version) for version in key.versions],
    )
    return StoredKey(key, change_number)


def _check_material(
    connection: Connection, region: str, storage: KeyStorage, version: KeyVersion
) -> None:
    belongs = storage is KeyStorage.WRAPPED and version.has_material
    if (version.wrapped is not None) is not belongs:
        raise ValueError("material is stored with the versions of wrapped keys, and only theirs")
    _check_root(connection, region, version.wrapped)


def _check_root(connection: Connection, region: str, wrapped: WrappedMaterial | None) -> None:
    if wrapped is not None:
        root_changes.ensure_usable(connection, region, wrapped.root)


def _expect_key(connection: Connection, region: str, key_id: uuid.UUID, revision: int) -> Key:
    stored = read_key(connection, region, key_id)
    if stored is None or stored.key.revision != revision:
        raise EtagMismatchError(str(KeyName(region, key_id)))
    return stored.key


def _update_key(
    connection: Connection, key: Key, change_number: int, *, expected_revision: int
) -> StoredKey:
    row = to_key_row(key, change_number)
    updated = connection.execute(
        update(schema.keys)
        .where(schema.keys.c.key_id == row.pop("key_id"))
        .where(schema.keys.c.revision == expected_revision)
        .values(row)
    )
    if updated.rowcount != 1:
        raise EtagMismatchError(str(key.name))
    return StoredKey(key, change_number)


def count_change(connection: Connection, *, for_record: bool) -> ShardMeta:
    """Give this transaction its change number, and its record an outbox id."""
    meta = read_meta(connection)
    counted = dataclasses.replace(
        meta,
        change_number=meta.change_number + 1,
        last_outbox_id=meta.last_outbox_id + int(for_record),
    )
    connection.execute(update(schema.shard_meta).values(counted.to_row()))
    return counted


def _insert_memo(connection: Connection, memo: RequestMemo, *, now: datetime) -> None:
    table = schema.request_ids.c
    identity = tuple_(table.principal, table.method, table.request_id)
    expired = (
        select(table.principal, table.method, table.request_id)
        .where(table.create_time < to_micros(now - MEMO_RETENTION))
        .order_by(table.create_time)
        .limit(_PURGE_ROWS)
    )
    connection.execute(delete(schema.request_ids).where(identity.in_(expired)))
    inserted = connection.execute(
        insert_or_ignore(schema.request_ids)
        .values(to_memo_row(memo, to_micros(now)))
        .on_conflict_do_nothing()
    )
    if inserted.rowcount != 1:
        raise RequestIdReusedError
