from __future__ import annotations

import pytest

from gateway.database import open_database
from gateway.tenants.directory import Directory


class Clock:
    """A clock that stands until it is moved."""

    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def directory(tmp_path, clock):
    return Directory(open_database(f"sqlite:///{tmp_path}/gateway.db"), clock)
