from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest

from tests.gateway.servers import Server, postgres_server, redis_server


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


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
