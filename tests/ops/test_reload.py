"""The token of a running server, as others find it."""

from __future__ import annotations

from pathlib import Path

import pytest

from ops import reload
from ops.reload import published


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setattr(reload, "_CACHE", folder)
    return folder


def test_a_token_lies_there_while_its_server_runs_for_its_owner_alone(cache: Path) -> None:
    with published("secret", 8000):
        (file,) = cache.iterdir()
        assert file.read_text(encoding="utf-8") == "secret"
        assert file.stat().st_mode & 0o777 == 0o600
    assert list(cache.iterdir()) == []


def test_that_of_a_killed_server_is_replaced(cache: Path) -> None:
    cache.mkdir()
    (cache / "control-8000").touch(mode=0o644)
    with published("new", 8000):
        (file,) = cache.iterdir()
        assert file.read_text(encoding="utf-8") == "new"
        assert file.stat().st_mode & 0o777 == 0o600
