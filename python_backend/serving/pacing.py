"""Which stream gets a response when.

All that a response costs, in Triton, in postprocessing and here, is taken from the engine's cores,
so streams get only so many of them a second: where there are more tokens, a stream's next response
carries all that it has by then. A stream's first tokens don't wait, nor does its end.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from queue import Empty, SimpleQueue
from typing import NamedTuple

_FIRST_TOKENS = 2
"""A stream's first text is there with its second token: only that ends the first word, which a
safety policy may have to hold back."""


class Pacer:
    """So many messages a second, and a few at once after a silence: a token bucket.

    Has no clock of its own: times are seconds on any clock that only rises.
    """

    def __init__(self, per_s: float, burst: int) -> None:
        """Make one that may begin with a burst.

        Args:
            per_s: Messages a second.
            burst: Messages that may go at once, at least 1.
        """
        self._interval_s = 1 / per_s
        self._burst = burst
        self._next_s = float("-inf")

    def wait_s(self, now_s: float) -> float:
        """Seconds until the next message is due; 0 where it may go."""
        return max(self._next_s - now_s, 0.0)

    def spend(self, now_s: float) -> None:
        """Take note of a message, which was due."""
        since_s = now_s - (self._burst - 1) * self._interval_s
        self._next_s = max(self._next_s, since_s) + self._interval_s


Job = Callable[[], None]
"""What the sender does next: it sends something."""


class _Entry(NamedTuple):
    job: Job
    waits: bool


class Outbox:
    """What the sender has to do, in order; the news of streams in their turn."""

    def __init__(self, pacer: Pacer, clock: Callable[[], float] = time.monotonic) -> None:
        self._pacer = pacer
        self._clock = clock
        self._entries: SimpleQueue[_Entry | None] = SimpleQueue()
        self._waiting: deque[Job] = deque()

    # Any thread

    def put(self, job: Job) -> None:
        """Have something done as soon as can be."""
        self._entries.put(_Entry(job, waits=False))

    def put_news(self, job: Job, num_sent: int) -> None:
        """Have a stream's news sent in its turn.

        Args:
            job: What sends them: all that there are by then.
            num_sent: Tokens of the stream that were sent before.
        """
        self._entries.put(_Entry(job, waits=num_sent >= _FIRST_TOKENS))

    def close(self) -> None:
        """Have the sender end when it has done all but what waits for its turn."""
        self._entries.put(None)

    # The sender's thread

    def __iter__(self) -> Iterator[Job]:
        """Wait for the next thing to do, until the end."""
        while True:
            # Where there is nothing to be done now, the next stream whose turn has come.
            wait_s = self._pacer.wait_s(self._clock()) if self._waiting else None
            try:
                entry = self._entries.get(timeout=wait_s)
            except Empty:
                self._pacer.spend(self._clock())
                yield self._waiting.popleft()
                continue
            if entry is None:
                return
            if entry.waits:
                self._waiting.append(entry.job)
            else:
                yield entry.job
