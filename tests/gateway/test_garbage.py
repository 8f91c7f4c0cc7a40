"""What a request leaves behind is freed at once, and not by the search for garbage.

That search stops the event loop, the longer the more it finds; until it comes, bodies are held.
"""

from __future__ import annotations

import asyncio
import gc
import inspect
import json
import types
from collections.abc import Iterator
from contextlib import closing, contextmanager
from http.client import HTTPConnection
from typing import Any

import pytest
from websockets.sync.client import connect

from contract.errors import GenerationError, ServerUnavailableError
from gateway.configuration import TritonSettings
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
)
from tests.gateway.test_charging import Stoppable, leave
from tests.gateway.test_dispatch import eventually
from tests.gateway.test_websocket import receive_all, socket_url

_AUTHORIZED = {"authorization": "Bearer good"}
_LARGE = {**CHAT, "messages": [{"role": "user", "content": "word " * 10_000}]}


@contextmanager
def searched(gateway: Running, others: int = 0) -> Iterator[list[str]]:
    """What a search for garbage finds of the gateway's, that the block left.

    Args:
        gateway: It.
        others: How many requests are under way all the while.
    """
    found: list[str] = []
    gc.collect()
    gc.disable()
    try:
        yield found
        eventually(lambda: under_way(gateway) == others)
        gc.set_debug(gc.DEBUG_SAVEALL)
        gc.collect()
        found += [
            name for name in map(_name, gc.garbage) if name.startswith(("gateway", "uvicorn"))
        ]
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()


def under_way(gateway: Running) -> int:
    """How many requests are: what others had is free or garbage."""
    names = [str(task.get_coro()) for task in asyncio.all_tasks(gateway.loop)]
    return sum("run_asgi" in name for name in names)


def _name(thing: Any) -> str:
    """Where it is from, and what it is called."""
    if isinstance(thing, types.FrameType):
        return f"{inspect.getmodulename(thing.f_code.co_filename)}.{thing.f_code.co_name}"
    named = thing if isinstance(thing, types.FunctionType) else type(thing)
    return f"{named.__module__}.{named.__qualname__}"


def ask(gateway: Running, body: Any, headers: dict[str, str] | None = None) -> int:
    headers = _AUTHORIZED if headers is None else headers
    return gateway.post("/v1/chat/completions", body, headers=headers).status_code


@pytest.mark.parametrize(
    ("body", "headers", "status"),
    [
        (CHAT, _AUTHORIZED, 200),
        (STREAM, _AUTHORIZED, 200),
        (CHAT, {}, 401),
        ({**CHAT, "temperature": 9}, _AUTHORIZED, 400),
        ({**CHAT, "model": "none"}, _AUTHORIZED, 404),
        ({**_LARGE, "model": "none"}, _AUTHORIZED, 404),
        ({**_LARGE, "temperature": 9}, _AUTHORIZED, 400),
    ],
)
def test_what_is_answered_or_refused(body: Any, headers: dict[str, str], status: int) -> None:
    with serving(authenticator=Keys()) as gateway:
        ask(gateway, body, headers)
        with searched(gateway) as found:
            assert [ask(gateway, body, headers) for _ in range(3)] == [status] * 3
    assert not found


@pytest.mark.parametrize("body", [CHAT, STREAM])
@pytest.mark.parametrize("error", [GenerationError("no"), ServerUnavailableError("no")])
def test_what_fails(body: Any, error: Exception) -> None:
    def fail(_: Any) -> list[Any]:
        return [type(error)("no")]

    with serving(FakeUpstream(fail), authenticator=Keys()) as gateway:
        ask(gateway, body)
        with searched(gateway) as found:
            assert ask(gateway, body) >= 500
    assert not found


@pytest.mark.parametrize("body", [CHAT, STREAM])
def test_what_is_left(body: Any) -> None:
    upstream, ledger = Stoppable(), Ledger()
    with serving(upstream, limiter=ledger, audit=ledger) as gateway:
        leave(gateway, body, upstream)
        eventually(lambda: ledger.records)
        upstream.told.clear()
        with searched(gateway) as found:
            leave(gateway, body, upstream)
            eventually(lambda: len(ledger.records) == 2)
    assert not found


def test_what_is_left_while_it_waits() -> None:
    def waiting() -> int:
        count: int = gateway.app.state.gateway.dispatcher.admission.waiting(LOCAL.tenant_class)
        return count

    def begin() -> HTTPConnection:
        connection = HTTPConnection("127.0.0.1", gateway.port)
        headers = {"content-type": "application/json"}
        connection.request("POST", "/v1/chat/completions", json.dumps(CHAT), headers)
        return connection

    def leave_waiting() -> None:
        with closing(begin()):
            eventually(waiting)
        eventually(lambda: not waiting())

    upstream = Stoppable()
    triton = TritonSettings(name="a", address="localhost:1", max_concurrent=1, priorities=False)
    with serving(upstream, configuration([triton])) as gateway, closing(begin()):
        eventually(lambda: upstream.running)
        leave_waiting()
        with searched(gateway, 1) as found:
            leave_waiting()
    assert not found


def test_a_conversation_over_a_websocket() -> None:
    def talk() -> None:
        with connect(socket_url(gateway)) as socket:
            for text in (json.dumps(CHAT), "{"):
                socket.send(text)
                receive_all(socket)

    with serving() as gateway:
        talk()
        with searched(gateway) as found:
            talk()
    assert not found
