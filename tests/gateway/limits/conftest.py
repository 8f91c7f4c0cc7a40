from __future__ import annotations

import itertools
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from gateway.interfaces import Principal
from gateway.limits.account import Store
from gateway.limits.in_memory import MemoryStore
from gateway.limits.limit import Limits
from gateway.limits.limiter import TenantLimiter
from gateway.limits.redis import RedisStore, connect

PRINCIPAL = Principal(
    tenant="acme",
    application="chat",
    key_id="k1",
    tenant_class="standard",
    models=None,
    policy=None,
    fallback_allowed=False,
    data_residency=None,
)

_prefixes = (f"test-{number}" for number in itertools.count())


class Clock:
    """Stands until it is moved."""

    def __init__(self, now: float = 1_800_000_000.25) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture(params=["memory", "redis"])
async def build(request, clock):
    """Builds stores of one kind, on a clock that stands."""
    built: list[Store] = []
    prefix = next(_prefixes)

    def build(**options: Any) -> Store:
        if request.param == "memory":
            built.append(MemoryStore(clock=clock, monotonic=clock, **options))
        else:
            client = connect(f"redis://127.0.0.1:{request.getfixturevalue('redis').port}", 10)
            built.append(
                RedisStore(client, prefix=prefix, clock=clock, server_clock=clock, **options)
            )
        return built[-1]

    yield build
    for store in built:
        await store.close()


@pytest.fixture
def store(build):
    return build()


@pytest.fixture
def limiter(store) -> Callable[..., TenantLimiter]:
    """Builds limiters that share the store."""

    def build(tenant: Limits | None = None, key: Limits | None = None) -> TenantLimiter:
        return TenantLimiter(store, limits_are(tenant or Limits(), key or Limits()))

    return build


def limits_are(
    tenant: Limits, key: Limits
) -> Callable[[Principal], Awaitable[tuple[Limits, Limits]]]:
    async def limits(_: Principal) -> tuple[Limits, Limits]:
        return tenant, key

    return limits
