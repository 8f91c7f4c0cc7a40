"""The tables, as the newest migration leaves them.

Times are whole seconds since the epoch and days are `YYYY-MM-DD` in UTC, which both databases
keep, compare and sort alike. Money is a decimal in a string, because SQLite would make it a float.
"""

from __future__ import annotations

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    ForeignKey,
    Index,
    MetaData,
    String,
    Table,
)

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_name)s",
        "pk": "pk_%(table_name)s",
        "uq": "uq_%(table_name)s_%(column_0_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
    }
)

tenants = Table(
    "tenants",
    metadata,
    Column("name", String(64), primary_key=True),
    Column("tenant_class", String(16), nullable=False),
    Column("models", JSON(none_as_null=True)),
    Column("policy", String(64)),
    Column("fallback_allowed", Boolean, nullable=False),
    Column("data_residency", String(64)),
    Column("limits", JSON, nullable=False),
    Column("key_limits", JSON, nullable=False),
    Column("locked", Boolean, nullable=False),
    Column("created_at", BigInteger, nullable=False),
)
"""Who pays. `models` null is all of them; `key_limits` is for each key that has none of its own."""

api_keys = Table(
    "api_keys",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("tenant", String(64), ForeignKey("tenants.name"), nullable=False),
    Column("application", String(64), nullable=False),
    Column("digest", String(64), nullable=False),
    Column("models", JSON(none_as_null=True)),
    Column("limits", JSON(none_as_null=True)),
    Column("created_at", BigInteger, nullable=False),
    Column("expires_at", BigInteger),
    Column("revoked_at", BigInteger),
    Column("successor", String(32)),
    Index(None, "tenant"),
)
"""Keys by their public part. `digest` is the SHA-256 of the whole key, which is kept nowhere."""

admins = Table(
    "admins",
    metadata,
    Column("name", String(64), primary_key=True),
    Column("token_id", String(32), nullable=False, unique=True),
    Column("digest", String(64), nullable=False),
    Column("created_at", BigInteger, nullable=False),
)
"""Who may use the admin API, likewise."""

prices = Table(
    "prices",
    metadata,
    Column("model", String(256), primary_key=True),
    Column("since", String(10), primary_key=True),
    Column("prompt_per_million", String(32), nullable=False),
    Column("output_per_million", String(32), nullable=False),
    Column("currency", String(3), nullable=False),
    Column("cached_per_million", String(32), nullable=False),
)
"""What a million tokens of a model cost from a day on."""

USAGE_TOKENS = (
    "prompt_tokens",
    "output_tokens",
    "cached_tokens",
    "charged_prompt_tokens",
    "charged_output_tokens",
)
"""What usage sums of an audit record, under the record's own names."""
USAGE_COUNTS = ("requests", "errors", "interrupted", *USAGE_TOKENS, "refused", "timed_out")

usage = Table(
    "usage",
    metadata,
    Column("day", String(10), primary_key=True),
    Column("tenant", String(64), primary_key=True),
    Column("application", String(64), primary_key=True),
    Column("key_id", String(160), primary_key=True),
    Column("model", String(256), primary_key=True),
    *(Column(name, BigInteger, nullable=False) for name in USAGE_COUNTS),
    Index(None, "tenant", "day"),
)
"""Sums of the audit log. A request counts on the day it came."""

usage_cursors = Table(
    "usage_cursors",
    metadata,
    Column("writer", String(64), primary_key=True),
    Column("segment", BigInteger, nullable=False),
    Column("position", BigInteger, nullable=False),
    Column("sequence", BigInteger, nullable=False),
    Column("mac", String(64), nullable=False),
)
"""Up to where each chain of the audit log is in `usage`, which also anchors that chain."""
