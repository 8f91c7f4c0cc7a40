"""The libraries of kernels as a test's parameters; what this processor can't run is skipped."""

from __future__ import annotations

import platform

import pytest

from python_backend.engine.kernels.kernel_libraries import LIBRARIES, Library
from python_backend.engine.processor import processor_features


def parameters(*, native_decoder: bool = False) -> list[object]:
    """A parameter for each library, its name.

    Args:
        native_decoder: Only those that have it.
    """
    return [
        pytest.param(
            each.name, marks=pytest.mark.skipif(not _runs(each), reason="not this processor's")
        )
        for each in LIBRARIES
        if not native_decoder or "avx2" in each.features
    ]


def runnable() -> list[Library]:
    """The libraries that this processor can run."""
    return [each for each in LIBRARIES if _runs(each)]


def _runs(library: Library) -> bool:
    return platform.machine() == "x86_64" and library.features <= processor_features()
