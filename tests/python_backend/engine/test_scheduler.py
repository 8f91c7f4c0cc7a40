"""The scheduler: who runs, with how much of a step, and who waits when memory runs out."""

from __future__ import annotations

import pytest

from python_backend.engine.scheduler import MAX_OVERTAKES
from tests.python_backend.engine.scheduling import (
    advance,
    chunk,
    make_scheduler,
    make_sequence,
    newest,
)


def test_prompts_are_cut_to_the_budget_beside_what_runs() -> None:
    scheduler = make_scheduler(max_num_tokens=8)
    first, second, third = (make_sequence([kind] * n) for kind, n in ((1, 3), (2, 9), (3, 2)))
    scheduler.add(first)
    advance(scheduler, scheduler.schedule())
    scheduler.add(second)
    scheduler.add(third)
    work = scheduler.schedule()
    assert work == [newest(first, 1), chunk(second, 7)]
    advance(scheduler, work)
    assert scheduler.schedule() == [
        newest(first, 1),
        newest(second, 2),
        newest(third, 2),
    ]


def test_every_stream_advances_even_where_the_budget_is_smaller() -> None:
    scheduler = make_scheduler(max_num_tokens=2)
    sequences = [make_sequence([kind], max_tokens=9) for kind in range(3)]
    for sequence in sequences:
        scheduler.add(sequence)
    while scheduler.waiting:
        advance(scheduler, scheduler.schedule())
    long = make_sequence([9] * 40)
    scheduler.add(long)
    assert scheduler.schedule() == [*(newest(each, 1) for each in sequences), chunk(long, 1)]
    assert scheduler.schedule()[3:] == [chunk(long, 1)]


def test_first_come_first_served() -> None:
    scheduler = make_scheduler(max_sequences=1)
    first, second = make_sequence([1], 2), make_sequence([2], 2)
    scheduler.add(first)
    scheduler.add(second)
    advance(scheduler, scheduler.schedule())
    assert scheduler.running == [first]
    advance(scheduler, scheduler.schedule())
    assert first.finished
    assert [each.sequence for each in scheduler.schedule()] == [second]
    assert second.first_scheduled_ns >= first.first_scheduled_ns > 0


def test_a_prompt_that_finds_no_room_waits() -> None:
    scheduler = make_scheduler(blocks=4)
    first, second = make_sequence([1] * 40, 2), make_sequence([2] * 40, 2)
    scheduler.add(first)
    scheduler.add(second)
    advance(scheduler, scheduler.schedule())
    assert scheduler.running == [first]
    assert scheduler.waiting == [second]
    advance(scheduler, scheduler.schedule())
    assert [each.sequence for each in scheduler.schedule()] == [second]


def test_where_memory_runs_out_the_youngest_waits_again() -> None:
    scheduler = make_scheduler(blocks=3)
    first, second = make_sequence([1] * 16, 30), make_sequence([2] * 16, 30)
    scheduler.add(first)
    scheduler.add(second)
    advance(scheduler, scheduler.schedule())
    assert scheduler.running == [first, second]
    advance(scheduler, scheduler.schedule())
    assert scheduler.num_preempted == 1
    assert scheduler.running == [first]
    assert scheduler.waiting == [second]
    assert (second.blocks, second.num_computed) == ([], 0)
    assert len(second.output) == 1


def test_an_urgent_prompt_goes_before_the_rest_of_a_long_one_that_is_not() -> None:
    scheduler = make_scheduler(max_num_tokens=64)
    long, urgent = make_sequence(300, priority=5), make_sequence([7] * 40, priority=1)
    scheduler.add(long)
    advance(scheduler, scheduler.schedule())
    scheduler.add(urgent)
    work = scheduler.schedule()
    assert work == [newest(urgent, 40), chunk(long, 24)]
    advance(scheduler, work)
    another = make_sequence([8] * 63, priority=1)
    scheduler.add(another)
    assert scheduler.schedule() == [newest(urgent, 1), newest(another, 63)]


def test_the_rest_of_a_long_prompt_is_put_off_so_often_and_no_more() -> None:
    scheduler = make_scheduler(blocks=4 * MAX_OVERTAKES + 40, max_sequences=99, max_num_tokens=64)
    long = make_sequence(300, priority=5)
    scheduler.add(long)
    advance(scheduler, scheduler.schedule())
    steps = put_off = 0
    while long.num_computed < 300:  # each step's budget would be an urgent one's
        steps += 1
        scheduler.add(make_sequence([steps] * 64, max_tokens=1, priority=1))
        before = long.num_computed
        advance(scheduler, scheduler.schedule())
        put_off += long.num_computed == before
        assert put_off <= MAX_OVERTAKES
    assert put_off == MAX_OVERTAKES


