"""Policy history and grants."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make three tables; keys keep the policies that they have, as their first ones."""
    op.create_table(
        "policy_revisions",
        sa.Column("key_id", sa.LargeBinary, sa.ForeignKey("keys.key_id"), nullable=False),
        sa.Column("number", sa.Integer, nullable=False),
        sa.Column("cedar", sa.Text, nullable=False),
        sa.Column("author", sa.Text, nullable=False),
        sa.Column("create_time", sa.Integer, nullable=False),
        sa.Column("digest", sa.LargeBinary, nullable=False),
        sa.PrimaryKeyConstraint("key_id", "number"),
        sqlite_strict=True,
    )
    op.create_table(
        "grants",
        sa.Column("grant_id", sa.LargeBinary, primary_key=True, nullable=False),
        sa.Column("key_id", sa.LargeBinary, sa.ForeignKey("keys.key_id"), nullable=False),
        sa.Column("grantee", sa.Text, nullable=False),
        sa.Column("operations", sa.Text, nullable=False),
        sa.Column("context", sa.Text),
        sa.Column("retiring", sa.Text),
        sa.Column("name", sa.Text),
        sa.Column("identity", sa.LargeBinary),
        sa.Column("issuer", sa.Text, nullable=False),
        sa.Column("create_time", sa.Integer, nullable=False),
        sa.Column("digest", sa.LargeBinary, nullable=False),
        sa.CheckConstraint("length(grant_id) = 16", name="grants_grant_id_is_uuid"),
        sqlite_strict=True,
    )
    op.create_table(
        "grant_books",
        sa.Column("key_id", sa.LargeBinary, sa.ForeignKey("keys.key_id"), nullable=False),
        sa.Column("grantee", sa.Text, nullable=False),
        sa.Column("grants", sa.Integer, nullable=False),
        sa.Column("change_number", sa.Integer, nullable=False),
        sa.Column("digest", sa.LargeBinary, nullable=False),
        sa.PrimaryKeyConstraint("key_id", "grantee"),
        sa.CheckConstraint("grants >= 0", name="grant_books_count"),
        sqlite_strict=True,
    )
    op.create_index("grants_by_grantee", "grants", ["key_id", "grantee", "create_time", "grant_id"])
    op.create_index("grants_by_age", "grants", ["key_id", "create_time", "grant_id"])
    op.create_index(
        "grants_by_retiring",
        "grants",
        ["retiring", "create_time", "grant_id"],
        sqlite_where=sa.text("retiring IS NOT NULL"),
    )
    op.create_index(
        "grants_by_identity",
        "grants",
        ["key_id", "identity"],
        unique=True,
        sqlite_where=sa.text("identity IS NOT NULL"),
    )
    op.create_index("grant_books_by_change", "grant_books", ["change_number"])


def downgrade() -> None:
    """Refuse: it would forget who may use keys, and what policies said."""
    raise NotImplementedError("grants and the history of policies are never taken away")
