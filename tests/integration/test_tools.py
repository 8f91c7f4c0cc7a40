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
WEATHER = tool("get_weather", city="string")
TIME = tool("get_time", city="string")
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
    required = calls(ask(url, tools=[TIME, ADD], tool_choice="required", temperature=temperature))
    assert required
    assert {name for name, _ in required} <= {"get_time", "add"}


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
            {"tools": [tool("f", **{str(i) * 9: "string" for i in range(4_000)})]},
            "tools",
            "bytes",
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
    assert error["param"] == param
    assert words in error["message"]
    assert choice(ask(url))["message"]["content"] == "17+25=42"
