"""What is remembered for a while of what is slow to ask: each thing is loaded once, whoever asks.

`Remembered` is one value, such as a provider's keys; `Cache` is one for each key, such as tenants
by their names, so that a request costs no query and an outage no requests.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Generic, TypeVar

_PATIENCE_S = 0.25
"""How long to wait for what is fresh where there is something that is not."""

V = TypeVar("V")


class Remembered(Generic[V]):
    """A value that is loaded again when it is old.

    Where loading fails or takes long, what is remembered serves for a while longer.
    """

    def __init__(
        self,
        load: Callable[[], Awaitable[V]],
        *,
        ttl_s: float,
        stale_s: float,
        failures: type[Exception] | tuple[type[Exception], ...],
        retry_s: float = 0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Load nothing yet.

        Args:
            load: Gets the value.
            ttl_s: How long a value is used before it is loaded again.
            stale_s: How much longer where loading fails.
            failures: What `load` raises where it can't tell; anything else passes on at once.
            retry_s: Least time between the beginnings of two loads.
            clock: Seconds.
        """
        self._load = load
        self._ttl_s = ttl_s
        self._stale_s = stale_s
        self._failures = failures
        self._retry_s = retry_s
        self._clock = clock
        self._value: V | None = None
        self._loaded_at = self._tried_at = float("-inf")
        self._loading: asyncio.Future[V] | None = None

    async def get(self) -> V:
        """Return the value, loaded anew where it is old.

        Raises:
            Exception: What loading raised, where nothing young enough is remembered.
        """
        if self._age() < self._ttl_s:
            return self._value  # type: ignore[return-value]
        usable = self._age() < self._ttl_s + self._stale_s
        loading = self._renew()
        await asyncio.wait([loading], timeout=_PATIENCE_S if usable else None)
        if usable and (not loading.done() or isinstance(loading.exception(), self._failures)):
            return self._value  # type: ignore[return-value]
        return loading.result()

    async def renew(self) -> None:
        """Load the value whatever its age, unless somebody just did or tried, and wait for that."""
        await asyncio.wait([self._renew()])

    def _age(self) -> float:
        return self._clock() - self._loaded_at

    def _renew(self) -> asyncio.Future[V]:
        """The load that runs, or that ran a moment ago, or else a new one.

        It belongs to all who ask: that one of them goes away doesn't disturb the others.
        """
        loading = self._loading
        if loading is None or (loading.done() and self._clock() - self._tried_at >= self._retry_s):
            self._tried_at = self._clock()
            loading = self._loading = asyncio.ensure_future(self._take())
            # Nobody may be there any more to take note of it.
            loading.add_done_callback(lambda done: done.cancelled() or done.exception())
        return loading

    async def _take(self) -> V:
        asked_at = self._clock()
        self._value = value = await self._load()
        self._loaded_at = asked_at
        return value


class Cache(Generic[V]):
    """Remembers what a blocking function returned, the most recently used of it.

    That there is nothing (None) is not remembered: a new key works at once, and made-up ones push
    out no others.
    """

    def __init__(
        self,
        load: Callable[[str], V | None],
        *,
        ttl_s: float,
        stale_s: float,
        size: int,
        failures: type[Exception],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Make an empty cache.

        Args:
            load: Gets a value; it is called in a thread.
            ttl_s: How long a value is used before it is loaded again.
            stale_s: How much longer where loading fails.
            size: Most values to remember.
            failures: What `load` raises where it can't tell; anything else passes on at once.
            clock: Seconds.
        """
        self._load = load
        self._size = size
        self._make = partial(
            Remembered, ttl_s=ttl_s, stale_s=stale_s, failures=failures, clock=clock
        )
        self._known: OrderedDict[str, Remembered[V | None]] = OrderedDict()
        self._new: dict[str, Remembered[V | None]] = {}
        """Those that are being loaded for the first time; they may come to nothing."""

    async def get(self, key: str) -> V | None:
        """Return the value of a key; None where it has none.

        Raises:
            Exception: What `load` raised, where nothing young enough is remembered.
        """
        entry = self._known.get(key) or self._new.get(key)
        if entry is None:
            entry = self._new[key] = self._make(partial(self._take, key))
        elif key in self._known:
            self._known.move_to_end(key)
        return await entry.get()

    async def _take(self, key: str) -> V | None:
        entry = self._new.get(key)
        try:
            value = await asyncio.to_thread(self._load, key)
        finally:
            self._new.pop(key, None)
        if value is None:
            self._known.pop(key, None)
        elif entry is not None:
            self._known[key] = entry
            while len(self._known) > self._size:
                self._known.popitem(last=False)
        return value
