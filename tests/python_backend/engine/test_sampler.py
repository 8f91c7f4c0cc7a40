"""The sampler: what is drawn, from which of the tokens, and what shapes the logits."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from python_backend.engine import sampler
from python_backend.engine.scheduled import Scheduled
from python_backend.engine.selection import ONE, NumpySelection, Selection, _weigh, load_selection
from python_backend.engine.sequence import LogProbs, SamplingParams, Sequence
from tests.examples import examples

VOCAB = 8
SELECTION = load_selection(num_threads=2)
LOGITS = st.lists(st.integers(-40, 40), min_size=VOCAB, max_size=VOCAB, unique=True).map(
    lambda values: np.array(values, dtype=np.float32) / 10
)
PARAMS = st.builds(
    SamplingParams,
    max_tokens=st.just(100),
    temperature=st.sampled_from([0.0, 0.3, 1.0, 2.0]),
    top_k=st.integers(0, VOCAB + 2),
    top_p=st.sampled_from([0.0, 0.1, 0.5, 0.9, 1.0]),
    min_p=st.sampled_from([0.0, 0.05, 0.5, 1.0]),
    repetition_penalty=st.sampled_from([0.5, 1.0, 1.5]),
    presence_penalty=st.sampled_from([-1.0, 0.0, 1.0]),
    frequency_penalty=st.sampled_from([0.0, 0.5]),
    min_tokens=st.integers(0, 4),
    seed=st.integers(0, 2**64 - 1),
    end_ids=st.sampled_from([frozenset[int](), frozenset([-1]), frozenset([0, 3])]),
    bad_words=st.sampled_from([(), ((1,),), ((2, 4), (5,))]),
    log_probs=st.booleans(),
    num_top_log_probs=st.integers(0, VOCAB + 2),
)


def make_sequence(
    params: SamplingParams | None = None, output: tuple[int, ...] = (), **settings: Any
) -> Sequence:
    params = params or SamplingParams(max_tokens=100, **settings)
    sequence = Sequence(np.array([1, 2, 2], dtype=np.int32), params)
    sequence.output.extend(output)
    return sequence


def sample(
    logits: NDArray[np.float32], sequences: list[Sequence], selection: Selection
) -> tuple[list[int], list[LogProbs | None]]:
    """A token and its log probability for each sequence, of a row each."""
    work = [Scheduled(sequence, 1, num_chosen=1) for sequence in sequences]
    outcomes = sampler.sample(logits, work, selection)
    assert all(each.scored == [] and len(each.tokens) == 1 for each in outcomes)
    return [each.tokens[0] for each in outcomes], [
        next(iter(each.log_probs), None) for each in outcomes
    ]


def shaped(logits: list[float], output: tuple[int, ...] = (), **settings: Any) -> list[float]:
    """What the sampler makes of one row of logits before it chooses."""
    row = np.array([logits], dtype=np.float32)
    sample(row, [make_sequence(output=output, **settings)], SELECTION)
    return cast("list[float]", row[0].tolist())


def frequencies(
    logits: NDArray[np.float32],
    params: SamplingParams,
    draws: int,
    selection: Selection = SELECTION,
) -> dict[int, int]:
    """How often each token comes when the sequence's numbers are spread evenly."""
    counts: Counter[int] = Counter()
    for draw in range(draws):
        sequence = make_sequence(params)
        sequence._numbers = [(draw + 0.5) / draws]
        counts[sample(logits[None].copy(), [sequence], selection)[0][0]] += 1
    return counts


def reference(logits: NDArray[np.float32], params: SamplingParams) -> dict[int, float]:
    """Probability of each token that may be drawn, by the definitions of min-p, top-k and top-p."""
    scaled = logits.astype(np.float64) / params.temperature
    likeliest = sorted(range(VOCAB), key=lambda token: -scaled[token])
    least = scaled.max() + np.log(params.min_p or 1e-300)
    likeliest = [token for token in likeliest if scaled[token] >= least]
    if params.top_k:
        likeliest = likeliest[: params.top_k]
    weights = {token: np.exp(scaled[token]) for token in likeliest}
    total, kept = sum(weights.values()), dict[int, float]()
    for token, weight in weights.items():
        if params.top_p == 0 or sum(kept.values()) < params.top_p * total * (1 - 1e-12):
            kept[token] = weight
    return {token: weight / sum(kept.values()) for token, weight in kept.items()}


@pytest.mark.parametrize(
    "settings", [{}, {"temperature": 0.0, "top_p": 0.9}, {"top_k": 1, "temperature": 9.0}]
)
@given(logits=LOGITS)
def test_greedy_takes_the_likeliest(logits: NDArray[np.float32], settings: dict[str, Any]) -> None:
    tokens, log_probs = sample(logits[None].copy(), [make_sequence(**settings)], SELECTION)
    assert tokens == [logits.argmax()]
    assert log_probs == [None]


