"""What the engine's tests share."""

from __future__ import annotations

import pytest

from python_backend.engine.kernels import kernel_loading


@pytest.fixture
def own_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Kernels that are loaded anew, with no threads yet, and that no later test has.

    Threads are never fewer: all that this process computes with the same library would be spread
    over as many as one test once asked for, more than there are cores.
    """
    monkeypatch.setattr(kernel_loading, "_loaded", {})
