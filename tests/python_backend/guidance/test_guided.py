"""A guided sequence can become nothing but what its guide allows."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from contract.errors import InvalidRequestError
from contract.guides import Guide
from python_backend.engine.sequence import Outcome, SamplingParams, Sequence
from python_backend.guidance.grammars import Grammars
from tests.python_backend.guidance.vocabulary import begin, make_grammars

PERSON = Guide(
    "json_schema",
    json.dumps(
        {
            "type": "object",
            "properties": {"name": {"type": "string", "maxLength": 6}, "age": {"type": "integer"}},
            "required": ["name", "age"],
            "additionalProperties": False,
        }
    ),
)
ANSWER = Guide("regex", r"(yes|no), because( [a-z]{1,4}){1,3}\.")
SUM = Guide("ebnf_grammar", 'root ::= number ("+" number)*\nnumber ::= [0-9] [0-9]?')


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Grammars, Tokenizer]]:
    grammars, tokenizer = make_grammars(tmp_path_factory.mktemp("vocabulary"), padded=7)
    yield grammars, tokenizer
    grammars.close()


def token(tokenizer: Tokenizer, text: str) -> int:
    found = tokenizer.token_to_id(text)
    assert found is not None
    return found


def is_person(text: str) -> bool:
    value = json.loads(text)
    return (
        list(value) == ["name", "age"]
        and isinstance(value["name"], str)
        and len(value["name"]) <= 6
        and isinstance(value["age"], int)
    )


GUIDES: dict[str, tuple[Guide, Any]] = {
    "a schema": (PERSON, is_person),
    "an expression": (ANSWER, lambda t: re.fullmatch(ANSWER.text, t)),
    "a grammar": (SUM, lambda t: re.fullmatch(r"\d\d?(\+\d\d?)*", t)),
    "any object": (Guide("json"), lambda t: isinstance(json.loads(t), dict)),
}


def write(grammars: Grammars, guide: Guide, seed: int, most: int = 400) -> Sequence:
    """Generate by chance, as a step would."""
    (end,) = grammars.end_ids
    way = begin(grammars, guide)
    sequence = Sequence(
        np.array([1], np.int32),
        SamplingParams(max_tokens=most, end_ids=frozenset([end])),
        guide=way,
    )
    rng = np.random.default_rng(seed)
    while not sequence.finished:
        row = rng.standard_normal(grammars.vocab_size).astype(np.float32) * 4
        row[end] += 6  # else texts that may go on do so for long
        way.prepare(sequence.output)
        for shaper in sequence.shapers:
            shaper.shape(row, sequence.output)
        sequence.take(Outcome([], [int(row.argmax())], []))
    return sequence


@pytest.mark.parametrize(("guide", "holds"), GUIDES.values(), ids=GUIDES)
@given(seed=st.integers(0, 2**32))
def test_whatever_is_drawn_keeps_to_it(
    made: tuple[Grammars, Tokenizer], guide: Guide, holds: Any, seed: int
) -> None:
    grammars, tokenizer = made
    sequence = write(grammars, guide, seed)
    assert sequence.failure is None
    if sequence.finish_reason == "stop":
        assert holds(tokenizer.decode(sequence.output))
    else:
        assert sequence.finish_reason == "length"
        assert len(sequence.output) == 400


def test_what_must_follow_takes_no_step(made: tuple[Grammars, Tokenizer]) -> None:
    grammars, tokenizer = made
    way = begin(grammars, ANSWER)
    sequence = Sequence(np.array([1], np.int32), SamplingParams(max_tokens=50), guide=way)
    sequence.take(Outcome([], [token(tokenizer, "yes")], []))
    assert tokenizer.decode(sequence.output).startswith("yes, because")
    assert sequence.num_generated == sequence.num_new_tokens == len(sequence.output) > 1


def test_a_token_whose_log_probability_is_asked_for_takes_one(
    made: tuple[Grammars, Tokenizer],
) -> None:
    grammars, tokenizer = made
    params = SamplingParams(max_tokens=50, log_probs=True)
    sequence = Sequence(np.array([1], np.int32), params, guide=begin(grammars, ANSWER))
    sequence.take(Outcome([], [token(tokenizer, "yes")], []))
    assert tokenizer.decode(sequence.output) == "yes"


def test_forced_tokens_end_at_the_most(made: tuple[Grammars, Tokenizer]) -> None:
    grammars, tokenizer = made
    sequence = Sequence(
        np.array([1], np.int32), SamplingParams(max_tokens=3), guide=begin(grammars, ANSWER)
    )
    sequence.take(Outcome([], [token(tokenizer, "yes")], []))
    assert (len(sequence.output), sequence.finish_reason) == (3, "length")


def test_it_ends_where_nothing_may_follow_whatever_ends_it(
    made: tuple[Grammars, Tokenizer],
) -> None:
    grammars, tokenizer = made
    sequence = Sequence(
        np.array([1], np.int32),
        SamplingParams(max_tokens=50, end_ids=frozenset([-1])),
        guide=begin(grammars, Guide("regex", "yes|no"), ends=[-1]),
    )
    sequence.take(Outcome([], [token(tokenizer, "no")], []))
    assert (sequence.output, sequence.finish_reason) == ([token(tokenizer, "no")], "stop")


def test_the_end_is_the_requests_own(made: tuple[Grammars, Tokenizer]) -> None:
    grammars, tokenizer = made
    (end,), other = grammars.end_ids, token(tokenizer, "z")
    way = begin(grammars, Guide("regex", "a*"), ends=[other])
    row = np.zeros(grammars.vocab_size, np.float32)
    way.shape(row, [])
    assert np.flatnonzero(np.isfinite(row)).tolist() == [token(tokenizer, "a"), other]
    assert not np.isfinite(row[end])


@given(st.data())
def test_a_row_follows_from_its_output_alone(
    made: tuple[Grammars, Tokenizer], data: st.DataObject
) -> None:
    """After drafts that were wrong, and out of order."""
    grammars, _ = made
    output = write(grammars, PERSON, data.draw(st.integers(0, 99)), most=40).output
    way = begin(grammars, PERSON)
    for count in data.draw(st.lists(st.integers(0, len(output) - 1), max_size=8)):
        if data.draw(st.booleans()):
            way.prepare(output[:count])
        row, fresh = np.zeros((2, grammars.vocab_size), np.float32)
        way.shape(row, output[:count])
        begin(grammars, PERSON).shape(fresh, output[:count])
        np.testing.assert_array_equal(row, fresh)
        assert np.isfinite(row).any()


def test_copies_of_a_grammar_go_their_own_ways(made: tuple[Grammars, Tokenizer]) -> None:
    grammars, tokenizer = made
    yes, no = token(tokenizer, "yes"), token(tokenizer, "no")
    first, second = begin(grammars, ANSWER), begin(grammars, ANSWER)
    assert first.forced([yes]) == second.forced([no]) != []
    row = np.zeros(grammars.vocab_size, np.float32)
    second.shape(row, [])
    assert np.isfinite(row[yes])


def test_what_breaks_its_guide_fails_alone(made: tuple[Grammars, Tokenizer]) -> None:
    grammars, tokenizer = made
    way = begin(grammars, ANSWER)
    row = np.zeros(grammars.vocab_size, np.float32)
    way.shape(row, [token(tokenizer, "{")])
    assert isinstance(way.failure, InvalidRequestError)
    assert np.isfinite(row).all()


def test_bad_words_that_leave_nothing_are_named(made: tuple[Grammars, Tokenizer]) -> None:
    grammars, tokenizer = made
    bad = tuple((token,) for token in range(tokenizer.get_vocab_size()))
    way = begin(grammars, ANSWER)
    sequence = Sequence(
        np.array([1], np.int32), SamplingParams(max_tokens=9, bad_words=bad), guide=way
    )
    row = np.zeros(grammars.vocab_size, np.float32)
    for shaper in sequence.shapers:
        shaper.shape(row, [])
    sequence.take(Outcome([], [0], []))
    assert isinstance(sequence.failure, InvalidRequestError)
    assert sequence.finished
    assert not sequence.finish_reason


def test_an_ambiguous_grammar_ends_before_others_wait_for_it(
    made: tuple[Grammars, Tokenizer],
) -> None:
    grammars, tokenizer = made
    a = token(tokenizer, "a")
    way = begin(grammars, Guide("ebnf_grammar", 'root ::= e\ne ::= e e | "a" | "aa"'))
    row = np.zeros(grammars.vocab_size, np.float32)
    output: list[int] = []
    start_s = time.thread_time()
    while way.failure is None and len(output) < 4000:
        way.shape(row, output)
        output.append(a)
    assert isinstance(way.failure, InvalidRequestError)
    assert "takes too long" in str(way.failure)
    assert time.thread_time() - start_s < 30  # it would take hours
