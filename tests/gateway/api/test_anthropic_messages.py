"""Anthropic's messages: what a body asks for, and what its answers look like."""

from __future__ import annotations

import json
from typing import Any

import orjson
import pytest
from pydantic import ValidationError

from contract.codes import Ending
from gateway.api.anthropic_messages import MessagesTranslator, error_of
from gateway.api.error_objects import invalid
from gateway.gateway_errors import GatewayError, InvalidRequest, Overloaded
from gateway.generation import Computed, Delta, ToolCallDelta
from gateway.order import Arrival
from tests.gateway.api.orders import encoder, order, progress

TRANSLATOR = MessagesTranslator()
HELLO = {"role": "user", "content": "Hi"}
BODY: dict[str, Any] = {"model": "demo", "max_tokens": 16, "messages": [HELLO]}
WEATHER = {"name": "weather", "description": "It", "input_schema": {"type": "object"}}
USE = {"type": "tool_use", "id": "t1", "name": "weather", "input": {"city": "Rom"}}
DEEP: dict[str, Any] = {}
for _ in range(300):
    DEEP = {"a": DEEP}
RESULT = {"type": "tool_result", "tool_use_id": "t1", "content": [{"type": "text", "text": "sun"}]}


def wanted(**fields: Any) -> Any:
    return order(TRANSLATOR, {**BODY, **fields}).generation


def messages(**fields: Any) -> list[dict[str, Any]]:
    said: list[dict[str, Any]] = json.loads(wanted(**fields).prompt.encoded)
    return said


def refusal(**fields: Any) -> str:
    with pytest.raises(ValidationError) as raised:
        TRANSLATOR.body.model_validate({**BODY, **fields})
    return invalid(raised.value).message


def test_a_conversation_with_calls_is_one_of_openai_s():
    thinking = {"type": "thinking", "thinking": "hm", "signature": "s"}
    said = messages(
        system=[{"type": "text", "text": "Be", "cache_control": {"type": "ephemeral"}}],
        messages=[
            HELLO,
            {"role": "user", "content": [{"type": "text", "text": "again"}]},
            {"role": "assistant", "content": [thinking, {"type": "text", "text": "Yes"}, USE]},
            {"role": "user", "content": [RESULT, {"type": "text", "text": "and?"}]},
        ],
    )
    assert said == [
        {"role": "system", "content": "Be"},
        {"role": "user", "content": "Hi\nagain"},
        {
            "role": "assistant",
            "content": "Yes",
            "reasoning_content": "hm",
            "tool_calls": [
                {
                    "id": "t1",
                    "type": "function",
                    "function": {"name": "weather", "arguments": '{"city":"Rom"}'},
                }
            ],
        },
        {"role": "tool", "tool_call_id": "t1", "content": "sun"},
        {"role": "user", "content": "and?"},
    ]


def test_what_it_asks_is_the_contract_s():
    asked = wanted(
        temperature=0.5,
        top_p=0.9,
        top_k=7,
        stop_sequences=["x"],
        tools=[WEATHER],
        tool_choice={"type": "tool", "name": "weather", "disable_parallel_tool_use": True},
        thinking={"type": "enabled", "budget_tokens": 8},
        output_config={"effort": "max"},
        metadata={"user_id": "u"},
    )
    parameters = asked.parameters
    assert (parameters.max_tokens, parameters.temperature, parameters.top_p) == (16, 0.5, 0.9)
    assert (parameters.top_k, parameters.stop_words) == (7, ("x",))
    assert parameters.tools[0]["function"]["parameters"] == {"type": "object"}
    assert (parameters.tool_choice, parameters.parallel_tool_calls) == ("function:weather", False)
    assert (parameters.thinking_token_budget, parameters.reasoning_effort) == (8, "xhigh")


@pytest.mark.parametrize(
    ("choice", "said"),
    [(None, None), ("auto", None), ("any", "required"), ("none", "none")],
)
def test_choices_have_other_names(choice, said):
    fields = {} if choice is None else {"tool_choice": {"type": choice}}
    assert wanted(tools=[WEATHER], **fields).parameters.tool_choice == said


def test_an_answer_keeps_to_a_schema():
    schema = {"type": "object", "properties": {"a": {"type": "string"}}}
    parameters = wanted(
        output_config={"format": {"type": "json_schema", "schema": schema}}
    ).parameters
    assert parameters.guided_decoding_guide_type == "json_schema"
    assert json.loads(parameters.guided_decoding_guide) == schema


