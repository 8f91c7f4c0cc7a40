"""Prompts of tokens, and how likely a prompt is: the gateway, a real Triton, the demo engine."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from ops.gateway_process import GatewayServer
from tests.integration.conftest import Server, free_port

pytestmark = pytest.mark.integration

PROMPT = "<|user|>What is the capital of France?<|end|><|assistant|>"
"""A text with the control tokens that it means."""


@pytest.fixture(scope="module")
def url(triton: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    log = tmp_path_factory.mktemp("gateway") / "gateway.log"
    with GatewayServer(triton.grpc_url, port=free_port(), log=log) as server:
        yield f"http://{server.address}/v1"


def complete(url: str, **fields: Any) -> dict[str, Any]:
    body = {"model": "demo", "prompt": PROMPT, "max_tokens": 6, "temperature": 0, **fields}
    response = httpx.post(f"{url}/completions", json=body, timeout=60)
    assert response.status_code == 200, response.text
    (choice,) = response.json()["choices"]
    return {**choice, "usage": response.json()["usage"]}


def ids_of(url: str, prompt: str) -> list[int]:
    """The tokens of a text: the likeliest in its first token's place don't matter."""
    scored = complete(url, prompt=prompt, max_tokens=0, echo=True, prompt_logprobs=0)
    first, *others = scored["prompt_logprobs"]
    assert first is None
    return [int(next(iter(each))) for each in others]


def test_a_prompt_is_as_likely_as_it_was_when_it_was_said(url: str) -> None:
    """What was generated is scored again as a prompt, to the bit: other rows, other steps."""
    said = complete(url, logprobs=2, echo=True)
    assert said["text"].startswith(PROMPT)
    again = complete(url, prompt=said["text"], logprobs=2, echo=True, max_tokens=0)
    assert again["text"] == said["text"]
    assert again["finish_reason"] == "length"
    assert again["logprobs"] == said["logprobs"]
    assert again["usage"]["completion_tokens"] == 0
    assert again["logprobs"]["token_logprobs"][0] is None
    assert all(value <= 0 for value in again["logprobs"]["token_logprobs"][1:])
    assert "".join(again["logprobs"]["tokens"]) == said["text"]


def test_tokens_are_the_same_prompt_as_their_text(url: str) -> None:
    """A harness sends tokens: the first of them is one that it knows, here the text's own."""
    text = complete(url, logprobs=1, echo=True)
    ids = ids_of(url, "<|end|>" + PROMPT)
    tokens = complete(url, prompt=ids, logprobs=1, echo=True)
    assert tokens["text"] == text["text"]
    assert tokens["logprobs"] == text["logprobs"]


def test_a_stream_echoes_the_same(url: str) -> None:
    whole = complete(url, logprobs=1, echo=True)
    body = {
        "model": "demo",
        "prompt": PROMPT,
        "max_tokens": 6,
        "temperature": 0,
        "logprobs": 1,
        "echo": True,
        "stream": True,
    }
    texts, tokens = [], []
    with httpx.stream("POST", f"{url}/completions", json=body, timeout=60) as response:
        for line in response.iter_lines():
            if line.startswith("data: {"):
                (choice,) = json.loads(line[6:])["choices"]
                texts.append(choice["text"])
                tokens += (choice["logprobs"] or {}).get("tokens", [])
    assert "".join(texts) == whole["text"]
    assert tokens == whole["logprobs"]["tokens"]


def test_a_chat_is_scored_too(url: str) -> None:
    body = {
        "model": "demo",
        "messages": [{"role": "user", "content": "What is the capital of France?"}],
        "max_tokens": 3,
        "prompt_logprobs": 2,
    }
    answer = httpx.post(f"{url}/chat/completions", json=body, timeout=60).json()
    first, *others = answer["prompt_logprobs"]
    assert first is None
    assert len(others) == answer["usage"]["prompt_tokens"] - 1
    assert all(2 <= len(each) <= 3 for each in others)
    assert answer["choices"][0]["logprobs"] is None


def post(url: str, path: str, body: dict[str, Any]) -> dict[str, Any]:
    response = httpx.post(url.removesuffix("/v1") + path, json=body, timeout=60)
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


def test_tokens_are_told_and_made_to_text_again(url: str) -> None:
    told = post(url, "/tokenize", {"prompt": "Où est Rome? 🐱"})
    assert told["count"] == len(told["tokens"])
    assert told["max_model_len"] is None or told["max_model_len"] == 2048
    text = post(url, "/detokenize", {"tokens": told["tokens"]})
    assert text == {"prompt": "Où est Rome? 🐱"}


def test_a_conversation_is_as_long_as_it_is_said_to_be(url: str) -> None:
    said = [{"role": "user", "content": "What is the capital of France?"}]
    told = post(url, "/tokenize", {"messages": said})
    counted = post(url, "/v1/messages/count_tokens", {"model": "demo", "messages": said})
    body = {"model": "demo", "max_tokens": 1, "messages": said}
    usage = post(url, "/v1/messages", body)["usage"]
    length = usage["input_tokens"] + usage["cache_read_input_tokens"]
    assert told["count"] == counted["input_tokens"] == length
    assert told["tokens"] == post(url, "/tokenize", {"prompt": PROMPT})["tokens"]
