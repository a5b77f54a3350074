"""The tables of one shard's metadata, as SQLAlchemy Core sees them.

    shard_meta      one row: whose database this is, and its counters
    keys            one row per key; policies and key_versions belong to it
    aliases         second names of keys
    observed_time   none or one row: how long the shard has been looked after
    wrapping_roots  the roots that wrapped versions lie under
    import_tokens   for material that callers bring, and what has become of them
    request_ids     first answers to request ids
    policy_revisions  policies that were replaced, and what replaced them
    grants          permissions beside the policies
    grant_books     how many grants a principal has on a key, and when that changed
    outbox          audit records committed with their change, on their way to the spool

Conventions: times are microseconds since 1970 (`micros.py`), key ids the 16 bytes of the
UUID. `change_number` is the shard's change counter at the row's last change, so that
another process reloads only what it has not seen. `digest` is described in `digests.py`.
What the tables say here and what the migrations make is compared by a test.
"""

from __future__ import annotations

from typing import Final

from sqlalchemy import (
    CheckConstraint,
    Column,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    Table,
    Text,
    text,
)

__all__ = [
    "aliases",
    "grant_books",
    "grants",
    "import_tokens",
    "key_versions",
    "keys",
    "metadata",
    "observed_time",
    "outbox",
    "policies",
    "policy_revisions",
    "request_ids",
    "shard_meta",
    "wrapping_roots",
]

metadata: Final = MetaData()

shard_meta: Final = Table(
    "shard_meta",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("region", Text, nullable=False),
    # Counts transactions that changed a key or an alias. Written in each of them, so
    # rows get their numbers in commit order.
    Column("change_number", Integer, nullable=False),
    # Highest outbox id ever given out. A counter row and not the highest row left: an id
    # that came twice would be taken for a repeat by the spool, and its record dropped.
    Column("last_outbox_id", Integer, nullable=False),
    Column("create_time", Integer, nullable=False),
    Column("digest", LargeBinary, nullable=False),
    CheckConstraint("id = 1", name="shard_meta_has_one_row"),
    sqlite_strict=True,
)

