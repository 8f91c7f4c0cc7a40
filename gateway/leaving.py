"""Who leaves many answers before their ends waits before it begins others, while others are there.

To begin an answer and to end it early costs the machine as much as a hundred tokens do, and who
leaves at once can have begun any number: no place is taken for long. So each answer that is left is
owed for, and who owes begins only so many a second. Who leaves now and then never notices.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

import anyio

from gateway.gateway_errors import DeadlineExceeded

_ANSWERS_PER_S = 32
"""A tenant that owes begins, and others are there; a replica on two cores takes some hundreds."""
_FREE_S = 2.0
"""So many seconds' answers are left for nothing, after as long without."""
_MOST_S = 10.0
"""More than this nobody owes; and after so long, who hasn't asked isn't there any more."""
_MOST_REMEMBERED = 1024


class Leavers:
    """What tenants owe for the answers that they left."""

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._clock = clock
        self._sleep = sleep
        self._asked_s: dict[str, float] = {}  # when each tenant asked last, the latest last
        self._even_s: dict[str, float] = {}  # when each owes nothing any more
        self._lines: dict[str, asyncio.Lock] = {}

    def left(self, tenant: str, answers: int) -> None:
        """Take note of answers that a tenant's client did not wait for."""
        now_s = self._clock()
        even_s = max(self._even_s.get(tenant, 0.0), now_s - _FREE_S) + answers / _ANSWERS_PER_S
        self._even_s[tenant] = min(even_s, now_s + _MOST_S)
        for other in [each for each, even_s in self._even_s.items() if even_s <= now_s - _FREE_S]:
            del self._even_s[other]
            self._lines.pop(other, None)

    async def turn(self, tenant: str, answers: int, deadline_s: float) -> None:
        """Wait until a tenant may begin some answers.

        Args:
            tenant: Who asks.
            answers: How many.
            deadline_s: When they must be there, on the clock of `time.monotonic`.

        Raises:
            DeadlineExceeded: They can't be any more.
        """
        now_s = self._clock()
        self._asked_s.pop(tenant, None)
        self._asked_s[tenant] = now_s
        if len(self._asked_s) > _MOST_REMEMBERED:
            del self._asked_s[next(iter(self._asked_s))]
        if not self._waits(tenant):
            return
        try:
            with anyio.fail_after(deadline_s - now_s):
                async with self._lines.setdefault(tenant, asyncio.Lock()):  # one after the other
                    while self._waits(tenant):
                        await self._sleep(self._even_s[tenant] - self._clock())
                    self.left(tenant, answers)  # as it did before
        except TimeoutError:
            raise DeadlineExceeded(
                "the deadline passed while the request waited: many before it were left",
            ) from None

    def _waits(self, tenant: str) -> bool:
        """Whether a tenant owes, and somebody else is there."""
        now_s = self._clock()
        if self._even_s.get(tenant, now_s) <= now_s:
            return False
        others = (last_s for other, last_s in reversed(self._asked_s.items()) if other != tenant)
        return now_s - next(others, float("-inf")) < _MOST_S
