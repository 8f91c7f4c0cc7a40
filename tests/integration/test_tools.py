"""Calls of functions through the whole chain: the gateway, a real Triton, the demo engine."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from ops.gateway_process import GatewayServer
from tests.integration.conftest import Server, free_port

pytestmark = pytest.mark.integration


def tool(name: str, **properties: str) -> dict[str, Any]:
    parameters = {
        "type": "object",
        "properties": {key: {"type": kind} for key, kind in properties.items()},
        "required": [*properties],
    }
    return {"type": "function", "function": {"name": name, "parameters": parameters}}


ADD = tool("add", a="integer", b="integer")
for _number in ADD["function"]["parameters"]["properties"].values():
    _number |= {"minimum": 0, "maximum": 99}  # a small model goes on with digits for ever
TIME = tool("get_time", city="string")
TIME["function"]["parameters"]["properties"]["city"]["maxLength"] = 12
ONE = {"tool_choice": "required", "parallel_tool_calls": False}
QUESTION = {"role": "user", "content": "What is 17 + 25?"}


@pytest.fixture(scope="module")
def url(triton: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    log = tmp_path_factory.mktemp("gateway") / "gateway.log"
    with GatewayServer(triton.grpc_url, port=free_port(), log=log) as server:
        yield f"http://{server.address}/v1/chat/completions"


def ask(url: str, *messages: dict[str, Any], **fields: Any) -> httpx.Response:
    chat = [*messages] or [QUESTION]
    body = {"model": "demo", "messages": chat, "max_tokens": 200, "temperature": 0, **fields}
    return httpx.post(url, json=body, timeout=60)


def choice(response: httpx.Response) -> dict[str, Any]:
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()["choices"][0]
    return answer


def calls(response: httpx.Response) -> list[tuple[str, dict[str, Any]]]:
    return [
        (call["function"]["name"], json.loads(call["function"]["arguments"]))
        for call in choice(response)["message"].get("tool_calls", ())
    ]


def test_without_functions_it_is_as_it_was(url: str) -> None:
    for fields in ({}, {"tools": [ADD], "tool_choice": "none"}):
        assert choice(ask(url, **fields))["message"] == {
            "role": "assistant",
            "content": "17+25=42",
            "refusal": None,
        }


@pytest.mark.parametrize("temperature", [0, 1.5])
def test_a_forced_call_keeps_to_its_schema(url: str, temperature: float) -> None:
    colour = tool("paint", colour="string")
    colour["function"]["parameters"]["properties"]["colour"] = {"enum": ["red", "blue"]}
    wanted = {"type": "function", "function": {"name": "paint"}}
    response = ask(url, tools=[ADD, colour], tool_choice=wanted, temperature=temperature, n=4)
    assert response.status_code == 200, response.text
    for each in response.json()["choices"]:
        (call,) = each["message"]["tool_calls"]
        assert call["function"]["name"] == "paint"
        assert json.loads(call["function"]["arguments"])["colour"] in ("red", "blue")
        assert each["finish_reason"] == "stop"
    required = ask(url, tools=[TIME, ADD], temperature=temperature, **ONE)
    assert {name for name, _ in calls(required)} <= {"get_time", "add"}
    assert choice(required)["message"]["content"] is None
    assert choice(required)["finish_reason"] == "tool_calls"


def test_a_stream_says_the_same(url: str) -> None:
    whole = calls(ask(url, tools=[ADD], **ONE))
    assert len(whole) == 1
    found: dict[int, list[str]] = {}
    body = {"model": "demo", "messages": [QUESTION], "tools": [ADD], "temperature": 0, **ONE}
    with httpx.stream("POST", url, json={**body, "stream": True}, timeout=60) as response:
        for line in response.iter_lines():
            if line.startswith("data: {"):
                delta = json.loads(line[6:])["choices"][0]["delta"]
                for call in delta.get("tool_calls", ()):
                    known = found.setdefault(call["index"], ["", ""])
                    known[0] += call["function"].get("name", "")
                    known[1] += call["function"]["arguments"]
    assert [(name, json.loads(arguments)) for name, arguments in found.values()] == whole


def test_a_conversation_goes_on_with_a_call_and_its_result(url: str) -> None:
    message = choice(ask(url, tools=[ADD], **ONE))["message"]
    result = {"role": "tool", "tool_call_id": message["tool_calls"][0]["id"], "content": "42"}
    first = ask(url, tools=[ADD]).json()["usage"]["prompt_tokens"]
    last = ask(url, QUESTION, message, result, tools=[ADD])
    assert choice(last)["finish_reason"]
    assert last.json()["usage"]["prompt_tokens"] > first + 20


def test_a_call_that_is_cut_says_so(url: str) -> None:
    whole = choice(ask(url, tools=[ADD], **ONE))["message"]["tool_calls"][0]["function"]
    lengths = set()
    for most in range(8, 40, 2):
        answer = choice(ask(url, tools=[ADD], max_tokens=most, **ONE))
        if answer["finish_reason"] != "length":
            break
        for call in answer["message"].get("tool_calls", ()):
            assert whole["arguments"].startswith(call["function"]["arguments"])
            lengths.add(len(call["function"]["arguments"]))
    assert len(lengths) > 2


@pytest.mark.parametrize(
    ("fields", "param", "words"),
    [
        (
            {
                "tools": [
                    {"type": "function", "function": {"name": "f", "parameters": {"not": {}}}}
                ],
                "tool_choice": "required",
            },
            "tools",
            'Unimplemented keys: ["not"]',
        ),
        (
            {"tools": [tool("f", **{str(i) * 9: "string" for i in range(2_000)})]},
            "messages",
            "more tokens than the context",
        ),
        ({"tools": [ADD], "reasoning_effort": "high"}, "reasoning_effort", "doesn't think"),
    ],
)
def test_what_can_t_be_done_is_refused_by_name(
    url: str, fields: dict[str, Any], param: str, words: str
) -> None:
    response = ask(url, **fields)
    assert response.status_code == 400
    error = response.json()["error"]
    assert (error["param"], words in error["message"]) == (param, True), error
    assert choice(ask(url))["message"]["content"] == "17+25=42"


def test_the_ensemble_reads_an_answer_only_where_it_is_asked_to(triton: Server) -> None:
    body = {
        "text_input": "",
        "messages": json.dumps([QUESTION]),
        "tools": json.dumps([ADD]),
        "tool_choice": "function:add",
        "max_tokens": 100,
        "exclude_input_in_output": True,
    }
    url = f"{triton.http_url}/v2/models/ensemble/generate"
    answer = httpx.post(url, json=body, timeout=60).json()
    text = answer["text_output"]
    assert text.startswith('<tool_call>\n{"name": "add", "arguments": {')
    assert text.endswith("</tool_call>")
    assert answer["finish_reason"] == "stop"
    assert "tool_calls" not in answer
    read = httpx.post(url, json={**body, "parse_answer": True}, timeout=60).json()
    assert (read["text_output"], read["finish_reason"]) == ("", "tool_calls")
    (called,) = json.loads(read["tool_calls"])
    assert called["name"] == "add"
    assert called["arguments"] in text
