"""What is read is parsed a little at a time, and one connection after the other."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

import pytest

from gateway.api.parts import Line, Parts

pytestmark = pytest.mark.anyio

KB = 1 << 10


@dataclass
class Clock:
    """Goes on when something is parsed."""

    now_s: float = 0.0

    def __call__(self) -> float:
        return self.now_s


@dataclass
class Connection:
    """Notes what it parses in a log that it shares."""

    name: str
    clock: Clock
    log: list[tuple[str, int]]
    cost_s: float = 0.001
    fails: bool = False
    seen: bytes = b""
    ended: list[str] = field(default_factory=list)

    def parse(self, data: bytes) -> None:
        if self.fails:
            raise ZeroDivisionError
        self.clock.now_s += self.cost_s
        self.seen += data
        self.log.append((self.name, len(data)))

    def read_on(self) -> None:
        self.ended.append("read on")

    def give_up(self) -> None:
        self.ended.append("given up")


async def test_connections_take_turns_and_each_sees_all_in_order() -> None:
    clock, log = Clock(), list[tuple[str, int]]()
    line = Line(clock)
    first, second = (Connection(name, clock, log) for name in "ab")
    sent = bytes(range(256)) * 4
    Parts(line, first).add(sent)
    parts = Parts(line, second)
    parts.add(sent[:300])
    parts.add(sent[300:])
    turns = 0
    while len(first.seen) + len(second.seen) < 2 * len(sent):
        before = len(log)
        await asyncio.sleep(0)
        assert len(log) <= before + 1, "a part that takes long is a turn's only one"
        turns += 1
        assert turns < 100
    assert (first.seen, second.seen) == (sent, sent)
    assert [name for name, _ in log[:8]] == ["a", "b"] * 4
    assert (first.ended, second.ended) == (["read on"], ["read on"])


async def test_parts_grow_while_they_are_quick() -> None:
    clock, log = Clock(), list[tuple[str, int]]()
    connection = Connection("a", clock, log, cost_s=0.00001)
    Parts(Line(clock), connection).add(b"x" * 64 * KB)
    while not connection.ended:
        await asyncio.sleep(0)
    assert log[0] == ("a", 256)
    assert log[-2] == ("a", 4 * KB)


async def test_one_that_cannot_be_parsed_ends_and_the_others_go_on() -> None:
    clock, log = Clock(), list[tuple[str, int]]()
    line = Line(clock)
    broken, other = Connection("a", clock, log, fails=True), Connection("b", clock, log)
    Parts(line, broken).add(b"x" * KB)
    Parts(line, other).add(b"x" * KB)
    for _ in range(10):
        await asyncio.sleep(0)
    assert broken.ended[0] == "given up"
    assert other.seen == b"x" * KB


async def test_what_is_forgotten_is_not_parsed_and_what_comes_later_is() -> None:
    clock, log = Clock(), list[tuple[str, int]]()
    connection = Connection("a", clock, log)
    parts = Parts(Line(clock), connection)
    parts.add(b"x" * KB)
    parts.clear()
    parts.add(b"y")
    for _ in range(3):
        await asyncio.sleep(0)
    assert connection.seen == b"y"
