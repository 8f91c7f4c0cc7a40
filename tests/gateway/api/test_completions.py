"""Completions: what a body asks for, and what its answers look like."""

from __future__ import annotations

import json
from typing import Any

import pytest

from gateway.api.completions import CompletionTranslator
from gateway.generation import Delta, Texts, TokenLogprob
from tests.gateway.api.orders import encoder, order, progress

TRANSLATOR = CompletionTranslator()
BODY: dict[str, Any] = {"model": "demo", "prompt": "Hi"}


@pytest.mark.parametrize(
    ("prompt", "texts"), [("Hi", ("Hi",)), (["a", "Où"], ("a", "Où"))], ids=["one", "several"]
)
def test_texts_go_on_as_they_are(prompt, texts):
    wanted = order(TRANSLATOR, {**BODY, "prompt": prompt, "n": 2}).generation
    assert wanted.prompt == Texts.of(texts)
    assert wanted.prompt.encoded == "\n".join(texts).encode()
    assert wanted.num_answers == 2 * len(texts)


@pytest.mark.parametrize(
    ("logprobs", "parameters"),
    [(None, (None, None)), (0, (True, None)), (2, (True, 2))],
)
def test_log_probabilities_are_asked_for_with_a_number(logprobs, parameters):
    wanted = order(TRANSLATOR, {**BODY, "logprobs": logprobs}).generation.parameters
    assert (wanted.return_log_probs, wanted.num_top_log_probs) == parameters


def test_the_echo_of_a_prompt_goes_before_the_first_piece_alone():
    stream = encoder(TRANSLATOR, {**BODY, "prompt": ["one", "two"], "echo": True})
    pieces = [Delta(1, " x"), Delta(1, " y", "stop"), Delta(0, "", "stop")]
    texts = [json.loads(event.data)["choices"][0] for event in stream.events(pieces)]
    assert [(each["index"], each["text"]) for each in texts] == [
        (1, "two x"),
        (1, " y"),
        (0, "one"),
    ]


def test_a_piece_that_says_nothing_is_no_event():
    assert [*encoder(TRANSLATOR, BODY).events([Delta(0, "")])] == []


def test_offsets_go_on_from_chunk_to_chunk():
    stream = encoder(TRANSLATOR, {**BODY, "logprobs": 0})
    pieces = [Delta(0, text, logprobs=[TokenLogprob(text, -1.0)]) for text in ("Hé", "llo")]
    logprobs = [json.loads(event.data)["choices"][0]["logprobs"] for event in stream.events(pieces)]
    assert [each["text_offset"] for each in logprobs] == [[0], [2]]


@pytest.mark.parametrize(
    ("asked", "top", "reported"),
    [
        (0, (), {"a": -2.0}),
        (1, (("b", -0.5),), {"b": -0.5, "a": -2.0}),
        (2, (("b", -0.5), ("a", -2.0)), {"b": -0.5, "a": -2.0}),
    ],
)
def test_the_chosen_token_is_always_among_the_likeliest(asked, top, reported):
    token = TokenLogprob("a", -2.0, top=tuple(TokenLogprob(*each) for each in top))
    piece = Delta(0, "a", "stop", 1, 5, [token])
    answer = encoder(TRANSLATOR, {**BODY, "logprobs": asked}).answer([piece], progress(piece))
    logprobs = json.loads(answer)["choices"][0]["logprobs"]
    assert logprobs["token_logprobs"] == [-2.0]
    assert logprobs["top_logprobs"] == [reported]


def test_pieces_become_one_answer():
    pieces = [Delta(0, "a", "stop", 1, 5)]
    answer = json.loads(encoder(TRANSLATOR, BODY).answer(pieces, progress(*pieces)))
    assert answer["choices"] == [
        {"index": 0, "text": "a", "logprobs": None, "finish_reason": "stop"}
    ]
    assert (answer["object"], answer["id"]) == ("text_completion", "cmpl-id")
