"""Fills a shard's metadata store with wrapped keys, a million in a minute or two.

Through the API that would take an hour: each key is a call, an HSM operation, a record and
a commit. Here the material is made in software and wrapped under a root whose value is
known, so the keys are real (an HSM with that root unwraps and uses them) and worth
nothing. Therefore for benchmarks only: the root must be one that the benchmark itself
imported into its own token, for a root that was born in an HSM has no known value. Nothing
like this exists in the product.

    root = os.urandom(32)               # imported into the token as wrapping root 1
    load_keys(store, "eu-1", 1_000_000, wrap=wrapper(root), root=1, creator=PRINCIPAL)

The rows are those that the service writes, digests included; there are no audit records,
for nobody made these keys.
"""

from __future__ import annotations

import hashlib
import os
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography.hazmat.primitives.keywrap import aes_key_wrap
from sqlalchemy import Connection, insert

from strongroom_server.domain.keys import (
    Key,
    KeyManager,
    KeySpec,
    KeyState,
    KeyStorage,
    KeyUsage,
    KeyVersion,
    WrappedMaterial,
)
from strongroom_server.domain.policy import default_policy
from strongroom_server.mutations import AddRoot
from strongroom_server.store import root_changes, schema
from strongroom_server.store.changes import count_change
from strongroom_server.store.connection import SqliteConnection
from strongroom_server.store.reading import read_meta, read_roots
from strongroom_server.store.rows import to_key_row, to_version_row

__all__ = ["key_id_of", "load_keys", "wrapper"]

CHUNK_KEYS = 10_000
KEY_BYTES = 32


def key_id_of(region: str, number: int) -> uuid.UUID:
    """Return the id of the key with this number: the same in every run, scattered as v4 are."""
    digest = hashlib.sha256(f"{region}/{number}".encode()).digest()
    return uuid.UUID(bytes=digest[:16], version=4)


def wrapper(root: bytes) -> Callable[[bytes], bytes]:
    """Return AES key wrap (RFC 3394) under a root of known value, 32 bytes."""
    return lambda material: aes_key_wrap(root, material)


def load_keys(  # noqa: PLR0917 - called once, with every argument at hand
    store_path: Path,
    region: str,
    count: int,
    wrap: Callable[[bytes], bytes],
    root: int,
    creator: str,
) -> None:
    """Add `count` keys, numbers 0 to `count` - 1 of `key_id_of`, each with one version.

    Args:
        store_path: A database that `strongroom` has made; no key of these in it yet. A
            server that has it open sees the keys within a second.
        wrap: Wraps 32 bytes as the HSM's root `root` does; `wrapper` makes one.
        root: Its number; added to the store as the active root when it is not there.
        creator: Principal that the default policy of each key names.
    """
    database = SqliteConnection(store_path, writes=True)
    began = time.monotonic()
    try:
        with database.transaction() as connection:
            # The ids are scattered over every index: 256 MiB of them at hand.
            connection.exec_driver_sql("PRAGMA cache_size = -262144")
            if read_meta(connection).region != region:
                raise ValueError(f"{store_path} is not of region {region}")
            if all(known.number != root for known in read_roots(connection, region)):
                change = count_change(connection, for_record=False).change_number
                root_changes.add(connection, region, AddRoot(root, _now()), change)
        for start in range(0, count, CHUNK_KEYS):
            numbers = range(start, min(start + CHUNK_KEYS, count))
            with database.transaction() as connection:
                change = count_change(connection, for_record=False).change_number
                _insert(connection, list(_keys(region, numbers, wrap, root, creator)), change)
            _tell(numbers.stop, count, time.monotonic() - began)
    finally:
        database.close()


def _keys(
    region: str, numbers: range, wrap: Callable[[bytes], bytes], root: int, creator: str
) -> Iterator[Key]:
    policy = default_policy(creator)
    now = _now()
    for number in numbers:
        created = now + timedelta(microseconds=number - numbers.start)
        wrapped = WrappedMaterial(root, wrap(os.urandom(KEY_BYTES)))
        yield Key(
            key_id=key_id_of(region, number),
            region=region,
            spec=KeySpec.AES_256,
            usage=KeyUsage.ENCRYPT_DECRYPT,
            state=KeyState.ENABLED,
            manager=KeyManager.CUSTOMER,
            description="",
            primary_version=1,
            creator=creator,
            create_time=created,
            update_time=created,
            revision=1,
            policy=policy,
            versions=(KeyVersion(1, created, 0, wrapped),),
            storage=KeyStorage.WRAPPED,
        )


def _insert(connection: Connection, keys: list[Key], change_number: int) -> None:
    connection.execute(insert(schema.keys), [to_key_row(key, change_number) for key in keys])
    connection.execute(
        insert(schema.policies),
        [{"key_id": key.key_id.bytes, "cedar": key.policy} for key in keys],
    )
    connection.execute(
        insert(schema.key_versions), [to_version_row(key.key_id, key.versions[0]) for key in keys]
    )


def _now() -> datetime:
    return datetime.now(UTC)


def _tell(done: int, count: int, seconds: float) -> None:
    if done % (10 * CHUNK_KEYS) == 0 or done == count:
        sys.stderr.write(f"{done:,} of {count:,} keys, {done / seconds:,.0f}/s\n")
