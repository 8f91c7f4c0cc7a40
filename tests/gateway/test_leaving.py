"""Who leaves many answers waits before it begins others, and nobody else does."""

from __future__ import annotations

import asyncio

import pytest

from gateway.gateway_errors import DeadlineExceeded
from gateway.leaving import Leavers
from tests.gateway.fakes import HANG, STREAM, FakeUpstream, serving, words
from tests.gateway.test_dispatch import come_and_go, eventually

SOON_S = 1e9


class Time:
    """A clock that goes on where somebody sleeps."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(0)
        self.now_s += seconds


@pytest.fixture
def time() -> Time:
    return Time()


@pytest.fixture
def leavers(time: Time) -> Leavers:
    return Leavers(time, time.sleep)


@pytest.mark.anyio
async def test_who_leaves_now_and_then_never_waits(leavers: Leavers, time: Time) -> None:
    await leavers.turn("other", 1, SOON_S)
    for _ in range(60):
        await leavers.turn("a", 1, SOON_S)
        leavers.left("a", 1)
    assert time.now_s == 100


@pytest.mark.anyio
async def test_who_leaves_many_begins_so_many_a_second(leavers: Leavers, time: Time) -> None:
    await leavers.turn("other", 1, SOON_S)
    leavers.left("a", 64 + 32)
    for _ in range(10):
        await leavers.turn("a", 16, SOON_S)
    # What was owed, and what each of nine asked for.
    assert time.now_s == pytest.approx(100 + 1 + 9 * 0.5)


@pytest.mark.anyio
async def test_they_pass_one_after_the_other(leavers: Leavers, time: Time) -> None:
    await leavers.turn("other", 1, SOON_S)
    leavers.left("a", 64 + 32)
    passed: list[float] = []

    async def ask() -> None:
        await leavers.turn("a", 32, SOON_S)
        passed.append(time.now_s)

    await asyncio.gather(*(ask() for _ in range(4)))
    assert passed == pytest.approx([101, 102, 103, 104])


@pytest.mark.anyio
async def test_others_dont_wait_for_it(leavers: Leavers, time: Time) -> None:
    await leavers.turn("a", 1, SOON_S)
    leavers.left("a", 1000)
    await leavers.turn("other", 128, SOON_S)
    assert time.now_s == 100


@pytest.mark.anyio
async def test_where_nobody_else_is_there_nobody_waits(leavers: Leavers, time: Time) -> None:
    await leavers.turn("other", 1, SOON_S)
    time.now_s += 11
    leavers.left("a", 1000)
    await leavers.turn("a", 1, SOON_S)
    assert time.now_s == 111


@pytest.mark.anyio
async def test_nobody_owes_for_ever(leavers: Leavers, time: Time) -> None:
    leavers.left("a", 10**6)
    await leavers.turn("other", 1, SOON_S)
    await leavers.turn("a", 1, SOON_S)
    assert time.now_s == 110
    time.now_s += 100
    leavers.left("b", 1)
    assert leavers._even_s.keys() == {"b"}
    assert not leavers._lines


@pytest.mark.anyio
async def test_the_deadline_holds_while_it_waits() -> None:
    leavers = Leavers(lambda: 100.0)
    await leavers.turn("other", 1, SOON_S)
    leavers.left("a", 1000)
    with pytest.raises(DeadlineExceeded, match="many before it were left"):
        await leavers.turn("a", 1, 100.01)


@pytest.mark.anyio
async def test_who_leaves_the_line_lets_the_next_one_pass(leavers: Leavers, time: Time) -> None:
    await leavers.turn("other", 1, SOON_S)
    leavers.left("a", 64 + 32)
    first = asyncio.create_task(leavers.turn("a", 1, SOON_S))
    second = asyncio.create_task(leavers.turn("a", 1, SOON_S))
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.wait_for(second, 30)
    assert first.cancelled() or first.done()


def test_what_a_client_leaves_is_owed_and_what_never_began_is_not() -> None:
    upstream = FakeUpstream([*words("Hello", reason=""), HANG])
    with serving(upstream) as gateway:
        leavers = gateway.app.state.gateway.leavers
        come_and_go(gateway, {**STREAM, "n": 16}, lambda: upstream.running)
        eventually(lambda: leavers._even_s)
        owed_s = leavers._even_s["local"]
        upstream.script = words("Hello")
        assert gateway.post("/v1/chat/completions", STREAM).status_code == 200
        assert leavers._even_s == {"local": owed_s}
        gateway.post("/v1/chat/completions", {**STREAM, "model": "unknown"})
        assert leavers._even_s == {"local": owed_s}


def test_who_owes_waits_before_anything_of_a_request_is_begun() -> None:
    with serving() as gateway:
        leavers = gateway.app.state.gateway.leavers
        turns: list[tuple[str, int]] = []

        async def turn(tenant: str, answers: int, deadline_s: float) -> None:
            turns.append((tenant, answers))
            raise DeadlineExceeded("not now")

        leavers.turn = turn
        assert gateway.post("/v1/chat/completions", {**STREAM, "n": 3}).status_code == 504
        assert turns == [("local", 3)]
        assert not gateway.app.state.gateway.dispatcher.admission._held
