"""Requests that come together begin a few at a time, those of different keys in turns.

A key counts as one once it has been good: made-up ones are as many as somebody likes, and whoever
isn't known stands in one line with all the others who aren't.

To read, check and send on a request takes the event loop a millisecond. A hundred that come at once
would take a tenth of a second in one piece, in which no piece of anybody's answer is sent on, and
another's request would wait behind them all.
"""

from __future__ import annotations

import asyncio
from collections import deque

_AT_ONCE = 4
"""Begin in one round of the event loop."""
_MOST_KNOWN = 4096
_STRANGERS = 0


class Turnstile:
    """Lets so many through in each round of the event loop."""

    def __init__(self) -> None:
        self._passed = 0
        self._waiting: dict[int, deque[asyncio.Future[None]]] = {}
        self._known: dict[int, None] = {}  # hashes of keys, those used last at the end

    def know(self, key: str | None) -> None:
        """Take note that a key is good: it has a line of its own from now on."""
        place = hash(key)
        self._known.pop(place, None)
        self._known[place] = None
        if len(self._known) > _MOST_KNOWN:
            del self._known[next(iter(self._known))]

    async def turn(self, key: str | None) -> None:
        """Wait for the turn.

        Args:
            key: What shows whose request it is, unchecked: who sends many waits for itself.
        """
        loop = asyncio.get_running_loop()
        if not self._passed:
            loop.call_soon(self._next_round, loop)
        if self._passed < _AT_ONCE and not self._waiting:
            self._passed += 1
            return
        place: asyncio.Future[None] = loop.create_future()
        line = hash(key) if hash(key) in self._known else _STRANGERS
        self._waiting.setdefault(line, deque()).append(place)
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
