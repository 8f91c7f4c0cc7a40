"""Completions: what a body asks for, and what its answers look like."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from pydantic import ValidationError

from contract.parameters import INT32_MAX
from gateway.api.completions import CompletionTranslator
from gateway.generation import Delta, Texts, TokenLogprob, Tokens
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


@pytest.mark.parametrize(
    ("prompt", "rows"), [([5, 6], ((5, 6),)), ([[5], [6, 7]], ((5,), (6, 7)))], ids=["one", "two"]
)
def test_tokens_are_prompts_too(prompt, rows):
    wanted = order(TRANSLATOR, {**BODY, "prompt": prompt}).generation
    assert wanted.prompt == Tokens.of(rows)
    assert wanted.num_answers == len(rows)


@pytest.mark.parametrize(
    "prompt", [[], [[]], [-1], [2**31], [True], [1.5], ["a", 5], [5, [6]], [[5]] * 65, [["a"]]]
)
def test_what_is_neither_texts_nor_tokens_is_refused(prompt):
    with pytest.raises(ValidationError):
        TRANSLATOR.body.model_validate({**BODY, "prompt": prompt})


def scored() -> list[TokenLogprob]:
    return [
        TokenLogprob("H", None, id=1),
        TokenLogprob("i", -0.5, id=2, top=(TokenLogprob("o", -0.25, id=3),)),
    ]


SCORED = Delta(
    0, " x", "length", 1, 2, [TokenLogprob(" x", -1.0, top=(TokenLogprob(" x", -1.0),))], (), None
)


@pytest.mark.parametrize("prompt", ["Hi", [1, 2]], ids=["text", "tokens"])
@pytest.mark.parametrize("streamed", [False, True])
def test_the_echo_has_the_prompt_s_log_probabilities(prompt, streamed):
    body = {**BODY, "prompt": prompt, "echo": True, "logprobs": 1, "stream": streamed}
    piece = replace(SCORED, prompt=scored())
    written = encoder(TRANSLATOR, body)
    if streamed:
        (event,) = written.events([piece])
        choice = json.loads(event.data)["choices"][0]
    else:
        choice = json.loads(written.answer([piece], progress(piece)))["choices"][0]
    assert choice["text"] == "Hi x"
    assert choice["logprobs"] == {
        "tokens": ["H", "i", " x"],
        "token_logprobs": [None, -0.5, -1.0],
        "top_logprobs": [None, {"o": -0.25, "i": -0.5}, {" x": -1.0}],
        "text_offset": [0, 1, 2],
    }


def test_a_prompt_of_parts_of_a_character_is_echoed_whole():
    parts = [TokenLogprob("\ufffd", None, raw=byte) for byte in (b"\xc3", b"\xa9")]
    stream = encoder(TRANSLATOR, {**BODY, "prompt": [8, 9], "echo": True})
    (event,) = stream.events([Delta(0, "t", prompt=parts)])
    assert json.loads(event.data)["choices"][0]["text"] == "ét"


@pytest.mark.parametrize(
    ("fields", "asked"),
    [
        ({"echo": True}, (16, None, True)),
        ({"echo": True, "logprobs": 0}, (16, INT32_MAX, True)),
        ({"echo": True, "logprobs": 0, "max_tokens": 0}, (0, INT32_MAX, True)),
        ({"echo": True, "max_tokens": 0}, (0, 1, True)),
        ({"logprobs": 0}, (16, None, None)),
        ({"prompt_logprobs": 0}, (16, INT32_MAX, True)),
    ],
)
def test_of_the_prompt_is_asked_what_is_wanted(fields, asked):
    wanted = order(TRANSLATOR, {**BODY, "max_tokens": 16, **fields}).generation.parameters
    found = (wanted.max_tokens, wanted.num_prompt_log_probs, wanted.return_prompt_tokens)
    assert found == asked


def test_nothing_is_generated_for_an_echo_alone():
    with pytest.raises(ValidationError, match="max_tokens is 0"):
        TRANSLATOR.body.model_validate({**BODY, "max_tokens": 0})


def test_vllm_s_form_tells_ids_and_ranks_and_nothing_that_was_not_asked():
    body = {**BODY, "prompt_logprobs": 1}
    assert order(TRANSLATOR, body).generation.parameters.num_top_log_probs == 1
    piece = replace(SCORED, prompt=scored())
    (choice,) = json.loads(encoder(TRANSLATOR, body).answer([piece], progress(piece)))["choices"]
    assert choice["text"] == " x"
    assert choice["logprobs"] is None
    assert choice["prompt_logprobs"] == [
        None,
        {
            "2": {"logprob": -0.5, "rank": None, "decoded_token": "i"},
            "3": {"logprob": -0.25, "rank": 1, "decoded_token": "o"},
        },
    ]


def test_an_answer_reports_no_more_of_the_likeliest_than_were_asked_for():
    piece = replace(SCORED, prompt=scored())
    body = {**BODY, "prompt_logprobs": 1, "logprobs": 0}
    (choice,) = json.loads(encoder(TRANSLATOR, body).answer([piece], progress(piece)))["choices"]
    assert choice["logprobs"]["top_logprobs"] == [{" x": -1.0}]
    (text,) = choice["prompt_logprobs"][1:]
    assert text.keys() == {"2", "3"}


def test_a_prompt_is_not_scored_in_a_stream():
    with pytest.raises(ValidationError, match="prompt_logprobs are not part of a stream"):
        TRANSLATOR.body.model_validate({**BODY, "prompt_logprobs": 0, "stream": True})


@pytest.mark.parametrize("include", [True, False])
def test_each_chunk_says_how_many_tokens_there_are_by_then(include):
    options = {"include_usage": include, "continuous_usage_stats": True}
    stream = encoder(TRANSLATOR, {**BODY, "stream": True, "stream_options": options})
    pieces = [Delta(0, "a", "", 1, 5), Delta(0, "b", "stop", 2, 5)]
    chunks = [json.loads(event.data) for event in stream.events(pieces)]
    found = [(each.get("usage") or {}).get("completion_tokens") for each in chunks]
    assert found == ([1, 3] if include else [None, None])
    if include:
        assert chunks[0]["usage"]["total_tokens"] == 6
