"""Thinking through the whole chain: the demo engine, with a template in which it always thinks.

The demo has not learned to think; what it says there is nobody's concern, and where it ends is.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from build.demo.demo_tokenizer import CHAT_TEMPLATE
from ops.gateway_process import GatewayServer
from ops.triton_process import TritonServer
from tests.integration.conftest import free_port, make_repository

pytestmark = pytest.mark.integration

THINKS = """{% if add_generation_prompt %}
{%- if enable_thinking is defined and not enable_thinking %}{{ '<think>\\n\\n</think>\\n\\n' }}
{%- else %}{{ '<think>\\n' }}{% endif %}{% endif %}"""
QUESTION = {"role": "user", "content": "Count from 17 to 40."}
PERSON = {
    "type": "object",
    "properties": {"age": {"type": "integer", "minimum": 0, "maximum": 99}},
    "required": ["age"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("thinking")
    repository = make_repository(folder / "repository")
    template = repository / "tensorrt_llm" / "1" / "chat_template.jinja"
    template.write_text(CHAT_TEMPLATE + THINKS)
    with (
        TritonServer(repository, log=folder / "triton.log") as triton,
        GatewayServer(
            f"127.0.0.1:{triton.ports.grpc}", port=free_port(), log=folder / "g.log"
        ) as server,
    ):
        yield f"http://{server.address}/v1/chat/completions"


def ask(url: str, **fields: Any) -> dict[str, Any]:
    body = {"model": "demo", "messages": [QUESTION], "max_tokens": 60, "temperature": 0, **fields}
    response = httpx.post(url, json=body, timeout=60)
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


def reasoning_tokens(answer: dict[str, Any]) -> int:
    return int(answer["usage"]["completion_tokens_details"]["reasoning_tokens"])


def test_thinking_is_told_apart_and_ends_with_its_budget(url: str) -> None:
    lengths = []
    for budget in (0, 5, 12):
        answer = ask(url, thinking_token_budget=budget)
        message = answer["choices"][0]["message"]
        assert "think>" not in json.dumps(message)
        assert message["content"]
        lengths.append(len(message.get("reasoning_content", "")))
        assert budget < reasoning_tokens(answer) < budget + 12  # its end mark is counted, too
    assert lengths == sorted(set(lengths))
    assert lengths[0] == 0


def test_what_does_not_end_is_thinking_to_the_end(url: str) -> None:
    answer = ask(url, max_tokens=10)
    (choice,) = answer["choices"]
    assert choice["message"]["content"] == ""
    assert choice["message"]["reasoning_content"]
    assert choice["finish_reason"] == "length"
    assert reasoning_tokens(answer) == answer["usage"]["completion_tokens"] == 10


def test_a_stream_says_the_same(url: str) -> None:
    whole = ask(url, thinking_token_budget=8)["choices"][0]["message"]
    said = {"reasoning_content": "", "content": ""}
    body = {"model": "demo", "messages": [QUESTION], "max_tokens": 60, "temperature": 0}
    body |= {"stream": True, "thinking_token_budget": 8, "stream_options": {"include_usage": True}}
    count = 0
    with httpx.stream("POST", url, json=body, timeout=60) as response:
        for line in response.iter_lines():
            if line.startswith("data: {"):
                chunk = json.loads(line[6:])
                for choice in chunk["choices"]:
                    for name in said:
                        said[name] += choice["delta"].get(name) or ""
                if chunk.get("usage"):
                    count = reasoning_tokens(chunk)
    assert said == {name: whole[name] for name in said}
    assert 8 < count < 20


def test_it_is_kept_from_thinking(url: str) -> None:
    for fields in (
        {"reasoning_effort": "none"},
        {"chat_template_kwargs": {"enable_thinking": False}},
    ):
        answer = ask(url, **fields)
        assert "reasoning_content" not in answer["choices"][0]["message"]
        assert answer["choices"][0]["message"]["content"]
        assert reasoning_tokens(answer) == 0


def test_what_is_thought_may_be_left_out(url: str) -> None:
    answer = ask(url, thinking_token_budget=5, include_reasoning=False)
    assert "reasoning_content" not in answer["choices"][0]["message"]
    assert reasoning_tokens(answer) > 5


@pytest.mark.parametrize("temperature", [0, 1.3])
def test_a_guide_holds_behind_the_thinking(url: str, temperature: float) -> None:
    wanted = {"type": "json_schema", "json_schema": {"name": "person", "schema": PERSON}}
    answer = ask(
        url,
        response_format=wanted,
        thinking_token_budget=6,
        temperature=temperature,
        seed=3,
        max_tokens=200,
    )
    message = answer["choices"][0]["message"]
    assert message["reasoning_content"]
    assert 0 <= json.loads(message["content"])["age"] <= 99


def test_a_forced_call_comes_behind_the_thinking(url: str) -> None:
    tool = {"type": "function", "function": {"name": "note", "parameters": PERSON}}
    answer = ask(url, tools=[tool], tool_choice="required", thinking_token_budget=6, max_tokens=200)
    message = answer["choices"][0]["message"]
    assert message["reasoning_content"]
    assert message["content"] is None
    (call, *_) = message["tool_calls"]
    assert 0 <= json.loads(call["function"]["arguments"])["age"] <= 99
