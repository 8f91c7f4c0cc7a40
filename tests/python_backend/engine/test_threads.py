"""The threads that all kernels share."""

from __future__ import annotations

import ctypes

from python_backend.engine.kernels import load_kernels


def test_every_unit_runs_once_whether_the_threads_were_awake_or_not() -> None:
    library = load_kernels(num_threads=4)
    assert library is not None
    unit = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int)
    for units in [*range(40), 1000]:
        ran: list[int] = []
        library.trireme_parallel(unit(lambda _, index, ran=ran: ran.append(index)), None, units)
        assert sorted(ran) == list(range(units))
