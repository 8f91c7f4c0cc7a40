"""The C kernels: libraries that were built ahead, one for each instruction set.

The best one for this processor is loaded, if it is to the byte what ``lib/digests.json`` lists.
Where none fits, or the sources have changed since, they are compiled with the machine's C compiler.
Without a compiler numpy and ONNX Runtime take their place: right, and slower.
"""

from __future__ import annotations

import ctypes
import functools
import os

from contract.errors import EngineError
from python_backend.engine.kernels.kernel_compiler import load_compiled
from python_backend.engine.kernels.kernel_libraries import (
    OutdatedLibrariesError,
    best_library,
    load_library,
    named_library,
)
from python_backend.engine.kernels.structures import check_structures

KERNELS = "TRIREME_KERNELS"
"""The variable that names a library in place of the best one, for tests and comparisons; or
``compiled``, compiled here for this processor, or ``none``."""

KERNEL_CFLAGS = "TRIREME_KERNEL_CFLAGS"
"""The variable that holds further flags, such as a sanitizer's: the kernels are then compiled here,
for the instruction set that ``TRIREME_KERNELS`` names or for this processor."""


def load_kernels(num_threads: int) -> ctypes.CDLL | None:
    """The kernels, with so many threads or more to compute with; None where this machine has none.

    Raises:
        EngineError: A library is not the one that was built, has other structures than this
            version, or is not for this processor; there is a compiler, and it fails; or the
            threads can't start.
    """
    kernels = _find()
    if kernels is None:
        return None
    _check(kernels)
    error = kernels.trireme_threads(ctypes.c_int(num_threads))
    if error:
        raise EngineError(f"the engine's threads can't start: {os.strerror(error)}")
    return kernels


@functools.cache
def _check(kernels: ctypes.CDLL) -> None:
    check_structures(kernels)


def _find() -> ctypes.CDLL | None:
    wanted, flags = os.environ.get(KERNELS, ""), os.environ.get(KERNEL_CFLAGS, "")
    if wanted == "none":
        return None
    if wanted not in ("", "compiled"):
        library = named_library(wanted)
        return load_compiled(library.march, flags) if flags else load_library(library)
    if flags or wanted:
        return load_compiled(more_flags=flags)
    best = best_library()
    if best is None:
        return load_compiled()
    try:
        return load_library(best)
    except OutdatedLibrariesError:
        compiled = load_compiled()
        # A library of other sources can't be trusted to agree with this Python, and numpy in its
        # place would be a slow server that nobody asked for.
        if compiled is None:
            raise
        return compiled
