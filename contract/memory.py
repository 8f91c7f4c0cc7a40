"""Memory that is no longer needed."""

from __future__ import annotations

import contextlib
import ctypes


def give_back_memory() -> None:
    """Have the C library give what is free back to the machine.

    glibc keeps for later what a large piece of work took: gigabytes after a build, hundreds of
    megabytes after a long prompt.
    """
    with contextlib.suppress(AttributeError):  # another C library
        ctypes.CDLL(None).malloc_trim(0)
