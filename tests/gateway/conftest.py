from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
import sqlalchemy

from gateway.database import open_database
from tests.gateway.servers import Server, postgres_server, redis_server


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(autouse=True)
def _patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is fresh is waited for on a slow machine, too, but where a test is about waiting."""
    monkeypatch.setattr("gateway.tenants.cache._PATIENCE_S", 30)


@pytest.fixture(scope="session")
def migrated(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A new SQLite database, of the newest schema."""
    path = tmp_path_factory.mktemp("migrated") / "gateway.db"
    open_database(f"sqlite:///{path}").dispose()
    return path.read_bytes()


@pytest.fixture(autouse=True)
def _databases(migrated: bytes, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A new SQLite database begins as one that was migrated: that takes longer than most tests do.

    What a test opened is closed at its end, so that nothing is left open by the gateway: also a
    connection that a thread of it still has, which its engine would forget open.
    """
    opened: list[sqlalchemy.Engine] = []
    connections: list[psycopg.Connection] = []

    def create_engine(url: sqlalchemy.URL, **options: Any) -> sqlalchemy.Engine:
        path = Path(url.database or "")
        if url.get_backend_name() == "sqlite" and path.stat().st_size == 0:
            path.write_bytes(migrated)
        opened.append(sqlalchemy.create_engine(url, **options))
        if url.get_backend_name() == "postgresql":
            sqlalchemy.event.listen(opened[-1], "connect", lambda each, _: connections.append(each))
        return opened[-1]

    monkeypatch.setattr("gateway.database.connection.create_engine", create_engine)
    yield
    for engine in opened:
        engine.dispose()
    for connection in connections:
        connection.close()


@pytest.fixture(scope="session")
def postgres() -> Iterator[Server]:
    with postgres_server() as server:
        yield server


@pytest.fixture(scope="session")
def redis() -> Iterator[Server]:
    with redis_server() as server:
        yield server


@pytest.fixture
def postgres_url(postgres) -> str:
    """The URL of a new database."""
    address = f"postgresql://test@127.0.0.1:{postgres.port}"
    with psycopg.connect(f"{address}/postgres", autocommit=True) as connection:
        connection.execute("DROP DATABASE IF EXISTS trireme WITH (FORCE)")
        connection.execute("CREATE DATABASE trireme")
    return f"{address}/trireme"


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request, tmp_path) -> str:
    """The URL of a new database, of either kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/gateway.db"
    url: str = request.getfixturevalue("postgres_url")
    return url


@pytest.fixture
def disk(tmp_path) -> Iterator[Path]:
    """A file system of 256 KiB."""
    path = tmp_path / "disk"
    path.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", path], capture_output=True, check=False
    )
    if made.returncode:
        pytest.skip(f"no file system can be mounted here: {made.stderr.decode().strip()}")
    yield path
    subprocess.run(["umount", path], check=True)
