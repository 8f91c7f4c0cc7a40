"""Which stream gets a response when.

All that a response costs, in Triton, in postprocessing and here, is taken from the engine's cores,
so streams get only so many of them a second: where there are more tokens, a stream's next response
carries all that it has by then. Tenants have equal parts of that, so that who has many streams
waits for itself. A stream's first tokens don't wait, nor does its end, unless their tenant has so
many of them at once that another would wait behind them.
"""

from __future__ import annotations

import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from itertools import chain
from queue import Empty, SimpleQueue
from typing import NamedTuple, Protocol

_FIRST_AT_ONCE = 64
"""So many firsts and lasts of a tenant's streams go at once where others have news as well."""
_FIRST_RATE = 4
"""And behind those so many for each news of streams that go on."""
_OF_LATE_S = 1.0
"""Who had news within this time has a part in what there is."""


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
    is_urgent: bool = False


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
        self._firsts: dict[str, _Part] = {}  # the same of what is urgent
        self._heard_s: OrderedDict[str, float] = OrderedDict()  # when tenants had news last

    # Any thread

    def put(self, job: Job) -> None:
        """Have something done as soon as can be."""
        self._entries.put(_Entry(job))

    def put_news(self, news: News) -> None:
        """Have a stream's news sent in its turn: all that there are by then."""
        self._entries.put(_Entry(news.send_news, news, news.is_urgent))

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
                self._spend(part, news)
                yield news.send_news
                continue
            if entry is None:
                return
            if entry.news is None or self._goes_at_once(entry.news, entry.is_urgent):
                yield entry.job

    @property
    def num_waiting(self) -> int:
        """Streams that wait for their turn."""
        return sum(len(part.waiting) for part in self._all_parts())

    def _all_parts(self) -> Iterator[_Part]:
        return chain(self._firsts.values(), self._parts.values())

    def _next(self) -> _Part | None:
        """Whose turn comes next; None where nobody waits."""
        now_s = self._clock()
        waiting = [part for part in self._all_parts() if part.waiting]
        return min(waiting, key=lambda part: part.pacer.wait_s(now_s), default=None)

    def _goes_at_once(self, news: News, is_urgent: bool) -> bool:
        """Whether news wait for no turn; else they queue for theirs."""
        share = news.share
        is_alone = self._is_alone(share)
        if not is_urgent:
            if share not in self._parts:
                self._parts[share] = _Part(Pacer(self._per_s, self._burst))
            self._parts[share].waiting.append(news)
            return False
        if is_alone:
            return True
        if share not in self._firsts:
            self._firsts[share] = _Part(Pacer(self._per_s * _FIRST_RATE, _FIRST_AT_ONCE))
        part = self._firsts[share]
        if not part.waiting and not part.pacer.wait_s(self._clock()):
            self._spend(part, news)
            return True
        part.waiting.append(news)
        return False

    def _is_alone(self, share: str) -> bool:
        """Whether nobody else had news of late; takes note that this one has."""
        now_s = self._clock()
        self._heard_s[share] = now_s
        self._heard_s.move_to_end(share)
        while now_s - next(iter(self._heard_s.values())) > _OF_LATE_S:
            self._heard_s.popitem(last=False)
        return len(self._heard_s) == 1

    def _spend(self, part: _Part, news: News) -> None:
        """Charge a tenant; its part is the smaller, the more there are."""
        now_s = self._clock()
        parts = self._firsts if part in self._firsts.values() else self._parts
        for share, each in list(parts.items()):
            if each is not part and not each.waiting and each.pacer.is_rested(now_s):
                del parts[share]
        part.pacer.spend(now_s, news.cost * len(parts))
