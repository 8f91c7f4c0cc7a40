"""Usage counts the requests that were refused, apart from those that were taken in."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Take the former schema to this one."""
    with op.batch_alter_table("usage") as table:
        table.add_column(sa.Column("refused", sa.BigInteger(), nullable=False, server_default="0"))
    with op.batch_alter_table("usage") as table:
        table.alter_column("refused", existing_type=sa.BigInteger(), server_default=None)


def downgrade() -> None:
    """Take this schema to the former one."""
    with op.batch_alter_table("usage") as table:
        table.drop_column("refused")
