"""The same API over WebSockets."""

from __future__ import annotations

import json
from typing import Any

import pytest
from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketState
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from gateway.configuration import ListenSettings
from gateway.open_access import LOCAL
from tests.gateway.fakes import (
    CHAT,
    HANG,
    FakeUpstream,
    Keys,
    Ledger,
    Running,
    configuration,
    serving,
    words,
)
from tests.gateway.test_api import gateway, text_of
from tests.gateway.test_dispatch import eventually

__all__ = ["gateway"]  # the fixture


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


def test_who_leaves_while_something_is_sent_has_left(monkeypatch):
    """That is heard from the sending, sooner than from the connection."""
    ledger = Ledger()

    async def send_text(socket: WebSocket, data: str) -> None:
        socket.application_state = WebSocketState.DISCONNECTED
        raise WebSocketDisconnect(1006)

    monkeypatch.setattr(WebSocket, "send_text", send_text)
    with serving(audit=ledger) as gateway, connect(socket_url(gateway)) as socket:
        socket.send(json.dumps(CHAT))
        eventually(lambda: ledger.records)
    (record,) = ledger.records
    assert (record.status, record.code) == (499, "disconnected")
