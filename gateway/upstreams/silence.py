"""Tells a replica that says nothing from a request that has to wait there.

A request may be put off: others are more urgent, or have had less. Its silence says nothing of its
replica as long as that has something to say to others, or to a probe.
"""

from __future__ import annotations

import asyncio
import math
import time
from types import TracebackType

import anyio
from typing_extensions import Self

from gateway.upstreams.fleet import Replica

PATIENCE = 10
"""A request may be silent so many times as long as its replica."""


class Silence:
    """Cancels a scope as soon as a replica has said nothing to anybody for too long.

    Attributes:
        is_whole: Whether that was so.
    """

    def __init__(self, replica: Replica, scope: anyio.CancelScope, limit_s: float) -> None:
        self.is_whole = False
        self._replica = replica
        self._scope = scope
        self._limit_s = limit_s
        self._since_s = time.monotonic()
        self._timer: asyncio.TimerHandle | None = None

    def limit(self, limit_s: float) -> None:
        """Have another limit from now on."""
        self._limit_s = limit_s
        self._look()

    def __enter__(self) -> Self:
        self._look()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _look(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._limit_s == math.inf:
            return
        heard_s = max(self._since_s, self._replica.heard_s)
        rest_s = heard_s + self._limit_s - time.monotonic()
        if rest_s > 0:
            self._timer = asyncio.get_running_loop().call_later(rest_s, self._look)
        else:
            self.is_whole = True
            self._scope.cancel()
