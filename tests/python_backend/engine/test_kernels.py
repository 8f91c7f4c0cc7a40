"""The C kernels are compiled once, for this processor, and are not needed."""

from __future__ import annotations

import ctypes
import platform
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from contract.errors import EngineError
from python_backend.engine import kernels
from python_backend.engine.attention import Layout, NumpyAttention, load_attention
from python_backend.engine.kernels import compile_kernels, load_kernels
from tests.python_backend.engine.descriptions import heads


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "trireme"


def test_the_kernels_are_compiled_once(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    library = compile_kernels()
    assert library is not None
    assert list(cache.iterdir()) == [library]
    monkeypatch.setenv("PATH", "")
    assert compile_kernels() == library


def test_without_a_compiler_numpy_takes_their_place(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "")
    layout = Layout(num_layers=1, num_heads=4, num_kv_heads=4, head_dim=16)
    pool = np.zeros((1, *layout.block_shape), dtype=np.float32)
    rotary = np.zeros((2, 8, 8), dtype=np.float32)
    assert isinstance(load_attention(layout, pool, rotary, 1, [heads()]), NumpyAttention)


def test_a_compiler_that_fails_says_why(
    cache: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    compiler = tmp_path / "cc"
    compiler.write_text("#!/bin/sh\necho no room >&2\nexit 1\n")
    compiler.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    with pytest.raises(EngineError, match=r"can't compile .*kernels: no room"):
        compile_kernels()
    assert list(cache.iterdir()) == []


@pytest.mark.skipif(platform.machine() != "x86_64", reason="names x86's instructions")
@pytest.mark.parametrize("march", ["native", "x86-64", "haswell", "skylake-avx512", "alderlake"])
def test_the_kernels_compile_without_a_warning(tmp_path: Path, march: str) -> None:
    command = ["cc", *kernels._FLAGS, f"-march={march}", "-Wall", "-Wextra", "-Werror"]
    sources = map(str, sorted(kernels._FOLDER.glob("*.c")))
    subprocess.run([*command, "-o", str(tmp_path / "a.so"), *sources, "-lm"], check=True)


def test_every_unit_runs_once_whether_the_threads_were_awake_or_not() -> None:
    library = load_kernels(num_threads=4)
    assert library is not None
    unit = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int)
    for units in [*range(40), 1000]:
        ran: list[int] = []
        library.trireme_parallel(unit(lambda _, index, ran=ran: ran.append(index)), None, units)
        assert sorted(ran) == list(range(units))


def test_engines_compute_while_others_start_their_threads() -> None:
    # Nothing is computed twice or not at all; and `make sanitize` sees who reads what is written.
    library = load_kernels(num_threads=2)
    assert library is not None
    unit = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int)

    def engine(_: int) -> list[list[int]]:
        regions: list[list[int]] = [[] for _ in range(50)]
        for number, ran in enumerate(regions):
            library.trireme_threads(2 + number % 4)
            run = unit(lambda _, index, ran=ran: ran.append(index))
            library.trireme_parallel(run, None, library.trireme_num_threads() + 3)
        return regions

    with ThreadPoolExecutor(3) as engines:
        for regions in engines.map(engine, range(3)):
            assert all(sorted(ran) == list(range(len(ran))) and len(ran) >= 5 for ran in regions)
