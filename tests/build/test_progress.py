"""What a person sees of a long step, on a terminal and in a log."""

from __future__ import annotations

import io

import pytest

from build import progress
from build.progress import ProgressLine


class Clock:
    """A clock that a test turns."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def monotonic(self) -> float:
        return self.now_s


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(progress, "time", clock)
    return clock


def report(line: ProgressLine, clock: Clock, step: str, seconds: float, total: int) -> None:
    for done in range(total + 1):
        line(step, done, total)
        clock.now_s += seconds


def test_a_quick_step_says_nothing(clock):
    stream = Terminal()
    line = ProgressLine(stream)
    report(line, clock, "layer", 0.05, 10)
    report(line, clock, "layer", 0.05, 10)  # of another engine, not the first going on
    report(line, clock, "answers", 0.05, 10)
    assert stream.getvalue() == ""


def test_a_terminal_shows_one_line_and_ends_it(clock):
    stream = Terminal()
    report(ProgressLine(stream), clock, "layer", 1.0, 3)
    assert stream.getvalue() == "layer 1/3\rlayer 2/3\rlayer 3/3\n"


def test_a_log_gets_a_line_now_and_then(clock):
    stream = io.StringIO()
    report(ProgressLine(stream), clock, "layer", 1.0, 25)
    assert stream.getvalue().splitlines() == [
        "layer 1/25",
        "layer 11/25",
        "layer 21/25",
        "layer 25/25",
    ]
