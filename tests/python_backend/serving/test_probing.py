"""Who is asked whether its client is there: who was silent the longest, few at a time."""

from __future__ import annotations

from tests.python_backend.serving.clock import Clock
from tests.python_backend.serving.fake_triton import Request

from python_backend.serving.probing import Prober  # isort: skip
from python_backend.serving.sessions import Session, Stream  # isort: skip


def make_streams(
    clock: Clock, *last_sent_s: float, probes: bool = True, together: bool = False
) -> list[Stream]:
    """Streams, each of a request of its own or all of one."""
    streams = [Stream(number, 0, 0, None) for number in range(len(last_sent_s))]
    for session in [streams] if together else [[stream] for stream in streams]:
        Session(Request({}), session, probes=probes, clock=clock)
    for stream, each_s in zip(streams, last_sent_s, strict=True):
        stream.last_sent_s = each_s
    return streams


def test_the_silent_are_probed_the_longest_first() -> None:
    clock = Clock(10)
    streams = make_streams(clock, 9.5, 9.0, 8.0, 9.01)
    probed, asked = Prober(period_s=1, clock=clock).round(streams)
    assert probed == [streams[2], streams[1]]
    assert asked == []


def test_who_was_probed_is_silent_anew() -> None:
    clock = Clock(10)
    streams = make_streams(clock, 5)
    prober = Prober(period_s=1, clock=clock)
    assert prober.round(streams).probed == streams
    clock.now_s = 10.9
    assert prober.round(streams).probed == []
    clock.now_s = 11
    assert prober.round(streams).probed == streams


def test_who_has_news_on_the_way_is_not_probed() -> None:
    clock = Clock(10)
    (stream,) = make_streams(clock, 5)
    stream.queued = True
    assert Prober(period_s=1, clock=clock).round([stream]).probed == []


def test_everybody_has_a_turn_however_few_are_probed_a_round() -> None:
    clock = Clock(10)
    streams = make_streams(clock, *[5.0] * 7)
    prober = Prober(period_s=1, most=2, clock=clock)
    rounds = []
    for _ in range(4):
        rounds.append(prober.round(streams).probed)
        clock.now_s += 0.1
    assert [len(each) for each in rounds] == [2, 2, 2, 1]
    assert sorted(stream.id for each in rounds for stream in each) == list(range(7))


def test_who_needs_no_probe_is_asked_each_time() -> None:
    clock = Clock(10)
    streams = make_streams(clock, 10, 5, probes=False)
    prober = Prober(period_s=1, most=1, clock=clock)
    for _ in range(2):
        probed, asked = prober.round(streams)
        assert (probed, asked) == ([], streams)


def test_one_sequence_is_probed_for_all_of_its_request() -> None:
    clock = Clock(10)
    streams = make_streams(clock, *[5.0] * 64, together=True)
    prober = Prober(period_s=1, most=2, clock=clock)
    assert prober.round(streams).probed == [streams[0]]
    clock.now_s += 0.5
    assert prober.round(streams).probed == []


def test_a_request_is_as_silent_as_the_last_heard_of_its_sequences() -> None:
    clock = Clock(10)
    streams = make_streams(clock, 5, 9.5, together=True)
    assert Prober(period_s=1, clock=clock).round(streams).probed == []


def test_where_half_of_the_probed_are_gone_everybody_is_probed() -> None:
    clock = Clock(10)
    streams = make_streams(clock, *[5.0] * 50)
    streams[-1].queued = True
    prober = Prober(period_s=1, most=4, clock=clock)
    assert len(prober.round(streams).probed) == 4
    for _ in range(2):
        prober.found_gone()
    assert len(prober.round(streams[4:]).probed) == 46
    assert prober.round(streams[4:]).probed == []


def test_one_who_leaves_alone_raises_no_alarm() -> None:
    clock = Clock(10)
    streams = make_streams(clock, *[5.0] * 50)
    prober = Prober(period_s=1, most=4, clock=clock)
    prober.round(streams)
    prober.found_gone()
    assert len(prober.round(streams[1:]).probed) == 4
