"""Prompt tokens that were in the engine's cache may have a price; until now they cost nothing."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

_COLUMN = "cached_per_million"


def upgrade() -> None:
    """Take the former schema to this one."""
    with op.batch_alter_table("prices") as table:
        table.add_column(sa.Column(_COLUMN, sa.String(32), nullable=False, server_default="0"))
    with op.batch_alter_table("prices") as table:
        table.alter_column(_COLUMN, existing_type=sa.String(32), server_default=None)


def downgrade() -> None:
    """Take this schema to the former one."""
    with op.batch_alter_table("prices") as table:
        table.drop_column(_COLUMN)
