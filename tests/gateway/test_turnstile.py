"""Who sends many requests at once holds up itself, and neither the loop nor others."""

from __future__ import annotations

import asyncio

import pytest

from gateway.turnstile import Turnstile

pytestmark = pytest.mark.anyio


async def rounds(turnstile: Turnstile, *keys: str) -> tuple[list[asyncio.Task[None]], list[str]]:
    """A request of each key, and the order in which they pass."""
    passed: list[str] = []

    async def one(key: str) -> None:
        await turnstile.turn(key)
        passed.append(key)

    return [asyncio.create_task(one(key)) for key in keys], passed


async def test_few_pass_in_one_round_of_the_loop():
    tasks, passed = await rounds(Turnstile(), *["a"] * 40)
    before, most = 0, 0
    while not all(task.done() for task in tasks):
        await asyncio.sleep(0)
        most, before = max(most, len(passed) - before), len(passed)
    assert most == 4


async def test_keys_take_turns():
    turnstile = Turnstile()
    turnstile.know("a")
    turnstile.know("b")
    tasks, passed = await rounds(turnstile, *["a"] * 40, "b")
    await asyncio.gather(*tasks)
    assert passed.index("b") <= 4 + 4
    assert passed.count("a") == 40


async def test_made_up_keys_stand_in_one_line():
    turnstile = Turnstile()
    turnstile.know("good")
    tasks, passed = await rounds(turnstile, *map(str, range(400)), "good", "another")
    await asyncio.gather(*tasks)
    assert passed.index("good") <= 4 + 4
    assert passed.index("another") == 401  # until it has been found to be good


async def test_keys_are_forgotten():
    turnstile = Turnstile()
    for key in range(100_000):
        turnstile.know(str(key))
    assert len(turnstile._known) == 4096


async def test_who_leaves_takes_nobodys_turn():
    turnstile = Turnstile()
    tasks, passed = await rounds(turnstile, *["a"] * 40, *["b"] * 40)
    await asyncio.sleep(0)
    for task in tasks[:40]:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert passed.count("b") == 40
    tasks, passed = await rounds(turnstile, "c")  # and it still turns
    await asyncio.gather(*tasks)
    assert passed == ["c"]
