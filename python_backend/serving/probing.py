"""Who is to be asked whether its client is still there.

In an ensemble a client that went away shows only at the last step, which an empty response calls.
All sequences of a request have one client, so one of them is probed for all. A client of the
engine's model itself shows where its responses go, and needs none.

Probes cost, so there are only so many of them. But who leaves seldom leaves alone: a program that
ends, or a gateway, leaves all of its requests. So where half of those that were probed turn out to
have gone, everybody is probed at once.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Generic, NamedTuple

from python_backend.serving.sessions import S, Session


class _Round(NamedTuple, Generic[S]):
    probed: list[S]
    asked: list[S]


class _Client(NamedTuple, Generic[S]):
    """Who waits for a request: a stream of it, when it last got something, if more comes."""

    stream: S
    heard_s: float
    has_news: bool


class Prober:
    """Picks, once a period, a stream of each request that nothing was heard of for so long."""

    def __init__(
        self, period_s: float, most: int | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Make one.

        Args:
            period_s: How long a request may be silent before it is probed.
            most: How many are probed a round: a response costs. The others have their turn later.
            clock: What time it is.
        """
        self._period_s = period_s
        self._most = most
        self._clock = clock
        self._num_probed = 0
        self._num_gone = 0

    def found_gone(self) -> None:
        """Take note of a client that turned out to have gone."""
        self._num_gone += 1

    def round(self, streams: Iterable[S]) -> _Round[S]:
        """Who is to be probed, the longest silent first, and who to be asked without."""
        now_s = self._clock()
        many_left = self._num_gone > 0 and 2 * self._num_gone >= self._num_probed
        self._num_gone = 0
        clients: dict[Session[S], _Client[S]] = {}
        asked = []
        for stream in streams:
            session: Session[S] = stream.session
            if not session.probes:
                asked.append(stream)
                continue
            known = clients.get(session)
            if known is None:
                clients[session] = _Client(stream, stream.last_sent_s, stream.queued)
            else:
                heard_s = max(known.heard_s, stream.last_sent_s)
                clients[session] = _Client(known.stream, heard_s, known.has_news or stream.queued)
        silent = [
            client
            for client in clients.values()
            if many_left or (client.heard_s <= now_s - self._period_s and not client.has_news)
        ]
        silent.sort(key=lambda client: client.heard_s)
        probed = [client.stream for client in silent[: None if many_left else self._most]]
        for stream in probed:
            stream.last_sent_s = now_s
        self._num_probed = len(probed)
        return _Round(probed, asked)
