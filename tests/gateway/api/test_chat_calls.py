"""Chats with functions and thinking: what a body asks for, and what its answers look like."""

from __future__ import annotations

import json
from typing import Any

import pytest
from pydantic import ValidationError

from gateway.api.chat import ChatTranslator
from gateway.api.error_objects import invalid
from gateway.gateway_errors import InvalidRequest
from gateway.generation import Chat, Delta, ToolCallDelta
from tests.gateway.api.orders import encoder, progress
from tests.gateway.fakes import CHAT

TRANSLATOR = ChatTranslator()
ADD = {"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}
FIND = {"type": "function", "function": {"name": "find", "description": "Find it."}}
NAMED = {"type": "function", "function": {"name": "find"}}
QUESTION = {"role": "user", "content": "What is 1 + 2?"}
CALL = {"id": "a", "type": "function", "function": {"name": "add", "arguments": '{"x": 1}'}}
CALLS = {"role": "assistant", "content": None, "tool_calls": [CALL]}
RESULT = {"role": "tool", "tool_call_id": "a", "content": "3"}
DEEP: dict[str, Any] = {}
for _ in range(300):
    DEEP = {"properties": DEEP}


def called(name: str, arguments: str) -> dict[str, Any]:
    function = {"name": name, "arguments": arguments}
    return {**CALLS, "tool_calls": [{**CALL, "function": function}]}


def asked(**fields: Any) -> dict[str, Any]:
    body = TRANSLATOR.body.model_validate({**CHAT, **fields})
    return dict(TRANSLATOR.wish(body).parameters)


def refused(**fields: Any) -> InvalidRequest:
    with pytest.raises(ValidationError) as told:
        TRANSLATOR.body.model_validate({**CHAT, **fields})
    return invalid(told.value)


@pytest.mark.parametrize(
    ("fields", "parameters"),
    [
        ({"tool_choice": "none", "parallel_tool_calls": False}, {}),
        ({"tools": [ADD, FIND]}, {"tools": (ADD, FIND)}),
        ({"tools": [ADD], "tool_choice": "auto"}, {"tools": (ADD,)}),
        ({"tools": [ADD], "tool_choice": "none"}, {"tools": (ADD,), "tool_choice": "none"}),
        ({"tools": [ADD], "tool_choice": "required"}, {"tools": (ADD,), "tool_choice": "required"}),
        (
            {"tools": [ADD, FIND], "tool_choice": NAMED},
            {"tools": (ADD, FIND), "tool_choice": "function:find"},
        ),
        (
            {"tools": [ADD], "parallel_tool_calls": False},
            {"tools": (ADD,), "parallel_tool_calls": False},
        ),
        (
            {
                "reasoning_effort": "low",
                "thinking_token_budget": 50,
                "chat_template_kwargs": {"enable_thinking": True},
            },
            {
                "reasoning_effort": "low",
                "thinking_token_budget": 50,
                "chat_template_kwargs": {"enable_thinking": True},
            },
        ),
    ],
)
def test_a_body_says_what_may_be_called_and_how_much_is_thought(fields, parameters):
    assert asked(**fields) == parameters


def test_calls_and_their_results_are_history():
    thought = {"role": "assistant", "content": "3.", "reasoning": "easy"}
    body = TRANSLATOR.body.model_validate(
        {"model": "m", "messages": [QUESTION, CALLS, RESULT, thought, QUESTION]}
    )
    prompt = TRANSLATOR.wish(body).prompt
    assert isinstance(prompt, Chat)
    assert json.loads(prompt.encoded) == [
        QUESTION,
        {**CALLS, "content": ""},
        RESULT,
        {"role": "assistant", "content": "3.", "reasoning_content": "easy"},
        QUESTION,
    ]


@pytest.mark.parametrize(
    ("fields", "param", "words"),
    [
        ({"tools": [ADD, ADD]}, "tools.1.function.name", "another tool has the same name"),
        ({"tools": [ADD] * 129}, "tools", "at most 128"),
        (
            {"tools": [{"type": "function", "function": {"name": "a b"}}]},
            "tools.0.function.name",
            "pattern",
        ),
        (
            {"tools": [{"type": "function", "function": {"name": "a", "parameters": [1]}}]},
            "tools.0.function.parameters",
            "dictionary",
        ),
        (
            {"tools": [{"type": "function", "function": {"name": "a", "parameters": DEEP}}]},
            "tools.0.function.parameters",
            "nested too deeply",
        ),
        ({"chat_template_kwargs": DEEP}, "chat_template_kwargs", "nested too deeply"),
        ({"tool_choice": "required"}, "tool_choice", "there are no tools"),
        ({"tools": [ADD], "tool_choice": "any"}, "tool_choice", "should be"),
        ({"tools": [ADD], "tool_choice": NAMED}, "tool_choice", "no tool called find"),
        ({"reasoning_effort": "huge"}, "reasoning_effort", "should be"),
        ({"thinking_token_budget": -1}, "thinking_token_budget", "greater than or equal to 0"),
        ({"messages": [QUESTION, CALLS]}, "messages.1.tool_calls.0.id", "has no result"),
        ({"messages": [QUESTION, CALLS, QUESTION]}, "messages.1.tool_calls.0.id", "no result"),
        ({"messages": [QUESTION, RESULT]}, "messages.1.tool_call_id", "'a'; it must be the id"),
        ({"messages": [CALLS, RESULT, RESULT]}, "messages.2.tool_call_id", "no result yet"),
        (
            {"messages": [{**CALLS, "tool_calls": [CALL, CALL]}, RESULT]},
            "messages.0.tool_calls.1.id",
            "the same id",
        ),
        ({"messages": [{**QUESTION, "tool_calls": [CALL]}]}, "messages.0.tool_calls", "assistant"),
        ({"messages": [{**QUESTION, "tool_call_id": "a"}]}, "messages.0.tool_call_id", "a tool's"),
        *(
            (
                {"messages": [called("f", arguments), RESULT]},
                "messages.0.tool_calls.0.function.arguments",
                "not a JSON object",
            )
            for arguments in ('{"x": ', "[" * 100_000, "3", "{} {}")
        ),
    ],
)
def test_what_does_not_go_together_is_named_with_its_place(fields, param, words):
    error = refused(**fields)
    assert error.param == param
    assert words in error.message
    assert error.code == "invalid_value" or "missing" in error.message


def test_arguments_may_be_left_empty():
    body = TRANSLATOR.body.model_validate({"model": "m", "messages": [called("now", ""), RESULT]})
    prompt = TRANSLATOR.wish(body).prompt
    assert isinstance(prompt, Chat)
    sent = json.loads(prompt.encoded)
    assert sent[0]["tool_calls"][0]["function"]["arguments"] == "{}"


PIECES = [
    Delta(0, reasoning="so", output_tokens=2, reasoning_tokens=2),
    Delta(0, "I", output_tokens=1),
    Delta(0, tool_calls=[ToolCallDelta(0, "a", "add")]),
    Delta(0, tool_calls=[ToolCallDelta(0, arguments='{"x"')]),
    Delta(0, "", "tool_calls", tool_calls=[ToolCallDelta(0, arguments=": 1}")]),
]


def test_pieces_become_chunks_of_reasoning_text_and_calls():
    stream = encoder(TRANSLATOR, {**CHAT, "stream": True})
    chunks = [json.loads(event.data)["choices"][0] for event in stream.events(PIECES)]
    assert [chunk["delta"] for chunk in chunks] == [
        {"role": "assistant", "content": ""},
        {"reasoning_content": "so"},
        {"content": "I"},
        {
            "tool_calls": [
                {
                    "index": 0,
                    "id": "a",
                    "type": "function",
                    "function": {"name": "add", "arguments": ""},
                }
            ]
        },
        {"tool_calls": [{"index": 0, "function": {"arguments": '{"x"'}}]},
        {"tool_calls": [{"index": 0, "function": {"arguments": ": 1}"}}]},
    ]
    assert [chunk["finish_reason"] for chunk in chunks] == [None] * 5 + ["tool_calls"]


def test_what_grew_together_is_told_in_its_order_and_ends_once():
    whole = Delta(0, "I", "length", reasoning="so", tool_calls=[ToolCallDelta(0, "a", "add", "{")])
    stream = encoder(TRANSLATOR, {**CHAT, "stream": True})
    chunks = [json.loads(event.data)["choices"][0] for event in stream.events([whole])]
    assert [next(iter(chunk["delta"])) for chunk in chunks] == [
        "role",
        "reasoning_content",
        "content",
        "tool_calls",
    ]
    assert [chunk["finish_reason"] for chunk in chunks] == [None, None, None, "length"]


def test_an_answer_of_calls_alone_has_no_text():
    call = ToolCallDelta(0, "a", "add", '{"x": 1}')
    delta = Delta(0, "", "tool_calls", 5, 9, reasoning="so", tool_calls=[call], reasoning_tokens=2)
    answer = json.loads(encoder(TRANSLATOR, CHAT).answer([delta], progress(delta)))
    assert answer["choices"][0]["message"] == {
        "role": "assistant",
        "content": None,
        "refusal": None,
        "reasoning_content": "so",
        "tool_calls": [CALL],
    }
    assert answer["choices"][0]["finish_reason"] == "tool_calls"
    assert answer["usage"]["completion_tokens_details"] == {"reasoning_tokens": 2}


def test_a_function_that_the_client_named_ends_in_openai_s_word():
    delta = Delta(0, "", "tool_calls", tool_calls=[ToolCallDelta(0, "a", "find", "{}")])
    body = {**CHAT, "tools": [FIND], "tool_choice": NAMED}
    answer = json.loads(encoder(TRANSLATOR, body).answer([delta], progress(delta)))
    assert answer["choices"][0]["finish_reason"] == "stop"


@pytest.mark.parametrize("streams", [True, False])
def test_reasoning_is_left_out_where_it_isn_t_wanted(streams):
    delta = Delta(0, "I", "stop", reasoning="secret")
    writes = encoder(TRANSLATOR, {**CHAT, "stream": streams, "include_reasoning": False})
    shown = (
        b"".join(event.data for event in writes.events([delta]))
        if streams
        else writes.answer([delta], progress(delta))
    )
    assert b"secret" not in shown
    assert b'"I"' in shown