keys: Final = Table(
    "keys",
    metadata,
    Column("key_id", LargeBinary, primary_key=True, nullable=False),
    Column("spec", Text, nullable=False),
    Column("usage", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("manager", Text, nullable=False),
    Column("description", Text, nullable=False),
    Column("primary_version", Integer, nullable=False),
    Column("creator", Text, nullable=False),
    Column("create_time", Integer, nullable=False),
    Column("update_time", Integer, nullable=False),
    Column("revision", Integer, nullable=False),
    Column("change_number", Integer, nullable=False),
    Column("digest", LargeBinary, nullable=False),
    Column("storage", Text, nullable=False, server_default=text("'RESIDENT'")),
    # While a deletion waits: its time, and the count of `observed_time` before which it
    # must not begin, NULL once it has begun.
    Column("deletion_time", Integer),
    Column("deletion_mark", Integer),
    Column("destroy_time", Integer),
    Column("tags", Text),  # a JSON object, members ascending; NULL for none
    Column("audit_mode", Text, nullable=False, server_default=text("'REQUIRED'")),
    CheckConstraint("length(key_id) = 16", name="keys_key_id_is_uuid"),
    Index("keys_by_change", "change_number"),
    Index("keys_by_age", "create_time", "key_id"),  # for pages of lists
    Index("keys_by_state", "state"),  # for counting
    Index(
        "keys_by_deletion", "deletion_time", sqlite_where=text("deletion_time IS NOT NULL")
    ),  # for what is due
    sqlite_strict=True,
)

key_versions: Final = Table(
    "key_versions",
    metadata,
    Column("key_id", LargeBinary, ForeignKey("keys.key_id"), nullable=False),
    Column("number", Integer, nullable=False),
    Column("create_time", Integer, nullable=False),
    Column("reserved_uses", Integer, nullable=False),
    # Both NULL for a resident version (docs/formats/wrapped-material-v1.md).
    Column(
        "wrapped_root",
        Integer,
        CheckConstraint("wrapped_root BETWEEN 1 AND 4294967295", name="key_versions_root_is_u32"),
    ),
    Column(
        "wrapped",
        LargeBinary,
        CheckConstraint(
            "(wrapped IS NULL) = (wrapped_root IS NULL)", name="key_versions_wrapped_has_root"
        ),
    ),
    # As those of a key, for the version alone.
    Column("deletion_time", Integer),
    Column("deletion_mark", Integer),
    Column("destroy_time", Integer),
    # Of material that callers bring; import_check is NULL for all other (docs/key-import.md),
    # import_time while there is none.
    Column("import_check", LargeBinary),
    Column("import_time", Integer),
    Column("expire_time", Integer),
    PrimaryKeyConstraint("key_id", "number"),
    # The number has 4 bytes in a ciphertext blob (docs/formats/ciphertext-blob-v1.md).
    CheckConstraint("number BETWEEN 1 AND 4294967295", name="key_versions_number_is_u32"),
    # SP 800-38D, 8.3: no process and no race gets past 2^32 uses.
    CheckConstraint(
        "reserved_uses BETWEEN 0 AND 4294967296", name="key_versions_uses_within_limit"
    ),
    # Finds what a rotation of the root has yet to wrap again.
    Index(
        "key_versions_by_root",
        "wrapped_root",
        sqlite_where=text("wrapped_root IS NOT NULL"),
    ),
    Index(
        "key_versions_by_deletion",
        "deletion_time",
        sqlite_where=text("deletion_time IS NOT NULL"),
    ),
    Index("key_versions_by_expiry", "expire_time", sqlite_where=text("expire_time IS NOT NULL")),
    sqlite_strict=True,
)

policies: Final = Table(
    "policies",
    metadata,
    Column("key_id", LargeBinary, ForeignKey("keys.key_id"), primary_key=True, nullable=False),
    Column("cedar", Text, nullable=False),
    sqlite_strict=True,
)

policy_revisions: Final = Table(
    # None for a key that still has the policy that it was made with.
    "policy_revisions",
    metadata,
    Column("key_id", LargeBinary, ForeignKey("keys.key_id"), nullable=False),
    Column("number", Integer, nullable=False),
    Column("cedar", Text, nullable=False),
    Column("author", Text, nullable=False),
    Column("create_time", Integer, nullable=False),
    Column("digest", LargeBinary, nullable=False),
    PrimaryKeyConstraint("key_id", "number"),
    sqlite_strict=True,
)

grants: Final = Table(
    "grants",
    metadata,
    Column("grant_id", LargeBinary, primary_key=True, nullable=False),
    Column("key_id", LargeBinary, ForeignKey("keys.key_id"), nullable=False),
    Column("grantee", Text, nullable=False),
    Column("operations", Text, nullable=False),  # a JSON array, ascending
    Column("context", Text),  # a JSON array, kind and pairs; NULL without a constraint
    Column("retiring", Text),
    Column("name", Text),
    Column("identity", LargeBinary),  # of repeats, for those with a name
    Column("issuer", Text, nullable=False),
    Column("create_time", Integer, nullable=False),
    Column("digest", LargeBinary, nullable=False),
    CheckConstraint("length(grant_id) = 16", name="grants_grant_id_is_uuid"),
    Index("grants_by_grantee", "key_id", "grantee", "create_time", "grant_id"),
    Index("grants_by_age", "key_id", "create_time", "grant_id"),
    Index(
        "grants_by_retiring",
        "retiring",
        "create_time",
        "grant_id",
        sqlite_where=text("retiring IS NOT NULL"),
    ),
    Index(
        "grants_by_identity",
        "key_id",
        "identity",
        unique=True,
        sqlite_where=text("identity IS NOT NULL"),
    ),
    sqlite_strict=True,
)

grant_books: Final = Table(
    # A row stays when its last grant ends: what other processes have in memory of the
    # principal's grants, they let go of by its change number. The count shows a grant
    # whose row was lost. Grantee '' counts all grants of the key.
    "grant_books",
    metadata,
    Column("key_id", LargeBinary, ForeignKey("keys.key_id"), nullable=False),
    Column("grantee", Text, nullable=False),
    Column("grants", Integer, nullable=False),
    Column("change_number", Integer, nullable=False),
    Column("digest", LargeBinary, nullable=False),
    PrimaryKeyConstraint("key_id", "grantee"),
    CheckConstraint("grants >= 0", name="grant_books_count"),
    Index("grant_books_by_change", "change_number"),
    sqlite_strict=True,
)

aliases: Final = Table(
    "aliases",
    metadata,
    Column("alias", Text, primary_key=True, nullable=False),
    Column("key_id", LargeBinary, ForeignKey("keys.key_id"), nullable=False),
    Column("create_time", Integer, nullable=False),
    Column("change_number", Integer, nullable=False),
    Column("digest", LargeBinary, nullable=False),
    Column("update_time", Integer),
    # A row stays when its alias is deleted: what other processes have in memory, they let
    # go of by its change number.
    Column("deleted", Integer, nullable=False, server_default=text("0")),
    Index("aliases_by_change", "change_number"),
    Index("aliases_by_key", "key_id"),
    sqlite_strict=True,
)

observed_time: Final = Table(
    "observed_time",
    metadata,
    Column("id", Integer, primary_key=True),
    # Seconds in which a server has looked after this shard (domain/deletion.py).
    Column("seconds", Integer, nullable=False),
    Column("digest", LargeBinary, nullable=False),
    CheckConstraint("id = 1", name="observed_time_has_one_row"),
    sqlite_strict=True,
)

wrapping_roots: Final = Table(
    "wrapping_roots",
    metadata,
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("state", Text, nullable=False),
    Column("create_time", Integer, nullable=False),
    Column("change_number", Integer, nullable=False),
    Column("digest", LargeBinary, nullable=False),
    CheckConstraint("number BETWEEN 1 AND 4294967295", name="wrapping_roots_number_is_u32"),
    sqlite_strict=True,
)

import_tokens: Final = Table(
    "import_tokens",
    metadata,
    Column("token_sha256", LargeBinary, primary_key=True, nullable=False),
    Column("key_id", LargeBinary, ForeignKey("keys.key_id"), nullable=False),
    Column("transfer_id", LargeBinary, nullable=False),  # names the wrapping key in the HSM
    Column("expire_time", Integer, nullable=False),
    Column("state", Text, nullable=False),
    Column("claim", LargeBinary, nullable=False),
    Column("wrapping_key_gone", Integer, nullable=False),
    Column("digest", LargeBinary, nullable=False),
    CheckConstraint("length(token_sha256) = 32", name="import_tokens_name_is_sha256"),
    Index("import_tokens_by_key", "key_id"),
    Index(
        "import_tokens_by_expiry", "expire_time", sqlite_where=text("wrapping_key_gone = 0")
    ),  # for what is over
    sqlite_strict=True,
)

request_ids: Final = Table(
    "request_ids",
    metadata,
    Column("principal", Text, nullable=False),
    Column("method", Text, nullable=False),
    Column("request_id", Text, nullable=False),
    Column("request_sha256", LargeBinary, nullable=False),
    Column("answer", Text, nullable=False),
    Column("create_time", Integer, nullable=False),
    Column("digest", LargeBinary, nullable=False),
    PrimaryKeyConstraint("principal", "method", "request_id"),
    CheckConstraint("length(request_sha256) = 32", name="request_ids_digest_is_sha256"),
    Index("request_ids_by_age", "create_time"),
    sqlite_strict=True,
)

outbox: Final = Table(
    "outbox",
    metadata,
    # Given out by shard_meta.last_outbox_id, never by the database.
    Column("outbox_id", Integer, primary_key=True, autoincrement=False),
    Column("draft", Text, nullable=False),
    Column("digest", LargeBinary, nullable=False),
    sqlite_strict=True,
)
