"""Rows to domain objects and back, each checked against its digest when it is read."""

from __future__ import annotations

import json
import sys
import uuid
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Row

from strongroom.resource_names import AliasName
from strongroom_server.domain.keys import (
    Alias,
    AuditMode,
    Deletion,
    ExternalMaterial,
    Key,
    KeyManager,
    KeySpec,
    KeyState,
    KeyStorage,
    KeyUsage,
    KeyVersion,
    WrappedMaterial,
)
from strongroom_server.mutations import OutboxRow, RequestMemo, RootState, WrappingRoot
from strongroom_server.store import digests
from strongroom_server.store.digests import StoreDamagedError, check_digest
from strongroom_server.store.draft_codec import DraftFormatError, decode_draft
from strongroom_server.store.key_cache import StoredAlias, StoredKey
from strongroom_server.store.micros import from_micros, to_micros

__all__ = [
    "ShardMeta",
    "alias_of",
    "key_of",
    "memo_of",
    "meta_of",
    "outbox_row_of",
    "root_of",
    "to_alias_row",
    "to_key_row",
    "to_memo_row",
    "to_root_row",
    "to_version_row",
    "version_of",
]


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
        "storage": key.storage.value,
        "audit_mode": key.audit_mode.value,
        **_end_columns(key.deletion, key.destroy_time),
        "tags": _pack_tags(key.tags),
    }


def to_version_row(key_id: uuid.UUID, version: KeyVersion) -> dict[str, object]:
    """Return the row of table key_versions."""
    wrapped = version.wrapped
    return {
        "key_id": key_id.bytes,
        "number": version.number,
        "create_time": to_micros(version.create_time),
        "reserved_uses": version.reserved_uses,
        "wrapped_root": None if wrapped is None else wrapped.root,
        "wrapped": None if wrapped is None else wrapped.wrapped,
        **_end_columns(version.deletion, version.destroy_time),
        **_external_columns(version.external),
    }


def to_alias_row(alias: Alias, change_number: int, *, deleted: bool = False) -> dict[str, object]:
    """Return the row of table aliases."""
    updated = alias.update_time
    return {
        "alias": alias.name.alias,
        "key_id": alias.key_id.bytes,
        "create_time": to_micros(alias.create_time),
        "change_number": change_number,
        "digest": digests.alias_digest(alias, change_number, deleted=deleted),
        "update_time": None if updated is None else to_micros(updated),
        "deleted": int(deleted),
    }


