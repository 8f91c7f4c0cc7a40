"""The threads that all kernels share."""

from __future__ import annotations

import ctypes
import os
import platform
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from python_backend.engine.kernels import KERNEL_CFLAGS, load_kernels

ROOT = Path(__file__).resolve().parents[3]


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


_WITHOUT_THE_WORKER = """
import ctypes, os, signal
from python_backend.engine.kernels import KERNEL_CFLAGS, load_kernels

libc = ctypes.CDLL(None)
libc.signal.argtypes = [ctypes.c_int, ctypes.c_void_p]

def tell(thread, number):
    libc.syscall(234, os.getpid(), thread, number)  # tgkill

def threads():
    return set(map(int, os.listdir("/proc/self/task")))

def is_asleep(thread):
    return open(f"/proc/self/task/{thread}/stat").read().rsplit(")", 1)[1].split()[0] == "S"

before = threads()
library = load_kernels(num_threads=2)
(worker,) = threads() - before
unit = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int)
ran = []
run = unit(lambda _, index: ran.append(index))
while not is_asleep(worker):  # it is waiting for a region
    pass
libc.signal(signal.SIGUSR1, ctypes.cast(libc.pause, ctypes.c_void_p))
tell(worker, signal.SIGUSR1)
while f"\\t{1 << signal.SIGUSR1 - 1:016x}" not in open(f"/proc/self/task/{worker}/status").read():
    pass  # the signal is blocked while its handler runs
for _ in range(100):
    library.trireme_parallel(run, None, 7)
assert ran == [*range(7)] * 100, ran
print("ended")
os._exit(0)
"""
"""Has the worker stand in a handler that doesn't return, as if something else had its core."""


@pytest.mark.skipif(platform.machine() != "x86_64", reason="the number of a system call")
@pytest.mark.skipif(KERNEL_CFLAGS in os.environ, reason="a sanitizer puts signals off")
def test_a_region_ends_without_a_worker_that_has_taken_nothing() -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", _WITHOUT_THE_WORKER],
        env=environment,
        cwd=ROOT,
        timeout=120,
        capture_output=True,
        text=True,
    )
    assert done.stdout == "ended\n", done.stderr
