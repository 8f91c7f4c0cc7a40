"""Limits counted in this process. They are exact for it alone: several processes need Redis."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from gateway.limits.account import (
    Account,
    Count,
    Grant,
    Holder,
    Period,
    Spent,
    answers_of,
    nothing_spent,
    shortages,
)
from gateway.limits.limit import Limits
from gateway.limits.window import Window


@dataclass
class _Counters:
    requests: Window = field(default_factory=Window)
    tokens: Window = field(default_factory=Window)
    running: set[str] = field(default_factory=set)
    asking: int = 0
    spent: dict[str, int] = field(default_factory=dict)
    """Tokens by day and by month."""

    def is_busy(self, now: float) -> bool:
        """Whether something runs or is about to, or did in the last minute."""
        self.requests.advance(now)
        self.tokens.advance(now)
        return bool(self.asking or self.running or self.requests.total or self.tokens.total)

    def count(self, now: float, period: Period, limits: Limits, tokens: int) -> Count:
        """What was used, and the waits of a request that may cost so many tokens."""
        self.requests.advance(now)
        self.tokens.advance(now)
        return Count(
            requests=self.requests.total,
            requests_wait_s=self.requests.wait_s(now, limits.requests_per_minute, 1),
            requests_reset_s=self.requests.reset_s(now),
            tokens=self.tokens.total,
            tokens_wait_s=self.tokens.wait_s(now, limits.tokens_per_minute, tokens),
            tokens_reset_s=self.tokens.reset_s(now),
            running=sum(map(answers_of, self.running)),
            day=self.spent[period.day],
            month=self.spent[period.month],
        )


class MemoryStore:
    """Counts in memory.

    Between the look at the counters and their change nothing else runs in the event loop; that is
    what makes it exact.
    """

    def __init__(
        self,
        spent: Spent = nothing_spent,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """Begin with what was spent before this process was there.

        Args:
            spent: Tells it.
            clock: Seconds since the epoch, for days and months.
            monotonic: Seconds that never go back, for minutes.
        """
        self._spent = spent
        self._clock = clock
        self._monotonic = monotonic
        self._counters: dict[tuple[str, str], _Counters] = {}
        self._month = ""

    async def acquire(self, lease: str, account: Account, tokens: int) -> Grant:
        """Count a request and its tokens, or nothing where a limit has no room."""
        self._forget()
        limits = [holder.limits for holder in account.holders]
        counters = [self._of(account, holder) for holder in account.holders]
        for each in counters:
            each.asking += 1
        try:
            period = await self._begin(account, counters)
        finally:
            for each in counters:
                each.asking -= 1
        now = self._monotonic()
        counts = [
            each.count(now, period, own, tokens) for each, own in zip(counters, limits, strict=True)
        ]
        granted = not any(
            shortages(own, count, period, tokens, answers_of(lease))
            for own, count in zip(limits, counts, strict=True)
        )
        second = int(now)
        if granted:
            for each in counters:
                each.requests.add(second, 1)
                each.tokens.add(second, tokens)
                each.running.add(lease)
                each.spent[period.day] += tokens
                each.spent[period.month] += tokens
            counts = [each.count(now, period, Limits(), 0) for each in counters]
        return Grant(granted, tuple(counts), period, second)

    async def _begin(self, account: Account, counters: Sequence[_Counters]) -> Period:
        """Return the day and the month that it is, in which all counters now have begun."""
        while True:
            period = Period.at(self._clock())
            if all(period.day in each.spent and period.month in each.spent for each in counters):
                return period
            before = await self._spent(account, period)
            for each, (day, month) in zip(counters, before, strict=True):
                # Somebody else may have begun meanwhile, and counted. What was before is over.
                each.spent = {
                    period.day: each.spent.get(period.day, day),
                    period.month: each.spent.get(period.month, month),
                }

    def _forget(self) -> None:
        """Once a month, keep nothing of keys that ask no more: what they spent is over."""
        month = Period.at(self._clock()).month
        if month != self._month:
            self._month, now = month, self._monotonic()
            kept = self._counters.items()
            self._counters = {key: each for key, each in kept if each.is_busy(now)}

    async def settle(self, lease: str, account: Account, grant: Grant, refund: int) -> None:
        """End a request that was granted, and give back tokens that it did not use."""
        for holder in account.holders:
            counters = self._of(account, holder)
            if lease not in counters.running:
                continue
            counters.running.remove(lease)
            counters.tokens.take_back(grant.second, refund)
            for period in (grant.period.day, grant.period.month):
                if period in counters.spent:
                    counters.spent[period] -= refund

    async def close(self) -> None:
        """Nothing is held open."""

    def _of(self, account: Account, holder: Holder) -> _Counters:
        return self._counters.setdefault((account.tenant, holder.name), _Counters())