def test_the_more_urgent_go_first_and_among_equals_the_earlier() -> None:
    scheduler = make_scheduler(max_sequences=1)
    sequences = [make_sequence([7], 1, priority) for priority in (3, 5, 1, 3, 1)]
    for sequence in sequences:
        scheduler.add(sequence)
    order = []
    while scheduler.has_work:
        (work,) = scheduler.schedule()
        order.append(sequences.index(work.sequence))
        advance(scheduler, [work])
    assert order == [2, 4, 0, 3, 1]


@pytest.mark.parametrize("urgent", [0, 1])
def test_where_memory_runs_out_the_least_urgent_waits_again(urgent: int) -> None:
    """The same two as above, but for their priorities: youth counts among equals only."""
    scheduler = make_scheduler(blocks=3)
    sequences = [
        make_sequence([kind] * 16, 30, priority=1 if kind == urgent else 5) for kind in (0, 1)
    ]
    for sequence in sequences:
        scheduler.add(sequence)
    advance(scheduler, scheduler.schedule())
    advance(scheduler, scheduler.schedule())
    assert scheduler.running == [sequences[urgent]]
    assert scheduler.waiting == [sequences[1 - urgent]]


def test_where_memory_runs_out_who_was_promoted_goes_before_the_most_urgent() -> None:
    scheduler = make_scheduler(blocks=3)
    urgent, humble = make_sequence([1] * 16, 30, priority=1), make_sequence([2] * 16, 30, 5)
    humble.is_promoted = True
    for sequence in (urgent, humble):
        scheduler.add(sequence)
    advance(scheduler, scheduler.schedule())
    advance(scheduler, scheduler.schedule())
    assert (scheduler.running, scheduler.waiting) == ([humble], [urgent])


def test_an_urgent_prompt_takes_memory_from_streams_that_are_less_urgent() -> None:
    scheduler = make_scheduler(blocks=6, max_num_tokens=17)
    stream, prompt = make_sequence([1] * 16, 60, 5), make_sequence([2] * 64, 2, 1)
    scheduler.add(stream)
    advance(scheduler, scheduler.schedule())
    scheduler.add(prompt)
    for _ in range(20):
        advance(scheduler, scheduler.schedule())
    assert prompt.finished
    assert not stream.finished


def test_the_least_urgent_ends_however_many_urgent_ones_come() -> None:
    """With so little memory that urgent sequences would put it off at every step."""
    scheduler = make_scheduler(blocks=4, max_sequences=2, max_num_tokens=32)
    humble = make_sequence([1] * 20, 30, priority=5)
    scheduler.add(humble)
    for kind in range(10, 400):
        while len(scheduler.waiting) < 3:
            scheduler.add(make_sequence([kind] * 20, 20, priority=1))
        advance(scheduler, scheduler.schedule())
        if humble.finished:
            break
    assert humble.finish_reason == "length"


def test_the_one_that_waits_longest_is_overtaken_so_often_and_no_more() -> None:
    scheduler = make_scheduler(max_sequences=1)
    for _ in range(3):
        humble = make_sequence([1], 1, priority=5)
        scheduler.add(humble)
        overtaken = 0
        while not humble.finished:
            scheduler.add(make_sequence([2], 1, priority=1))
            advance(scheduler, scheduler.schedule())
            overtaken += not humble.finished
        assert overtaken == MAX_OVERTAKES
        while scheduler.has_work:
            advance(scheduler, scheduler.schedule())


def test_who_came_first_and_went_first_has_overtaken_nobody() -> None:
    scheduler = make_scheduler(max_sequences=1)
    for _ in range(3 * MAX_OVERTAKES):
        scheduler.add(make_sequence([1], 1))
        advance(scheduler, scheduler.schedule())
    humble, urgent = make_sequence([1], 1, priority=5), make_sequence([1], 1, priority=1)
    scheduler.add(humble)
    scheduler.add(urgent)
    assert scheduler.schedule() == [newest(urgent, 1)]


def test_who_has_room_goes_on_where_another_has_to_wait_again() -> None:
    scheduler = make_scheduler(blocks=3)
    first, second, third = (make_sequence([kind] * n, 30) for kind, n in ((1, 16), (2, 8), (3, 16)))
    for sequence in (first, second, third):
        scheduler.add(sequence)
    advance(scheduler, scheduler.schedule())
    assert scheduler.schedule() == [newest(first, 1), newest(second, 1)]
    assert scheduler.waiting == [third]
