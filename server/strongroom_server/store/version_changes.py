"""What one write transaction does to many versions at once: reserved uses, new wrapping.

No change of a key that a caller made or waits for: revisions and update times stay, and
there is no record. Runs under SQLite's write lock; the caller commits.
"""

from __future__ import annotations

import dataclasses
import uuid
from collections.abc import Iterable, Sequence
from typing import Final

from sqlalchemy import Connection, bindparam, update

from strongroom_server.domain.keys import Key, KeyVersion, KeyVersionRef
from strongroom_server.domain.rotation import MAX_USES
from strongroom_server.errors import KeyExhaustedError
from strongroom_server.mutations import RewrappedVersion
from strongroom_server.store import root_changes, schema
from strongroom_server.store.changes import count_change
from strongroom_server.store.digests import StoreDamagedError, key_digest
from strongroom_server.store.key_cache import StoredKey
from strongroom_server.store.reading import read_keys

__all__ = ["Reserved", "replace_wrapped", "reserve"]

Reserved = int | KeyExhaustedError | StoreDamagedError
"""The new total of a version, or why nothing was reserved of it."""

_VERSION: Final = (schema.key_versions.c.key_id == bindparam("of_key")) & (
    schema.key_versions.c.number == bindparam("of_number")
)
_SET_USES: Final = (
    update(schema.key_versions).where(_VERSION).values(reserved_uses=bindparam("new_uses"))
)
_SET_WRAPPED: Final = (
    update(schema.key_versions)
    .where(_VERSION)
    .values(wrapped_root=bindparam("new_root"), wrapped=bindparam("new_wrapped"))
)
_SET_DIGEST: Final = (
    update(schema.keys)
    .where(schema.keys.c.key_id == bindparam("of_key"))
    .values(change_number=bindparam("new_change"), digest=bindparam("new_digest"))
)


def reserve(
    connection: Connection, region: str, wanted: Sequence[tuple[KeyVersionRef, int]]
) -> tuple[list[Reserved], list[StoredKey]]:
    """Add uses to versions' reserved uses: for each of `wanted` or not at all.

    The totals are read under the write lock, so no two processes can be given the same
    use; the table's check stops what would pass the limit all the same.

    Returns:
        One outcome for each of `wanted`, in their order, and the keys as they are now.
    """
    keys = _Keys(connection, region, (ref.key_id for ref, _ in wanted))
    outcomes: list[Reserved] = []
    for ref, uses in wanted:
        version = keys.version(ref)
        if version is None:
            # Keys and versions are never deleted.
            outcomes.append(
                StoreDamagedError(f"version {ref.version} of key {ref.key_id} is missing")
            )
            continue
        total = version.reserved_uses + uses
        if total > MAX_USES:  # SP 800-38D, 8.3
            name = keys.now[ref.key_id].version_name(ref.version)
            outcomes.append(KeyExhaustedError(str(name)))
            continue
        keys.put(ref, dataclasses.replace(version, reserved_uses=total))
        outcomes.append(total)
    changed = keys.changed_versions()
    if not changed:
        return outcomes, []
    connection.execute(
        _SET_USES,
        [
            {
                "of_key": ref.key_id.bytes,
                "of_number": ref.version,
                "new_uses": version.reserved_uses,
            }
            for ref, version in changed
        ],
    )
    return outcomes, keys.write()


def replace_wrapped(
    connection: Connection, region: str, versions: Sequence[RewrappedVersion]
) -> tuple[int, list[StoredKey]]:
    """Put re-wrapped materials in the place of those that are as `before` says.

    Returns:
        How many were replaced, and their keys as they are now.

    Raises:
        EtagMismatchError: The root of an `after` has been retired.
        ValueError: The shard has no such root.
    """
    for root in {version.after.root for version in versions}:
        root_changes.ensure_usable(connection, region, root)
    keys = _Keys(connection, region, (version.ref.key_id for version in versions))
    replaced = 0
    for rewrapped in versions:
        version = keys.version(rewrapped.ref)
        # Compare and swap under the write lock: what another process wrapped meanwhile,
        # perhaps under a newer root, stays.
        if version is not None and version.wrapped == rewrapped.before:
            keys.put(rewrapped.ref, dataclasses.replace(version, wrapped=rewrapped.after))
            replaced += 1
    changed = keys.changed_versions()
    if not changed:
        return 0, []
    connection.execute(
        _SET_WRAPPED,
        [
            {
                "of_key": ref.key_id.bytes,
                "of_number": ref.version,
                "new_root": version.wrapped.root,
                "new_wrapped": version.wrapped.wrapped,
            }
            for ref, version in changed
            if version.wrapped is not None
        ],
    )
    return replaced, keys.write()


class _Keys:
    """The keys of one transaction as they were read, checked, and as they shall be."""

    def __init__(self, connection: Connection, region: str, key_ids: Iterable[uuid.UUID]) -> None:
        self._connection = connection
        found = read_keys(connection, region, list(dict.fromkeys(key_ids)))
        self._before = {key_id: stored.key for key_id, stored in found.items()}
        self.now: dict[uuid.UUID, Key] = dict(self._before)

    def version(self, ref: KeyVersionRef) -> KeyVersion | None:
        key = self.now.get(ref.key_id)
        if key is None:
            return None
        return next((v for v in key.versions if v.number == ref.version), None)

    def put(self, ref: KeyVersionRef, version: KeyVersion) -> None:
        key = self.now[ref.key_id]
        versions = tuple(version if v.number == ref.version else v for v in key.versions)
        self.now[ref.key_id] = dataclasses.replace(key, versions=versions)

    def changed_versions(self) -> list[tuple[KeyVersionRef, KeyVersion]]:
        return [
            (key.version_ref(version.number), version)
            for key_id, key in self.now.items()
            for version, before in zip(key.versions, self._before[key_id].versions, strict=True)
            if version != before
        ]

    def write(self) -> list[StoredKey]:
        """Give the changed keys a change number, and the digests that go with it."""
        change_number = count_change(self._connection, for_record=False).change_number
        changed = [key for key_id, key in self.now.items() if key != self._before[key_id]]
        self._connection.execute(
            _SET_DIGEST,
            [
                {
                    "of_key": key.key_id.bytes,
                    "new_change": change_number,
                    "new_digest": key_digest(key, change_number),
                }
                for key in changed
            ],
        )
        return [StoredKey(key, change_number) for key in changed]
