"""One sequence: when it ends, and which sampling parameters it refuses."""

from __future__ import annotations

import inspect
import runpy
import time
from typing import Any

import numpy as np
import pytest

from contract.errors import InvalidRequestError
from python_backend.engine.sequence import LogProbs, Outcome, SamplingParams, Sequence


def grow(*tokens: int, **settings: Any) -> Sequence:
    """A sequence that takes tokens until it ends."""
    sequence = Sequence(
        np.array([5], dtype=np.int32), SamplingParams(**{"max_tokens": 9} | settings)
    )
    for token in tokens:
        if not sequence.finished:
            sequence.append(token)
    return sequence


def test_an_end_token_ends_and_is_not_output() -> None:
    sequence = grow(1, 2, 3, 4, end_ids=frozenset([3, 8]))
    assert (sequence.output, sequence.finish_reason) == ([1, 2], "stop")


def test_an_end_token_may_be_the_first() -> None:
    sequence = grow(3, end_ids=frozenset([3]))
    assert (sequence.output, sequence.finish_reason) == ([], "stop")


def test_a_stop_word_ends_and_is_output() -> None:
    sequence = grow(1, 2, 1, 3, 4, stop_words=((9,), (1, 3)))
    assert (sequence.output, sequence.finish_reason) == ([1, 2, 1, 3], "stop")


@pytest.mark.parametrize(
    ("min_tokens", "output"), [(0, [1, 2]), (1, [1, 2]), (2, [1, 2, 1, 2]), (3, [1, 2, 1, 2])]
)
def test_a_stop_word_within_the_first_tokens_ends_nothing(
    min_tokens: int, output: list[int]
) -> None:
    sequence = grow(1, 2, 1, 2, stop_words=((1, 2),), min_tokens=min_tokens)
    assert (sequence.output, sequence.finish_reason) == (output, "stop")


def test_a_stop_word_does_not_begin_in_the_prompt() -> None:
    assert not grow(1, stop_words=((5, 1),)).finished


def test_max_tokens_end() -> None:
    sequence = grow(1, 2, 3, max_tokens=2)
    assert (sequence.output, sequence.finish_reason) == ([1, 2], "length")


def test_a_stop_word_that_ends_with_the_last_token_is_the_reason() -> None:
    assert grow(1, 2, max_tokens=2, stop_words=((2,),)).finish_reason == "stop"


def test_log_probabilities_are_of_the_output() -> None:
    sequence = Sequence(
        np.array([5], dtype=np.int32), SamplingParams(max_tokens=9, end_ids=frozenset([3]))
    )
    sequence.append(1, LogProbs(-0.5, [], []))
    sequence.append(3, LogProbs(-0.25, [], []))
    assert sequence.log_probs == [LogProbs(-0.5, [], [])]


def test_it_knows_its_tokens_and_what_is_computed() -> None:
    sequence = grow(7, 8)
    assert sequence.tokens().tolist() == [5, 7, 8]
    assert sequence.num_tokens == 3
    assert sequence.num_pending == 3
    assert sequence.pending(3) == [5, 7, 8]
    sequence.num_computed = 2
    assert sequence.num_pending == 1
    assert sequence.pending(1) == [8]


@pytest.mark.parametrize(
    ("drafts", "right", "output"),
    [([], 0, [1]), ([1], 1, [1, 2]), ([1, 3], 1, [1, 2]), ([3, 2], 0, [1]), ([1, 2], 2, [1, 2, 6])],
)
def test_drafts_are_taken_as_far_as_they_are_right(
    drafts: list[int], right: int, output: list[int]
) -> None:
    sequence = grow()
    sequence.drafts = [*drafts, 9, 9]  # of which a step had room for some
    chosen = [1, 2, 6][: len(drafts) + 1]
    assert sequence.take(Outcome([], chosen, [])) == right
    assert (sequence.output, sequence.drafts) == (output, [])


@pytest.mark.parametrize(
    ("settings", "output", "reason"),
    [
        ({"end_ids": frozenset([2])}, [1], "stop"),
        ({"stop_words": ((1, 2),)}, [1, 2], "stop"),
        ({"max_tokens": 2}, [1, 2], "length"),
    ],
)
def test_no_draft_is_taken_after_the_end(
    settings: dict[str, Any], output: list[int], reason: str
) -> None:
    sequence = grow(**settings)
    sequence.drafts = [1, 2, 3]
    sequence.take(Outcome([], [1, 2, 3, 4], []))
    assert (sequence.output, sequence.finish_reason) == (output, reason)


def test_the_next_tokens_to_compute_go_over_prompt_output_and_drafts() -> None:
    sequence = Sequence(np.array([5, 6, 7], dtype=np.int32), SamplingParams(max_tokens=9))
    sequence.output, sequence.drafts = [1, 2], [3, 4]
    everything = [5, 6, 7, 1, 2, 3, 4]
    for start in range(5):
        sequence.num_computed = start
        for count in range(1, 8 - start):
            assert sequence.pending(count) == everything[start : start + count]


def test_a_number_is_the_same_however_often_it_is_drawn() -> None:
    sequence = grow(seed=3)
    first = [sequence.random(index) for index in (4, 0, 2)]
    again = [sequence.random(index) for index in (4, 0, 2)]
    assert first == again
    generator = np.random.Generator(np.random.Philox(3))
    numbers = [generator.random() for _ in range(5)]
    assert first == [numbers[4], numbers[0], numbers[2]]


