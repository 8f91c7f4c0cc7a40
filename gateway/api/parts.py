"""What connections send is taken apart a little at a time, so that no read of it holds the loop.

A read brings up to 256 KB. As messages in pieces of one byte, or as chunks of one, that is half a
second's work of Python's, in which nobody else gets anything.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable
from typing import Protocol

_log = logging.getLogger("gateway.api")
_TURN_S = 0.0005
"""For all connections together, in one turn of the event loop; a part begins within it."""
_LEAST_BYTES, _MOST_BYTES = 256, 4096
"""Of a part: it grows while they are quick to take apart."""
_QUICK_S = 0.0001


class Line:
    """The connections that have something to be taken apart, one after the other."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._waiting: deque[Parts] = deque()

    def join(self, parts: Parts) -> None:
        """Stand behind the others."""
        self._waiting.append(parts)
        if len(self._waiting) == 1:
            loop = asyncio.get_running_loop()
            loop.call_soon(self._turn, loop)

    def _turn(self, loop: asyncio.AbstractEventLoop) -> None:
        now_s = self._clock()
        end_s = now_s + _TURN_S
        while self._waiting and now_s < end_s:
            parts, begun_s = self._waiting.popleft(), now_s
            if parts.feed():
                self._waiting.append(parts)
            now_s = self._clock()
            parts.grow(is_quick=now_s - begun_s < _QUICK_S)
        if self._waiting:
            loop.call_soon(self._turn, loop)


class Reader(Protocol):
    """Who takes it apart: a connection."""

    def parse(self, data: bytes) -> None:
        """See the next part."""

    def read_on(self) -> None:
        """Have more read: everything was seen."""

    def give_up(self) -> None:
        """End: the part could not be taken apart, for a reason that nobody foresaw."""


class Parts:
    """What one connection has sent and its parser has not seen."""

    def __init__(self, line: Line, reader: Reader) -> None:
        self._line = line
        self._reader = reader
        self._pieces: deque[memoryview] = deque()
        self._waits = False
        self._size = _LEAST_BYTES

    @property
    def is_empty(self) -> bool:
        """Whether the reader has seen everything."""
        return not self._pieces

    def add(self, data: bytes) -> None:
        """Take what was read."""
        self._pieces.append(memoryview(data))
        if not self._waits:
            self._waits = True
            self._line.join(self)

    def clear(self) -> None:
        """Forget what is left: the connection ends."""
        self._pieces.clear()

    def grow(self, *, is_quick: bool) -> None:
        """Have larger parts, or the smallest where the last took long."""
        self._size = min(2 * self._size, _MOST_BYTES) if is_quick else _LEAST_BYTES

    def feed(self) -> bool:
        """Have the reader see the next part; returns whether more is left."""
        if self._pieces:
            piece = self._pieces.popleft()
            if len(piece) > self._size:
                self._pieces.appendleft(piece[self._size :])
            try:
                self._reader.parse(bytes(piece[: self._size]))
            except Exception as error:  # the others go on
                _log.error("a connection's data could not be parsed", exc_info=error)
                self.clear()
                self._reader.give_up()
        self._waits = bool(self._pieces)
        if not self._waits:
            self._reader.read_on()
        return self._waits
