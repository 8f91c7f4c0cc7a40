"""Pacing: never more than the rate allows, no wait where it allows more, no wait at either end."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from python_backend.serving.pacing import Outbox, Pacer
from tests.python_backend.serving.clock import Clock


def test_a_burst_then_the_rate() -> None:
    pacer, sent_s, now_s = Pacer(per_s=4, burst=3), list[float](), 100.0
    while len(sent_s) < 6:
        now_s += pacer.wait_s(now_s)
        pacer.spend(now_s)
        sent_s.append(now_s)
    assert sent_s == [100, 100, 100, 100.25, 100.5, 100.75]


def test_silence_earns_a_burst_and_no_more() -> None:
    pacer = Pacer(per_s=10, burst=2)
    for _ in range(2):
        pacer.spend(0)
    assert pacer.wait_s(0) > 0
    pacer.spend(50)
    assert pacer.wait_s(50) == 0
    pacer.spend(50)
    assert pacer.wait_s(50) > 0


@given(
    per_s=st.integers(1, 1000),
    burst=st.integers(1, 20),
    pauses_s=st.lists(st.floats(0, 0.1), min_size=1, max_size=200),
)
def test_no_second_sees_more_than_the_rate_and_a_burst(
    per_s: int, burst: int, pauses_s: list[float]
) -> None:
    pacer, now_s, sent_s = Pacer(per_s, burst), 0.0, []
    for pause_s in pauses_s:
        now_s += pause_s
        now_s += pacer.wait_s(now_s)
        pacer.spend(now_s)
        sent_s.append(now_s)
    for first, start_s in enumerate(sent_s):
        within = sum(start_s <= each <= start_s + 1 for each in sent_s[first:])
        assert within <= per_s + burst + 1


@dataclass
class Stream:
    """A stream that has something to tell."""

    log: list[str]
    name: str
    share: str = "somebody"
    is_urgent: bool = False
    cost: float = 1.0

    def send_news(self) -> None:
        self.log.append(self.name)


def run(outbox: Outbox) -> None:
    for job in outbox:
        job()


def sent(outbox: Outbox, count: int, clock: Clock) -> list[float]:
    """When each of so many jobs was done; where none is due, the clock goes on to it."""
    times, jobs = [], iter(outbox)
    for _ in range(count):
        part = outbox._next()
        assert part is not None
        clock.now_s += part.pacer.wait_s(clock())
        next(jobs)()
        times.append(clock())
    return times


def take_in(outbox: Outbox, log: list[str]) -> None:
    """Have what was put so far queue in its parts."""
    outbox.put(lambda: log.append("taken in"))
    next(iter(outbox))()
    log.clear()


def test_first_tokens_and_ends_go_at_once_and_later_ones_in_their_turn() -> None:
    log: list[str] = []
    outbox = Outbox(per_s=1000, burst=1)
    outbox.put_news(Stream(log, "third token"))
    outbox.put_news(Stream(log, "first token", is_urgent=True))
    outbox.put_news(Stream(log, "a hundredth"))
    outbox.put(lambda: log.append("a probe"))
    jobs = iter(outbox)
    for _ in range(4):
        next(jobs)()
    assert log == ["first token", "a probe", "third token", "a hundredth"]


def test_no_turn_comes_before_its_time() -> None:
    log: list[str] = []
    clock = Clock()
    outbox = Outbox(per_s=1e-6, burst=1, clock=clock)
    for name in ("now", "in ten days"):
        outbox.put_news(Stream(log, name))
    jobs = iter(outbox)
    next(jobs)()
    outbox.put(lambda: log.append("something else"))
    outbox.close()
    for job in jobs:
        job()
    assert log == ["now", "something else"]


def test_who_comes_doesnt_wait_behind_another_s_many_streams() -> None:
    log: list[str] = []
    clock = Clock()
    outbox = Outbox(per_s=10, burst=4, clock=clock)
    for number in range(50):
        outbox.put_news(Stream(log, f"many {number}", "many"))
    take_in(outbox, log)
    sent(outbox, 10, clock)
    outbox.put_news(Stream(log, "one", "one"))
    outbox.put_news(Stream(log, "one again", "one"))
    take_in(outbox, log)
    before_s = clock()
    assert sent(outbox, 2, clock) == [before_s, before_s]  # its burst
    assert log == ["one", "one again"]


def test_tenants_have_equal_parts_and_together_the_rate() -> None:
    log: list[str] = []
    clock = Clock()
    outbox = Outbox(per_s=10, burst=1, clock=clock)
    for share in ["a", "b", "a", "a"] * 100:
        outbox.put_news(Stream(log, share, share))
    take_in(outbox, log)
    times = sent(outbox, 100, clock)
    assert times[-1] - times[0] == pytest.approx(10, abs=0.3)
    assert abs(log.count("a") - log.count("b")) <= 2


def test_who_has_spoken_of_late_still_counts() -> None:
    """A tenant that never waits takes its part of the rate all the same."""
    log: list[str] = []
    clock = Clock()
    outbox = Outbox(per_s=10, burst=1, clock=clock)
    for _ in range(100):
        outbox.put_news(Stream(log, "many", "many"))
    take_in(outbox, log)
    for _ in range(20):
        outbox.put_news(Stream(log, "one", "one"))
        take_in(outbox, [])
        sent(outbox, 2, clock)
    assert log.count("many") == pytest.approx(log.count("one"), abs=2)
    assert clock.now_s - 100 == pytest.approx(4, abs=0.5)


def test_a_stream_that_tells_much_is_charged_for_it() -> None:
    log: list[str] = []
    clock = Clock()
    outbox = Outbox(per_s=10, burst=1, clock=clock)
    for _ in range(20):
        outbox.put_news(Stream(log, "much", "much", cost=4))
        outbox.put_news(Stream(log, "little", "little"))
    take_in(outbox, log)
    sent(outbox, 15, clock)
    assert 3 <= log.count("little") / log.count("much") <= 5


def test_nothing_is_kept_of_who_was_silent() -> None:
    log: list[str] = []
    clock = Clock()
    outbox = Outbox(per_s=10, burst=3, clock=clock)
    for number in range(100):
        outbox.put_news(Stream(log, "x", f"tenant {number}"))
        take_in(outbox, log)
        sent(outbox, 1, clock)
        clock.now_s += 1
    assert len(outbox._parts) <= 2


def test_all_that_was_put_before_the_end_is_done() -> None:
    log: list[str] = []
    outbox = Outbox(per_s=1, burst=1)
    outbox.put(lambda: log.append("this"))
    outbox.close()
    outbox.put(lambda: log.append("too late"))
    run(outbox)
    assert log == ["this"]


def begin(outbox: Outbox, log: list[str], share: str, count: int) -> None:
    """Have so many of a tenant's streams have their first tokens."""
    for number in range(count):
        outbox.put_news(Stream(log, f"{share} {number}", share, is_urgent=True))


