"""The pieces of several prompts' answers as one stream, as they come.

Where one of the prompts is wrong, the others are stopped rather than left: they tell what was
computed for them until then, and that is paid for.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing, suppress
from typing import Any

from contract.errors import InvalidRequestError, TriremeError
from gateway.generation import STOP_GRACE_S, Delta
from gateway.upstreams.base import PartRefusedError

_STOP_AGAIN_S = 0.1

Stop = Callable[[], Awaitable[bool]]
"""Has all prompts' answers end soon; false where that can't be."""


async def merge(
    generators: list[AsyncGenerator[Delta, None]], stop: Stop
) -> AsyncGenerator[Delta, None]:
    """Yield from several generators as things come; the first error ends them all.

    Raises:
        PartRefusedError: One of the prompts is wrong.
        GenerationError: Any other error of one of them.
    """
    ended = object()
    queue: asyncio.Queue[Any] = asyncio.Queue()

    async def drain(generator: AsyncGenerator[Delta, None]) -> None:
        try:
            async with aclosing(generator):
                async for delta in generator:
                    queue.put_nowait(delta)
        except Exception as error:
            queue.put_nowait(error)
        else:
            queue.put_nowait(ended)

    tasks = [asyncio.create_task(drain(generator)) for generator in generators]
    running = len(tasks)
    try:
        while running:
            item = await queue.get()
            if item is ended:
                running -= 1
            elif isinstance(item, InvalidRequestError):
                last = await _last_words(queue, tasks, stop)
                raise PartRefusedError(item, last) from None
            elif isinstance(item, Exception):
                raise item
            else:
                yield item
    finally:
        for task in tasks:
            task.cancel()
        for task in tasks:
            with suppress(asyncio.CancelledError):
                await task


async def _last_words(
    queue: asyncio.Queue[Any], tasks: list[asyncio.Task[None]], stop: Stop
) -> list[Delta]:
    """Stop what still runs; what all of it came to, as far as it says so in time."""
    end_s = time.monotonic() + STOP_GRACE_S
    with suppress(TriremeError):  # it is told no more, and left
        while time.monotonic() < end_s and not all(task.done() for task in tasks):
            if not await stop():
                break
            await asyncio.wait(tasks, timeout=_STOP_AGAIN_S)
    items = [queue.get_nowait() for _ in range(queue.qsize())]
    return [item for item in items if isinstance(item, Delta)]
