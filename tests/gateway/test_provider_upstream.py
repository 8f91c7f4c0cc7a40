"""A provider that speaks OpenAI's API: a second gateway, before a script."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest

from gateway.configuration import ProviderSettings
from gateway.gateway_errors import LimitExceeded
from gateway.generation import Delta, Job, Sampling, TokenLogprob
from gateway.upstreams.base import (
    UpstreamBusy,
    UpstreamFailed,
    UpstreamRefused,
    UpstreamUnavailable,
)
from gateway.upstreams.provider_upstream import Provider
from tests.gateway.fakes import FakeUpstream, Keys, Ledger, serving, words


def job(**more: Any) -> Job:
    values: dict[str, Any] = {
        "request_id": "id",
        "model": "demo",
        "messages": ({"role": "user", "content": "Hi"},),
        "prompts": (),
        "n": 1,
        "sampling": Sampling(max_tokens=16),
        "stream": True,
        "tenant_class": "batch",
        "policy": None,
        "timeout_s": 10.0,
    }
    return Job(**{**values, **more})


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
    sampling = Sampling(
        max_tokens=9,
        temperature=0.5,
        top_p=0.9,
        top_k=7,
        min_p=0.1,
        seed=3,
        stop=("x", "y"),
        presence_penalty=0.25,
        frequency_penalty=0.5,
        repetition_penalty=1.5,
        min_tokens=2,
        ignore_eos=True,
        logit_bias={7: -1.0},
        top_logprobs=1,
    )
    logprobs = [TokenLogprob("a", -0.5, b"a", (TokenLogprob("a", -0.5, b"a"),))]
    other = FakeUpstream([Delta(0, "a", "stop", 1, 5, logprobs), *words("b", "c", index=1)])
    more: dict[str, Any] = {} if chat else {"messages": None, "prompts": ("one",)}
    with serving(other, authenticator=Keys()) as gateway:
        deltas = ask(
            gateway.url,
            job(sampling=sampling, stream=stream, n=2, **more),
            api_key_env="OTHER_KEY",
            send_service_tier=True,
        )
    (arrived,) = other.jobs
    assert arrived.sampling == sampling
    assert (arrived.n, arrived.stream, arrived.tenant_class) == (2, stream, "batch")
    assert arrived.prompts == (() if chat else ("one",))
    texts = {0: "", 1: ""}
    for delta in deltas:
        texts[delta.index] += delta.text
    assert texts == {0: "a", 1: "bc"}
    assert sum(delta.output_tokens for delta in deltas) == 3
    assert [d.prompt_tokens for d in deltas if d.prompt_tokens is not None] == [5]
    (reported,) = [each for delta in deltas for each in delta.logprobs or ()]
    assert (reported.token, reported.logprob) == ("a", -0.5)


@pytest.mark.parametrize(
    ("failure", "expected"),
    [
        (UpstreamRefused("too long", "messages"), UpstreamRefused),
        (UpstreamFailed("broken"), UpstreamUnavailable),
        (UpstreamBusy("full"), UpstreamUnavailable),
    ],
)
def test_what_another_answers_means_here(failure, expected):
    with serving(FakeUpstream([failure])) as gateway, pytest.raises(expected) as caught:
        ask(gateway.url, job())
    if isinstance(caught.value, UpstreamRefused):
        assert caught.value.param == "messages"


def test_its_limits_are_its_being_busy_and_its_refusal_of_our_key_its_absence():
    limiter = Ledger(refuse=LimitExceeded("slow down", limit="r", retry_after_s=1))
    with serving(limiter=limiter) as gateway, pytest.raises(UpstreamBusy, match="slow down"):
        ask(gateway.url, job())
    with serving(authenticator=Keys()) as gateway, pytest.raises(UpstreamUnavailable):
        ask(gateway.url, job())


def test_an_error_in_the_middle_of_its_stream():
    script = [*words("Hello", reason=""), UpstreamFailed("broken")]
    with serving(FakeUpstream(script)) as gateway, pytest.raises(UpstreamFailed, match="broken"):
        ask(gateway.url, job())


def test_nobody_there():
    with pytest.raises(UpstreamUnavailable, match="ConnectError"):
        ask("http://127.0.0.1:1", job())


@pytest.mark.parametrize("body", [b"<html>", b"{}", b"[]", b'{"choices":[{}]}', b"data: {\n\n"])
def test_what_is_no_answer_of_openai_s(body, monkeypatch):
    def respond(request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, content=body)

    original = httpx.AsyncClient

    def client(**settings: Any) -> httpx.AsyncClient:
        return original(**settings, transport=httpx.MockTransport(respond))

    monkeypatch.setattr("gateway.upstreams.provider_upstream.httpx.AsyncClient", client)
    for stream in (False, True):
        with pytest.raises((UpstreamFailed, UpstreamUnavailable)):
            ask("http://other", job(stream=stream))
