"""Metrics, traces and logs: what they say, and what they keep to themselves."""

from __future__ import annotations

import json
import logging
import urllib.request
from typing import Any

import pytest
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from prometheus_client import start_http_server

from contract.errors import InvalidRequestError, ServerUnavailableError
from gateway.configuration import TracingSettings
from gateway.observability.logs import JsonFormatter
from gateway.observability.tracing import Tracing
from tests.gateway.fakes import CHAT, STREAM, FakeUpstream, serving, words

SECRET = "my number is 4929"
CHAT_WITH_SECRET = {**CHAT, "messages": [{"role": "user", "content": SECRET}]}


def test_metrics_by_class_and_model():
    with serving() as gateway:
        gateway.post("/v1/chat/completions", STREAM)
        gateway.post("/v1/chat/completions", {**CHAT, "service_tier": "flex"})
        labels = {"model": "demo", "tenant_class": "interactive"}
        for name in ("time_to_first_token", "request_duration", "queue_time"):
            count = gateway.metric(f"trireme_gateway_{name}_seconds_count", **labels)
            assert count == 1, name
        assert gateway.metric("trireme_gateway_time_between_tokens_seconds_count", **labels) >= 1
        tokens = "trireme_gateway_tokens_total"
        assert gateway.metric(tokens, **labels, direction="output") == 3
        assert gateway.metric(tokens, **labels, direction="prompt") == 5
        batch = {**labels, "tenant_class": "batch"}
        assert gateway.metric("trireme_gateway_requests_total", **batch, status="200") == 1
        assert gateway.metric("trireme_gateway_upstream_available", upstream="a") == 1


def test_errors_are_counted_by_cause():
    lost = FakeUpstream([*words("a", reason=""), ServerUnavailableError("gone")])
    with serving(lost) as gateway:
        gateway.post("/v1/chat/completions", STREAM)
        labels = {"model": "demo", "tenant_class": "interactive", "cause": "upstream_lost"}
        assert gateway.metric("trireme_gateway_errors_total", **labels) == 1


def test_prometheus_can_read_them():
    with serving() as gateway:
        registry = gateway.app.state.gateway.metrics.registry
        server, thread = start_http_server(0, "127.0.0.1", registry)
        try:
            url = f"http://127.0.0.1:{server.server_port}/metrics"
            opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
            with opener.open(url, timeout=10) as answer:
                text = answer.read().decode()
        finally:
            server.shutdown()
            server.server_close()
            thread.join()
    assert 'trireme_gateway_waiting_requests{tenant_class="batch"} 0.0' in text


@pytest.fixture
def spans():
    return InMemorySpanExporter()


def traced(spans: InMemorySpanExporter, upstream: FakeUpstream, body: Any, **headers: str):
    tracing = Tracing(TracingSettings(), exporter=spans)
    with serving(upstream, tracing=tracing) as gateway:
        gateway.post("/v1/chat/completions", body, headers=headers)
    by_kind = {span.kind.name: span for span in spans.get_finished_spans()}
    return by_kind["SERVER"], by_kind["CLIENT"]


def test_a_client_s_trace_goes_on_into_the_upstream(spans):
    trace_id = "0af7651916cd43dd8448eb211c80319c"
    upstream = FakeUpstream()
    parent = f"00-{trace_id}-b7ad6b7169203331-01"
    server, client = traced(spans, upstream, CHAT_WITH_SECRET, traceparent=parent)
    assert f"{server.context.trace_id:032x}" == trace_id
    assert client.parent.span_id == server.context.span_id
    sent = upstream.jobs[0].headers["traceparent"]
    assert sent == f"00-{trace_id}-{client.context.span_id:016x}-01"


def test_spans_follow_the_genai_conventions_and_quote_nobody(spans):
    server, client = traced(spans, FakeUpstream(), CHAT_WITH_SECRET)
    attributes = dict(server.attributes)
    assert server.name == "chat demo"
    assert attributes["gen_ai.operation.name"] == "chat"
    assert attributes["gen_ai.request.model"] == "demo"
    assert attributes["gen_ai.response.model"] == "demo-1"
    assert attributes["gen_ai.usage.input_tokens"] == 5
    assert attributes["gen_ai.usage.output_tokens"] == 3
    assert attributes["gen_ai.response.finish_reasons"] == ("stop",)
    assert attributes["trireme.served_by"] == "a"
    assert "4929" not in server.to_json() + client.to_json()


def test_a_failed_span_says_of_what_kind(spans):
    upstream = FakeUpstream([*words("a", reason=""), ServerUnavailableError(SECRET)])
    server, client = traced(spans, upstream, STREAM)
    assert server.attributes["error.type"] == "upstream_lost"
    assert client.attributes["error.type"] == "ServerUnavailableError"
    assert (server.status.status_code.name, client.status.status_code.name) == ("ERROR", "ERROR")
    assert "4929" not in server.to_json() + client.to_json()


def test_what_is_wrong_with_a_request_is_no_error_of_the_server_s_span(spans):
    wrong = InvalidRequestError(SECRET, "messages", code="context_length_exceeded")
    server, client = traced(spans, FakeUpstream([wrong]), CHAT_WITH_SECRET)
    assert server.attributes["error.type"] == "context_length_exceeded"
    assert server.attributes["http.response.status_code"] == 400
    assert (server.status.status_code.name, client.status.status_code.name) == ("UNSET", "UNSET")


def test_without_an_exporter_the_client_s_trace_context_still_goes_on():
    upstream = FakeUpstream()
    parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    with serving(upstream) as gateway:
        gateway.post("/v1/chat/completions", CHAT, headers={"traceparent": parent})
    assert upstream.jobs[0].headers == {"traceparent": parent}


@pytest.mark.parametrize("baggage", ["secret", "secret=4929"])
def test_a_client_s_baggage_is_neither_logged_nor_sent_on(caplog, baggage):
    upstream = FakeUpstream()
    with serving(upstream) as gateway:
        gateway.post("/v1/chat/completions", CHAT, headers={"baggage": baggage})
    assert not any("secret" in header for header in upstream.jobs[0].headers.values())
    assert "secret" not in caplog.text


def test_a_request_is_one_line_of_json_without_its_text(caplog):
    caplog.set_level(logging.INFO)
    upstream = FakeUpstream(words("the answer is private", "."))
    with serving(upstream) as gateway:
        headers = {"x-request-id": "mine"}
        gateway.post("/v1/chat/completions", CHAT_WITH_SECRET, headers=headers)
        gateway.post("/v1/chat/completions", {**CHAT_WITH_SECRET, "n": 99})
    formatter = JsonFormatter()
    lines = [formatter.format(record) for record in caplog.records]
    (line,) = [json.loads(line) for line in lines if '"request_id":"mine"' in line]
    assert (line["tenant"], line["served_by"], line["status"]) == ("local", "a", 200)
    assert (line["prompt_tokens"], line["output_tokens"]) == (5, 2)
    assert "4929" not in "".join(lines)
    assert "private" not in "".join(lines)


def test_an_exception_is_logged_without_its_message():
    try:
        raise ValueError(SECRET)
    except ValueError as error:
        record = logging.LogRecord(
            "x", 40, "f", 1, "failed", None, (ValueError, error, error.__traceback__)
        )
    line = json.loads(JsonFormatter().format(record))
    assert line["error"] == "ValueError"
    assert "test_observability.py" in line["at"][0]
    assert "4929" not in json.dumps(line)
