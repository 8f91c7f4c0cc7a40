"""A circuit breaker: stops asking what fails, and asks again after a while.

It is closed while all is well. So many failures in a row open it; nothing is sent then, until a
probe succeeds, or, for what isn't probed, until one request that is let through does. Each time it
waits twice as long, up to a bound (Nygard, «Release It!»). The clock is the caller's, so that a
test needs none.
"""

from __future__ import annotations

from gateway.configuration import HealthSettings


class Circuit:
    """The breaker of one upstream."""

    def __init__(self, settings: HealthSettings, *, probed: bool) -> None:
        """Start closed, or, where probes will tell, open until the first has succeeded.

        Args:
            settings: How many failures, how long.
            probed: Whether probes are sent; what is probed gets no requests while open.
        """
        self._settings = settings
        self._probed = probed
        self._failures = 0
        self._open_s = settings.open_s
        self._retry_at_s = float("-inf")
        self._last_success_s = float("-inf")
        self.closed = not probed

    def allows(self, now_s: float) -> bool:
        """Whether a request may be sent."""
        return self.closed or (not self._probed and now_s >= self._retry_at_s)

    def succeed(self, now_s: float) -> None:
        """A token came."""
        self.closed = True
        self._failures = 0
        self._open_s = self._settings.open_s
        self._last_success_s = now_s

    def succeeded_since(self, when_s: float) -> bool:
        """Whether a token came after a moment."""
        return self._last_success_s > when_s

    def fail(self, now_s: float, *, lost: bool = False) -> None:
        """A request or a probe failed for a reason that isn't its own.

        Args:
            now_s: The time.
            lost: It can't succeed any more, so one failure is enough.
        """
        self._failures += 1
        if not self.closed:
            if now_s < self._retry_at_s:
                return  # of a request that was sent before it opened
            self._retry_at_s = now_s + self._open_s
            self._open_s = min(2 * self._open_s, self._settings.max_open_s)
        elif lost or self._failures >= self._settings.failures:
            self.closed = False
            self._retry_at_s = now_s + self._open_s

    def probe_due_s(self, now_s: float) -> float:
        """Seconds until a probe is due, 0 when it is: traffic that succeeds needs none."""
        due_s = self._retry_at_s
        if self.closed:
            due_s = self._last_success_s + self._settings.interval_s
        return max(0.0, due_s - now_s)
