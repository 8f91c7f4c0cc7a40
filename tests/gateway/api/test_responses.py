"""OpenAI's responses: what a body asks for, what its answers look like, and how it goes on."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from pydantic import ValidationError

from gateway.api.error_objects import invalid
from gateway.api.responses import ResponsesTranslator
from gateway.api.translator import Event
from gateway.app import create_app
from gateway.gateway_errors import GenerationFailed
from gateway.generation import Computed, Delta, TokenLogprob, ToolCallDelta
from tests.gateway.api.orders import encoder, order, progress
from tests.gateway.fakes import FakeUpstream, Running, configuration, running, words

TRANSLATOR = ResponsesTranslator()
BODY: dict[str, Any] = {"model": "demo", "input": "Hi"}
WEATHER = {"type": "function", "name": "weather", "parameters": {"type": "object"}}
DEEP: dict[str, Any] = {}
for _ in range(300):
    DEEP = {"a": DEEP}
CALL = {"type": "function_call", "call_id": "c1", "name": "weather", "arguments": '{"a":1}'}
RESULT = {"type": "function_call_output", "call_id": "c1", "output": "sun"}
PLAIN_CALL = {
    "id": "c1",
    "type": "function",
    "function": {"name": "weather", "arguments": '{"a":1}'},
}


def wanted(**fields: Any) -> Any:
    return order(TRANSLATOR, {**BODY, **fields}).generation


def messages(**fields: Any) -> list[dict[str, Any]]:
    said: list[dict[str, Any]] = json.loads(wanted(**fields).prompt.encoded)
    return said


def refusal(**fields: Any) -> str:
    with pytest.raises(ValidationError) as raised:
        TRANSLATOR.body.model_validate({**BODY, **fields})
    return invalid(raised.value).message


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": [{"type": "input_text", "text": text}]}


def test_items_are_the_messages_of_a_chat():
    thought: dict[str, Any] = {
        "type": "reasoning",
        "id": "rs_1",
        "summary": [],
        "encrypted_content": None,
    }
    thought["content"] = [{"type": "reasoning_text", "text": "hm"}]
    part = {"type": "output_text", "text": "Wait", "annotations": [], "logprobs": []}
    said = {
        "type": "message",
        "id": "msg_1",
        "role": "assistant",
        "status": "completed",
        "content": [part],
    }
    other = {**CALL, "call_id": "c2", "id": "fc_2", "status": "completed"}
    assert messages(
        instructions="Be",
        input=[user("Hi"), thought, said, CALL, other, RESULT, {**RESULT, "call_id": "c2"}],
    ) == [
        {"role": "system", "content": "Be"},
        {"role": "user", "content": "Hi"},
        {
            "role": "assistant",
            "content": "Wait",
            "reasoning_content": "hm",
            "tool_calls": [PLAIN_CALL, {**PLAIN_CALL, "id": "c2"}],
        },
        {"role": "tool", "tool_call_id": "c1", "content": "sun"},
        {"role": "tool", "tool_call_id": "c2", "content": "sun"},
    ]


def test_two_answers_in_a_row_are_two_messages():
    said = {"role": "assistant", "content": "Yes"}
    assert messages(input=[user("Hi"), said, said, {"role": "developer", "content": "Be"}]) == [
        {"role": "user", "content": "Hi"},
        said,
        said,
        {"role": "system", "content": "Be"},
    ]


def test_what_it_asks_is_the_contract_s():
    parameters = wanted(
        max_output_tokens=7,
        temperature=0.5,
        top_p=0.9,
        top_logprobs=2,
        tools=[WEATHER],
        tool_choice={"type": "function", "name": "weather"},
        parallel_tool_calls=False,
        reasoning={"effort": "low", "summary": "auto"},
        text={"format": {"type": "json_schema", "name": "a", "schema": {"type": "object"}}},
    ).parameters
    assert (parameters.max_tokens, parameters.temperature, parameters.top_p) == (7, 0.5, 0.9)
    assert (parameters.return_log_probs, parameters.num_top_log_probs) == (True, 2)
    assert (parameters.tool_choice, parameters.parallel_tool_calls) == ("function:weather", False)
    assert parameters.reasoning_effort == "low"
    assert parameters.guided_decoding_guide_type == "json_schema"


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"input": ""}, "input: string should have at least 1 character"),
        ({"input": []}, "input: list should have at least 1 item"),
        ({"input": [{"role": "user", "content": [{"type": "input_image"}]}]}, "'input_image'"),
        (
            {"input": [{"type": "mcp_call", "id": "a"}]},
            "input.0: 'mcp_call' is not supported here; known are 'message', 'function_call'",
        ),
        ({"input": [RESULT]}, "input: it is 'c1'; it must be the id of a call"),
        ({"input": [CALL]}, "input: the call 'c1' has no result"),
        ({"input": [{**CALL, "arguments": "{"}, RESULT]}, "the arguments are not a JSON object"),
        ({"tools": [{"type": "web_search"}]}, "tools.0."),
        ({"tools": [WEATHER, WEATHER]}, "another tool has the same name"),
        ({"tools": [{**WEATHER, "parameters": DEEP}]}, "tools.0.parameters: it is nested too"),
        ({"tool_choice": "required"}, "tool_choice is required, and there are no tools"),
        ({"text": {"format": {"type": "json_schema", "name": "a"}}}, "go together"),
        ({"background": True}, "background is not supported here"),
        ({"truncation": "auto"}, "truncation is not supported here"),
        ({"conversation": "c"}, "conversation is not supported here"),
        ({"include": ["file_search_call.results"]}, "include.0: "),
        ({"stream_options": {}}, "stream_options need stream: true"),
        ({"max_tokens": 5}, "unknown parameter max_tokens"),
    ],
)
def test_what_cannot_be_is_refused_by_name(fields, said):
    assert said in refusal(**fields)


DELTAS = [
    Delta(0, "", prompt_tokens=9, computed=Computed(3, 1, 6), reasoning="h", output_tokens=1),
    Delta(0, "", reasoning="m", output_tokens=1, reasoning_tokens=2),
    Delta(0, "Y", output_tokens=1, logprobs=[TokenLogprob("Y", -0.5)]),
    Delta(0, "es", tool_calls=[ToolCallDelta(0, "c1", "weather", '{"a"')], output_tokens=2),
    Delta(0, "", "tool_calls", 3, tool_calls=[ToolCallDelta(0, arguments=":1}")]),
]


def test_a_stream_has_items_one_after_another():
    body = {**BODY, "stream": True, "include": ["message.output_text.logprobs"]}
    stream = encoder(TRANSLATOR, body)
    events = [*stream.events(DELTAS), *stream.end(progress(*DELTAS))]
    said = [json.loads(event.data) for event in events]
    assert [event.name.decode() for event in events] == [each["type"] for each in said]
    assert [each["sequence_number"] for each in said] == [*range(len(said))]
    text = ("output_item.added", "content_part.added")
    done = ("content_part.done", "output_item.done")
    assert [each["type"].removeprefix("response.") for each in said] == [
        *("created", "in_progress"),
        *(*text, "reasoning_text.delta", "reasoning_text.delta", "reasoning_text.done", *done),
        *(*text, "output_text.delta", "output_text.delta", "output_text.done", *done),
        "output_item.added",
        *("function_call_arguments.delta", "function_call_arguments.delta"),
        *("function_call_arguments.done", "output_item.done"),
        "completed",
    ]
    assert [each["output_index"] for each in said[2:-1]] == [*[0] * 7, *[1] * 7, *[2] * 5]
    final = said[-1]["response"]
    assert final["status"] == "completed"
    reasoning, message, call = final["output"]
    assert reasoning["content"] == [{"type": "reasoning_text", "text": "hm"}]
    (part,) = message["content"]
    assert (part["text"], part["logprobs"][0]["logprob"]) == ("Yes", -0.5)
    assert (call["call_id"], call["name"], call["arguments"]) == ("c1", "weather", '{"a":1}')
    assert {each["status"] for each in final["output"]} == {"completed"}
    assert final["usage"] == {
        "input_tokens": 9,
        "input_tokens_details": {"cached_tokens": 6},
        "output_tokens": 8,
        "output_tokens_details": {"reasoning_tokens": 2},
        "total_tokens": 17,
    }
    begun = said[0]["response"]
    assert (begun["status"], begun["output"], begun["id"]) == ("in_progress", [], final["id"])
    items = {each["item"]["id"] for each in said if "item" in each}
    assert items == {each["id"] for each in final["output"]}


def without_ids(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: without_ids(each) for name, each in value.items() if name != "id"}
    return [without_ids(each) for each in value] if isinstance(value, list) else value


def test_a_whole_answer_says_what_a_stream_ends_with():
    stream = encoder(TRANSLATOR, {**BODY, "top_logprobs": 1})
    events: list[Event] = [*stream.events(DELTAS), *stream.end(progress(*DELTAS))]
    last = events[-1]
    whole = Delta(0, "Yes", "tool_calls", reasoning="hm", logprobs=[TokenLogprob("Y", -0.5)])
    whole.add_tool_calls([ToolCallDelta(0, "c1", "weather", '{"a":1}')])
    answer = json.loads(
        encoder(TRANSLATOR, {**BODY, "top_logprobs": 1}).answer([whole], progress(*DELTAS))
    )
    ended = json.loads(last.data)["response"]
    assert without_ids({**answer, "completed_at": 0}) == without_ids({**ended, "completed_at": 0})


@pytest.mark.parametrize(
    ("reason", "why"), [("length", "max_output_tokens"), ("content_filter", "content_filter")]
)
@pytest.mark.parametrize("streamed", [True, False])
def test_what_was_cut_off_is_incomplete(reason, why, streamed):
    written = encoder(TRANSLATOR, BODY)
    delta = Delta(0, "Y", reason, 1, 9)
    if streamed:
        events: list[Event] = [*written.events([delta]), *written.end(progress(delta))]
        last = events[-1]
        assert last.name == b"response.incomplete"
        answer = json.loads(last.data)["response"]
    else:
        answer = json.loads(written.answer([delta], progress(delta)))
    assert answer["status"] == answer["output"][-1]["status"] == "incomplete"
    assert answer["incomplete_details"] == {"reason": why}
    assert answer["completed_at"] is None


def test_a_stream_that_fails_says_so():
    written = encoder(TRANSLATOR, BODY)
    [*written.events(DELTAS[:1])]
    event = written.failed(GenerationFailed("out of memory"))
    response = json.loads(event.data)["response"]
    assert event.name == b"response.failed"
    assert response["status"] == "failed"
    assert response["error"]["message"] == "out of memory"


@pytest.fixture
def upstream() -> FakeUpstream:
    return FakeUpstream(words("Hello", " there"))


@pytest.fixture
def gateway(upstream: FakeUpstream) -> Iterator[Running]:
    with running(create_app(configuration(), upstreams={"a": upstream})) as gateway:
        yield gateway


def ask(gateway: Running, **fields: Any) -> dict[str, Any]:
    response = gateway.post("/v1/responses", {**BODY, **fields})
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_is_gone_on_with_by_its_id(gateway, upstream, stream):
    body = {**BODY, "instructions": "Be", "stream": stream}
    response = gateway.post("/v1/responses", body)
    if stream:
        last = response.text.strip().split("\n")[-1].removeprefix("data: ")
        first = json.loads(last)["response"]
    else:
        first = response.json()
    assert first["store"] is True
    second = ask(gateway, previous_response_id=first["id"], input="And?")
    assert second["previous_response_id"] == first["id"]
    said = json.loads(upstream.jobs[-1].generation.prompt.encoded)
    assert said == [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello there"},
        {"role": "user", "content": "And?"},
    ]
    with gateway.client() as client:
        assert client.get(f"/v1/responses/{first['id']}").json() == first
        deleted = client.delete(f"/v1/responses/{first['id']}").json()
        assert deleted == {"id": first["id"], "object": "response", "deleted": True}
        gone = client.get(f"/v1/responses/{first['id']}")
    assert (gone.status_code, gone.json()["error"]["code"]) == (404, "previous_response_not_found")
    lost = gateway.post("/v1/responses", {**BODY, "previous_response_id": first["id"]})
    assert (lost.status_code, lost.json()["error"]["param"]) == (400, "previous_response_id")


def test_what_is_not_to_be_stored_is_not(gateway):
    answer = ask(gateway, store=False)
    assert answer["store"] is False
    with gateway.client() as client:
        assert client.get(f"/v1/responses/{answer['id']}").status_code == 404


def test_a_call_of_before_has_its_result_now(gateway, upstream):
    call = ToolCallDelta(0, "c1", "weather", '{"a":1}')
    upstream.script = [Delta(0, "", "tool_calls", 1, 5, tool_calls=[call])]
    first = ask(gateway, tools=[WEATHER])
    assert [each["type"] for each in first["output"]] == ["function_call"]
    upstream.script = words("Sun")
    ask(gateway, previous_response_id=first["id"], input=[RESULT], tools=[WEATHER])
    said = json.loads(upstream.jobs[-1].generation.prompt.encoded)
    assert said[1:] == [
        {"role": "assistant", "content": "", "tool_calls": [PLAIN_CALL]},
        {"role": "tool", "tool_call_id": "c1", "content": "sun"},
    ]


def test_items_of_answers_are_referred_to_by_their_ids(gateway, upstream):
    """So Vercel's AI SDK sends its history."""
    call = ToolCallDelta(0, "c1", "weather", '{"a":1}')
    upstream.script = [Delta(0, "Wait", "tool_calls", 1, 5, tool_calls=[call], reasoning="hm")]
    first = ask(gateway, tools=[WEATHER])
    refers = [{"type": "item_reference", "id": each["id"]} for each in first["output"]]
    upstream.script = words("Sun")
    ask(gateway, input=[user("Hi"), *refers, RESULT], tools=[WEATHER])
    assert json.loads(upstream.jobs[-1].generation.prompt.encoded) == [
        {"role": "user", "content": "Hi"},
        {
            "role": "assistant",
            "content": "Wait",
            "reasoning_content": "hm",
            "tool_calls": [PLAIN_CALL],
        },
        {"role": "tool", "tool_call_id": "c1", "content": "sun"},
    ]
    lost = gateway.post("/v1/responses", {**BODY, "input": [{**refers[0], "id": "none"}]})
    assert (lost.status_code, lost.json()["error"]["param"]) == (400, "input")
