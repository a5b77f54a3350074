"""Makes a metadata database as release 0.1 made it: Alembic revision 0001, and its rows.

The digests are computed here, as that release did: what later releases read must not
depend on what they would write.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
import uuid
from contextlib import closing
from pathlib import Path
from typing import Final

from alembic import command
from sqlalchemy import create_engine
from tests.support.store_samples import PRINCIPAL, REGION

from strongroom_server.store import migrate

CREATED: Final = 1_772_600_767_000_089  # microseconds since 1970
POLICY: Final = f'permit(principal == User::"{PRINCIPAL}", action, resource);'
DRAFT: Final = (
    '{"encryption_context":{},"id":"00000000-0000-4000-8000-000000000001","key":"k",'
    '"method":"CreateKey","outcome":"OK","peer":"ipv4:127.0.0.1:5","policy":"default",'
    f'"principal":"{PRINCIPAL}","request_id":"r","time":{CREATED},"validate_only":false}}'
)


def _digest(*fields: object) -> bytes:
    return hashlib.sha256(json.dumps(fields, separators=(",", ":")).encode("ascii")).digest()


def make_database_0001(path: Path, key_ids: list[uuid.UUID]) -> None:
    """Make the database: for each id a key, every second disabled, every third rotated.

    Beside them an alias ``old`` of the first key, a memo ``r-1`` and an outbox row.
    """
    with closing(sqlite3.connect(path)) as plain:
        plain.execute("PRAGMA journal_mode = WAL")
    path.chmod(0o600)
    engine = create_engine(f"sqlite:///{path}")
    with engine.begin() as connection:
        config = migrate._config()
        config.attributes["connection"] = connection
        command.upgrade(config, "0001")
    engine.dispose()
    with closing(sqlite3.connect(path)) as database, database:
        change = 0
        for number, key_id in enumerate(key_ids):
            change += 1
            _insert_key(database, key_id, number, change)
        change += 1
        database.execute(
            "INSERT INTO aliases VALUES (?, ?, ?, ?, ?)",
            (
                "old",
                key_ids[0].bytes,
                CREATED,
                change,
                _digest("alias", change, f"regions/{REGION}/aliases/old", key_ids[0].hex, CREATED),
            ),
        )
        sha256 = hashlib.sha256(b"request").digest()
        memo = (PRINCIPAL, "CreateKey", "r-1", sha256, "{}", CREATED)
        database.execute(
            "INSERT INTO request_ids VALUES (?, ?, ?, ?, ?, ?, ?)",
            (*memo, _digest("memo", CREATED, *memo[:3], sha256.hex(), "{}")),
        )
        database.execute(
            "INSERT INTO outbox VALUES (?, ?, ?)", (1, DRAFT, _digest("outbox", 1, DRAFT))
        )
        database.execute(
            "INSERT INTO shard_meta VALUES (1, ?, ?, ?, ?, ?)",
            (REGION, change, 1, CREATED, _digest("meta", REGION, change, 1, CREATED)),
        )


def _insert_key(database: sqlite3.Connection, key_id: uuid.UUID, number: int, change: int) -> None:
    state = "DISABLED" if number % 2 else "ENABLED"
    versions = [[n, CREATED + n, 65536 * n] for n in range(1, 3 if number % 3 == 0 else 2)]
    columns = ("AES_256", "ENCRYPT_DECRYPT", state, "CUSTOMER", f"key {number} ü")
    primary, revision = versions[-1][0], len(versions) + number % 2
    times = (CREATED + number, CREATED + number + 7)
    digest = _digest(
        "key",
        change,
        REGION,
        key_id.hex,
        *columns,
        primary,
        PRINCIPAL,
        *times,
        revision,
        POLICY,
        versions,
    )
    database.execute(
        "INSERT INTO keys VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (key_id.bytes, *columns, primary, PRINCIPAL, *times, revision, change, digest),
    )
    database.execute("INSERT INTO policies VALUES (?, ?)", (key_id.bytes, POLICY))
    database.executemany(
        "INSERT INTO key_versions VALUES (?, ?, ?, ?)",
        [(key_id.bytes, *version) for version in versions],
    )