def test_without_tokens_to_generate_it_ends_when_it_is_scored() -> None:
    params = SamplingParams(max_tokens=0, num_prompt_log_probs=9)
    sequence = Sequence(np.array([5, 6, 7], dtype=np.int32), params)
    assert (sequence.num_unscored, sequence.next_row) == (2, 0)
    sequence.take(Outcome([LogProbs(-1.0, [], [])], [], []))
    assert (sequence.num_unscored, sequence.next_row) == (1, 1)
    assert not sequence.finished
    sequence.take(Outcome([LogProbs(-2.0, [], [])], [3], []))
    assert [each.chosen for each in sequence.prompt_log_probs] == [-1, -2]
    assert (sequence.output, sequence.finish_reason) == ([], "length")


def test_what_was_guessed_and_what_was_right_is_counted() -> None:
    sequence = grow()
    for drafts, chosen in (([1, 3], [1, 2, 6]), ([], [4]), ([5, 7], [5, 7, 8])):
        sequence.drafts = drafts
        sequence.take(Outcome([], chosen, []))
    assert sequence.output == [1, 2, 4, 5, 7, 8]
    assert (sequence.num_drafts, sequence.num_right_drafts) == (4, 3)


def test_it_knows_how_many_tokens_the_newest_step_gave_it() -> None:
    sequence = grow(end_ids=frozenset([6]))
    assert sequence.num_new_tokens == 0
    sequence.drafts = [1]
    sequence.take(Outcome([], [1, 2], []))
    assert sequence.num_new_tokens == 2
    sequence.take(Outcome([], [3], []))
    assert sequence.num_new_tokens == 1
    sequence.take(Outcome([], [], []))  # a part of what it lost for want of memory
    assert sequence.num_new_tokens == 0
    sequence.drafts = [4, 6]
    sequence.take(Outcome([], [4, 6, 7], []))  # the end is generated, too; what follows it is not
    assert (sequence.num_new_tokens, sequence.num_generated) == (2, 5)


def test_a_step_that_only_scores_gives_no_token() -> None:
    params = SamplingParams(max_tokens=0, num_prompt_log_probs=1)
    sequence = Sequence(np.array([5, 6], dtype=np.int32), params)
    sequence.take(Outcome([LogProbs(-1.0, [], [])], [], []))
    assert sequence.num_new_tokens == 0
    sequence.take(Outcome([], [3], []))
    assert sequence.finished
    assert (sequence.num_new_tokens, sequence.num_generated) == (0, 0)


def test_tokens_of_one_step_have_one_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is told of a gap is the time between steps, not between two lines of code."""
    sequence = grow()
    times = iter([100, 250, 240])
    monkeypatch.setattr(time, "time_ns", lambda: next(times))
    sequence.drafts = [1, 2]
    sequence.take(Outcome([], [1, 2, 3], []))
    assert (sequence.first_token_ns, sequence.last_token_ns, sequence.gap_ns) == (100, 100, 0)
    sequence.drafts = [4]
    sequence.take(Outcome([], [4, 5], []))
    assert (sequence.first_token_ns, sequence.last_token_ns, sequence.gap_ns) == (100, 250, 150)
    sequence.take(Outcome([], [6], []))  # the clock was set back
    assert sequence.gap_ns == 0


def test_times_are_in_order() -> None:
    sequence = grow(1)
    first = sequence.first_token_ns
    sequence.append(2)
    assert 0 < sequence.arrival_ns <= sequence.first_token_ns == first <= sequence.last_token_ns


def test_an_engine_that_is_started_anew_does_not_use_an_id_again() -> None:
    """Postprocessing would take its pieces for those of a stream that broke off."""
    earlier = grow(1)
    anew = runpy.run_path(inspect.getfile(Sequence))
    later = anew["Sequence"](earlier.prompt, earlier.params)
    assert earlier.id < later.id < 2**64


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_tokens": 0}, "max_tokens is 0; it must be at least 1"),
        (
            {"max_tokens": -1, "num_prompt_log_probs": 1},
            "max_tokens is -1; it must be at least 0",
        ),
        ({"num_prompt_log_probs": -1}, "num_prompt_log_probs is -1; it must be 0 or more"),
        ({"temperature": -0.1}, "temperature is -0.1; it must be 0 or more"),
        ({"temperature": np.nan}, "temperature is nan; it must be 0 or more"),
        ({"temperature": np.inf}, "temperature is inf; it must be a finite number"),
        ({"top_k": -1}, "top_k is -1; it must be 0 or more"),
        ({"top_p": 1.5}, "top_p is 1.5; it must be between 0 and 1"),
        ({"top_p": np.nan}, "top_p is nan; it must be between 0 and 1"),
        ({"min_p": -0.5}, "min_p is -0.5; it must be between 0 and 1"),
        ({"num_top_log_probs": 21}, "num_top_log_probs is 21; it must be between 0 and 20"),
        ({"repetition_penalty": 0.0}, "repetition_penalty is 0; it must be above 0"),
        ({"repetition_penalty": np.inf}, "repetition_penalty is inf; it must be a finite number"),
        ({"presence_penalty": np.nan}, "presence_penalty is nan; it must be a finite number"),
        ({"frequency_penalty": -np.inf}, "frequency_penalty is -inf; it must be a finite number"),
        ({"min_tokens": -1}, "min_tokens is -1; it must be between 0 and max_tokens (9)"),
        ({"min_tokens": 10}, "min_tokens is 10; it must be between 0 and max_tokens (9)"),
        (
            {"embedding_bias": np.array([0, np.inf], dtype=np.float32)},
            "embedding_bias has a value that is not a finite number",
        ),
    ],
)
def test_a_parameter_out_of_bounds_is_named(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidRequestError) as error:
        SamplingParams(**{"max_tokens": 9} | settings)
    assert str(error.value) == message
