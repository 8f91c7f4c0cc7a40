"""Which stream gets a response when.

All that a response costs, in Triton, in postprocessing and here, is taken from the engine's cores,
so streams get only so many of them a second: where there are more tokens, a stream's next response
carries all that it has by then. Tenants have equal parts of that, so that who has many streams
waits for itself. A stream's first tokens don't wait, nor does its end.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from queue import Empty, SimpleQueue
from typing import NamedTuple, Protocol


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

    def spend(self, now_s: float, cost: float = 1) -> None:
        """Take note of a message, which was due, and costs as much as so many."""
        self._next_s = max(self._next_s, self._rested_s(now_s)) + cost * self._interval_s

    def is_rested(self, now_s: float) -> bool:
        """Whether it was silent for so long that it is as good as new."""
        return self._next_s <= self._rested_s(now_s)

    def _rested_s(self, now_s: float) -> float:
        return now_s - (self._burst - 1) * self._interval_s


Job = Callable[[], None]
"""What the sender does next: it sends something."""


class News(Protocol):
    """A stream that has something to tell."""

    @property
    def share(self) -> str:
        """Whose part of the responses it takes."""

    @property
    def is_urgent(self) -> bool:
        """Whether that doesn't wait for a turn."""

    @property
    def cost(self) -> float:
        """Of how many responses what there is to tell by now costs as much."""

    def send_news(self) -> None:
        """Tell all that there is."""


class _Part:
    """What one tenant's streams have to tell, the first in the queue first."""

    def __init__(self, pacer: Pacer) -> None:
        self.pacer = pacer
        self.waiting: deque[News] = deque()


class _Entry(NamedTuple):
    job: Job
    news: News | None = None


class Outbox:
    """What the sender has to do, in order; the news of streams in their turn."""

    def __init__(
        self, per_s: float, burst: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Make one with nothing to do.

        Args:
            per_s: News a second, of all tenants together.
            burst: As many may go at once after a silence of a tenant's.
            clock: What time it is.
        """
        self._per_s = per_s
        self._burst = burst
        self._clock = clock
        self._entries: SimpleQueue[_Entry | None] = SimpleQueue()
        self._parts: dict[str, _Part] = {}  # of those who have news, or had of late

    # Any thread

    def put(self, job: Job) -> None:
        """Have something done as soon as can be."""
        self._entries.put(_Entry(job))

    def put_news(self, news: News) -> None:
        """Have a stream's news sent in its turn: all that there are by then."""
        self._entries.put(_Entry(news.send_news, None if news.is_urgent else news))

    def close(self) -> None:
        """Have the sender end when it has done all but what waits for its turn."""
        self._entries.put(None)

    # The sender's thread

    def __iter__(self) -> Iterator[Job]:
        """Wait for the next thing to do, until the end."""
        while True:
            # Where there is nothing to be done now, the next stream whose turn has come.
            part = self._next()
            wait_s = None if part is None else part.pacer.wait_s(self._clock())
            try:
                entry = self._entries.get(timeout=wait_s)
            except Empty:
                assert part is not None
                news = part.waiting.popleft()
                self._spend(part, news.cost)
                yield news.send_news
                continue
            if entry is None:
                return
            if entry.news is None:
                yield entry.job
            else:
                self._part_of(entry.news.share).waiting.append(entry.news)

    @property
    def num_waiting(self) -> int:
        """Streams that wait for their turn."""
        return sum(len(part.waiting) for part in self._parts.values())

    def _next(self) -> _Part | None:
        """Whose turn comes next; None where nobody waits."""
        now_s = self._clock()
        waiting = [part for part in self._parts.values() if part.waiting]
        return min(waiting, key=lambda part: part.pacer.wait_s(now_s), default=None)

    def _part_of(self, share: str) -> _Part:
        if share not in self._parts:
            self._parts[share] = _Part(Pacer(self._per_s, self._burst))
        return self._parts[share]

    def _spend(self, part: _Part, cost: float) -> None:
        """Charge a tenant; its part is the smaller, the more there are."""
        now_s = self._clock()
        self._parts = {
            share: each
            for share, each in self._parts.items()
            if each is part or each.waiting or not each.pacer.is_rested(now_s)
        }
        part.pacer.spend(now_s, cost * len(self._parts))