@pytest.mark.parametrize("selection", [SELECTION, NumpySelection()])
@settings(max_examples=examples(50))
@given(
    logits=LOGITS,
    temperature=st.sampled_from([0.5, 1.0, 3.0]),
    top_k=st.sampled_from([0, 2, 3, VOCAB, VOCAB + 1]),
    top_p=st.sampled_from([0.05, 0.5, 0.9, 1.0]),
    min_p=st.sampled_from([0.0, 0.03, 0.3, 0.99]),
)
def test_tokens_are_drawn_as_often_as_the_bounds_say(
    selection: Selection,
    logits: NDArray[np.float32],
    temperature: float,
    top_k: int,
    top_p: float,
    min_p: float,
) -> None:
    params = SamplingParams(
        max_tokens=1, temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p
    )
    expected = reference(logits, params)
    counts = frequencies(logits, params, draws=100, selection=selection)
    assert counts.keys() <= expected.keys()
    for token, probability in expected.items():
        assert abs(counts[token] - 100 * probability) <= 1


@pytest.mark.parametrize("selection", [SELECTION, NumpySelection()])
@pytest.mark.parametrize("temperature", [1e-9, 1e-39, 5e-324])
def test_a_temperature_next_to_0_leaves_the_likeliest(
    selection: Selection, temperature: float
) -> None:
    next_to_1 = np.nextafter(np.float32(1), np.float32(0))
    logits = np.array([next_to_1, -np.inf, 1, next_to_1, 0, -1, -2, -3], dtype=np.float32)
    params = SamplingParams(max_tokens=1, top_k=5, temperature=temperature)
    assert frequencies(logits, params, draws=10, selection=selection).keys() == {2}


@pytest.mark.parametrize("selection", [SELECTION, NumpySelection()])
@pytest.mark.parametrize("logit", [-1.0, -3.3])
def test_min_p_keeps_what_is_exactly_so_likely_and_nothing_less(
    selection: Selection, logit: float
) -> None:
    logits = np.array([0, logit] + [-99] * (VOCAB - 2), dtype=np.float32)
    weight = int(_weigh(logits, logits[0], np.float32(1))[1])
    for more, kept in ((0, {0, 1}), (0.25, {0}), (0.75, {0})):
        params = SamplingParams(max_tokens=1, min_p=(weight + more) / ONE)
        assert frequencies(logits, params, draws=100, selection=selection).keys() == kept


def test_top_k_alone_draws_among_k() -> None:
    logits = np.array([0, 3, 1, 2, -1, -2, -3, -4], dtype=np.float32)
    counts = frequencies(logits, SamplingParams(max_tokens=1, top_k=3, temperature=5.0), draws=50)
    assert counts.keys() == {1, 3, 2}


def test_what_is_banned_is_not_drawn_however_few_are_left() -> None:
    logits = np.arange(VOCAB, dtype=np.float32)
    bad_words = tuple((token,) for token in range(VOCAB) if token not in {1, 4})
    params = SamplingParams(max_tokens=1, top_k=5, temperature=9.0, bad_words=bad_words)
    assert frequencies(logits, params, draws=50).keys() == {1, 4}


def test_the_seed_decides() -> None:
    def draw(seed: int | None) -> list[int]:
        sequence = make_sequence(top_p=1.0, seed=seed)
        rows = np.zeros((1, 50), np.float32)
        for _ in range(20):
            sequence.append(sample(rows, [sequence], SELECTION)[0][0])
        return sequence.output

    assert draw(7) == draw(7) != draw(8)
    assert draw(None) != draw(None)


@settings(max_examples=examples(50))
@given(rows=st.lists(st.tuples(LOGITS, PARAMS), min_size=2, max_size=5))
def test_neighbours_in_the_batch_change_nothing(
    rows: list[tuple[NDArray[np.float32], SamplingParams]],
) -> None:
    together = [make_sequence(params, output=(2, 4, 2)) for _, params in rows]
    alone = [make_sequence(params, output=(2, 4, 2)) for _, params in rows]
    for _ in range(3):
        tokens, log_probs = sample(np.stack([logits for logits, _ in rows]), together, SELECTION)
        single = [
            sample(logits[None].copy(), [sequence], SELECTION)
            for (logits, _), sequence in zip(rows, alone, strict=True)
        ]
        assert (tokens, log_probs) == ([t for [t], _ in single], [p for _, [p] in single])
        for sequences in (together, alone):
            for sequence, token in zip(sequences, tokens, strict=True):
                sequence.append(token)


def test_the_repetition_penalty_makes_seen_tokens_less_likely_whatever_their_sign() -> None:
    # The prompt is 1, 2, 2.
    logits = shaped([1.0, 2.0, -2.0, 3.0, 4.0], output=(4,), repetition_penalty=2.0)
    assert logits == [1.0, 1.0, -4.0, 3.0, 2.0]


@pytest.mark.parametrize(
    ("ignored", "expected"), [(0, [3.5, 3.5]), (1, [4.0, 3.5]), (2, [4.0, 3.5]), (99, [4.0, 4.0])]
)
def test_what_of_the_prompt_is_ignored_counts_for_no_penalty_but_repetition(
    ignored: int, expected: list[float]
) -> None:
    told = {"presence_penalty": 0.5, "prompt_ignore_length": ignored}
    assert shaped([4.0] * 5, output=(4,), **told)[1:3] == expected
    assert shaped([4.0] * 5, output=(4,), **told)[4] == 3.5
    again = shaped([4.0] * 5, output=(4,), repetition_penalty=2.0, prompt_ignore_length=99)
    assert again == [4.0, 2.0, 2.0, 4.0, 2.0]


