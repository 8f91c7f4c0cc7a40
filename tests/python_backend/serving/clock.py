"""Time that passes when a test says so, and the wait for what other threads do."""

from __future__ import annotations

import time
from collections.abc import Callable


class Clock:
    """Seconds on a clock that only the test moves.

    Attributes:
        now_s: What time it is.
    """

    def __init__(self, now_s: float = 100.0) -> None:
        self.now_s = now_s

    def __call__(self) -> float:
        return self.now_s


def wait_for(holds: Callable[[], object], most_s: float = 60) -> None:
    """Wait until something holds, in real time."""
    until_s = time.monotonic() + most_s
    while not holds():
        assert time.monotonic() < until_s, "it does not come"
        time.sleep(0.002)
