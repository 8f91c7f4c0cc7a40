"""Where tenants, keys, prices and usage are kept: SQLite, or PostgreSQL by URL, with migrations."""

from gateway.database.connection import DatabaseError, open_database
from gateway.database.tables import (
    USAGE_COUNTS,
    USAGE_TOKENS,
    admins,
    api_keys,
    metadata,
    prices,
    tenants,
    usage,
    usage_cursors,
)

__all__ = [
    "USAGE_COUNTS",
    "USAGE_TOKENS",
    "DatabaseError",
    "admins",
    "api_keys",
    "metadata",
    "open_database",
    "prices",
    "tenants",
    "usage",
    "usage_cursors",
]
