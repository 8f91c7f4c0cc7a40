"""Structured output through the whole chain: the gateway, a real Triton, the demo engine."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from ops.gateway_process import GatewayServer
from tests.integration.conftest import Server, free_port
from tests.integration.speaker import Speaker

pytestmark = pytest.mark.integration

PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 20},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "city": {"enum": ["Paris", "Rome"]},
    },
    "required": ["name", "age", "city"],
    "additionalProperties": False,
}
BOMB = "\n".join(f'r{i} ::= "a" r{i + 1}' for i in range(6000)) + '\nr6000 ::= "b"\nroot ::= r0'


@pytest.fixture(scope="module")
def url(triton: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    log = tmp_path_factory.mktemp("gateway") / "gateway.log"
    with GatewayServer(triton.grpc_url, port=free_port(), log=log) as server:
        yield f"http://{server.address}/v1"


def chat(url: str, **fields: Any) -> httpx.Response:
    body = {
        "model": "demo",
        "messages": [{"role": "user", "content": "What is the capital of France?"}],
        "max_tokens": 200,
        **fields,
    }
    return httpx.post(f"{url}/chat/completions", json=body, timeout=60)


def answers(response: httpx.Response) -> list[tuple[str, str]]:
    assert response.status_code == 200, response.text
    choices = response.json()["choices"]
    return [(each["message"]["content"], each["finish_reason"]) for each in choices]


def is_person(text: str) -> bool:
    value = json.loads(text)
    return (
        set(value) == {"name", "age", "city"}
        and len(value["name"]) <= 20
        and 0 <= value["age"] <= 150
        and value["city"] in ("Paris", "Rome")
    )


@pytest.mark.parametrize("temperature", [0, 1.5])
@pytest.mark.parametrize("n", [1, 5])
def test_every_answer_keeps_to_its_schema(url: str, temperature: float, n: int) -> None:
    wanted = {"type": "json_schema", "json_schema": {"name": "person", "schema": PERSON}}
    response = chat(url, response_format=wanted, temperature=temperature, n=n, seed=3)
    for text, reason in answers(response):
        assert reason == "stop"
        assert is_person(text)
    usage = response.json()["usage"]
    assert usage["completion_tokens"] > 0


def test_a_stream_says_the_same(url: str) -> None:
    wanted = {"type": "json_schema", "json_schema": {"name": "person", "schema": PERSON}}
    ((whole, _),) = answers(chat(url, response_format=wanted))
    pieces = []
    body = {
        "model": "demo",
        "messages": [{"role": "user", "content": "What is the capital of France?"}],
        "max_tokens": 200,
        "response_format": wanted,
        "stream": True,
    }
    with httpx.stream("POST", f"{url}/chat/completions", json=body, timeout=60) as response:
        for line in response.iter_lines():
            if line.startswith("data: {"):
                choice = json.loads(line.removeprefix("data: "))["choices"][0]
                pieces.append(choice["delta"].get("content", ""))
    assert "".join(pieces) == whole


@pytest.mark.parametrize(
    ("fields", "pattern"),
    [
        (
            {"guided_regex": "(yes|no), because( [a-z]{1,6}){2}"},
            "(yes|no), because( [a-z]{1,6}){2}",
        ),
        ({"guided_choice": ["Rome", "Paris (France)"]}, r"Rome|Paris \(France\)"),
        ({"guided_grammar": 'root ::= [0-9]+ "+" [0-9]+'}, r"\d+\+\d+"),
        ({"response_format": {"type": "json_object"}}, r"\{.*"),
    ],
    ids=["regex", "choice", "grammar", "object"],
)
def test_other_guides_hold_too(url: str, fields: dict[str, Any], pattern: str) -> None:
    ((text, reason),) = answers(chat(url, **fields))
    assert re.fullmatch(pattern, text, re.DOTALL)
    assert reason in ("stop", "length")


def test_an_answer_that_is_cut_says_so(url: str) -> None:
    wanted = {"type": "json_schema", "json_schema": {"name": "person", "schema": PERSON}}
    ((text, reason),) = answers(chat(url, response_format=wanted, max_tokens=3))
    assert reason == "length"
    with pytest.raises(ValueError, match=r"."):
        json.loads(text)


def test_log_probabilities_are_told_of_every_token(url: str) -> None:
    response = chat(url, guided_choice=["Paris, of course"], logprobs=True, top_logprobs=2)
    ((text, _),) = answers(response)
    told = response.json()["choices"][0]["logprobs"]["content"]
    assert "".join(each["token"] for each in told) == text == "Paris, of course"


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"guided_json": {"dependentSchemas": {"a": {}}}}, "dependentSchemas"),
        ({"guided_json": {"type": "string", "minLength": 5, "maxLength": 2}}, "Unsatisfiable"),
        ({"guided_regex": "(a"}, "unclosed group"),
        ({"guided_grammar": BOMB}, "it takes more than"),
    ],
    ids=["keyword", "nothing", "expression", "bomb"],
)
def test_a_guide_that_cannot_be_kept_to_is_the_requests_fault(
    url: str, fields: dict[str, Any], said: str
) -> None:
    response = chat(url, **fields)
    assert response.status_code == 400, response.text
    error = response.json()["error"]
    assert error["param"] == "response_format"
    assert error["type"] == "invalid_request_error"
    assert said in error["message"]


def test_others_are_answered_beside_guides_that_cost_too_much(url: str) -> None:
    bombs = [
        threading.Thread(target=chat, args=(url,), kwargs={"guided_grammar": f"# {i}\n{BOMB}"})
        for i in range(4)
    ]
    for each in bombs:
        each.start()
    for _ in range(5):
        assert answers(chat(url, max_tokens=5))
    for each in bombs:
        each.join()
    assert answers(chat(url, guided_choice=["yes"])) == [("yes", "stop")]


def test_nvidias_inputs_ask_for_the_same(speaker: Speaker) -> None:
    answer = speaker.ask(
        "What is the capital of France?",
        100,
        guided_decoding_guide_type="json_schema",
        guided_decoding_guide=json.dumps(PERSON),
        exclude_input_in_output=True,
    )
    assert answer.error is None
    assert is_person(answer.text.decode())