def to_root_row(region: str, root: WrappingRoot, change_number: int) -> dict[str, object]:
    """Return the row of table wrapping_roots."""
    return {
        "number": root.number,
        "state": root.state.value,
        "create_time": to_micros(root.create_time),
        "change_number": change_number,
        "digest": digests.root_digest(region, root, change_number),
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


def meta_of(row: Row[Any] | None) -> ShardMeta:
    """Return the shard's own row, which must be there."""
    if row is None:
        raise StoreDamagedError("the row of shard_meta is missing")
    meta = ShardMeta(row.region, row.change_number, row.last_outbox_id, row.create_time)
    check_digest("shard_meta", stored=row.digest, computed=meta.digest)
    return meta


def version_of(row: Row[Any]) -> KeyVersion:
    """Return a version; only its key's digest shows whether it is as it was written."""
    root = row.wrapped_root
    try:
        return KeyVersion(
            row.number,
            from_micros(row.create_time),
            row.reserved_uses,
            None if root is None else WrappedMaterial(root, row.wrapped or b""),
            _deletion_of(row),
            _time_or_none(row.destroy_time),
            _external_of(row),
        )
    except OverflowError as exc:
        raise StoreDamagedError("a row of key_versions is damaged: its time") from exc


def key_of(row: Row[Any], region: str, versions: tuple[KeyVersion, ...]) -> StoredKey:
    """Return a key; its digest covers policy and versions."""
    try:
        create_time = from_micros(row.create_time)
        key = Key(
            key_id=uuid.UUID(bytes=row.key_id),
            region=region,
            spec=KeySpec(row.spec),
            usage=KeyUsage(row.usage),
            state=KeyState(row.state),
            manager=KeyManager(row.manager),
            description=row.description,
            primary_version=row.primary_version,
            # Many keys have the same creator and the same policy: one text for all.
            creator=sys.intern(row.creator),
            create_time=create_time,
            update_time=from_micros(row.update_time),
            revision=row.revision,
            policy=_policy_text(row.cedar),
            versions=versions,
            storage=KeyStorage(row.storage),
            audit_mode=AuditMode(row.audit_mode),
            deletion=_deletion_of(row),
            destroy_time=_time_or_none(row.destroy_time),
            tags=_unpack_tags(row.tags),
        )
    except (ValueError, OverflowError) as exc:
        raise StoreDamagedError(f"key {row.key_id.hex()} is damaged: {exc}") from exc
    computed = digests.key_digest(key, row.change_number)
    check_digest(f"key {key.key_id}", stored=row.digest, computed=computed)
    return StoredKey(key, row.change_number)


def _end_columns(deletion: Deletion | None, destroy_time: datetime | None) -> dict[str, object]:
    return {
        "deletion_time": None if deletion is None else to_micros(deletion.time),
        "deletion_mark": None if deletion is None else deletion.mark,
        "destroy_time": None if destroy_time is None else to_micros(destroy_time),
    }


def _external_columns(external: ExternalMaterial | None) -> dict[str, object]:
    if external is None:
        return {"import_check": None, "import_time": None, "expire_time": None}
    return {
        "import_check": external.check,
        "import_time": None if external.import_time is None else to_micros(external.import_time),
        "expire_time": None if external.expire_time is None else to_micros(external.expire_time),
    }


def _external_of(row: Row[Any]) -> ExternalMaterial | None:
    if row.import_check is None:
        return None
    return ExternalMaterial(
        row.import_check, _time_or_none(row.import_time), _time_or_none(row.expire_time)
    )


def _deletion_of(row: Row[Any]) -> Deletion | None:
    if row.deletion_time is None:
        return None
    return Deletion(from_micros(row.deletion_time), row.deletion_mark)


def _time_or_none(micros: int | None) -> datetime | None:
    return None if micros is None else from_micros(micros)


def _pack_tags(tags: tuple[tuple[str, str], ...]) -> str | None:
    if not tags:
        return None
    return json.dumps(dict(tags), ensure_ascii=False, separators=(",", ":"))


def _unpack_tags(text: str | None) -> tuple[tuple[str, str], ...]:
    if text is None:
        return ()
    members = json.loads(text)  # raises ValueError
    if not isinstance(members, dict):
        raise ValueError("its tags are no JSON object")  # noqa: TRY004 - damage, as told above
    return tuple((str(name), str(value)) for name, value in members.items())


def _policy_text(cedar: str | None) -> str:
    if cedar is None:
        raise ValueError("its policy is missing")
    return sys.intern(cedar)


def alias_of(row: Row[Any], region: str) -> StoredAlias:
    """Return an alias."""
    try:
        alias = Alias(
            name=AliasName(region, row.alias),
            key_id=uuid.UUID(bytes=row.key_id),
            create_time=from_micros(row.create_time),
            update_time=_time_or_none(row.update_time),
        )
    except (ValueError, OverflowError) as exc:
        raise StoreDamagedError(f"alias {row.alias} is damaged: {exc}") from exc
    deleted = bool(row.deleted)
    computed = digests.alias_digest(alias, row.change_number, deleted=deleted)
    check_digest(f"alias {row.alias}", stored=row.digest, computed=computed)
    return StoredAlias(alias, row.change_number, deleted=deleted)


def root_of(row: Row[Any], region: str) -> WrappingRoot:
    """Return a wrapping root."""
    try:
        root = WrappingRoot(row.number, RootState(row.state), from_micros(row.create_time))
    except (ValueError, OverflowError) as exc:
        raise StoreDamagedError(f"wrapping root {row.number} is damaged: {exc}") from exc
    computed = digests.root_digest(region, root, row.change_number)
    check_digest(f"wrapping root {row.number}", stored=row.digest, computed=computed)
    return root


def memo_of(row: Row[Any]) -> RequestMemo:
    """Return the memo of a request id."""
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


def outbox_row_of(row: Row[Any]) -> OutboxRow:
    """Return a record that waits for the spool."""
    computed = digests.outbox_digest(row.outbox_id, row.draft)
    check_digest(f"outbox row {row.outbox_id}", stored=row.digest, computed=computed)
    try:
        return OutboxRow(row.outbox_id, decode_draft(row.draft))
    except DraftFormatError as exc:
        raise StoreDamagedError(f"outbox row {row.outbox_id} is damaged: {exc}") from exc
