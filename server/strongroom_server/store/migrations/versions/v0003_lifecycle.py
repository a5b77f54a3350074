"""Deletion of keys and versions, tags, aliases that change; the time a shard was observed.

Old digests stay as they are, as in 0002: a digest has more only where a row says more.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add columns in place and make one table and two indexes."""
    for table in ("keys", "key_versions"):
        for column in ("deletion_time", "deletion_mark", "destroy_time"):
            op.execute(f"ALTER TABLE {table} ADD COLUMN {column} INTEGER")
    op.execute("ALTER TABLE keys ADD COLUMN tags TEXT")
    op.execute("ALTER TABLE aliases ADD COLUMN update_time INTEGER")
    op.execute("ALTER TABLE aliases ADD COLUMN deleted INTEGER DEFAULT 0 NOT NULL")
    op.create_table(
        "observed_time",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("seconds", sa.Integer, nullable=False),
        sa.Column("digest", sa.LargeBinary, nullable=False),
        sa.CheckConstraint("id = 1", name="observed_time_has_one_row"),
        sqlite_strict=True,
    )
    for table in ("keys", "key_versions"):
        op.create_index(
            f"{table}_by_deletion",
            table,
            ["deletion_time"],
            sqlite_where=sa.text("deletion_time IS NOT NULL"),
        )


def downgrade() -> None:
    """Refuse: deletions that wait would be forgotten, and destroyed keys come back."""
    raise NotImplementedError("deletions and tombstones are never taken away")
