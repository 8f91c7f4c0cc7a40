"""Usage counts the requests whose clients gave them too little time, apart from errors."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Take the former schema to this one."""
    with op.batch_alter_table("usage") as table:
        table.add_column(
            sa.Column("timed_out", sa.BigInteger(), nullable=False, server_default="0")
        )
    with op.batch_alter_table("usage") as table:
        table.alter_column("timed_out", existing_type=sa.BigInteger(), server_default=None)


def downgrade() -> None:
    """Take this schema to the former one."""
    with op.batch_alter_table("usage") as table:
        table.drop_column("timed_out")
