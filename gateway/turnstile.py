"""Requests that come together begin a few at a time, those of different keys in turns.

To read, check and send on a request takes the event loop a millisecond. A hundred that come at once
would take a tenth of a second in one piece, in which no piece of anybody's answer is sent on, and
another's request would wait behind them all.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Hashable

_AT_ONCE = 4
"""Begin in one round of the event loop."""


class Turnstile:
    """Lets so many through in each round of the event loop."""

    def __init__(self) -> None:
        self._passed = 0
        self._waiting: dict[Hashable, deque[asyncio.Future[None]]] = {}

    async def turn(self, key: Hashable) -> None:
        """Wait for the turn.

        Args:
            key: Whose request it is, as far as that is known: who sends many waits for itself.
        """
        loop = asyncio.get_running_loop()
        if not self._passed:
            loop.call_soon(self._next_round, loop)
        if self._passed < _AT_ONCE and not self._waiting:
            self._passed += 1
            return
        place: asyncio.Future[None] = loop.create_future()
        self._waiting.setdefault(key, deque()).append(place)
        await place

    def _next_round(self, loop: asyncio.AbstractEventLoop) -> None:
        self._passed = 0
        while self._waiting and self._passed < _AT_ONCE:
            key = next(iter(self._waiting))
            line = self._waiting.pop(key)
            place = line.popleft()
            if line:
                self._waiting[key] = line  # behind the others
            if not place.done():  # its client hasn't left
                place.set_result(None)
                self._passed += 1
        if self._passed:
            loop.call_soon(self._next_round, loop)
