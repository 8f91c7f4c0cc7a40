from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.limits.window import Window

steps = st.lists(st.tuples(st.floats(0, 40), st.integers(1, 8)), min_size=1, max_size=60)


@given(steps, st.integers(8, 30), st.floats(0, 1))
def test_no_sixty_seconds_see_more_than_the_limit(steps, limit, start):
    window, now, admitted = Window(), start, []
    for pause, amount in steps:
        now += pause
        window.advance(now)
        if not window.wait_s(now, limit, amount):
            window.add(int(now), amount)
            admitted.append((now, amount))
    for end, _ in admitted:
        assert sum(amount for at, amount in admitted if end - 60 < at <= end) <= limit


@given(steps, st.integers(8, 30))
def test_who_waits_as_told_gets_in_and_no_second_sooner(steps, limit):
    window, now = Window(), 0.0
    for pause, amount in steps:
        now += pause
        window.advance(now)
        wait = window.wait_s(now, limit, amount)
        if wait:
            window.advance(now + wait - 1)
            assert window.wait_s(now + wait - 1, limit, amount)
            now += wait
            window.advance(now)
            assert not window.wait_s(now, limit, amount)
        window.add(int(now), amount)


def test_what_is_taken_back_makes_room():
    window = Window()
    window.add(100, 7)
    window.add(130, 3)
    assert window.wait_s(140, 10, 5) == 21
    window.take_back(100, 5)
    assert window.wait_s(140, 10, 5) == 0
    assert (window.total, window.reset_s(140)) == (5, 51)
    window.take_back(130, 3)
    assert (window.total, window.reset_s(140)) == (2, 21)
    window.advance(161)
    window.take_back(100, 2)
    assert (window.total, window.reset_s(161)) == (0, 0)


def test_what_is_a_minute_old_counts_no_more():
    window = Window()
    for second, amount in ((100, 7), (130, 3)):
        window.add(second, amount)
    seen = []
    for now in (160.9, 161, 190.9, 191):
        window.advance(now)
        seen.append((window.total, round(window.reset_s(now), 3)))
    assert seen == [(10, 30.1), (3, 30), (3, 0.1), (0, 0)]


@pytest.mark.parametrize(
    ("amount", "wait_s"), [(1, 0), (2, 36), (3, 36), (4, 46), (5, 46), (6, 56)]
)
def test_the_wait_is_until_enough_of_the_oldest_has_gone(amount, wait_s):
    window = Window()
    for second in (100, 110, 120):
        window.add(second, 2)
    assert window.wait_s(125, 7, amount) == wait_s


def test_what_is_nothing_makes_nobody_wait():
    window = Window()
    window.add(100, 0)
    assert (window.total, window.reset_s(100)) == (0, 0)


def test_what_is_more_than_the_limit_never_fits():
    assert Window().wait_s(0, 10, 11) == math.inf
    assert Window().wait_s(0, None, 10**12) == 0
