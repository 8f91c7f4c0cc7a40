"""Work that is too much for the event loop at once, beside it in a thread.

An answer with the likeliest tokens beside each of its own has tens of thousands of entries, and to
read or write them takes as long as a hundred requests do. So does every copy of a prompt of some
megabytes: the machine gives out memory page by page. A thread gives Python's lock up within a
millisecond (`gateway.server`), so the loop goes on meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar, cast

import anyio
import anyio.to_thread

_LARGE = 1024
"""More entries than this take longer than a few milliseconds."""
_BYTES_PER_ENTRY = 256
"""So many are copied a few times while an entry is read."""
_AT_ONCE = 1
"""More threads would wait for each other, and the loop for all."""

_Result = TypeVar("_Result")
_limiter: anyio.CapacityLimiter | None = None


async def in_thread(work: Callable[[], _Result], limiter: anyio.CapacityLimiter) -> _Result:
    """Do something in a thread.

    What it raises is raised here, and not handed over in a future: that would be kept by its own
    error, through the frames that this passed, until the search for garbage finds them.

    Args:
        work: What to do.
        limiter: How much of its kind may be done at a time.
    """
    result, error = await anyio.to_thread.run_sync(_caught, work, limiter=limiter)
    if error is None:
        return cast("_Result", result)
    try:
        raise error
    finally:
        del error


def _caught(work: Callable[[], _Result]) -> tuple[_Result | None, Exception | None]:
    try:
        return work(), None
    except Exception as error:
        return None, error.with_traceback(None)


async def aside(work: Callable[[], _Result], entries: int = 0, *, num_bytes: int = 0) -> _Result:
    """Do something at once where it is small, else in a thread.

    Args:
        work: What to do.
        entries: Of how many entries it reads or writes each.
        num_bytes: How many bytes it copies.
    """
    global _limiter
    if entries + num_bytes // _BYTES_PER_ENTRY <= _LARGE:
        return work()
    if _limiter is None:
        _limiter = anyio.CapacityLimiter(_AT_ONCE)
    return await in_thread(work, _limiter)
