"""Rows of logits: prompts that are scored and drafts share what a step has of them."""

from __future__ import annotations

from python_backend.engine.scheduled import Scheduled
from tests.python_backend.engine.scheduling import (
    advance,
    alone,
    babble,
    chunk,
    make_scheduler,
    make_sequence,
    newest,
)


def test_two_that_are_scored_share_the_rows_of_a_step() -> None:
    scheduler = make_scheduler(spare_rows=9)
    first, second = (make_sequence([kind] * 8, num_prompt_log_probs=7) for kind in range(2))
    for sequence in (first, second):
        scheduler.add(sequence)
    # A row each, seven more for the first, and two for the second.
    assert scheduler.schedule() == [
        Scheduled(first, 8, num_scored=7, num_chosen=1),
        Scheduled(second, 3, num_scored=3),
    ]


def test_a_prompt_is_scored_in_chunks_of_the_rows_that_are_left() -> None:
    scheduler = make_scheduler(max_num_tokens=64, spare_rows=9)
    first, second = make_sequence([1]), make_sequence([2] * 40, num_prompt_log_probs=25)
    for sequence in (first, second):
        scheduler.add(sequence)
    # After 14 tokens of which nothing is wanted; the first one has a row of its own.
    assert scheduler.schedule() == [newest(first, 1), Scheduled(second, 24, num_scored=10)]
    advance(scheduler, [newest(first, 1), Scheduled(second, 24, num_scored=10)])
    for num_scored in (10, 5):
        work = scheduler.schedule()
        num_chosen = int(num_scored == 5)
        expected = Scheduled(second, num_scored + num_chosen, num_scored, num_chosen)
        assert work == [newest(first, 1), expected]
        advance(scheduler, work)
    assert scheduler.schedule() == [newest(first, 1), newest(second, 1)]


def test_what_was_scored_before_a_sequence_had_to_wait_is_not_scored_again() -> None:
    scheduler = make_scheduler(spare_rows=4)
    sequence = make_sequence([7] * 40, 1, num_prompt_log_probs=39)
    scheduler.add(sequence)
    for _ in range(4):
        advance(scheduler, scheduler.schedule())
    scheduler._preempt(sequence)
    assert scheduler.schedule() == [Scheduled(sequence, 9, num_scored=5)]
    assert sequence.num_computed == 16


def test_drafts_are_computed_with_the_newest_token_and_taken_as_far_as_they_are_right() -> None:
    scheduler = make_scheduler()
    sequence = make_sequence([0] * 15, 90)
    scheduler.add(sequence)
    advance(scheduler, scheduler.schedule(), babble)
    output, _ = alone(sequence)
    for right in range(6):
        before = list(sequence.output)
        following = output[len(before) :]
        sequence.drafts = [*following[:right], (following[right] + 1) % 5, 0, 1]
        work = scheduler.schedule()
        assert work == [Scheduled(sequence, right + 4, num_chosen=right + 4)]
        advance(scheduler, work, babble)
        assert sequence.output == before + following[: right + 1]
        assert sequence.num_pending == 1
        assert len(sequence.blocks) == scheduler.pool.blocks_for(sequence.num_tokens)


def test_drafts_take_what_is_left_of_a_step() -> None:
    scheduler = make_scheduler(max_num_tokens=20, spare_rows=7)
    first, second, prompt = make_sequence([1], 90), make_sequence([2], 5), make_sequence([3] * 26)
    for sequence in (first, second):
        scheduler.add(sequence)
    advance(scheduler, scheduler.schedule())
    scheduler.add(prompt)
    first.drafts = second.drafts = [9] * 6
    assert scheduler.schedule() == [newest(first, 1), newest(second, 1), chunk(prompt, 18)]
    prompt.num_computed += 18
    # Ten tokens and seven rows are left; the second has room for three more before its last.
    assert scheduler.schedule() == [
        Scheduled(first, 7, num_chosen=7),
        Scheduled(second, 2, num_chosen=2),
        newest(prompt, 8),
    ]
    first.drafts = []
    assert scheduler.schedule()[1] == Scheduled(second, 4, num_chosen=4)


def test_drafts_of_several_share_what_is_left_of_a_step() -> None:
    scheduler = make_scheduler(max_num_tokens=10)
    first, second = make_sequence([1], 90), make_sequence([2], 90)
    for sequence in (first, second):
        scheduler.add(sequence)
    advance(scheduler, scheduler.schedule())
    first.drafts = second.drafts = [9] * 6
    assert scheduler.schedule() == [
        Scheduled(first, 7, num_chosen=7),
        Scheduled(second, 3, num_chosen=3),
    ]


def test_drafts_wait_until_what_comes_before_them_is_computed() -> None:
    scheduler = make_scheduler(max_num_tokens=20)
    sequence = make_sequence(30, 90)
    sequence.drafts = [9] * 3
    scheduler.add(sequence)
    advance(scheduler, scheduler.schedule())
    assert sequence.num_computed == 20
    assert scheduler.schedule() == [Scheduled(sequence, 13, num_chosen=4)]


def test_drafts_put_nobody_off_for_want_of_memory() -> None:
    scheduler = make_scheduler(blocks=3)
    first, second = make_sequence([1] * 12, 30), make_sequence([2] * 12, 30)
    for sequence in (first, second):
        scheduler.add(sequence)
    advance(scheduler, scheduler.schedule())
    first.drafts = second.drafts = [9] * 25
    # A block more for the first; the second's has three places left after its newest token.
    assert scheduler.schedule() == [
        Scheduled(first, 20, num_chosen=20),
        Scheduled(second, 4, num_chosen=4),
    ]
    assert scheduler.num_preempted == 0
