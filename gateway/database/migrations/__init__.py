"""The steps from an older schema to the newest, in Alembic's form."""
