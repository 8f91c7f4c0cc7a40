"""How often streams are written to, in all."""

from __future__ import annotations


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
