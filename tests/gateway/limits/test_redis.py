"""What several processes share: the same counts as in memory, exact, and true after a crash."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, given, settings

from gateway.gateway_errors import LimitExceeded, LimitsUnavailable
from gateway.limits.account import Account, Grant, Holder, Period, Store, lease_of
from gateway.limits.in_memory import MemoryStore
from gateway.limits.limit import Limits
from gateway.limits.limiter import TenantLimiter
from gateway.limits.redis import RedisStore, connect
from tests.examples import examples
from tests.gateway.limits.conftest import PRINCIPAL, Clock, limits_are
from tests.gateway.servers import Server, redis_server

pytestmark = pytest.mark.anyio

maybe = st.none() | st.integers(1, 40)
limits = st.builds(
    Limits,
    requests_per_minute=maybe,
    tokens_per_minute=maybe,
    concurrent_requests=st.none() | st.integers(1, 4),
    tokens_per_day=st.none() | st.integers(1, 90),
    tokens_per_month=st.none() | st.integers(1, 150),
)
moves = st.one_of(
    st.tuples(st.just("ask"), st.integers(0, 1), st.integers(0, 30)),
    st.tuples(st.just("settle"), st.integers(0, 10), st.integers(-5, 30)),
    st.tuples(st.just("wait"), st.sampled_from([1, 700, 1000, 20_000, 43_200_000]), st.just(0)),
)


def url(server: Server) -> str:
    return f"redis://127.0.0.1:{server.port}"


@given(limits, limits, st.lists(moves, max_size=40))
@settings(max_examples=examples(60), suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_redis_and_memory_say_the_same(redis, tenant, key, moves):
    async def play() -> None:
        clock = Clock(1_800_000_000.0)
        client = connect(url(redis), 10)
        await client.flushall()
        stores: list[Store] = [
            MemoryStore(clock=clock, monotonic=clock),
            RedisStore(client, lease_s=10**8, clock=clock, server_clock=clock),
        ]
        accounts = [
            Account("acme", name, (Holder("tenant", tenant), Holder(f"key:{name}", key)))
            for name in ("k0", "k1")
        ]
        running: list[tuple[str, Account, list[Grant]]] = []
        for number, (move, which, amount) in enumerate(moves):
            if move == "wait":
                clock.now = round(clock.now + which / 1000, 3)
            elif move == "ask":
                lease = lease_of(f"lease-{number}", 1 + amount % 3)
                account = accounts[which]
                grants = [await store.acquire(lease, account, amount) for store in stores]
                assert grants[0].granted == grants[1].granted
                for ours, theirs in zip(grants[0].counts, grants[1].counts, strict=True):
                    assert ours == pytest.approx(theirs, abs=0.0011)
                if grants[0].granted:
                    running.append((lease, account, grants))
            elif running:
                lease, account, grants = running.pop(which % len(running))
                for store, grant in zip(stores, grants, strict=True):
                    await store.settle(lease, account, grant, amount)
        for store in stores:
            await store.close()

    asyncio.run(play())


ASK = """
import asyncio, sys
from gateway.gateway_errors import LimitExceeded
from gateway.limits.limiter import TenantLimiter
from gateway.limits.limit import Limits
from gateway.limits.redis import RedisStore, connect
from tests.gateway.limits.conftest import PRINCIPAL, limits_are

async def main():
    store = RedisStore(connect(sys.argv[1], 30), prefix=sys.argv[2], lease_s=1)
    limiter = TenantLimiter(
        store, limits_are(Limits(tokens_per_day=5000), Limits(concurrent_requests=10**6))
    )
    granted = 0
    async def ask():
        nonlocal granted
        for _ in range(25):
            try:
                reservation = await limiter.reserve(PRINCIPAL, "m", 3, 17)
            except LimitExceeded:
                continue
            granted += 1
            await asyncio.sleep(0)
            await reservation.settle(3, 17)
    await asyncio.gather(*(ask() for _ in range(20)))
    print(granted)
    await store.close()

