"""A minute that slides: how much there was of something in the last 60 seconds.

It is counted in buckets of a second. A bucket counts until none of it can lie in the last 60
seconds, so no 60 seconds, wherever they begin, see more than the limit. (A token bucket would let
twice the limit through in its first minute.)
"""

from __future__ import annotations

import math

from gateway.limits.account import WINDOW_S

_LIFE_S = WINDOW_S + 1


class Window:
    """Buckets of a second, the oldest first."""

    def __init__(self) -> None:
        self.total = 0
        self._buckets: dict[int, int] = {}

    def advance(self, now: float) -> None:
        """Let go of what is older than the window. Times never go back."""
        for second in list(self._buckets):
            if second + _LIFE_S > now:
                break
            self.total -= self._buckets.pop(second)

    def add(self, second: int, amount: int) -> None:
        """Add to the bucket of this second."""
        if amount:
            self._buckets[second] = self._buckets.get(second, 0) + amount
            self.total += amount

    def take_back(self, second: int, amount: int) -> None:
        """Take from a bucket, unless it is gone already."""
        if second in self._buckets:
            self._buckets[second] -= amount
            self.total -= amount
            if not self._buckets[second]:
                del self._buckets[second]

    def wait_s(self, now: float, limit: int | None, amount: int) -> float:
        """Return how long until the window has room for an amount; infinite if it never will."""
        excess = self.total + amount - limit if limit is not None else 0
        if excess <= 0:
            return 0.0
        for second, count in self._buckets.items():
            excess -= count
            if excess <= 0:
                return second + _LIFE_S - now
        return math.inf

    def reset_s(self, now: float) -> float:
        """Return how long until the window is empty, if nothing more comes."""
        return max(self._buckets) + _LIFE_S - now if self._buckets else 0.0