def test_no_thinking_is_no_effort():
    assert wanted(thinking={"type": "disabled"}).parameters.reasoning_effort == "none"


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"max_tokens": 0}, "max_tokens: input should be greater than or equal to 1"),
        ({"messages": []}, "messages: list should have at least 1 item"),
        ({"messages": [{"role": "tool", "content": "a"}]}, "messages.0.role: "),
        (
            {"messages": [{"role": "user", "content": [{"type": "image", "source": {}}]}]},
            "messages.0.content.0: 'image' is not supported here; known are 'text',",
        ),
        ({"messages": [{"role": "user", "content": [USE]}]}, "thinking and tool_use are"),
        (
            {"messages": [{"role": "user", "content": [{"type": "text", "text": 5}]}]},
            "messages.0.content.0.text: input should be a valid string",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "text"}]}]},
            "missing required parameter messages.0.content.0.text",
        ),
        ({"messages": [{"role": "assistant", "content": [RESULT]}]}, "tool_result is a user's"),
        (
            {"messages": [HELLO, {"role": "user", "content": [RESULT]}]},
            "messages.1.content: it is 't1'; it must be the id of a call",
        ),
        (
            {"messages": [HELLO, {"role": "assistant", "content": [USE]}]},
            "messages.1.content: the call 't1' has no result",
        ),
        ({"tools": [WEATHER, WEATHER]}, "tools.1.function.name: another tool has the same name"),
        ({"tool_choice": {"type": "any"}}, "tool_choice is required, and there are no tools"),
        ({"tool_choice": {"type": "tool"}}, "type tool and name go together"),
        ({"tools": [{"type": "web_search_20250305", "name": "w"}]}, "tools.0."),
        ({"tools": [{"name": "f", "input_schema": DEEP}]}, "input_schema: it is nested too"),
        (
            {"messages": [HELLO, {"role": "assistant", "content": [{**USE, "input": DEEP}]}]},
            "messages.1.content.0.input: it is nested too deeply",
        ),
        ({"stop_sequences": [""]}, "stop_sequences: a stop text must not be empty"),
        ({"temperature": 1.5}, "temperature: input should be less than or equal to 1"),
        ({"thinking": {"type": "enabled"}}, "type enabled and budget_tokens go together"),
        (
            {"thinking": {"type": "enabled", "budget_tokens": 16}},
            "thinking.budget_tokens must be below max_tokens, which is 16",
        ),
        ({"container": "c"}, "container is not supported here"),
        ({"mcp_servers": [{}]}, "mcp_servers is not supported here"),
        ({"max_token": 5}, "unknown parameter max_token"),
    ],
)
def test_what_cannot_be_is_refused_by_name(fields, said):
    assert said in refusal(**fields)


@pytest.mark.parametrize(
    "fields", [{"stop_sequences": []}, {"mcp_servers": []}, {"container": None}, {"tools": []}]
)
def test_what_asks_for_nothing_is_taken(fields):
    assert wanted(**fields) == wanted()


DELTAS = [
    Delta(0, "", prompt_tokens=9, computed=Computed(3, 1, 6), reasoning="h", output_tokens=1),
    Delta(0, "", prompt_tokens=9, computed=Computed(3, 2, 6), reasoning="m", output_tokens=1),
    Delta(0, "Y", output_tokens=1),
    Delta(0, "es", tool_calls=[ToolCallDelta(0, "t1", "weather", '{"a"')], output_tokens=2),
    Delta(
        0,
        "",
        "tool_calls",
        3,
        tool_calls=[ToolCallDelta(0, arguments=":1}"), ToolCallDelta(1, "t2", "weather", "{}")],
    ),
]


