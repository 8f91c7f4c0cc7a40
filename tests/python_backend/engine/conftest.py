"""What the engine's tests share."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from python_backend.engine.kernels import KERNEL_CFLAGS, kernel_loading


@pytest.fixture
def own_threads(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Kernels that are loaded anew, with no threads yet, and that no later test has.

    Threads are never fewer: all that this process computes with the same library would be spread
    over as many as one test once asked for, more than there are cores.
    """
    monkeypatch.setattr(kernel_loading, "_loaded", {})
    if os.environ.get(KERNEL_CFLAGS):
        # Those are loaded from their files, and a file is loaded once: a copy is another.
        cache = os.environ["XDG_CACHE_HOME"]
        shutil.copytree(cache, tmp_path / "cache", dirs_exist_ok=True)
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
