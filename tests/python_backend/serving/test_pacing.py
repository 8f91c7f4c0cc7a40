"""The pacer: never more than the rate allows, and no wait where it allows more."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from python_backend.serving.pacing import Pacer


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