def test_a_stream_has_blocks_one_after_another():
    stream = encoder(TRANSLATOR, {**BODY, "stream": True})
    events = [*stream.events(DELTAS), *stream.end(progress(*DELTAS))]
    said = [(event.name.decode(), json.loads(event.data)) for event in events]
    assert all(name == data["type"] for name, data in said)
    names = [name.removeprefix("content_block_") for name, _ in said]
    assert names == [
        *("message_start", "ping"),
        *("start", "delta", "delta", "stop"),  # thinking
        *("start", "delta", "delta", "stop"),  # text
        *("start", "delta", "delta", "stop"),  # a call
        *("start", "delta", "stop"),  # another
        *("message_delta", "message_stop"),
    ]
    assert said[0][1]["message"] == {
        "id": "msg_id",
        "type": "message",
        "role": "assistant",
        "model": "demo",
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": {
            "input_tokens": 3,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": 6,
            "output_tokens": 1,
            "service_tier": "standard",
        },
    }
    starts = [data for name, data in said if name == "content_block_start"]
    assert [each["index"] for each in starts] == [0, 1, 2, 3]
    assert starts[2]["content_block"] == {
        "type": "tool_use",
        "id": "t1",
        "name": "weather",
        "input": {},
    }
    deltas = [data for name, data in said if name == "content_block_delta"]
    assert [each["index"] for each in deltas] == [0, 0, 1, 1, 2, 2, 3]
    assert "".join(each["delta"].get("partial_json", "") for each in deltas) == '{"a":1}{}'
    assert said[-2][1]["delta"] == {"stop_reason": "tool_use", "stop_sequence": None}
    assert said[-2][1]["usage"]["output_tokens"] == 8


def test_a_whole_answer_says_the_same():
    whole = Delta(0, "Yes", "tool_calls", 8, 9, computed=Computed(3, 8, 6), reasoning="hm")
    whole.add_tool_calls([ToolCallDelta(0, "t1", "weather", '{"a":1}')])
    answer = json.loads(encoder(TRANSLATOR, BODY).answer([whole], progress(whole)))
    assert answer["content"] == [
        {"type": "thinking", "thinking": "hm", "signature": ""},
        {"type": "text", "text": "Yes"},
        {"type": "tool_use", "id": "t1", "name": "weather", "input": {"a": 1}},
    ]
    assert (answer["stop_reason"], answer["usage"]["cache_read_input_tokens"]) == ("tool_use", 6)


@pytest.mark.parametrize(
    ("reason", "stop_text", "said"),
    [
        ("stop", "", ("end_turn", None)),
        ("stop", "x", ("stop_sequence", "x")),
        ("length", "", ("max_tokens", None)),
        ("content_filter", "", ("refusal", None)),
    ],
)
def test_ends_have_other_names(reason: Ending, stop_text: str, said: tuple[str, str | None]):
    whole = Delta(0, "a", reason, 1, 1, stop_text=stop_text)
    answer = json.loads(encoder(TRANSLATOR, BODY).answer([whole], progress(whole)))
    assert (answer["stop_reason"], answer["stop_sequence"]) == said


def test_arguments_that_were_cut_off_are_none():
    whole = Delta(0, "", "length", 8, 9)
    whole.add_tool_calls([ToolCallDelta(0, "t1", "weather", '{"a":')])
    answer = json.loads(encoder(TRANSLATOR, BODY).answer([whole], progress(whole)))
    assert (answer["content"][0]["input"], answer["stop_reason"]) == ({}, "max_tokens")


@pytest.mark.parametrize(
    ("error", "kind", "message"),
    [
        (InvalidRequest("is wrong", param="max_tokens"), "invalid_request_error", "max_tokens: is"),
        (Overloaded("full", retry_after_s=1), "overloaded_error", "full"),
        (GatewayError("broken"), "api_error", "broken"),
    ],
)
def test_errors_are_anthropic_s(error, kind, message):
    said = json.loads(error_of(error))
    assert said["type"] == "error"
    assert said["error"]["type"] == kind
    assert said["error"]["message"].startswith(message)
    event = encoder(TRANSLATOR, BODY).failed(error)
    assert (event.name, orjson.loads(event.data)) == (b"error", said)


@pytest.mark.parametrize(
    ("headers", "found"),
    [
        ({}, None),
        ({"x-api-key": "k"}, "Bearer k"),
        ({"authorization": "Bearer a", "x-api-key": "k"}, "Bearer a"),
    ],
)
def test_a_key_may_come_in_a_header_of_its_own(headers, found):
    assert Arrival("id", headers, 0.0, 0.0).authorization == found


def test_an_answer_may_be_begun():
    begun = {"role": "assistant", "content": "The"}
    parameters = wanted(messages=[HELLO, begun]).parameters
    assert parameters.chat_template_kwargs == {"continue_final_message": True}
    assert not wanted().parameters.chat_template_kwargs
