"""What is counted, for whom, and how much of it there was."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import NamedTuple, Protocol

from gateway.limits.limit import Limits

WINDOW_S = 60
"""The minute of `requests_per_minute` and `tokens_per_minute`."""


@dataclass(frozen=True)
class Holder:
    """One to whom limits apply: a tenant, or one of its keys.

    Attributes:
        name: ``tenant``, or ``key:`` and the key's id.
        limits: The limits.
    """

    name: str
    limits: Limits


@dataclass(frozen=True)
class Account:
    """Those whose limits one request counts against.

    Attributes:
        tenant: Who pays.
        key_id: Which credential asked.
        holders: The tenant and the key.
    """

    tenant: str
    key_id: str
    holders: tuple[Holder, Holder]


class Count(NamedTuple):
    """What a holder has used, all in this very moment.

    Attributes:
        requests: Requests in the last minute.
        requests_wait_s: Until the minute has room for the request that was asked for; 0 where it
            has.
        requests_reset_s: Until the minute is empty.
        tokens: Tokens in the last minute.
        tokens_wait_s: Until it has room for the request's tokens.
        tokens_reset_s: Until it is empty.
        running: Answers that are made: a request may make several.
        day: Tokens of the day.
        month: Tokens of the month.
    """

    requests: int
    requests_wait_s: float
    requests_reset_s: float
    tokens: int
    tokens_wait_s: float
    tokens_reset_s: float
    running: int
    day: int
    month: int


@dataclass(frozen=True)
class Period:
    """The day and the month, both UTC, that a moment lies in.

    Attributes:
        day: ``YYYY-MM-DD``.
        month: ``YYYY-MM``.
        day_rest_s: Until the day ends.
        month_rest_s: Until the month ends.
    """

    day: str
    month: str
    day_rest_s: float
    month_rest_s: float

    @classmethod
    def at(cls, now: float) -> Period:
        """The period of a moment, in seconds since the epoch."""
        moment = datetime.fromtimestamp(now, timezone.utc)
        midnight = moment.replace(hour=0, minute=0, second=0, microsecond=0)
        next_month = (midnight.replace(day=1) + timedelta(days=32)).replace(day=1)
        return cls(
            day=moment.strftime("%Y-%m-%d"),
            month=moment.strftime("%Y-%m"),
            day_rest_s=(midnight + timedelta(days=1) - moment).total_seconds(),
            month_rest_s=(next_month - moment).total_seconds(),
        )


RETRY_S = 1.0
"""When to try again where too many requests run: nobody knows when one of them ends."""


def lease_of(name: str, answers: int) -> str:
    """Name a request so that its lease tells how many answers it makes at a time."""
    return f"{name}*{answers}"


def answers_of(lease: str) -> int:
    """How many answers a lease counts as; 1 where its name doesn't tell."""
    _, star, answers = lease.rpartition("*")
    return int(answers) if star else 1


def shortages(
    limits: Limits, count: Count, period: Period, tokens: int, answers: int = 1
) -> dict[str, float]:
    """Return each limit that has no room for one more request, and when it may have, in seconds.

    Args:
        limits: A holder's limits.
        count: What it has used without the request, waits reckoned with the limits and `tokens`.
        period: The day and month.
        tokens: What the request may cost.
        answers: How many it makes at a time.
    """
    found: dict[str, float] = {}
    if count.requests_wait_s:
        found["requests_per_minute"] = count.requests_wait_s
    if count.tokens_wait_s:
        found["tokens_per_minute"] = count.tokens_wait_s
    concurrent = limits.concurrent_requests
    if concurrent is not None and count.running + answers > concurrent:
        found["concurrent_requests"] = RETRY_S
    if limits.tokens_per_day is not None and count.day + tokens > limits.tokens_per_day:
        found["tokens_per_day"] = period.day_rest_s
    if limits.tokens_per_month is not None and count.month + tokens > limits.tokens_per_month:
        found["tokens_per_month"] = period.month_rest_s
    return found


@dataclass(frozen=True)
class Grant:
    """What a store says to a request.

    Attributes:
        granted: Whether every limit of every holder had room; if not, nothing was counted.
        counts: What the holders have used, the request included where it was granted.
        period: The day and month that it counts in.
        second: The second of the minute's window that it counts in, by the store's clock.
    """

    granted: bool
    counts: tuple[Count, ...]
    period: Period
    second: int


Spent = Callable[[Account, Period], Awaitable[Sequence[tuple[int, int]]]]
"""Gets the tokens of the day and the month for each holder, for a store that knows nothing yet."""


async def nothing_spent(account: Account, period: Period) -> Sequence[tuple[int, int]]:
    """A `Spent` without a record of usage."""
    return [(0, 0)] * len(account.holders)


class Store(Protocol):
    """Counts requests and tokens, exactly, whatever happens at the same time."""

    async def acquire(self, lease: str, account: Account, tokens: int) -> Grant:
        """Count a request and its tokens, or nothing where a limit has no room.

        Args:
            lease: Names the request, and its answers: see `lease_of`.
            account: Who asks.
            tokens: The most that it may cost.

        Raises:
            LimitsUnavailable: That can't be told now.
        """

    async def settle(self, lease: str, account: Account, grant: Grant, refund: int) -> None:
        """End a request that was granted, and give back tokens that it did not use."""

    async def close(self) -> None:
        """Let go of what the store holds open."""
