"""Wrapped storage: where material is, the wrapping roots, and indexes for many keys.

The digests of old rows stay as they are: a digest has the new fields only where they say
something new (`store/digests.py`), so nothing is computed anew here.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add columns in place and make one table and three indexes."""
    # As SQL: Alembic would copy the whole table for a column with a check.
    op.execute("ALTER TABLE keys ADD COLUMN storage TEXT DEFAULT 'RESIDENT' NOT NULL")
    op.execute(
        "ALTER TABLE key_versions ADD COLUMN wrapped_root INTEGER "
        "CONSTRAINT key_versions_root_is_u32 CHECK (wrapped_root BETWEEN 1 AND 4294967295)"
    )
    op.execute(
        "ALTER TABLE key_versions ADD COLUMN wrapped BLOB CONSTRAINT key_versions_wrapped_has_root "
        "CHECK ((wrapped IS NULL) = (wrapped_root IS NULL))"
    )
    op.create_table(
        "wrapping_roots",
        sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("create_time", sa.Integer, nullable=False),
        sa.Column("change_number", sa.Integer, nullable=False),
        sa.Column("digest", sa.LargeBinary, nullable=False),
        sa.CheckConstraint("number BETWEEN 1 AND 4294967295", name="wrapping_roots_number_is_u32"),
        sqlite_strict=True,
    )
    op.create_index("keys_by_age", "keys", ["create_time", "key_id"])
    op.create_index("keys_by_state", "keys", ["state"])
    op.create_index(
        "key_versions_by_root",
        "key_versions",
        ["wrapped_root"],
        sqlite_where=sa.text("wrapped_root IS NOT NULL"),
    )


def downgrade() -> None:
    """Refuse: it would drop the material of every wrapped key."""
    raise NotImplementedError("wrapped material is never taken away")
