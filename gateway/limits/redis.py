"""Limits counted in Redis (or Valkey), which several gateway processes share.

Each look and change is one script, so nothing comes between them, and the clock of the minutes is
the server's own. All keys of a tenant lie in one slot of a cluster.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialBackoff
from redis.exceptions import RedisError

from gateway.gateway_errors import LimitsUnavailable
from gateway.limits.account import Account, Count, Grant, Period, Spent, nothing_spent

_CONNECTIONS = 32
_DAY_S = 86_400
_MONTH_S = 31 * _DAY_S
_SCRIPTS = Path(__file__).parent


def connect(url: str, timeout_s: float) -> Redis:
    """Return a client whose requests wait for a connection rather than fail for want of one.

    Args:
        url: ``redis://``, ``rediss://`` or ``unix://``.
        timeout_s: How long to wait for a connection, and for an answer. A request whose answer was
            lost is sent again, which the scripts allow.
    """
    pool: BlockingConnectionPool = BlockingConnectionPool.from_url(
        url,
        max_connections=_CONNECTIONS,
        timeout=timeout_s,
        socket_timeout=timeout_s,
        socket_connect_timeout=timeout_s,
        retry=Retry(ExponentialBackoff(cap=0.1, base=0.01), retries=2),
    )
    return Redis.from_pool(pool)


class RedisStore:
    """Counts in Redis.

    A running request is a lease that is renewed while this process lives, so those of a killed
    process stop counting as running. What they may have cost stays counted in full: how much of it
    they used nobody knows.
    """

    def __init__(
        self,
        client: Redis,
        *,
        prefix: str = "trireme",
        lease_s: float = 30,
        spent: Spent = nothing_spent,
        clock: Callable[[], float] = time.time,
        server_clock: Callable[[], float] | None = None,
    ) -> None:
        """Use a Redis that others may use as well.

        Args:
            client: The server.
            prefix: Begins the name of every key.
            lease_s: How long a killed process's requests count as running.
            spent: Tells what was spent of a day and a month that Redis knows nothing of.
            clock: Seconds since the epoch, for days and months.
            server_clock: The same for minutes; None is the server's own.
        """
        self._client = client
        self._prefix = prefix
        self._lease_s = lease_s
        self._spent = spent
        self._clock = clock
        self._server_clock = server_clock
        self._acquire = client.register_script((_SCRIPTS / "acquire.lua").read_text())
        self._settle = client.register_script((_SCRIPTS / "settle.lua").read_text())
        self._renew = client.register_script((_SCRIPTS / "renew.lua").read_text())
        self._running: dict[str, list[str]] = {}
        self._renewing: asyncio.Task[None] | None = None

    async def acquire(self, lease: str, account: Account, tokens: int) -> Grant:
        """Count a request and its tokens, or nothing where a limit has no room.

        Raises:
            LimitsUnavailable: Redis doesn't answer.
        """
        arguments: list[Any] = [self._now_ms(), lease, self._lease_ms, tokens]
        for holder in account.holders:  # their fields in the order that the script has them
            arguments += [-1 if each is None else each for _, each in holder.limits]
        while True:
            period = Period.at(self._clock())
            keys = self._keys(account, period)
            try:
                reply = await self._acquire(keys=keys, args=arguments)
                if reply[0] in (b"unknown", "unknown"):
                    await self._begin(account, period)
                    continue
            except RedisError as error:
                raise LimitsUnavailable(
                    "what is left of your limits can't be told now; try again in a moment"
                ) from error
            break
        granted, second, *numbers = (int(each) for each in reply)
        if granted:
            self._running[lease] = keys[2::5]
            self._keep_renewing()
        width = len(Count._fields)
        counts = tuple(_count(numbers[i : i + width]) for i in range(0, len(numbers), width))
        return Grant(bool(granted), counts, period, second)

    async def settle(self, lease: str, account: Account, grant: Grant, refund: int) -> None:
        """End a request that was granted, and give back tokens that it did not use.

        Where Redis doesn't answer, the lease runs out by itself and nothing is given back.
        """
        self._running.pop(lease, None)
        with contextlib.suppress(RedisError):
            await self._settle(
                keys=self._keys(account, grant.period), args=[lease, grant.second, refund]
            )

    async def close(self) -> None:
        """End the renewals and the connections."""
        if self._renewing is not None:
            self._renewing.cancel()
            await asyncio.wait([self._renewing])
        await self._client.aclose()

    async def _begin(self, account: Account, period: Period) -> None:
        """Tell Redis what was spent of a day and a month, unless somebody else just has."""
        keys = self._keys(account, period)
        async with self._client.pipeline(transaction=True) as pipeline:
            for number, (day, month) in enumerate(await self._spent(account, period)):
                # Kept a little longer, for requests that end after the day does.
                pipeline.set(keys[number * 5 + 3], day, nx=True, ex=2 * _DAY_S)
                pipeline.set(keys[number * 5 + 4], month, nx=True, ex=_MONTH_S + _DAY_S)
            await pipeline.execute()

    def _keys(self, account: Account, period: Period) -> list[str]:
        keys: list[str] = []
        for holder in account.holders:
            # The braces make it one slot.
            base = f"{self._prefix}:{{{account.tenant}}}:{holder.name}"
            keys += [f"{base}:requests", f"{base}:tokens", f"{base}:running"]
            keys += [f"{base}:{period.day}", f"{base}:{period.month}"]
        return keys

    def _keep_renewing(self) -> None:
        if self._renewing is None or self._renewing.done():
            self._renewing = asyncio.create_task(self._renew_leases())

    async def _renew_leases(self) -> None:
        while self._running:
            await asyncio.sleep(self._lease_s / 3)
            leases = list(self._running.items())
            for start in range(0, len(leases), 500):
                with contextlib.suppress(RedisError):  # the next round tries again
                    async with self._client.pipeline(transaction=False) as pipeline:
                        for lease, keys in leases[start : start + 500]:
                            await self._renew(
                                keys=keys,
                                args=[self._now_ms(), lease, self._lease_ms],
                                client=pipeline,
                            )
                        await pipeline.execute()

    @property
    def _lease_ms(self) -> int:
        return int(self._lease_s * 1000)

    def _now_ms(self) -> int:
        return 0 if self._server_clock is None else int(self._server_clock() * 1000)


def _count(numbers: list[int]) -> Count:
    requests, wait, reset, tokens, tokens_wait, tokens_reset, running, day, month = numbers
    return Count(
        requests=requests,
        requests_wait_s=_seconds(wait),
        requests_reset_s=_seconds(reset),
        tokens=tokens,
        tokens_wait_s=_seconds(tokens_wait),
        tokens_reset_s=_seconds(tokens_reset),
        running=running,
        day=day,
        month=month,
    )


def _seconds(milliseconds: int) -> float:
    return float("inf") if milliseconds < 0 else milliseconds / 1000
