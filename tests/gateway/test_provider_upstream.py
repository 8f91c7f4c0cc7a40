"""A provider that speaks OpenAI's API: a second gateway, before a script."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx
import pytest

from contract.errors import (
    GenerationError,
    InvalidRequestError,
    ServerBusyError,
    ServerUnavailableError,
)
from contract.parameters import GenerationParameters
from gateway.configuration import ProviderSettings
from gateway.gateway_errors import LimitExceeded
from gateway.generation import (
    AnyPrompt,
    Chat,
    Delta,
    Generation,
    Job,
    Texts,
    TokenLogprob,
    Tokens,
    ToolCallDelta,
)
from gateway.upstreams.provider_upstream import Provider
from tests.gateway.fakes import FakeUpstream, Keys, Ledger, serving, words

CHAT = Chat.of([{"role": "user", "content": "Hi"}])
PARAMETERS = GenerationParameters(max_tokens=16)


def job(
    prompt: AnyPrompt = CHAT,
    parameters: GenerationParameters = PARAMETERS,
    *,
    stream: bool = True,
    request_id: str = "id",
    timeout_s: float = 10.0,
) -> Job:
    generation = Generation(request_id, prompt, parameters, stream, "batch", None)
    return Job(generation, request_id, "demo", timeout_s)


def ask(url: str, wanted: Job, **more: Any) -> list[Delta]:
    async def collect() -> list[Delta]:
        settings = ProviderSettings(kind="openai", name="other", url=f"{url}/v1", **more)
        provider = Provider(settings)
        try:
            return [delta async for delta in provider.generate(wanted)]
        finally:
            await provider.aclose()

    return asyncio.run(collect())


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("chat", [True, False])
def test_all_that_a_job_asks_arrives(stream, chat, monkeypatch):
    monkeypatch.setenv("OTHER_KEY", "good")
    parameters = GenerationParameters(
        max_tokens=9,
        temperature=0.5,
        top_p=0.9,
        top_k=7,
        min_p=0.1,
        seed=3,
        stop_words=("x", "y"),
        presence_penalty=0.25,
        frequency_penalty=0.5,
        repetition_penalty=1.5,
        min_tokens=2,
        end_id=-1,
        logit_bias={7: -1.0},
        return_log_probs=True,
        num_top_log_probs=1,
        num_return_sequences=2,
    )
    logprobs = [TokenLogprob("a", -0.5, b"a", (TokenLogprob("a", -0.5, b"a"),))]
    other = FakeUpstream([Delta(0, "a", "stop", 1, 5, logprobs), *words("b", "c", index=1)])
    prompt = CHAT if chat else Texts.of(("one",))
    with serving(other, authenticator=Keys()) as gateway:
        deltas = ask(
            gateway.url,
            job(prompt, parameters, stream=stream),
            api_key_env="OTHER_KEY",
            send_service_tier=True,
        )
    (arrived,) = (job.generation for job in other.jobs)
    assert arrived.parameters == parameters
    assert (arrived.n, arrived.stream, arrived.tenant_class) == (2, stream, "batch")
    assert arrived.prompt == prompt
    texts = {0: "", 1: ""}
    for delta in deltas:
        texts[delta.index] += delta.text
    assert texts == {0: "a", 1: "bc"}
    assert sum(delta.output_tokens for delta in deltas) == 3
    assert [d.prompt_tokens for d in deltas if d.prompt_tokens is not None] == [5]
    (reported,) = [each for delta in deltas for each in delta.logprobs or ()]
    assert (reported.token, reported.logprob) == ("a", -0.5)


@pytest.mark.parametrize("rows", [((5, 6),), ((5,), (6, 7))])
def test_tokens_arrive_as_tokens(rows):
    other = FakeUpstream([each for index in range(len(rows)) for each in words("a", index=index)])
    with serving(other) as gateway:
        ask(gateway.url, job(Tokens.of(rows)))
    assert other.jobs[0].generation.prompt == Tokens.of(rows)


@pytest.mark.parametrize("asked", [{"return_prompt_tokens": True}, {"num_prompt_log_probs": 1}])
def test_what_a_provider_doesn_t_tell_is_refused(asked):
    parameters = GenerationParameters(max_tokens=9, **asked)
    with pytest.raises(InvalidRequestError, match="a provider tells nothing of the prompt"):
        ask("http://127.0.0.1:9", job(Texts.of(("a",)), parameters))


@pytest.mark.parametrize(
    ("failure", "expected"),
    [
        (
            InvalidRequestError("too long", "messages", code="context_length_exceeded"),
            InvalidRequestError,
        ),
        (GenerationError("broken"), ServerUnavailableError),
        (ServerBusyError("full"), ServerUnavailableError),
    ],
)
def test_what_another_answers_means_here(failure, expected):
    with serving(FakeUpstream([failure])) as gateway, pytest.raises(expected) as caught:
        ask(gateway.url, job())
    if isinstance(caught.value, InvalidRequestError):
        assert caught.value.param == "messages"
        assert caught.value.code == "context_length_exceeded"


def test_its_limits_are_its_being_busy_and_its_refusal_of_our_key_its_absence():
    limiter = Ledger(refuse=LimitExceeded("slow down", limit="r", retry_after_s=1))
    with serving(limiter=limiter) as gateway, pytest.raises(ServerBusyError, match="slow down"):
        ask(gateway.url, job())
    with serving(authenticator=Keys()) as gateway, pytest.raises(ServerUnavailableError):
        ask(gateway.url, job())


def test_an_error_in_the_middle_of_its_stream():
    script = [*words("Hello", reason=""), GenerationError("broken")]
    with serving(FakeUpstream(script)) as gateway, pytest.raises(GenerationError, match="broken"):
        ask(gateway.url, job())


def test_nobody_there():
    with pytest.raises(ServerUnavailableError, match="ConnectError"):
        ask("http://127.0.0.1:1", job())


def answer_always(monkeypatch: pytest.MonkeyPatch, status: int, body: bytes) -> None:
    """Let every provider answer so."""
    original = httpx.AsyncClient

    def client(**settings: Any) -> httpx.AsyncClient:
        transport = httpx.MockTransport(lambda request: httpx.Response(status, content=body))
        return original(**settings, transport=transport)

    monkeypatch.setattr("gateway.upstreams.provider_upstream.httpx.AsyncClient", client)


@pytest.mark.parametrize(
    ("param", "known"), [('"stop"', "stop"), ("null", None), ('["stop"]', None), ("{}", None)]
)
def test_what_a_provider_blames_is_a_name_or_nothing(param, known, monkeypatch):
    body = b'{"error": {"message": "no", "param": %b}}' % param.encode()
    answer_always(monkeypatch, 400, body)
    with pytest.raises(InvalidRequestError, match="no") as caught:
        ask("http://other", job())
    assert caught.value.param == known


@pytest.mark.parametrize("body", [b"<html>", b"{}", b"[]", b'{"choices":[{}]}', b"data: {\n\n"])
def test_what_is_no_answer_of_openai_s(body, monkeypatch):
    answer_always(monkeypatch, 200, body)
    for stream in (False, True):
        with pytest.raises((GenerationError, ServerUnavailableError)):
            ask("http://other", job(stream=stream))


@pytest.mark.parametrize(
    ("said", "means"),
    [("length", "length"), ("content_filter", "content_filter"), ("eos", "stop"), (None, "")],
)
def test_why_a_provider_s_answer_ended_is_one_of_our_reasons(said, means, monkeypatch):
    choice = {"index": 0, "message": {"content": "Hi"}, "finish_reason": said}
    answer_always(monkeypatch, 200, json.dumps({"choices": [choice]}).encode())
    (delta,) = ask("http://other", job(stream=False))
    assert delta.finish_reason == means


@pytest.mark.parametrize("stream", [True, False])
def test_functions_go_out_and_their_calls_and_the_reasoning_come_back(stream):
    tool = {"type": "function", "function": {"name": "add"}}
    parameters = GenerationParameters(
        tools=[tool],
        tool_choice="function:add",
        parallel_tool_calls=False,
        reasoning_effort="low",
    )
    fake = FakeUpstream(
        [
            Delta(reasoning="so", output_tokens=2, reasoning_tokens=2, prompt_tokens=5),
            Delta(tool_calls=[ToolCallDelta(0, "a", "add", '{"x"')], output_tokens=1),
            Delta(finish_reason="tool_calls", tool_calls=[ToolCallDelta(0, arguments=": 1}")]),
        ]
    )
    with serving(fake) as gateway:
        deltas = ask(gateway.url, job(CHAT, parameters, stream=stream))
    asked = fake.jobs[0].generation.parameters
    assert (asked.tools, asked.tool_choice) == ((tool,), "function:add")
    assert (asked.parallel_tool_calls, asked.reasoning_effort) == (False, "low")
    whole = Delta()
    for delta in deltas:
        whole.reasoning += delta.reasoning
        whole.reasoning_tokens += delta.reasoning_tokens
        whole.add_tool_calls(delta.tool_calls)
    assert whole.tool_calls == [ToolCallDelta(0, "a", "add", '{"x": 1}')]
    assert (whole.reasoning, whole.reasoning_tokens) == ("so", 2)
