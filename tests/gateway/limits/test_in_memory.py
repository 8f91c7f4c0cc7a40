"""What only the counters in memory have to see to."""

from __future__ import annotations

import pytest

from gateway.limits.account import Account, Holder
from gateway.limits.in_memory import MemoryStore
from gateway.limits.limit import Limits
from tests.gateway.limits.conftest import Clock

pytestmark = pytest.mark.anyio

MONTH_S = 32 * 86_400


def account(key: str) -> Account:
    return Account("acme", key, (Holder("tenant", Limits()), Holder(f"key:{key}", Limits())))


async def test_keys_that_ask_no_more_are_forgotten_with_their_month():
    clock = Clock()
    store = MemoryStore(clock=clock, monotonic=clock)
    for number in range(100):
        key = account(f"k{number}")
        grant = await store.acquire(f"lease-{number}", key, 10)
        await store.settle(f"lease-{number}", key, grant, 0)
    running = await store.acquire("lease", account("k7"), 10)
    clock.now += 3600
    await store.acquire("another", account("k8"), 10)
    assert len(store._counters) == 101
    clock.now += MONTH_S
    grant = await store.acquire("later", account("new"), 10)
    assert sorted(name for _, name in store._counters) == ["key:k7", "key:k8", "key:new", "tenant"]
    assert grant.counts[0].running == 3  # of the tenant: nothing that runs is lost
    await store.settle("lease", account("k7"), running, 10)
    assert [count.month for count in grant.counts] == [10, 10]