def test_the_presence_penalty_counts_a_token_once_and_the_frequency_penalty_every_time() -> None:
    logits = [4.0] * 5
    assert shaped(logits, output=(4,), presence_penalty=0.5) == [4.0, 3.5, 3.5, 4.0, 3.5]
    assert shaped(logits, output=(4, 2), frequency_penalty=0.5) == [4.0, 3.5, 2.5, 4.0, 3.5]


def test_bias_comes_first_and_penalties_after_one_another() -> None:
    logits = shaped(
        [0.0, 1.0, -3.0, 0.0],
        embedding_bias=np.array([0.5, 1.0, 1.0, -1.0], dtype=np.float32),
        repetition_penalty=2.0,
        presence_penalty=0.25,
        frequency_penalty=0.5,
    )
    assert logits == [0.5, 2 / 2 - 0.25 - 0.5, -2 * 2 - 0.25 - 1.0, -1.0]


def test_a_bias_shorter_than_the_logits_is_of_the_first_tokens() -> None:
    bias = np.array([1.0, 2.0], dtype=np.float32)
    assert shaped([0.0] * 4, embedding_bias=bias) == [1.0, 2.0, 0.0, 0.0]


def test_no_end_token_comes_before_min_tokens() -> None:
    settings: dict[str, Any] = {"min_tokens": 2, "end_ids": frozenset([0, 2, -1, 99])}
    assert shaped([1.0, 1.0, 1.0], output=(1,), **settings) == [-np.inf, 1.0, -np.inf]
    assert shaped([1.0, 1.0, 1.0], output=(1, 1), **settings) == [1.0, 1.0, 1.0]


@pytest.mark.parametrize(
    ("output", "banned"),
    [((), [3]), ((1,), [3, 2]), ((1, 2), [3, 0]), ((2,), [3]), ((0, 1, 2), [3, 0])],
)
def test_a_bad_word_is_never_completed(output: tuple[int, ...], banned: list[int]) -> None:
    logits = shaped([0.0] * 4, output=output, bad_words=((3,), (1, 2), (1, 2, 0)))
    assert [token for token, logit in enumerate(logits) if logit == -np.inf] == sorted(banned)


class Allowing:
    """What a grammar would do: rules out what is not in a set that the output leads to."""

    def shape(self, row: NDArray[np.float32], output: list[int]) -> None:
        row[np.arange(row.size) % 2 == len(output) % 2] = -np.inf


def test_a_further_shaper_comes_after_what_the_parameters_ask_for() -> None:
    params = SamplingParams(max_tokens=9, bad_words=((3,),), log_probs=True)
    sequence = Sequence(np.array([1], dtype=np.int32), params, shapers=(Allowing(),))
    assert not sequence.takes_likeliest
    for expected in (1, 2, 1):
        logits = np.array([[0, 1, 2, 3]], dtype=np.float32)
        tokens, log_probs = sample(logits, [sequence], SELECTION)
        assert tokens == [expected]
        sequence.append(expected, log_probs[0])
    exact = np.arange(4) - np.log(np.exp(np.arange(4)).sum())
    told = [each.chosen for each in sequence.log_probs]
    assert told == pytest.approx(exact[[1, 2, 1]])


@given(logits=LOGITS, params=PARAMS)
def test_log_probabilities_are_the_models_own(
    logits: NDArray[np.float32], params: SamplingParams
) -> None:
    params = replace(params, log_probs=True, num_top_log_probs=3)
    tokens, log_probs = sample(logits[None].copy(), [make_sequence(params, output=(2,))], SELECTION)
    exact = logits.astype(np.float64)
    expected = exact - np.log(np.exp(exact).sum())
    (told,) = log_probs
    assert told is not None
    assert told.chosen == pytest.approx(expected[tokens[0]], abs=1e-5)
    assert told.top_ids == np.argsort(-expected)[:3].tolist()
    assert told.top == pytest.approx(expected[told.top_ids], abs=1e-5)


def test_no_more_likely_tokens_are_told_than_there_are_or_were_asked_for() -> None:
    logits = np.arange(6, dtype=np.float32).reshape(2, 3)
    sequences = [make_sequence(num_top_log_probs=count) for count in (20, 1)]
    _, log_probs = sample(logits, sequences, SELECTION)
    assert [len(told.top) for told in log_probs if told] == [3, 1]


def test_log_probabilities_of_large_logits_are_finite() -> None:
    logits = np.array([[1e4, 1e4, -1e4]], dtype=np.float32)
    _, log_probs = sample(logits, [make_sequence(log_probs=True)], SELECTION)
    assert log_probs[0] is not None
    assert log_probs[0].chosen == pytest.approx(-np.log(2), abs=1e-3)
