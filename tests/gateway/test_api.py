"""The API over real connections, before upstreams with a script."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from contract.errors import ServerUnavailableError
from contract.version import VERSION
from gateway.configuration import Configuration, ListenSettings
from gateway.generation import Delta, TokenLogprob
from gateway.open_access import LOCAL
from tests.gateway.fakes import (
    CHAT,
    STREAM,
    FakeUpstream,
    Keys,
    Ledger,
    Running,
    configuration,
    serving,
    words,
)


def stream(gateway: Running, body: dict[str, Any], path: str = "/v1/chat/completions") -> list[Any]:
    """The events of a stream, as they were sent."""
    with gateway.client() as client, client.stream("POST", path, json=body) as response:
        assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
        lines = [line for line in response.iter_lines() if line]
    assert all(line.startswith("data: ") for line in lines)
    data = [line.removeprefix("data: ") for line in lines]
    return [each if each == "[DONE]" else json.loads(each) for each in data]


def text_of(events: list[Any], index: int = 0) -> str:
    choices = [c for event in events[:-1] for c in event["choices"] if c["index"] == index]
    return "".join(c["delta"].get("content") or "" for c in choices)


def test_a_chat_in_one_answer():
    upstream = FakeUpstream()
    with serving(upstream) as gateway:
        response = gateway.post("/v1/chat/completions", {**CHAT, "seed": 3, "stop": "x"})
    answer = response.json()
    assert response.status_code == 200
    assert response.headers["x-trireme-served-by"] == "a"
    assert answer["choices"] == [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "Hello there.", "refusal": None},
            "logprobs": None,
            "finish_reason": "stop",
        }
    ]
    assert answer["usage"] == {
        "prompt_tokens": 5,
        "completion_tokens": 3,
        "total_tokens": 8,
        "prompt_tokens_details": {"cached_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": 0},
    }
    assert answer["id"] == f"chatcmpl-{response.headers['x-request-id']}"
    (generation,) = (job.generation for job in upstream.jobs)
    parameters = generation.parameters
    assert (parameters.seed, parameters.stop_words, generation.stream) == (3, ("x",), False)


def test_a_chat_as_a_stream():
    with serving() as gateway:
        events = stream(gateway, {**STREAM, "stream_options": {"include_usage": True}})
    assert events[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert text_of(events) == "Hello there."
    assert events[-1] == "[DONE]"
    assert events[-2]["choices"] == []
    assert events[-2]["usage"]["total_tokens"] == 8
    assert [event["usage"] for event in events[:-2]] == [None] * (len(events) - 2)
    reasons = [event["choices"][0]["finish_reason"] for event in events[:-2]]
    assert reasons[-1] == "stop"
    assert set(reasons[:-1]) == {None}


def test_several_answers_to_one_question():
    script = [*words("a", "b", index=0), *words("c", index=1, reason="length")]
    with serving(FakeUpstream(script)) as gateway:
        events = stream(gateway, {**STREAM, "n": 2})
        whole = gateway.post("/v1/chat/completions", {**CHAT, "n": 2}).json()
    assert [text_of(events, 0), text_of(events, 1)] == ["ab", "c"]
    assert [c["message"]["content"] for c in whole["choices"]] == ["ab", "c"]
    assert [c["finish_reason"] for c in whole["choices"]] == ["stop", "length"]


def test_completions_of_several_prompts_with_echo():
    script = [*words(" x", index=0), *words(" y", index=1)]
    body = {"model": "demo", "prompt": ["one", "two"], "echo": True}
    with serving(FakeUpstream(script)) as gateway:
        whole = gateway.post("/v1/completions", body).json()
        events = stream(gateway, {**body, "stream": True}, "/v1/completions")
    assert [choice["text"] for choice in whole["choices"]] == ["one x", "two y"]
    assert whole["object"] == "text_completion"
    texts = {0: "", 1: ""}
    for event in events[:-1]:
        for choice in event["choices"]:
            texts[choice["index"]] += choice["text"]
    assert texts == {0: "one x", 1: "two y"}


def test_a_great_many_log_probabilities_are_told_as_few_are():
    """They are read and written beside the event loop."""
    top = tuple(TokenLogprob(f"w{place}", -float(place)) for place in range(20))
    tokens = [TokenLogprob("w ", -0.5, top=top)] * 300
    script = [Delta(0, "w " * 300, "stop", 300, 5, tokens)]
    asked = {"logprobs": True, "top_logprobs": 20}
    with serving(FakeUpstream(script)) as gateway:
        whole = gateway.post("/v1/chat/completions", {**CHAT, **asked}).json()["choices"][0]
        events = stream(gateway, {**STREAM, **asked})
    chunks = [event["choices"][0]["logprobs"] for event in events[:-1]]
    streamed = [entry for chunk in chunks if chunk for entry in chunk["content"]]
    assert whole["logprobs"] == {"content": streamed, "refusal": None}
    spelt = [{"token": t.token, "logprob": t.logprob, "bytes": [*t.token.encode()]} for t in top]
    first = {"token": "w ", "logprob": -0.5, "bytes": [119, 32], "top_logprobs": spelt}
    assert streamed == [first] * 300


def test_log_probabilities_in_both_forms():
    tokens = [
        TokenLogprob("Hé", -0.5, top=(TokenLogprob("Hé", -0.5), TokenLogprob("Ho", -1.5))),
        TokenLogprob("�", -1.0, b"\xf0\x9f"),
    ]
    script = [Delta(0, "Hé", "", 1, 5, tokens[:1]), Delta(0, "🙂", "stop", 1, 5, tokens[1:])]
    with serving(FakeUpstream(script)) as gateway:
        chat = gateway.post(
            "/v1/chat/completions", {**CHAT, "logprobs": True, "top_logprobs": 2}
        ).json()
        body = {"model": "demo", "prompt": "p", "logprobs": 2, "stream": True}
        events = stream(gateway, body, "/v1/completions")
    content = chat["choices"][0]["logprobs"]["content"]
    assert content[0]["bytes"] == list("Hé".encode())
    assert [top["token"] for top in content[0]["top_logprobs"]] == ["Hé", "Ho"]
    assert content[1]["bytes"] == [0xF0, 0x9F]
    merged = [event["choices"][0]["logprobs"] for event in events[:-1]]
    assert [offset for each in merged for offset in each["text_offset"]] == [0, 2]
    assert merged[0]["top_logprobs"][0] == {"Hé": -0.5, "Ho": -1.5}


@pytest.fixture(scope="module")
def gateway():
    with serving() as running:
        yield running


@pytest.mark.parametrize("body", [CHAT, STREAM])
def test_an_answer_is_reserved_begun_settled_and_audited_in_this_order(body):
    ledger = Ledger()
    with serving(limiter=ledger, audit=ledger) as gateway:
        response = gateway.post(
            "/v1/chat/completions",
            {**body, "max_tokens": 9, "n": 1},
            headers={"x-request-id": "mine-7"},
        )
    assert response.headers["x-ratelimit-remaining-requests"] == "7"
    assert response.headers["x-request-id"] == "mine-7"
    assert ledger.events == [
        ("reserve", "demo", 9),
        ("begin", "mine-7"),
        ("settle", 5, 3),
        ("append", "mine-7"),
    ]
    (record,) = ledger.records
    assert (record.upstream, record.model_version, record.status) == ("a", "demo-1", 200)
    assert (record.finish_reasons, record.answer) == (("stop",), b"Hello there.")
    assert b'"content":"Hi"' in record.prompt


def test_priority_is_asked_with_service_tier_and_never_above_the_key_s():
    upstream = FakeUpstream()
    keys = Keys({"s": replace(LOCAL, tenant_class="standard"), "i": LOCAL})
    with serving(upstream, authenticator=keys) as gateway:
        tiers = []
        for key, tier in (("i", "flex"), ("i", "auto"), ("s", "priority"), ("s", None)):
            body = {**CHAT, "service_tier": tier}
            headers = {"authorization": f"Bearer {key}"}
            answer = gateway.post("/v1/chat/completions", body, headers=headers).json()
            tiers.append(answer["service_tier"])
    assert [job.generation.tenant_class for job in upstream.jobs] == [
        "batch",
        "interactive",
        "standard",
        "standard",
    ]
    assert tiers == ["flex", "priority", "default", "default"]


def test_models_and_health(gateway):
    with gateway.client() as client:
        assert [m["id"] for m in client.get("/v1/models").json()["data"]] == ["demo"]
        assert client.get("/v1/models/demo").json()["object"] == "model"
        assert "context_length" not in client.get("/v1/models/demo").json()
        assert client.get("/v1/models/none").status_code == 404
        assert client.get("/health/ready").json() == {"status": "ready", "audit": "none"}


def test_a_model_says_when_it_was_made_and_how_long_its_context_is():
    settings = Configuration.for_triton(
        "127.0.0.1:1", model="mine", created_s=86_400, context_length=2048
    )
    with serving({"local": FakeUpstream()}, settings) as gateway, gateway.client() as client:
        described = client.get("/v1/models/mine").json()
    assert (described["created"], described["context_length"]) == (86_400, 2048)


def test_not_ready_without_a_token():
    ill = FakeUpstream(probe_error=ServerUnavailableError("gone"))
    with serving(ill, ready=False) as gateway:
        with gateway.client() as client:
            assert client.get("/health/ready").status_code == 503
        response = gateway.post("/v1/chat/completions", CHAT)
        assert response.status_code == 503
        assert response.json()["error"]["code"] == "unavailable"
        assert response.headers["retry-after"] == "1"


def test_cors_is_closed_unless_told_otherwise(gateway):
    preflight = {
        "origin": "https://ours.example",
        "access-control-request-method": "POST",
        "access-control-request-headers": "authorization",
    }
    with gateway.client() as client:
        closed = client.options("/v1/chat/completions", headers=preflight)
    assert "access-control-allow-origin" not in closed.headers
    settings = configuration(listen=ListenSettings(port=0, cors_origins=("https://ours.example",)))
    with serving(None, settings) as open_gateway, open_gateway.client() as client:
        answer = client.options("/v1/chat/completions", headers=preflight)
        assert answer.headers["access-control-allow-origin"] == "https://ours.example"
        foreign = {**preflight, "origin": "https://theirs.example"}
        answer = client.options("/v1/chat/completions", headers=foreign)
        assert "access-control-allow-origin" not in answer.headers


def test_the_openapi_document_describes_it(gateway):
    with gateway.client() as client:
        document = client.get("/openapi.json").json()
    assert document["info"]["version"] == VERSION
    assert set(document["paths"]) >= {"/v1/chat/completions", "/v1/completions", "/v1/models"}
    schema = document["components"]["schemas"]["ChatRequest"]
    assert schema["additionalProperties"] is False
    assert "429" in document["paths"]["/v1/completions"]["post"]["responses"]
