"""Who is to be asked whether its client is still there.

In an ensemble a client that went away shows only at the last step, which an empty response calls.
A client of the engine's model itself shows where its responses go, and needs none.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Generic, NamedTuple

from python_backend.serving.sessions import S


class _Round(NamedTuple, Generic[S]):
    probed: list[S]
    asked: list[S]


class Prober:
    """Picks, once a period, the streams that nothing was heard of for so long."""

    def __init__(
        self, period_s: float, most: int | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Make one.

        Args:
            period_s: How long a stream may be silent before it is probed.
            most: How many are probed a round: a response costs. The others have their turn later.
            clock: What time it is.
        """
        self._period_s = period_s
        self._most = most
        self._clock = clock

    def round(self, streams: Iterable[S]) -> _Round[S]:
        """Who is to be probed, the longest silent first, and who to be asked without."""
        now_s = self._clock()
        silent_since_s = now_s - self._period_s
        probed, asked = [], []
        for stream in streams:
            if not stream.session.probes:
                asked.append(stream)
            elif stream.last_sent_s <= silent_since_s and not stream.queued:
                probed.append(stream)
        probed.sort(key=lambda stream: stream.last_sent_s)
        probed = probed[: self._most]
        for stream in probed:
            stream.last_sent_s = now_s
        return _Round(probed, asked)