def due(outbox: Outbox, log: list[str]) -> list[str]:
    """What goes at once of what was put so far."""
    log.clear()
    outbox.put(lambda: log.append("taken in"))
    for job in outbox:
        job()
        if log[-1] == "taken in":
            return log[:-1]
    return []


def test_however_many_begin_at_once_none_waits_where_nobody_else_is_there() -> None:
    log: list[str] = []
    outbox = Outbox(per_s=10, burst=1, clock=Clock())
    begin(outbox, log, "many", 500)
    assert len(due(outbox, log)) == 500


def test_of_many_that_begin_at_once_some_wait_where_another_is_there() -> None:
    """512 answers of one token stood before another tenant's first token, and took 40 ms."""
    log: list[str] = []
    clock = Clock()
    outbox = Outbox(per_s=64, burst=6, clock=clock)
    begin(outbox, log, "one", 1)
    begin(outbox, log, "many", 500)
    begin(outbox, log, "one", 1)
    found = due(outbox, log)
    assert found[0] == found[-1] == "one 0"
    assert len(found) == 2 + 64
    begun_s = clock()
    sent(outbox, 256, clock)
    assert clock() - begun_s == pytest.approx(1, abs=0.1)  # the other has nothing to say by then


def test_who_was_there_long_ago_is_no_longer() -> None:
    log: list[str] = []
    clock = Clock()
    outbox = Outbox(per_s=10, burst=1, clock=clock)
    begin(outbox, log, "one", 1)
    due(outbox, log)
    clock.now_s += 1.5
    begin(outbox, log, "many", 500)
    assert len(due(outbox, log)) == 500
    assert len(outbox._heard_s) == 1
