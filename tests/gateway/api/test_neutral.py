"""What asks for nothing is taken, and what asks for something that isn't served is named."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from pydantic import ValidationError

from gateway.api.chat import ChatTranslator
from gateway.api.completions import CompletionTranslator
from gateway.api.error_objects import invalid
from gateway.generation import Chat
from tests.gateway.fakes import CHAT

CHATS, COMPLETIONS = ChatTranslator(), CompletionTranslator()
COMPLETION: dict[str, Any] = {"model": "demo", "prompt": "Hi"}
QUESTION = {"role": "user", "content": "Hi"}


def said(*messages: dict[str, Any]) -> Any:
    """The messages as the model is given them."""
    body = CHATS.body.model_validate({"model": "demo", "messages": messages})
    prompt = CHATS.wish(body).prompt
    assert isinstance(prompt, Chat)
    return json.loads(prompt.encoded)


def refused(translator: ChatTranslator | CompletionTranslator, body: dict[str, Any]) -> Any:
    with pytest.raises(ValidationError) as caught:
        translator.body.model_validate(body)
    return invalid(caught.value)


# An answer's message as it comes back from its client.
ANSWERS: dict[str, dict[str, Any]] = {
    "as it was sent": {"role": "assistant", "content": "Yes.", "refusal": None},
    "openai, model_dump()": {
        "content": "Yes.",
        "refusal": None,
        "role": "assistant",
        "annotations": None,
        "audio": None,
        "function_call": None,
        "tool_calls": None,
    },
    "openai, to_dict()": {"content": "Yes.", "refusal": None, "role": "assistant"},
    "openai, model_dump(exclude_none=True)": {"content": "Yes.", "role": "assistant"},
    "openai, parsed": {
        "content": "Yes.",
        "refusal": None,
        "role": "assistant",
        "annotations": [],
        "parsed": None,
        "tool_calls": [],
    },
    "LiteLLM": {
        "content": "Yes.",
        "role": "assistant",
        "tool_calls": None,
        "function_call": None,
        "provider_specific_fields": {"refusal": None},
    },
    "LangChain": {"content": "Yes.", "role": "assistant", "name": None},
    "of a server that reasons": {
        "role": "assistant",
        "content": "Yes.",
        "reasoning_content": None,
        "reasoning": "",
        "prefix": False,
    },
    "in parts": {
        "role": "assistant",
        "content": [{"type": "text", "text": "Yes.", "annotations": []}],
        "refusal": None,
    },
}


@pytest.mark.parametrize("answer", ANSWERS.values(), ids=ANSWERS)
def test_an_answer_goes_on_as_history(answer):
    again: dict[str, Any] = {"role": "user", "content": "And?", "name": None, "tool_calls": []}
    assert said(QUESTION, answer, again) == [
        QUESTION,
        {"role": "assistant", "content": "Yes."},
        {"role": "user", "content": "And?"},
    ]


@pytest.mark.parametrize("content", [{}, {"content": None}, {"content": ""}, {"content": []}])
def test_an_answer_without_text_goes_on_too(content):
    answer = {"role": "assistant", "tool_calls": [], "refusal": None, **content}
    assert said(QUESTION, answer, QUESTION)[1] == {"role": "assistant", "content": ""}


@pytest.mark.parametrize(
    ("message", "param", "words"),
    [
        ({"role": "assistant", "refusal": "No."}, "refusal", "refusal is not supported here"),
        (
            {"role": "assistant", "content": None, "tool_calls": [{"id": "1"}]},
            "tool_calls.0.function",
            "missing required parameter",
        ),
        ({"role": "assistant", "content": "x", "audio": {"id": "a"}}, "audio", "not supported"),
        ({"role": "assistant", "contnet": "x"}, "contnet", "did you mean content?"),
        ({"role": "user", "content": "x", "weight": 0}, "weight", "unknown parameter weight"),
        ({"role": "user", "content": None}, "content", ""),
        ({"role": "user"}, "content", "missing required parameter"),
        ({"role": "system", "content": []}, "content", ""),
        (
            {"role": "user", "content": [{"type": "text", "text": "x", "annotations": [1]}]},
            "content.0.annotations",
            "annotations is not supported",
        ),
    ],
)
def test_what_carries_something_is_named_with_its_place(message, param, words):
    error = refused(CHATS, {"model": "demo", "messages": [QUESTION, message]})
    assert error.param == f"messages.1.{param}"
    assert words in error.message


BOTH: list[dict[str, Any]] = [
    {"top_k": -1},
    {"top_k": 0},
    {"stop": []},
    {"stop": None},
    {"stop_token_ids": []},
    {"bad_words": []},
    {"store": False},
    {"metadata": {}},
    {"metadata": {"topic": "ships"}},
    {"user": "u"},
    {"safety_identifier": "s"},
    {"prompt_cache_key": "k"},
    {"prompt_cache_retention": "in_memory"},
    {"parallel_tool_calls": True},
    {"tools": [], "tool_choice": "auto"},
    {"functions": [], "function_call": "auto"},
    {"service_tier": "auto"},
    {"service_tier": "default"},
    {"logit_bias": {}},
    {"response_format": {"type": "text"}},
    {"modalities": ["text"]},
    {"n": None, "best_of": None, "suffix": None, "prediction": None, "reasoning_effort": None},
    {"best_of": 1},
    {"n": 3, "best_of": 3},
    {"echo": False},
    {"verbosity": "medium"},
    {"add_generation_prompt": True, "continue_final_message": False},
    {"skip_special_tokens": True, "spaces_between_special_tokens": True},
    {"include_stop_str_in_output": False, "length_penalty": 1.0, "early_stopping": False},
    {"chat_template_kwargs": {}, "documents": None, "mm_processor_kwargs": None},
    {"priority": 0, "truncate_prompt_tokens": None, "prompt_logprobs": None},
    {"max_tokens": None, "temperature": None, "seed": None, "stream_options": None},
    {"stream": True, "stream_options": {"include_usage": None, "include_obfuscation": False}},
    {"whatever": None},
]

FRAMEWORKS: dict[str, dict[str, Any]] = {
    "openai-node": {"stream": False},
    "LangChain": {
        "stream": True,
        "stream_options": {"include_usage": True},
        "temperature": 0.7,
        "n": 1,
        "max_completion_tokens": 64,
    },
    "LiteLLM proxy": {
        "metadata": {"user_api_key_alias": "a"},
        "user": "default_user_id",
        "parallel_tool_calls": None,
        "tools": None,
    },
    "Vercel AI SDK": {
        "model": "demo",
        "max_tokens": 32,
        "temperature": 0,
        "messages": [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}],
        "stream": True,
        "stream_options": {"include_usage": True},
    },
    "OpenAI Agents SDK": {
        "messages": [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hi"}],
        "store": False,
        "tools": [],
        "parallel_tool_calls": False,
        "response_format": {"type": "text"},
        "metadata": {},
    },
    "LlamaIndex": {"temperature": 0.1, "stream": False, "max_tokens": 256},
    "Continue": {
        "max_tokens": 2048,
        "stream": True,
        "stream_options": {"include_usage": True},
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": "a"}]},
            {"role": "assistant", "content": "b", "tool_calls": []},
            {"role": "user", "content": "c"},
        ],
    },
    "Open WebUI": {
        "stream": True,
        "stream_options": {"include_usage": True},
        "stop": [],
        "logit_bias": {},
        "messages": [{"role": "user", "content": "Hi"}],
    },
    "defaults that are spelt out": {"logprobs": False, "top_logprobs": 0},
    "vLLM's clients": {
        "top_k": -1,
        "min_p": 0.0,
        "repetition_penalty": 1.0,
        "stop_token_ids": [],
        "ignore_eos": False,
        "skip_special_tokens": True,
        "add_generation_prompt": True,
        "add_special_tokens": False,
        "guided_json": None,
        "echo": False,
    },
}


@pytest.mark.parametrize("fields", BOTH, ids=str)
def test_what_asks_for_nothing_changes_nothing(fields):
    for translator, body in ((CHATS, CHAT), (COMPLETIONS, COMPLETION)):
        plain: Any = translator.body.model_validate({**body, "n": fields.get("n")})
        read: Any = translator.body.model_validate({**body, **fields})
        assert translator.wish(read).parameters == translator.wish(plain).parameters


@pytest.mark.parametrize("fields", FRAMEWORKS.values(), ids=FRAMEWORKS)
def test_what_frameworks_send_is_taken(fields):
    assert CHATS.body.model_validate({**CHAT, **fields})


@pytest.mark.parametrize(
    ("fields", "param", "words"),
    [
        ({"store": True}, "store", "is not supported here"),
        ({"metadata": {"a": 1}}, "metadata.a", "string"),
        ({"metadata": {str(i): "" for i in range(17)}}, "metadata", "at most 16"),
        ({"top_k": -2}, "top_k", "greater than or equal to 0"),
        ({"stop_token_ids": [5]}, "stop_token_ids", "is not supported here"),
        ({"functions": [{"name": "f"}]}, "functions", "is not supported here"),
        ({"n": 3, "best_of": 2}, "best_of", "best_of is 2; it must not be below n, which is 3"),
        ({"best_of": 2}, "best_of", "best_of above n is not supported here"),
        ({"stop_tokens": []}, "stop_tokens", "unknown parameter"),
        ({"temprature": 1}, "temprature", "did you mean temperature?"),
        (
            {"stream": True, "stream_options": {"include_usege": True}},
            "stream_options.include_usege",
            "did you mean include_usage?",
        ),
    ],
)
def test_what_asks_for_more_is_named(fields, param, words):
    for translator, body in ((CHATS, CHAT), (COMPLETIONS, COMPLETION)):
        error = refused(translator, {**body, **fields})
        assert error.param == param
        assert words in error.message


def test_special_tokens_are_each_api_s_own_default():
    assert CHATS.body.model_validate({**CHAT, "add_special_tokens": False})
    assert COMPLETIONS.body.model_validate({**COMPLETION, "add_special_tokens": True})
    assert refused(CHATS, {**CHAT, "add_special_tokens": True}).param == "add_special_tokens"
    assert COMPLETIONS.body.model_validate({**COMPLETION, "logprobs": False}).logprobs is None


def test_a_long_name_is_looked_up_by_its_beginning():
    begun_s = time.process_time()
    error = refused(CHATS, {**CHAT, "x" * 4_000_000: 1})
    assert time.process_time() - begun_s < 0.5
    assert error.param == "x" * 64


def test_a_deep_field_of_nothing_is_no_recursion():
    deep: Any = None
    for _ in range(100_000):
        deep = [deep]
    assert said({**QUESTION, "annotations": deep}) == [QUESTION]
