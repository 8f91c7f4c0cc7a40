"""Pacing: never more than the rate allows, no wait where it allows more, no wait at either end."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from python_backend.serving.pacing import Job, Outbox, Pacer
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


def record(log: list[str], name: str) -> Job:
    return lambda: log.append(name)


def run(outbox: Outbox) -> None:
    for job in outbox:
        job()


def test_first_tokens_and_ends_go_at_once_and_later_ones_in_their_turn() -> None:
    log: list[str] = []
    outbox = Outbox(Pacer(per_s=1000, burst=1))
    outbox.put_news(record(log, "third token"), num_sent=2)
    outbox.put_news(record(log, "first token"), num_sent=0)
    outbox.put_news(record(log, "second token"), num_sent=1)
    outbox.put_news(record(log, "a hundredth"), num_sent=99)
    outbox.put(record(log, "end"))
    jobs = iter(outbox)
    for _ in range(5):
        next(jobs)()
    assert log == ["first token", "second token", "end", "third token", "a hundredth"]


def test_no_turn_comes_before_its_time() -> None:
    log: list[str] = []
    clock = Clock()
    outbox = Outbox(Pacer(per_s=1e-6, burst=1), clock)
    for name in ("now", "in ten days"):
        outbox.put_news(record(log, name), num_sent=5)
    jobs = iter(outbox)
    next(jobs)()
    outbox.put(record(log, "something else"))
    outbox.close()
    for job in jobs:
        job()
    assert log == ["now", "something else"]


def test_a_turn_is_spent_when_it_comes() -> None:
    pacer = Pacer(per_s=10, burst=2)
    clock = Clock()
    outbox = Outbox(pacer, clock)
    for _ in range(2):
        outbox.put_news(lambda: None, num_sent=5)
    jobs = iter(outbox)
    next(jobs)
    assert pacer.wait_s(clock()) == 0
    next(jobs)
    assert pacer.wait_s(clock()) > 0


def test_all_that_was_put_before_the_end_is_done() -> None:
    log: list[str] = []
    outbox = Outbox(Pacer(per_s=1, burst=1))
    outbox.put(record(log, "this"))
    outbox.close()
    outbox.put(record(log, "too late"))
    run(outbox)
    assert log == ["this"]
