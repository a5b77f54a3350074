"""Material that callers bring: what is known of it, and the tokens that let it in.

Digests of the versions that are there stay as they are, as in 0002.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add columns in place; make a table and an index."""
    op.execute("ALTER TABLE key_versions ADD COLUMN import_check BLOB")
    op.execute("ALTER TABLE key_versions ADD COLUMN import_time INTEGER")
    op.execute("ALTER TABLE key_versions ADD COLUMN expire_time INTEGER")
    op.create_index(
        "key_versions_by_expiry",
        "key_versions",
        ["expire_time"],
        sqlite_where=sa.text("expire_time IS NOT NULL"),
    )
    op.create_table(
        "import_tokens",
        sa.Column("token_sha256", sa.LargeBinary, primary_key=True, nullable=False),
        sa.Column("key_id", sa.LargeBinary, sa.ForeignKey("keys.key_id"), nullable=False),
        sa.Column("transfer_id", sa.LargeBinary, nullable=False),
        sa.Column("expire_time", sa.Integer, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("claim", sa.LargeBinary, nullable=False),
        sa.Column("wrapping_key_gone", sa.Integer, nullable=False),
        sa.Column("digest", sa.LargeBinary, nullable=False),
        sa.CheckConstraint("length(token_sha256) = 32", name="import_tokens_name_is_sha256"),
        sqlite_strict=True,
    )
    op.create_index("import_tokens_by_key", "import_tokens", ["key_id"])
    op.create_index(
        "import_tokens_by_expiry",
        "import_tokens",
        ["expire_time"],
        sqlite_where=sa.text("wrapping_key_gone = 0"),
    )


def downgrade() -> None:
    """Refuse: material that was brought would pass for material made in the HSM."""
    raise NotImplementedError("where a key's material was made is never forgotten")
