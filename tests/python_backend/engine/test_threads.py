"""The threads that all kernels share."""

from __future__ import annotations

import ctypes
from concurrent.futures import ThreadPoolExecutor

import pytest

from python_backend.engine.kernels import load_kernels


@pytest.mark.usefixtures("own_threads")
def test_every_unit_runs_once_whether_the_threads_were_awake_or_not() -> None:
    library = load_kernels(num_threads=4)
    assert library is not None
    assert library.trireme_num_threads() == 4
    unit = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int)
    for units in [*range(40), 1000]:
        ran: list[int] = []
        library.trireme_parallel(unit(lambda _, index, ran=ran: ran.append(index)), None, units)
        assert sorted(ran) == list(range(units))


@pytest.mark.usefixtures("own_threads")
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
