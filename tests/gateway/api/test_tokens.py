"""Endpoints for which nothing is generated: the tokens of a prompt, and the text of tokens."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import httpx
import pytest

from contract.errors import (
    GenerationError,
    InvalidRequestError,
    RequestTimeoutError,
    ServerUnavailableError,
)
from gateway.app import create_app
from gateway.configuration import (
    Configuration,
    ModelSettings,
    TritonSettings,
    VersionSettings,
)
from gateway.gateway_errors import LimitExceeded
from gateway.generation import Chat, Job, Texts, Tokens
from tests.gateway.fakes import FakeUpstream, Ledger, Running, configuration, running
from tests.gateway.test_dispatch import eventually

HELLO = {"role": "user", "content": "Hi"}
TOOL = {"type": "function", "function": {"name": "now"}}


@dataclass
class Teller(FakeUpstream):
    """Knows tokens: one for each byte."""

    told: list[Job] = field(default_factory=list)
    error: Exception | None = None
    pause_s: float = 0.0
    most_at_once: int = 0
    _at_once: int = 0

    async def tokens(self, job: Job) -> list[int]:
        await self._tell(job)
        return list(job.generation.prompt.encoded)

    async def text(self, job: Job) -> str:
        await self._tell(job)
        assert isinstance(job.generation.prompt, Tokens)
        return bytes(job.generation.prompt.rows[0]).decode()

    async def _tell(self, job: Job) -> None:
        self.told.append(job)
        self._at_once += 1
        self.most_at_once = max(self.most_at_once, self._at_once)
        await asyncio.sleep(self.pause_s)
        self._at_once -= 1
        if self.error is not None:
            raise self.error


@pytest.fixture
def ledger() -> Ledger:
    return Ledger()


@pytest.fixture
def teller() -> Teller:
    return Teller()


@pytest.fixture
def gateway(ledger: Ledger, teller: Teller) -> Iterator[Running]:
    app = create_app(configuration(), upstreams={"a": teller}, audit=ledger, limiter=ledger)
    with running(app) as gateway:
        yield gateway


def test_a_text_s_tokens(gateway, teller, ledger):
    answer = gateway.post("/tokenize", {"model": "demo", "prompt": "Hé"})
    assert answer.json() == {
        "count": 3,
        "max_model_len": None,
        "tokens": list("Hé".encode()),
        "token_strs": None,
    }
    assert teller.told[0].generation.prompt == Texts.of(["Hé"])
    assert teller.jobs == []
    assert ledger.events[0] == ("reserve", "demo", 0)
    labels = {"route": "POST /tokenize", "status": "200", "code": ""}
    eventually(lambda: gateway.metric("trireme_gateway_calls_total", **labels) == 1)


def test_a_chat_s_tokens_are_those_of_its_template(gateway, teller):
    body = {"messages": [HELLO], "tools": [TOOL], "chat_template_kwargs": {"a": 1}}
    assert gateway.post("/tokenize", body).status_code == 200
    (job,) = teller.told
    assert job.generation.prompt == Chat.of([HELLO])
    assert job.generation.parameters.tools == (TOOL,)
    assert job.generation.parameters.chat_template_kwargs == {"a": 1}


def test_special_tokens_are_left_out_where_that_is_said(gateway, teller):
    gateway.post("/tokenize", {"prompt": "a", "add_special_tokens": False})
    assert teller.told[0].generation.prompt == Texts.of(["a"], special_tokens=False)


def test_the_text_of_tokens(gateway, teller):
    assert gateway.post("/detokenize", {"tokens": [72, 105]}).json() == {"prompt": "Hi"}


def test_a_conversation_is_counted_in_anthropic_s_words(gateway, teller):
    body = {"model": "demo", "system": "Be", "messages": [HELLO]}
    counted = gateway.post("/v1/messages/count_tokens", body)
    said = Chat.of([{"role": "system", "content": "Be"}, HELLO])
    assert counted.json() == {"input_tokens": len(said.encoded)}
    refused = gateway.post("/v1/messages/count_tokens", {"messages": [HELLO]})
    assert refused.status_code == 400
    assert refused.json()["error"]["type"] == "invalid_request_error"


@pytest.mark.parametrize(
    ("path", "body", "said"),
    [
        ("/tokenize", {}, "give either prompt or messages"),
        ("/tokenize", {"prompt": "a", "messages": [HELLO]}, "give either prompt or messages"),
        ("/tokenize", {"prompt": ""}, "prompt: string should have at least 1 character"),
        ("/tokenize", {"messages": [HELLO], "add_special_tokens": True}, "is for a prompt"),
        ("/tokenize", {"prompt": "a", "return_token_strs": True}, "return_token_strs is not"),
        ("/tokenize", {"prompt": "a", "model": "none"}, "the model 'none' does not exist"),
        ("/detokenize", {"tokens": []}, "tokens: list should have at least 1 item"),
        ("/detokenize", {"tokens": [-1]}, "tokens.0: input should be greater than or equal to 0"),
        ("/detokenize", {"tokens": "Hi"}, "tokens: input should be a valid list"),
    ],
)
def test_what_cannot_be_is_refused_by_name(gateway, teller, path, body, said):
    answer = gateway.post(path, body)
    assert answer.status_code in (400, 404)
    assert said in answer.json()["error"]["message"]
    assert teller.told == []


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (InvalidRequestError("too long", "text_input", code="context_length_exceeded"), 400, None),
        (ServerUnavailableError("gone"), 503, None),
        (RequestTimeoutError("late"), 504, "deadline_exceeded"),
        (GenerationError("broken"), 502, None),
    ],
)
def test_failures_are_told_as_those_of_answers(gateway, teller, error, status, code):
    teller.error = error
    answer = gateway.post("/tokenize", {"prompt": "a"})
    assert answer.status_code == status
    assert code is None or answer.json()["error"]["code"] == code
    if status == 400:
        assert answer.json()["error"]["param"] == "prompt"
        assert answer.json()["error"]["code"] == "context_length_exceeded"


def test_a_limit_holds_for_it(gateway, ledger, teller):
    ledger.refuse = LimitExceeded("too many", limit="requests_per_minute", retry_after_s=1.0)
    assert gateway.post("/tokenize", {"prompt": "a"}).status_code == 429
    assert teller.told == []


def test_a_deadline_holds_for_it(gateway, teller):
    teller.pause_s = 30.0
    begun_s = time.monotonic()
    answer = gateway.post("/tokenize", {"prompt": "a"}, headers={"x-trireme-timeout-s": "0.2"})
    assert answer.status_code == 504
    assert time.monotonic() - begun_s < 20


def test_a_tenant_has_one_of_them_at_a_time(gateway, teller):
    teller.pause_s = 0.02
    with ThreadPoolExecutor(8) as pool:
        answers = [*pool.map(lambda _: gateway.post("/tokenize", {"prompt": "a"}), range(8))]
    assert {each.status_code for each in answers} == {200}
    assert teller.most_at_once == 1
    assert gateway.app.state.gateway.tokenizing._turns == {}


def two(**upstreams: FakeUpstream) -> Configuration:
    settings = tuple(TritonSettings(name=name, address=f"{name}:1") for name in upstreams)
    version = VersionSettings(name="demo", upstreams=tuple(upstreams))
    return Configuration(
        upstreams=settings,
        models={"demo": ModelSettings(versions=(version,))},
    )


def test_another_replica_is_asked_where_one_is_away():
    away, there = Teller(error=ServerUnavailableError("gone")), Teller()
    upstreams: dict[str, FakeUpstream] = {"a": away, "b": there}
    with running(create_app(two(**upstreams), upstreams=upstreams)) as gateway:
        assert gateway.post("/tokenize", {"prompt": "a"}).json()["count"] == 1
    assert len(away.told) == len(there.told) == 1


def test_those_who_know_no_tokens_say_so():
    with running(create_app(configuration(), upstreams={"a": FakeUpstream()})) as gateway:
        answer = gateway.post("/tokenize", {"prompt": "a"})
    assert answer.status_code == 400
    assert "don't tell tokens" in answer.json()["error"]["message"]


def test_a_client_that_leaves_is_waited_for_by_nobody(gateway, teller):
    teller.pause_s = 30.0
    with pytest.raises(httpx.ReadTimeout), gateway.client() as client:
        client.post("/tokenize", json={"prompt": "a"}, timeout=0.3)
    teller.pause_s = 0.0
    found: list[int] = []
    asking = threading.Thread(
        target=lambda: found.append(gateway.post("/tokenize", {"prompt": "b"}).status_code)
    )
    asking.start()
    asking.join(10)
    assert found == [200]