asyncio.run(main())
"""


async def test_processes_together_spend_a_quota_to_the_token(redis):
    # 4 processes of 20 tasks try 2,000 requests of 20 tokens, and 5,000 tokens are there.
    command = [sys.executable, "-c", ASK, url(redis), "processes"]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    granted = [int(process.communicate(timeout=100)[0]) for process in processes]
    assert sum(granted) == 250
    client = connect(url(redis), 10)
    base = "processes:{acme}:tenant"
    today = Period.at(time.time())
    assert await client.get(f"{base}:{today.day}") == b"5000"
    assert await client.get(f"{base}:{today.month}") == b"5000"
    assert await client.zcard(f"{base}:running") == 0
    await client.aclose()


LEASE_S = 5

HOLD = f"""
LEASE_S = {LEASE_S}"""
HOLD += """
import asyncio, sys
from gateway.limits.limiter import TenantLimiter
from gateway.limits.limit import Limits
from gateway.limits.redis import RedisStore, connect
from tests.gateway.limits.conftest import PRINCIPAL, limits_are

async def main():
    store = RedisStore(connect(sys.argv[1], 30), prefix=sys.argv[2], lease_s=LEASE_S)
    limiter = TenantLimiter(store, limits_are(Limits(concurrent_requests=3), Limits()))
    for _ in range(3):
        await limiter.reserve(PRINCIPAL, "m", 1, 1)
    print("held", flush=True)
    await asyncio.sleep(1000)

asyncio.run(main())
"""


async def until(condition: Callable[[], Awaitable[object]], error: type[Exception]) -> None:
    end = time.monotonic() + 30
    while True:
        try:
            await condition()
            return
        except error:
            if time.monotonic() > end:
                raise
            await asyncio.sleep(0.05)


@pytest.mark.slow
async def test_a_killed_processes_requests_stop_running_and_a_living_ones_do_not(redis):
    command = [sys.executable, "-c", HOLD, url(redis), "leases"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    client = connect(url(redis), 10)
    store = RedisStore(client, prefix="leases", lease_s=LEASE_S)
    limiter = TenantLimiter(store, limits_are(Limits(concurrent_requests=3), Limits()))
    try:
        assert process.stdout.readline() == "held\n"
        leases = "leases:{acme}:tenant:running"

        async def ends_ms() -> list[float]:
            found: Any = await client.zrange(leases, 0, -1, withscores=True)
            return [end_ms for _, end_ms in found]

        first_ms = max(await ends_ms())

        async def renewed() -> None:
            assert min(await ends_ms()) > first_ms

        await until(renewed, AssertionError)
        with pytest.raises(LimitExceeded):
            await limiter.reserve(PRINCIPAL, "m", 1, 1)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
    await until(lambda: limiter.reserve(PRINCIPAL, "m", 1, 1), LimitExceeded)
    await store.close()


async def test_an_acquire_whose_answer_was_lost_counts_once(redis):
    store = RedisStore(connect(url(redis), 10), prefix="lost")
    holders = (Holder("tenant", Limits(tokens_per_minute=10)), Holder("key:k", Limits()))
    account = Account("acme", "k", holders)
    first = await store.acquire("lease", account, 10)
    again = await store.acquire("lease", account, 10)
    assert (first.granted, again.granted, again.counts[0].tokens) == (True, True, 10)
    assert (again.second, again.counts[0].running) == (first.second, 1)
    await store.close()


async def test_without_redis_requests_are_refused_or_pass_as_set_and_go_on_after(tmp_path):
    async def spent(account, period):
        return [(990, 990), (0, 0)]

    with redis_server() as server:
        store = RedisStore(connect(url(server), 10), spent=spent)
        source = limits_are(Limits(tokens_per_day=1000), Limits())
        strict = TenantLimiter(store, source)
        lenient = TenantLimiter(store, source, allow_when_unavailable=True)
        reservation = await strict.reserve(PRINCIPAL, "m", 1, 9)
        server.stop(signal.SIGKILL)
        with pytest.raises(LimitsUnavailable):
            await strict.reserve(PRINCIPAL, "m", 1, 1)
        passed = await lenient.reserve(PRINCIPAL, "m", 1, 1)
        await passed.settle(1, 1)
        await reservation.settle(1, 4)
        server.start()  # empty: the scripts, the leases and the counts are gone
        await until(lambda: strict.reserve(PRINCIPAL, "m", 1, 9), LimitsUnavailable)
        with pytest.raises(LimitExceeded):
            await strict.reserve(PRINCIPAL, "m", 0, 1)
        await store.close()
