from __future__ import annotations

import sqlite3
import subprocess
import sys

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import text

from gateway.database import DatabaseError, metadata, open_database


def test_migrations_lead_to_the_schema(database_url):
    engine = open_database(database_url)
    with engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []


def test_what_is_migrated_opens_again(database_url):
    with open_database(database_url).begin() as connection:
        connection.execute(text("INSERT INTO admins VALUES ('a', 'b', 'c', 1)"))
    with open_database(database_url).connect() as connection:
        assert connection.execute(text("SELECT name FROM admins")).scalars().all() == ["a"]


def test_processes_that_start_together_migrate_once(database_url):
    program = f"from gateway.database import open_database; open_database({database_url!r})"
    processes = [subprocess.Popen([sys.executable, "-c", program]) for _ in range(2)]
    assert [process.wait(60) for process in processes] == [0, 0]


def test_a_database_of_a_newer_release_is_left_alone(tmp_path):
    path = tmp_path / "gateway.db"
    open_database(f"sqlite:///{path}").dispose()
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(DatabaseError, match="newer release"):
        open_database(f"sqlite:///{path}")


def test_sqlite_commits_survive_a_power_cut(tmp_path):
    with open_database(f"sqlite:///{tmp_path}/gateway.db").connect() as connection:
        assert connection.execute(text("PRAGMA synchronous")).scalar() == 2  # FULL


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("gateway.db", "not a URL"),
        ("mysql://localhost/x", "mysql is not supported"),
        ("sqlite://", "needs a file"),
        ("sqlite:////proc/nothing/gateway.db", "can't be opened"),
        ("postgresql://a:secret@127.0.0.1:1/x", "can't be opened"),
    ],
)
def test_what_is_wrong_with_a_url_is_told_without_its_password(url, message):
    with pytest.raises(DatabaseError, match=message) as raised:
        open_database(url)
    assert "secret" not in str(raised.value)
