from __future__ import annotations

import asyncio
import threading

import pytest

from gateway.tenants.cache import Cache, Remembered

pytestmark = pytest.mark.anyio


class Source:
    def __init__(self) -> None:
        self.values = {"a": 1}
        self.loads: list[str] = []
        self.broken = False
        self.go = threading.Event()
        self.go.set()

    def load(self, key: str) -> int | None:
        self.go.wait()
        self.loads.append(key)
        if self.broken:
            raise ConnectionError
        return self.values.get(key)


@pytest.fixture
def source():
    return Source()


@pytest.fixture
def cache(source, clock):
    return Cache(source.load, ttl_s=5, stale_s=60, size=2, failures=ConnectionError, clock=clock)


async def test_a_value_is_loaded_once_until_it_is_too_old(cache, source, clock):
    assert [await cache.get("a"), await cache.get("a")] == [1, 1]
    source.values["a"] = 2
    clock.now += 4.9
    assert await cache.get("a") == 1
    clock.now += 0.1
    assert await cache.get("a") == 2
    assert source.loads == ["a", "a"]


async def test_those_who_ask_together_share_one_load(cache, source):
    source.go.clear()
    askers = [asyncio.create_task(cache.get("a")) for _ in range(10)]
    await asyncio.sleep(0)
    askers[0].cancel()
    source.go.set()
    assert await asyncio.gather(*askers[1:]) == [1] * 9
    assert source.loads == ["a"]


async def test_what_is_not_there_is_not_remembered(cache, source):
    assert await cache.get("new") is None
    source.values["new"] = 3
    assert await cache.get("new") == 3
    del source.values["a"]


async def test_what_went_away_is_forgotten(cache, source, clock):
    assert await cache.get("a") == 1
    del source.values["a"]
    clock.now += 5
    assert await cache.get("a") is None
    source.broken = True
    with pytest.raises(ConnectionError):
        await cache.get("a")


async def test_an_outage_is_bridged_for_a_while(cache, source, clock):
    assert await cache.get("a") == 1
    source.broken = True
    clock.now += 64.9
    assert await cache.get("a") == 1
    clock.now += 0.1
    with pytest.raises(ConnectionError):
        await cache.get("a")
    source.broken = False
    assert await cache.get("a") == 1


async def test_what_takes_long_is_not_waited_for(cache, source, clock, monkeypatch):
    monkeypatch.setattr("gateway.tenants.cache._PATIENCE_S", 0.05)
    assert await cache.get("a") == 1
    source.values["a"] = 2
    clock.now += 5
    source.go.clear()
    assert await cache.get("a") == 1
    source.go.set()
    while await cache.get("a") != 2:
        await asyncio.sleep(0.01)


async def test_the_least_recently_used_makes_room(cache, source):
    source.values.update(b=2, c=3)
    for key in "abac":
        await cache.get(key)
    source.loads.clear()
    for key in "ac":
        await cache.get(key)
    assert source.loads == []
    await cache.get("b")
    assert source.loads == ["b"]


async def test_a_value_is_not_asked_for_again_so_soon(clock):
    asked = []

    async def load() -> int:
        asked.append(clock.now)
        if len(asked) == 2:
            raise ConnectionError
        return len(asked)

    value = Remembered(
        load, ttl_s=60, stale_s=60, failures=ConnectionError, retry_s=10, clock=clock
    )
    assert await value.get() == 1
    await value.renew()
    assert len(asked) == 1
    clock.now += 10
    await value.renew()
    await value.renew()
    assert (await value.get(), len(asked)) == (1, 2)
    clock.now += 10
    await value.renew()
    assert (await value.get(), len(asked)) == (3, 3)
