"""What the API refuses, and what it says of failures."""

from __future__ import annotations

from functools import partial

import pytest

from contract.errors import GenerationError, InvalidRequestError
from gateway.gateway_errors import LimitExceeded
from tests.gateway.fakes import (
    CHAT,
    HANG,
    STREAM,
    FakeUpstream,
    Keys,
    Ledger,
    configuration,
    serving,
    words,
)
from tests.gateway.test_api import gateway, stream
from tests.gateway.test_dispatch import eventually

__all__ = ["gateway"]  # the fixture

LABELS = {"tenant_class": "interactive", "model": "demo"}


@pytest.mark.parametrize(
    ("change", "param", "message"),
    [
        ({"tools": [{"type": "function"}]}, "tools.0.function", "missing required parameter"),
        ({"tools": [{"type": "custom"}]}, "tools.0.type", "should be 'function'"),
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
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages.0.tool_call_id", "is missing"),
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


@pytest.mark.parametrize("body", [CHAT, STREAM])
@pytest.mark.parametrize("begun", [[], words("so ", "far")[:1]])
def test_a_deadline_of_the_client_s_is_no_fault_of_ours(body, begun):
    ledger = Ledger()
    with serving(FakeUpstream([*begun, HANG]), audit=ledger) as gateway:
        headers = {"x-trireme-timeout-s": "0.3"}
        gateway.post("/v1/chat/completions", body, headers=headers)
        errors = partial(gateway.metric, "trireme_gateway_errors_total", **LABELS)
        eventually(lambda: errors(cause="client_deadline") == 1)
        assert errors(cause="deadline_exceeded") == 0
    [record] = ledger.records
    assert (record.code, record.finish_reasons) == ("client_deadline", ("cancelled",))


@pytest.mark.parametrize("header", [{}, {"x-trireme-timeout-s": "3"}])
def test_a_deadline_of_the_gateway_s_is_one(header):
    ledger = Ledger()
    settings = configuration(("a",), admission={"default_deadline_s": 0.3})
    with serving(FakeUpstream([HANG]), settings, audit=ledger) as gateway:
        gateway.post("/v1/chat/completions", CHAT, headers=header)
        eventually(lambda: ledger.records)
    [record] = ledger.records
    assert (record.code, record.finish_reasons) == ("deadline_exceeded", ("error",))


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
