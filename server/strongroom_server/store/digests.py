"""A SHA-256 on every row that is read back, because SQLite's pages have no checksum.

`PRAGMA integrity_check` sees broken structure, not a bit that flipped inside a value:
``DISABLED`` that became another text, a policy with one more principal, a use counter
that went back. A key's digest covers the key, its policy and all its versions, so a row
that was lost or swapped shows as well. Material in the store is covered with its version.

What is digested is as the first release had it, with more only where a row says more: a
key in wrapped storage, and a version with wrapped material, have further fields; what is
to be or has been deleted, tagged, buffered or pointed elsewhere has an object of named members at
the end. Rows of an older database keep their digests, and no row can pass for one of the
other kind, for number or type of the fields differ.

The digests are not keyed. They stop damage and careless edits; they do not stop somebody
who may write the file and computes them anew. Against that stand the file's mode and the
audit log.
"""

from __future__ import annotations

import hashlib
import json
from datetime import datetime
from typing import Final

from strongroom_server.domain.imports import IssuedToken
from strongroom_server.domain.keys import (
    Alias,
    AuditMode,
    Deletion,
    ExternalMaterial,
    Key,
    KeyStorage,
    KeyVersion,
)
from strongroom_server.mutations import RequestMemo, WrappingRoot
from strongroom_server.store.micros import to_micros

__all__ = [
    "StoreDamagedError",
    "alias_digest",
    "check_digest",
    "import_digest",
    "key_digest",
    "memo_digest",
    "meta_digest",
    "observed_digest",
    "outbox_digest",
    "root_digest",
]

_JSON: Final = json.JSONEncoder(separators=(",", ":"))


class StoreDamagedError(Exception):
    """A row is not what was written; the message names it, not its content."""


def check_digest(row: str, *, stored: bytes, computed: bytes) -> None:
    """Compare a row's digest.

    Raises:
        StoreDamagedError: They differ.
    """
    if stored != computed:
        raise StoreDamagedError(f"{row} is damaged: its digest does not match")


def key_digest(key: Key, change_number: int) -> bytes:
    """Digest a key with its policy and versions."""
    return _digest(
        "key",
        change_number,
        key.region,
        key.key_id.hex,
        key.spec,
        key.usage,
        key.state,
        key.manager,
        key.description,
        key.primary_version,
        key.creator,
        to_micros(key.create_time),
        to_micros(key.update_time),
        key.revision,
        key.policy,
        [_version_fields(version) for version in key.versions],
        *(() if key.storage is KeyStorage.RESIDENT else (key.storage,)),
        *_named(
            **_end_fields(key.deletion, key.destroy_time),
            tags=[list(tag) for tag in key.tags] or None,
            audit_mode=None if key.audit_mode is AuditMode.REQUIRED else key.audit_mode,
        ),
    )


def alias_digest(alias: Alias, change_number: int, *, deleted: bool) -> bytes:
    """Digest an alias, or what is left of it."""
    updated = alias.update_time
    return _digest(
        "alias",
        change_number,
        str(alias.name),
        alias.key_id.hex,
        to_micros(alias.create_time),
        *_named(updated=None if updated is None else to_micros(updated), deleted=deleted or None),
    )


def observed_digest(region: str, seconds: int) -> bytes:
    """Digest the row of observed_time."""
    return _digest("observed", region, seconds)


def root_digest(region: str, root: WrappingRoot, change_number: int) -> bytes:
    """Digest a wrapping root."""
    return _digest(
        "root", change_number, region, root.number, root.state, to_micros(root.create_time)
    )


def import_digest(token: IssuedToken) -> bytes:
    """Digest what there is of an import token."""
    return _digest(
        "import",
        token.token_sha256.hex(),
        token.key_id.hex,
        token.transfer_id.hex,
        to_micros(token.expire_time),
        token.state,
        token.claim.hex(),
        token.wrapping_key_gone,
    )


def memo_digest(memo: RequestMemo, create_time: int) -> bytes:
    """Digest the memo of a request id."""
    return _digest(
        "memo",
        create_time,
        memo.principal,
        memo.method,
        memo.request_id,
        memo.digest.hex(),
        memo.answer,
    )


def outbox_digest(outbox_id: int, draft: str) -> bytes:
    """Digest an outbox row."""
    return _digest("outbox", outbox_id, draft)


def meta_digest(*, region: str, change_number: int, last_outbox_id: int, create_time: int) -> bytes:
    """Digest the shard's own row."""
    return _digest("meta", region, change_number, last_outbox_id, create_time)


def _version_fields(version: KeyVersion) -> list[object]:
    fields: list[object] = [version.number, to_micros(version.create_time), version.reserved_uses]
    if version.wrapped is not None:
        fields += [version.wrapped.root, version.wrapped.wrapped.hex()]
    fields += _named(
        **_end_fields(version.deletion, version.destroy_time),
        external=_external_fields(version.external),
    )
    return fields


def _external_fields(external: ExternalMaterial | None) -> list[object] | None:
    if external is None:
        return None
    times = (external.import_time, external.expire_time)
    return [external.check.hex(), *(None if time is None else to_micros(time) for time in times)]


def _end_fields(deletion: Deletion | None, destroy_time: datetime | None) -> dict[str, object]:
    return {
        "deletion": None if deletion is None else [to_micros(deletion.time), deletion.mark],
        "destroyed": None if destroy_time is None else to_micros(destroy_time),
    }


def _named(**members: object) -> tuple[dict[str, object], ...]:
    """Return the members that say something, as one object; nothing when none does."""
    said = {name: value for name, value in sorted(members.items()) if value is not None}
    return (said,) if said else ()


def _digest(*fields: object) -> bytes:
    # A JSON array keeps neighbours apart: "ab", "c" and "a", "bc" differ.
    return hashlib.sha256(_JSON.encode(fields).encode("ascii")).digest()
