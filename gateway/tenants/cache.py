"""A small cache before the database, so that a request costs no query and an outage no requests."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

_PATIENCE_S = 0.25
"""How long to wait for what is fresh where there is something that is not."""

V = TypeVar("V")


@dataclass(frozen=True)
class _Entry(Generic[V]):
    value: V
    loaded_at: float


class Cache(Generic[V]):
    """Remembers what a blocking function returned, the most recently used of it.

    Each key is loaded once, whoever asks meanwhile. Where loading fails or takes long, what is
    remembered serves for a while longer. That there is nothing (None) is not remembered: a new key
    works at once, and made-up ones push out no others.
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
            stale_s: How old it may get where loading fails.
            size: Most values to remember.
            failures: What `load` raises where it can't tell; anything else passes on at once.
            clock: Seconds.
        """
        self._load = load
        self._ttl_s = ttl_s
        self._stale_s = stale_s
        self._size = size
        self._failures = failures
        self._clock = clock
        self._entries: OrderedDict[str, _Entry[V]] = OrderedDict()
        self._loading: dict[str, asyncio.Future[V | None]] = {}

    async def get(self, key: str) -> V | None:
        """Return the value of a key; None where it has none.

        Raises:
            Exception: What `load` raised, where nothing young enough is remembered.
        """
        entry = self._entries.get(key)
        if entry is not None and self._clock() - entry.loaded_at < self._ttl_s:
            self._entries.move_to_end(key)
            return entry.value
        # One loads for all who ask; that one of them goes away doesn't disturb the others.
        loading = self._loading.get(key)
        if loading is None:
            loading = self._loading[key] = asyncio.ensure_future(self._refresh(key))
            loading.add_done_callback(lambda done: self._loaded(key, done))
        usable = entry is not None and self._clock() - entry.loaded_at < self._ttl_s + self._stale_s
        await asyncio.wait([loading], timeout=_PATIENCE_S if usable else None)
        if usable and entry is not None and (not loading.done() or self._failed(loading)):
            return entry.value
        return loading.result()

    def _failed(self, loading: asyncio.Future[V | None]) -> bool:
        return isinstance(loading.exception(), self._failures)

    def _loaded(self, key: str, loading: asyncio.Future[V | None]) -> None:
        del self._loading[key]
        loading.exception()  # nobody may be there any more to take note of it

    async def _refresh(self, key: str) -> V | None:
        asked_at = self._clock()
        value = await asyncio.to_thread(self._load, key)
        if value is None:
            self._entries.pop(key, None)
            return None
        self._entries[key] = _Entry(value, asked_at)
        self._entries.move_to_end(key)
        while len(self._entries) > self._size:
            self._entries.popitem(last=False)
        return value
