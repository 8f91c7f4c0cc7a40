"""Usage knows what an engine computed beside what clients were told. Until now both were one."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_NEW = {
    "cached_tokens": "0",
    "charged_prompt_tokens": "prompt_tokens",
    "charged_output_tokens": "output_tokens",
}


def upgrade() -> None:
    """Take the former schema to this one."""
    with op.batch_alter_table("usage") as table:
        for name in _NEW:
            table.add_column(sa.Column(name, sa.BigInteger(), nullable=True))
    values = ", ".join(f"{name} = {value}" for name, value in _NEW.items())
    op.execute(f"UPDATE usage SET {values}")
    with op.batch_alter_table("usage") as table:
        for name in _NEW:
            table.alter_column(name, existing_type=sa.BigInteger(), nullable=False)


def downgrade() -> None:
    """Take this schema to the former one."""
    with op.batch_alter_table("usage") as table:
        for name in reversed(_NEW):
            table.drop_column(name)
