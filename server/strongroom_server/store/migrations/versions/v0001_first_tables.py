"""The first tables: shard_meta, keys, key_versions, policies, aliases, request_ids, outbox."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the tables of version 0.1."""
    op.create_table(
        "shard_meta",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("region", sa.Text, nullable=False),
        sa.Column("change_number", sa.Integer, nullable=False),
        sa.Column("last_outbox_id", sa.Integer, nullable=False),
        sa.Column("create_time", sa.Integer, nullable=False),
        sa.Column("digest", sa.LargeBinary, nullable=False),
        sa.CheckConstraint("id = 1", name="shard_meta_has_one_row"),
        sqlite_strict=True,
    )
    op.create_table(
        "keys",
        sa.Column("key_id", sa.LargeBinary, primary_key=True, nullable=False),
        sa.Column("spec", sa.Text, nullable=False),
        sa.Column("usage", sa.Text, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("manager", sa.Text, nullable=False),
        sa.Column("description", sa.Text, nullable=False),
        sa.Column("primary_version", sa.Integer, nullable=False),
        sa.Column("creator", sa.Text, nullable=False),
        sa.Column("create_time", sa.Integer, nullable=False),
        sa.Column("update_time", sa.Integer, nullable=False),
        sa.Column("revision", sa.Integer, nullable=False),
        sa.Column("change_number", sa.Integer, nullable=False),
        sa.Column("digest", sa.LargeBinary, nullable=False),
        sa.CheckConstraint("length(key_id) = 16", name="keys_key_id_is_uuid"),
        sqlite_strict=True,
    )
    op.create_index("keys_by_change", "keys", ["change_number"])
    op.create_table(
        "key_versions",
        sa.Column("key_id", sa.LargeBinary, sa.ForeignKey("keys.key_id"), nullable=False),
        sa.Column("number", sa.Integer, nullable=False),
        sa.Column("create_time", sa.Integer, nullable=False),
        sa.Column("reserved_uses", sa.Integer, nullable=False),
        sa.PrimaryKeyConstraint("key_id", "number"),
        sa.CheckConstraint("number BETWEEN 1 AND 4294967295", name="key_versions_number_is_u32"),
        sa.CheckConstraint(
            "reserved_uses BETWEEN 0 AND 4294967296", name="key_versions_uses_within_limit"
        ),
        sqlite_strict=True,
    )
    op.create_table(
        "policies",
        sa.Column(
            "key_id",
            sa.LargeBinary,
            sa.ForeignKey("keys.key_id"),
            primary_key=True,
            nullable=False,
        ),
        sa.Column("cedar", sa.Text, nullable=False),
        sqlite_strict=True,
    )
    op.create_table(
        "aliases",
        sa.Column("alias", sa.Text, primary_key=True, nullable=False),
        sa.Column("key_id", sa.LargeBinary, sa.ForeignKey("keys.key_id"), nullable=False),
        sa.Column("create_time", sa.Integer, nullable=False),
        sa.Column("change_number", sa.Integer, nullable=False),
        sa.Column("digest", sa.LargeBinary, nullable=False),
        sqlite_strict=True,
    )
    op.create_index("aliases_by_change", "aliases", ["change_number"])
    op.create_index("aliases_by_key", "aliases", ["key_id"])
    op.create_table(
        "request_ids",
        sa.Column("principal", sa.Text, nullable=False),
        sa.Column("method", sa.Text, nullable=False),
        sa.Column("request_id", sa.Text, nullable=False),
        sa.Column("request_sha256", sa.LargeBinary, nullable=False),
        sa.Column("answer", sa.Text, nullable=False),
        sa.Column("create_time", sa.Integer, nullable=False),
        sa.Column("digest", sa.LargeBinary, nullable=False),
        sa.PrimaryKeyConstraint("principal", "method", "request_id"),
        sa.CheckConstraint("length(request_sha256) = 32", name="request_ids_digest_is_sha256"),
        sqlite_strict=True,
    )
    op.create_index("request_ids_by_age", "request_ids", ["create_time"])
    op.create_table(
        "outbox",
        sa.Column("outbox_id", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("draft", sa.Text, nullable=False),
        sa.Column("digest", sa.LargeBinary, nullable=False),
        sqlite_strict=True,
    )


def downgrade() -> None:
    """Refuse: it would drop every key's metadata."""
    raise NotImplementedError("the first tables are never taken away")
