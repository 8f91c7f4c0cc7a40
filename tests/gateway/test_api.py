"""The API over real connections, before upstreams with a script."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from contract.errors import GenerationError, InvalidRequestError, ServerUnavailableError
from contract.version import VERSION
from gateway.configuration import Configuration, ListenSettings
from gateway.gateway_errors import LimitExceeded
from gateway.generation import Delta, TokenLogprob
from gateway.open_access import LOCAL
from tests.gateway.fakes import (
    CHAT,
    HANG,
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


@pytest.mark.parametrize(
    ("change", "param", "message"),
    [
        ({"tools": [{"type": "function"}]}, "tools", "tools is not supported here"),
        ({"response_format": {"type": "json_object"}}, "response_format", "is not supported"),
        ({"store": True}, "store", "is not supported"),
        ({"temprature": 1}, "temprature", "did you mean temperature?"),
        ({"temperature": 3}, "temperature", "less than or equal to 2"),
        ({"repetition_penalty": 10.1}, "repetition_penalty", "less than or equal to 10"),
        ({"n": 0}, "n", "greater than or equal to 1"),
        ({"max_tokens": 10**6}, "max_tokens", "gives at most 32768"),
        ({"max_tokens": 1, "max_completion_tokens": 1}, "max_tokens", "are the same"),
        ({"top_logprobs": 3}, "top_logprobs", "needs logprobs: true"),
        ({"stream_options": {}}, "stream_options", "need stream: true"),
        ({"stop": ["", "b"]}, "stop", "must not be empty"),
        ({"logit_bias": {"x": 1}}, "logit_bias", "'x' is no token id"),
        ({"messages": []}, "messages", "at least 1 item"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages.0.role", "should be"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
            "messages.0.content.0",
            "",
        ),
        ({"model": "other"}, "model", "does not exist"),
        ({"service_tier": "best"}, "service_tier", "should be"),
    ],
)
def test_what_is_wrong_or_not_supported_is_named(change, param, message, gateway):
    response = gateway.post("/v1/chat/completions", {**CHAT, **change})
    error = response.json()["error"]
    assert response.status_code == (404 if param == "model" else 400)
    assert error["type"] == "invalid_request_error"
    assert error["param"].startswith(param)
    assert message in error["message"]


@pytest.fixture(scope="module")
def gateway():
    with serving() as running:
        yield running


@pytest.mark.parametrize(
    "nothing",
    [
        {"tools": []},
        {"tool_choice": "none"},
        {"store": False},
        {"logit_bias": None},
        {"top_p": None},
    ],
)
def test_what_asks_for_nothing_is_taken(nothing, gateway):
    assert gateway.post("/v1/chat/completions", {**CHAT, **nothing}).status_code == 200


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", None),
        (b"{", "invalid_json"),
        (b"[]", "invalid_value"),
        (b"null", None),
        (b'{"model":"demo"}', "missing_required_parameter"),
        (b'{"model":"demo","messages":[{"role":"user","content":"\\ud800"}]}', None),
        (b'{"model":"demo","messages":[{"role":"user","content":"x"}],"seed":1e999}', None),
        (b"\xff\xfe", None),
    ],
)
def test_bodies_that_are_none(body, code, gateway):
    with gateway.client() as client:
        response = client.post(
            "/v1/chat/completions", content=body, headers={"content-type": "application/json"}
        )
    assert response.status_code == 400
    if code is not None:
        assert response.json()["error"]["code"] == code
    if not body:
        assert response.json()["error"]["message"] == "the body is missing"


def test_paths_and_methods_that_are_not_there(gateway):
    with gateway.client() as client:
        for response, status in (
            (client.get("/v1/nothing"), 404),
            (client.get("/v1/chat/completions"), 405),
        ):
            assert response.status_code == status
            assert response.json()["error"]["type"] == "invalid_request_error"
            assert response.headers["x-content-type-options"] == "nosniff"


def test_what_the_model_refuses_is_a_400():
    refusal = InvalidRequestError("max_tokens is 4096; there is room for 2037", "max_tokens")
    with serving(FakeUpstream([refusal])) as gateway:
        for body in (CHAT, STREAM):
            response = gateway.post("/v1/chat/completions", body)
            assert response.status_code == 400
            assert response.json()["error"]["param"] == "max_tokens"


@pytest.mark.parametrize(
    ("input_name", "chat", "completion"),
    [
        ("text_input", "messages", "prompt"),
        ("input_ids", "messages", "prompt"),
        ("num_return_sequences", "n", "n"),
        ("stop_words", "stop", "stop"),
        ("embedding_bias_words", "logit_bias", "logit_bias"),
        ("embedding_bias_ids", "logit_bias", "logit_bias"),
        ("return_log_probs", "logprobs", "logprobs"),
        ("num_top_log_probs", "top_logprobs", "top_logprobs"),
        ("end_id", "ignore_eos", "ignore_eos"),
        ("safety_policy", "safety_policy", "safety_policy"),
        (None, None, None),
    ],
)
def test_what_is_to_blame_has_the_api_s_name(input_name, chat, completion):
    with serving(FakeUpstream([InvalidRequestError("no", input_name)])) as gateway:
        answers = (
            gateway.post("/v1/chat/completions", CHAT),
            gateway.post("/v1/completions", {"model": "demo", "prompt": "Hi"}),
        )
    assert [each.json()["error"]["param"] for each in answers] == [chat, completion]


@pytest.mark.parametrize(
    ("input_name", "message", "said"),
    [
        ("stop_words", "stop_words has 9 bytes; most are 4", "stop has 9 bytes; most are 4"),
        ("embedding_bias_ids", "embedding_bias_ids must be 0", "logit_bias must be 0"),
        ("text_input", "text_input has 9 bytes", "messages has 9 bytes"),
        ("stop_words", "stop_words_list and my_stop_words", "stop_words_list and my_stop_words"),
        ("seed", "seed is 1", "seed is 1"),
    ],
)
def test_a_model_s_refusal_calls_a_field_as_the_api_does(input_name, message, said):
    with serving(FakeUpstream([InvalidRequestError(message, input_name)])) as gateway:
        error = gateway.post("/v1/chat/completions", CHAT).json()["error"]
    assert (error["message"], error["code"]) == (said, "invalid_value")


def test_a_prompt_that_a_policy_blocks_has_a_code():
    refusal = InvalidRequestError("the policy strict blocks the prompt", code="content_filter")
    with serving(FakeUpstream([refusal])) as gateway:
        error = gateway.post("/v1/chat/completions", CHAT).json()["error"]
    assert (error["code"], error["message"]) == ("content_filter", refusal.message)
    assert error["type"] == "invalid_request_error"


def test_a_failure_in_the_middle_of_a_stream_is_an_event():
    script = [*words("Hello", "x", reason=""), GenerationError("out of memory")]
    ledger = Ledger()
    with serving(FakeUpstream(script), audit=ledger) as gateway:
        events = stream(gateway, STREAM)
    assert events[-1]["error"]["code"] == "generation_failed"
    assert ledger.records[0].finish_reasons == ("error",)
    assert ledger.records[0].output_tokens == 2


def test_an_unforeseen_error_tells_nothing_of_the_inside():
    with serving(FakeUpstream([RuntimeError("secret of the house")])) as gateway:
        response = gateway.post("/v1/chat/completions", CHAT)
    assert response.status_code == 502
    assert "secret" not in response.text
    assert "Traceback" not in response.text


def test_who_asks_is_known_before_the_body_is_looked_at():
    with serving(authenticator=Keys()) as gateway:
        with gateway.client() as client:
            refused = client.post("/v1/chat/completions", content=b"{")
        assert refused.status_code == 401
        assert refused.headers["www-authenticate"] == "Bearer"
        assert refused.json()["error"]["code"] == "invalid_api_key"
        headers = {"authorization": "Bearer good"}
        assert gateway.post("/v1/chat/completions", CHAT, headers=headers).status_code == 200
        with gateway.client() as client:
            assert client.get("/v1/models").status_code == 401
            assert client.get("/health/live").status_code == 200


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
    assert (record.finish_reasons, record.answer_text) == (("stop",), "Hello there.")
    assert '"content":"Hi"' in record.prompt_text


def test_a_limit_is_a_429_that_says_when_to_come_again():
    ledger = Ledger(refuse=LimitExceeded("too many", limit="requests", retry_after_s=2.4))
    with serving(limiter=ledger) as gateway:
        response = gateway.post("/v1/chat/completions", CHAT)
    assert response.status_code == 429
    assert response.headers["retry-after"] == "3"
    assert response.json()["error"]["type"] == "rate_limit_error"


def test_what_cannot_be_audited_is_not_served():
    upstream, ledger = FakeUpstream(), Ledger(full=True)
    with serving(upstream, limiter=ledger, audit=ledger) as gateway:
        response = gateway.post("/v1/chat/completions", CHAT)
        assert response.status_code == 503
        assert response.json()["error"]["code"] == "audit_unavailable"
    assert upstream.jobs == []
    assert ledger.events == []


def test_a_disk_that_fills_meanwhile_withholds_the_end_of_the_answer():
    ledger = Ledger()

    def fill(job):
        ledger.full = True
        return words("Hello", ".")

    with serving(FakeUpstream(fill), audit=ledger) as gateway:
        whole = gateway.post("/v1/chat/completions", CHAT)
        ledger.full = False
        events = stream(gateway, STREAM)
    assert whole.status_code == 503
    assert events[-1]["error"]["code"] == "audit_unavailable"


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


def test_deadlines():
    with serving(FakeUpstream([HANG])) as gateway:
        headers = {"x-trireme-timeout-s": "0.2"}
        response = gateway.post("/v1/chat/completions", STREAM, headers=headers)
        assert response.status_code == 504
        assert response.json()["error"]["code"] == "deadline_exceeded"
        for wrong in ("0", "nan", "-1", "x", "1e9"):
            headers = {"x-trireme-timeout-s": wrong}
            response = gateway.post("/v1/chat/completions", CHAT, headers=headers)
            assert response.json()["error"]["param"] == "x-trireme-timeout-s"


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


# --- WebSocket ------------------------------------------------------------------------------------


def socket_url(gateway: Running) -> str:
    return gateway.url.replace("http://", "ws://") + "/v1/chat/completions"


def receive_all(socket: Any) -> list[Any]:
    events: list[Any] = []
    while True:
        message = socket.recv(timeout=20)
        if message == "[DONE]":
            return events
        events.append(json.loads(message))
        if "error" in events[-1]:
            return events


def test_the_same_stream_over_a_websocket(gateway):
    with connect(socket_url(gateway)) as socket:
        for _ in range(2):  # one after the other
            socket.send(json.dumps(CHAT))
            assert text_of([*receive_all(socket), "[DONE]"]) == "Hello there."
        for wrong, code in (("{", "invalid_json"), ('{"model":"demo"}', "missing_required_par")):
            socket.send(wrong)
            assert receive_all(socket)[-1]["error"]["code"].startswith(code)


def test_a_websocket_needs_a_key_and_no_foreign_page():
    settings = configuration(listen=ListenSettings(port=0, cors_origins=("https://ours.example",)))
    with serving(None, settings, authenticator=Keys()) as gateway:
        good = {"authorization": "Bearer good"}
        for headers in ({}, {**good, "origin": "https://theirs.example"}):
            with (
                pytest.raises(InvalidStatus),
                connect(socket_url(gateway), additional_headers=headers),
            ):
                pass
        headers = {**good, "origin": "https://ours.example"}
        with connect(socket_url(gateway), additional_headers=headers) as socket:
            socket.send(json.dumps(CHAT))
            assert receive_all(socket)


def test_a_revoked_key_ends_its_websocket_at_the_next_message():
    keys = Keys({"good": LOCAL})
    header = {"authorization": "Bearer good"}
    with (
        serving(None, authenticator=keys) as gateway,
        connect(socket_url(gateway), additional_headers=header) as socket,
    ):
        socket.send(json.dumps(CHAT))
        assert text_of([*receive_all(socket), "[DONE]"]) == "Hello there."
        keys.principals = {}
        socket.send(json.dumps(CHAT))
        assert json.loads(socket.recv(timeout=20))["error"]["code"] == "invalid_api_key"
        with pytest.raises(ConnectionClosed):
            socket.recv(timeout=20)


def test_one_request_at_a_time_on_a_websocket():
    upstream = FakeUpstream([*words("a", reason=""), HANG])
    with serving(upstream) as gateway, connect(socket_url(gateway)) as socket:
        socket.send(json.dumps(CHAT))
        socket.recv(timeout=20)
        socket.send(json.dumps(CHAT))
        with pytest.raises(ConnectionClosed):
            receive_all(socket)
    assert upstream.ended == ["cancelled"]


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
