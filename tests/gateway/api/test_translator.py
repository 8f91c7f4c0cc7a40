"""Another API: one class, and nothing behind it knows."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import pytest
from fastapi import APIRouter
from pydantic import BaseModel
from websockets.sync.client import connect

from contract.errors import GenerationError, InvalidRequestError
from gateway.api.routes import add_api, api
from gateway.api.translator import Event, Translator
from gateway.app import create_app
from gateway.gateway_errors import GatewayError
from gateway.generation import Delta, Texts
from gateway.order import Order, Wish
from gateway.run_progress import Progress
from tests.gateway.fakes import FakeUpstream, Ledger, Running, configuration, running, words


class Line(BaseModel):
    """A line of a play."""

    line: str
    live: bool = False


class Stage:
    """Writes answers as stage directions, in named events."""

    def events(self, deltas: Iterable[Delta]) -> Iterator[Event]:
        return (Event(delta.text.encode(), b"spoken") for delta in deltas if delta.text)

    def end(self, progress: Progress) -> Iterable[Event]:
        return [Event(b"%d" % progress.output_tokens, b"curtain")]

    def failed(self, error: GatewayError) -> Event:
        return Event(error.message.encode(), b"fire")

    def answer(self, deltas: Sequence[Delta], progress: Progress) -> bytes:
        return json.dumps({"said": "".join(delta.text for delta in deltas)}).encode()


class Play(Translator[Line]):
    name = "play"
    path = "/play"
    summary = "Play a scene"
    description = "With the prompter's help."
    body = Line
    socket = True

    def wish(self, body: Line) -> Wish:
        parameters: Any = {"max_tokens": 9, "min_p": 0.5}
        return Wish("demo", Texts.of((body.line,)), parameters, stream=body.live)

    def encoder(self, body: Line, order: Order) -> Stage:
        return Stage()

    def error(self, error: GatewayError) -> bytes:
        return json.dumps({"boo": error.message}).encode()

    def streaming(self, body: dict[str, Any]) -> dict[str, Any]:
        return {**body, "live": True}


@pytest.fixture
def ledger() -> Ledger:
    return Ledger()


@pytest.fixture
def upstream() -> FakeUpstream:
    return FakeUpstream()


@pytest.fixture
def theatre(ledger: Ledger, upstream: FakeUpstream) -> Iterator[Running]:
    app = create_app(configuration(), upstreams={"a": upstream}, audit=ledger, limiter=ledger)
    router = APIRouter(prefix="/v1", route_class=api.route_class)
    add_api(router, Play())
    app.include_router(router)
    with running(app) as gateway:
        yield gateway


def test_it_is_answered_routed_and_audited_as_any_other(theatre, ledger, upstream):
    response = theatre.post("/v1/play", {"line": "To be"})
    assert response.json() == {"said": "Hello there."}
    assert response.headers["x-trireme-served-by"] == "a"
    (job,) = upstream.jobs
    assert (job.generation.parameters.max_tokens, job.generation.parameters.min_p) == (9, 0.5)
    (record,) = ledger.records
    assert (record.prompt, record.answer) == (b"To be", b"Hello there.")
    assert ledger.events[0] == ("reserve", "demo", 9)


def test_its_streams_have_its_own_events(theatre):
    response = theatre.post("/v1/play", {"line": "To be", "live": True})
    *pieces, end = response.text.removesuffix("\n\n").split("\n\n")
    assert "".join(each.removeprefix("event: spoken\ndata: ") for each in pieces) == "Hello there."
    assert end == "event: curtain\ndata: 3"


def test_a_stream_that_fails_ends_in_its_own_words(theatre, upstream):
    upstream.script = [*words("Hello", reason=""), GenerationError("out of memory")]
    response = theatre.post("/v1/play", {"line": "To be", "live": True})
    assert response.text.endswith("event: fire\ndata: the model failed: out of memory\n\n")


def test_every_error_behind_its_route_is_in_its_words(theatre, ledger, upstream):
    unread = theatre.post("/v1/play", {"lines": "?"})
    assert (unread.status_code, unread.json()) == (400, {"boo": "missing required parameter line"})
    upstream.script = [InvalidRequestError("not this play")]
    refused = theatre.post("/v1/play", {"line": "To be"})
    assert (refused.status_code, refused.json()) == (400, {"boo": "not this play"})
    ledger.full = True
    full = theatre.post("/v1/play", {"line": "To be"})
    assert (full.status_code, full.json()) == (503, {"boo": "the audit's disk is full"})


def test_its_websocket_too(theatre):
    with connect(theatre.url.replace("http", "ws") + "/v1/play") as socket:
        socket.send('{"line": "To be"}')
        assert str(socket.recv(timeout=20)).startswith("Hello")


def test_it_is_in_the_openapi_document(theatre):
    with theatre.client() as client:
        document = client.get("/openapi.json").json()
    operation = document["paths"]["/v1/play"]["post"]
    assert (operation["summary"], operation["description"]) == (Play.summary, Play.description)
    assert "Line" in document["components"]["schemas"]
