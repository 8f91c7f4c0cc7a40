"""Opening the database and bringing it to the newest schema."""

from __future__ import annotations

import fcntl
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from alembic.util import CommandError
from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url, text
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

_MIGRATIONS = Path(__file__).with_name("migrations")
_MIGRATION_LOCK = (
    0x7472_6972  # names PostgreSQL's advisory lock; any number that is always the same
)
_BUSY_TIMEOUT_S = 10
_SILENCE_S = 3


class DatabaseError(Exception):
    """The database can't be opened or used. The message names it without its password."""


def open_database(url: str) -> Engine:
    """Open the database, which is made where it is not there, and migrate it.

    Several processes may do so at once: one migrates and the others wait for it.

    Args:
        url: ``sqlite:///relative/path``, ``sqlite:////absolute/path`` or
            ``postgresql://user:password@host:port/name``.

    Raises:
        DatabaseError: It is of another kind, can't be reached, or has a schema newer than this
            program knows.
    """
    try:
        parsed = make_url(url)
    except ArgumentError:
        raise DatabaseError("the database's URL is not a URL: write sqlite:///path") from None
    name = parsed.render_as_string(hide_password=True)
    try:
        engine = _create(parsed)
        with _migrating(engine) as connection:
            _upgrade(connection)
    except CommandError as error:
        raise DatabaseError(f"{name} was made by a newer release: {error}") from error
    except (SQLAlchemyError, OSError) as error:
        reason = str(getattr(error, "orig", None) or error).strip().splitlines()[0]
        raise DatabaseError(f"{name} can't be opened: {reason}") from error
    return engine


def _create(url: URL) -> Engine:
    if url.get_backend_name() == "sqlite":
        if not url.database or url.database == ":memory:":
            raise DatabaseError("the SQLite database needs a file: write sqlite:///path")
        Path(url.database).parent.mkdir(parents=True, exist_ok=True)
        Path(url.database).touch(mode=0o600)
        engine = create_engine(url, connect_args={"timeout": _BUSY_TIMEOUT_S})
        event.listen(engine, "connect", _prepare_sqlite)
        return engine
    if url.get_backend_name() == "postgresql":
        # Half-open connections are found when they are taken, not by the request that needs one,
        # and a server that doesn't answer at all is given up soon: keys are remembered meanwhile.
        return create_engine(
            url.set(drivername="postgresql+psycopg"),
            pool_pre_ping=True,
            connect_args={
                "connect_timeout": _SILENCE_S,
                "tcp_user_timeout": _SILENCE_S * 1000,
            },
        )
    raise DatabaseError(f"{url.get_backend_name()} is not supported: use sqlite or postgresql")


def _prepare_sqlite(connection: sqlite3.Connection, _: Any) -> None:
    # A revoked key stays revoked after a power cut, which WAL by itself doesn't promise.
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
        connection.execute(f"PRAGMA {pragma}")


@contextmanager
def _migrating(engine: Engine) -> Iterator[Connection]:
    """One connection, and nobody else who migrates."""
    if engine.dialect.name == "sqlite":
        with Path(f"{engine.url.database}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            with engine.begin() as connection:
                yield connection
    else:
        with engine.begin() as connection:
            connection.execute(text("SELECT pg_advisory_xact_lock(:n)"), {"n": _MIGRATION_LOCK})
            yield connection


def _upgrade(connection: Connection) -> None:
    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
    config.attributes["connection"] = connection
    command.upgrade(config, "head")
