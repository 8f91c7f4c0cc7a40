"""Chats: what a body asks for, and what its answers look like."""

from __future__ import annotations

import json
from typing import Any

import pytest
from pydantic import ValidationError

from gateway.api.chat import ChatTranslator
from gateway.api.openai_answer import DONE
from gateway.gateway_errors import GenerationFailed
from gateway.generation import Chat, Delta
from tests.gateway.api.orders import encoder, progress
from tests.gateway.fakes import CHAT

TRANSLATOR = ChatTranslator()


def asked(**fields: Any) -> dict[str, Any]:
    body = TRANSLATOR.body.model_validate({**CHAT, **fields})
    return dict(TRANSLATOR.wish(body).parameters)


@pytest.mark.parametrize(
    ("fields", "parameters"),
    [
        ({}, {}),
        ({"max_completion_tokens": 7}, {"max_tokens": 7}),
        ({"n": 1}, {}),
        ({"n": 3}, {"num_return_sequences": 3}),
        ({"stop": "x"}, {"stop_words": ("x",)}),
        ({"ignore_eos": True}, {"end_id": -1}),
        ({"logit_bias": {"5": -2}}, {"logit_bias": {5: -2.0}}),
        ({"logprobs": True}, {"return_log_probs": True}),
        (
            {"logprobs": True, "top_logprobs": 2},
            {"return_log_probs": True, "num_top_log_probs": 2},
        ),
        ({"temperature": 0, "top_p": 0, "seed": -5}, {"temperature": 0, "top_p": 0, "seed": -5}),
        ({"top_k": 0, "min_p": 0, "min_tokens": 0}, {}),
        ({"presence_penalty": 0, "frequency_penalty": 0.0}, {}),
        ({"repetition_penalty": 1}, {"repetition_penalty": 1}),
    ],
)
def test_a_body_says_how_text_is_generated_and_no_more(fields, parameters):
    assert asked(**fields) == parameters


def test_a_chat_is_encoded_as_it_goes_on_and_begins_with_its_opening():
    messages = [
        {"role": "developer", "content": [{"type": "text", "text": t} for t in ("a", "Où")]},
        {"role": "user", "content": "b", "name": "bob"},
        {"role": "assistant", "content": "c"},
        {"role": "user", "content": "d"},
    ]
    wish = TRANSLATOR.wish(TRANSLATOR.body.model_validate({"model": "m", "messages": messages}))
    opening = [
        {"role": "system", "content": "a\nOù"},
        {"role": "user", "content": "b", "name": "bob"},
    ]
    rest = messages[2:]
    assert isinstance(wish.prompt, Chat)
    assert json.loads(wish.prompt.encoded) == [*opening, *rest]
    assert json.loads(wish.prompt.beginning) == opening
    assert wish.prompt.encoded.startswith(wish.prompt.beginning[:-1])


def test_a_chat_without_a_user_begins_with_all_of_it():
    prompt = Chat.of([{"role": "system", "content": "a"}])
    assert prompt.beginning == prompt.encoded == b'[{"role":"system","content":"a"}]'


def test_pieces_become_chunks_and_the_stream_ends_with_its_usage():
    pieces = [Delta(0, "Hel", "", 1, 5), Delta(0, "lo", "stop", 1)]
    stream = encoder(
        TRANSLATOR, {**CHAT, "stream": True, "stream_options": {"include_usage": True}}
    )
    chunks = [json.loads(event.data) for event in stream.events(pieces)]
    usage, done = stream.end(progress(*pieces))
    deltas = [(each["choices"][0]["delta"], each["choices"][0]["finish_reason"]) for each in chunks]
    assert deltas == [
        ({"role": "assistant", "content": ""}, None),
        ({"content": "Hel"}, None),
        ({"content": "lo"}, "stop"),
    ]
    assert {each["id"] for each in chunks} == {"chatcmpl-id"}
    assert json.loads(usage.data)["usage"] == {
        "prompt_tokens": 5,
        "completion_tokens": 2,
        "total_tokens": 7,
        "prompt_tokens_details": {"cached_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": 0},
    }
    assert done == DONE
    assert done.sse() == b"data: [DONE]\n\n"


@pytest.mark.parametrize("usage", [False, True])
def test_where_sizes_are_to_tell_nothing_chunks_are_filled_up(usage):
    options = {"include_obfuscation": True, "include_usage": usage}
    stream = encoder(TRANSLATOR, {**CHAT, "stream": True, "stream_options": options})
    pieces = [Delta(0, "x" * length) for length in range(1, 60)]
    events = [event.data for event in stream.events(pieces)]
    assert len({len(data) for data in events}) <= 3
    assert len({json.loads(data)["obfuscation"] for data in events if b"xxx" in data}) > 50
    contents = [json.loads(data)["choices"][0]["delta"]["content"] for data in events]
    assert "".join(contents) == "".join(piece.text for piece in pieces)


def test_a_stream_that_failed_ends_with_the_error():
    event = encoder(TRANSLATOR, CHAT).failed(GenerationFailed("it broke"))
    assert json.loads(event.data)["error"]["message"] == "it broke"
    assert event.data == TRANSLATOR.error(GenerationFailed("it broke"))


def test_pieces_become_one_answer():
    pieces = [Delta(1, "b", "length", 1), Delta(0, "a", "stop", 1, 5)]
    answer = json.loads(encoder(TRANSLATOR, CHAT).answer(pieces, progress(*pieces)))
    choices = [(each["message"]["content"], each["finish_reason"]) for each in answer["choices"]]
    assert choices == [("a", "stop"), ("b", "length")]
    assert answer["object"] == "chat.completion"


def test_a_websocket_s_body_asks_for_a_stream_whatever_it_says():
    assert TRANSLATOR.streaming({"stream": False})["stream"] is True


@pytest.mark.parametrize(
    ("fields", "variables"),
    [
        ({}, {}),
        ({"add_generation_prompt": False}, {"add_generation_prompt": False}),
        (
            {"continue_final_message": True, "chat_template_kwargs": {"a": 1}},
            {"a": 1, "continue_final_message": True},
        ),
    ],
)
def test_an_answer_may_go_on_with_the_last_message(fields, variables):
    said = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "The"}]
    assert asked(messages=said, **fields).get("chat_template_kwargs", {}) == variables


def test_a_user_s_message_is_not_gone_on_with():
    with pytest.raises(ValidationError, match="continue_final_message needs an assistant"):
        TRANSLATOR.body.model_validate({**CHAT, "continue_final_message": True})
