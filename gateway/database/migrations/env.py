"""What Alembic runs: the migrations, on the connection that it is handed.

For a new step, from the top of the checkout, with a database of the former schema:
`python -m alembic -c gateway/database/migrations/alembic.ini revision --autogenerate -m "what"`.
"""

from __future__ import annotations

from alembic import context
from sqlalchemy import Connection, create_engine

from gateway.database.tables import metadata


def migrate(connection: Connection) -> None:
    """Run what the command asks for, in one transaction where the database can."""
    context.configure(
        connection=connection,
        target_metadata=metadata,
        render_as_batch=True,  # SQLite alters a table by making it anew
    )
    with context.begin_transaction():
        context.run_migrations()


given = context.config.attributes.get("connection")
if given is not None:
    migrate(given)
else:
    with create_engine(context.config.get_main_option("sqlalchemy.url", "")).begin() as opened:
        migrate(opened)
