"""What every room's tests share."""

from __future__ import annotations

import gc
import importlib.util
from collections.abc import Iterator

import pytest

import python_backend  # noqa: F401 - before anything imports ONNX Runtime

if importlib.util.find_spec("hypothesis") is not None:  # the build environment has none
    from hypothesis import HealthCheck, settings

    # A slow or busy machine fails no test.
    settings.register_profile("any", deadline=None, suppress_health_check=[HealthCheck.too_slow])
    # For every change, by `--hypothesis-profile`: each run tries others, and `make test` all.
    settings.register_profile("few", settings.get_profile("any"), max_examples=25)
    settings.load_profile("any")


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    """What is collected stays to the end: the garbage collector needs not go through it again."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()
        gc.freeze()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip, rather than fail, what needs the build environment when this is not it."""
    if importlib.util.find_spec("torch") is None:
        for item in items:
            if item.get_closest_marker("torch"):
                item.add_marker(pytest.mark.skip(reason="needs torch: run in .venv-build"))
