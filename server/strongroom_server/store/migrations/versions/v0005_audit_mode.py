"""How keys are recorded: all that are there, before they are answered."""

from __future__ import annotations

from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add a column in place; a digest has it only when it says something new."""
    op.execute("ALTER TABLE keys ADD COLUMN audit_mode TEXT DEFAULT 'REQUIRED' NOT NULL")


def downgrade() -> None:
    """Refuse: keys would be recorded otherwise than their records say."""
    raise NotImplementedError("the audit mode of a key never changes")
