"""What no decent client sends is told once as well, and holds nothing."""

from __future__ import annotations

import json
import logging
import socket
import time
from collections.abc import Iterator
from contextlib import suppress

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from gateway.api import protocol
from tests.gateway.fakes import CHAT, HANG, STREAM
from tests.gateway.test_dispatch import eventually
from tests.gateway.test_visits import CHATS, House, house

__all__ = ["house"]  # the fixture

BODY = json.dumps(CHAT)
LENGTH = f"content-length: {len(BODY)}\r\n"
JSON = "content-type: application/json\r\n"
CHUNKED = "transfer-encoding: chunked\r\n"
SOCKET = "connection: Upgrade\r\nupgrade: websocket\r\n"
VERSION = "sec-websocket-version: 13\r\n"
SOCKET_KEY = "sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n"


def head(line: str, *fields: str) -> str:
    return f"{line} HTTP/1.1\r\nhost: x\r\n{{key}}{''.join(fields)}\r\n"


POST = f"POST {CHATS}"
REQUESTS: list[tuple[str, int]] = [
    (head("HEAD /v1/models"), 405),
    (head("OPTIONS *"), 404),
    (head("CONNECT example.com:443"), 400),
    (head("TRACE /"), 404),
    (head(POST, JSON, LENGTH, "expect: 100-continue\r\n") + BODY, 200),
    (head(POST, JSON, LENGTH, LENGTH) + BODY, 400),
    (head(POST, JSON, LENGTH, CHUNKED) + BODY, 400),
    (head(POST, JSON, "content-length: -5\r\n"), 400),
    (head(POST, JSON, f"content-length: {'9' * 30}\r\n"), 400),
    (head(POST, JSON, CHUNKED) + "zz\r\n", 400),
    (head(POST, JSON, CHUNKED) + "1\r\n{\r\nzz\r\n", 400),
    ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
    (head("GET /v1/models", "connection: Upgrade\r\nupgrade: h2c\r\n"), 200),
    (head(f"GET {CHATS}", SOCKET, VERSION), 400),
    (head(f"GET {CHATS}", SOCKET, "sec-websocket-version: 8\r\n", SOCKET_KEY), 400),
    (head("GET /nowhere", SOCKET, VERSION, SOCKET_KEY), 403),
    (head(POST, SOCKET, VERSION, SOCKET_KEY, LENGTH) + BODY, 400),
    (head("GET /v1/models", LENGTH) + BODY, 200),
    (head(POST), 400),
    (head(POST, "content-type: text/plain\r\n", LENGTH) + BODY, 400),
    (head("GET /admin/v1/tenants"), 401),
    (head("POST /admin/v1/tenants", JSON, "content-length: 900000\r\n"), 401),
    (head(f"{POST}/", LENGTH) + BODY, 404),
    (head("GET http://x/v1/models"), 200),
    (head("GET /v1/models/%2e%2e%2f"), 404),
    (head(POST, "x-y: a\0b\r\n", LENGTH) + BODY, 400),
]


def send(house: House, data: bytes, wait_s: float = 20) -> bytes:
    with socket.create_connection(("127.0.0.1", house.gateway.port), timeout=wait_s) as connection:
        connection.sendall(data)
        received = b""
        while b"\r\n\r\n" not in received or received.startswith(b"HTTP/1.1 100 "):
            chunk = connection.recv(1 << 16)
            if not chunk:
                break
            received = (received + chunk).removeprefix(b"HTTP/1.1 100 Continue\r\n\r\n")
        return received


def test_each_is_told_once(house: House) -> None:
    """All over one gateway: it is to live on."""
    for count, (text, status) in enumerate(REQUESTS, 1):
        house.caplog.clear()
        key = f"authorization: Bearer {house.keys['good']}\r\n"
        answer = send(house, text.replace("{key}", key).encode("latin-1"))
        assert answer.startswith(b"HTTP/1.1 %d " % status), text
        [line] = house.told(1)
        assert line.status == status, text
        assert house.metrics() == count, text
        assert not [each for each in house.caplog.records if each.levelno >= logging.ERROR], text
    assert house.gateway.metric("trireme_gateway_body_bytes", of="requests") == 0


def test_a_head_that_is_cut_off(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "HEAD_TIMEOUT_S", 0.3)
    assert send(house, b"GET / HTTP/1.1\r\nx: y") == b""
    assert send(house, b"") == b""  # a connection without a request
    endless = b"GET / HTTP/1.1\r\nx: " + b"y" * (2 * protocol.MAX_HEAD_BYTES)
    with suppress(ConnectionError):
        send(house, endless)
    assert [line.status for line in house.told(2)] == [408, 431]


def test_requests_of_one_tenant_beside_each_other_hold_apart(house: House) -> None:
    """One that held nothing gave back what the other one held."""
    key = f"authorization: Bearer {house.keys['good']}\r\n"
    with socket.create_connection(("127.0.0.1", house.gateway.port)) as other:
        held = head(POST, JSON, "content-length: 1000\r\n").replace("{key}", key) + "x" * 100
        other.sendall(held.encode())
        eventually(lambda: house.gateway.metric("trireme_gateway_body_bytes", of="requests") == 100)
        send(house, head(POST).replace("{key}", key).encode())
        assert house.gateway.metric("trireme_gateway_body_bytes", of="requests") == 100
    eventually(lambda: house.gateway.metric("trireme_gateway_body_bytes", of="requests") == 0)
    assert [line.status for line in house.told(2)] == [400, 499]


NEXT = [
    head("GET /v1/models"),
    head("GET /v1/models", "x-y: z\r\n" * 4) * 3,
    head(POST, JSON, LENGTH) + BODY,
    head(POST, JSON, CHUNKED) + "5\r\n{",
    head(f"GET {CHATS}", SOCKET, VERSION, SOCKET_KEY),
    "no HTTP at all\r\n\r\n",
]


class TestRequestsThatDontWait:
    """A client may send the next one before the answer, and the server may leave it at one."""

    @pytest.mark.parametrize("following", NEXT)
    def test_who_left_is_seen(self, house: House, following: str) -> None:
        house.upstream.script = [HANG]
        key = f"authorization: Bearer {house.keys['good']}\r\n"
        text = (head(POST, JSON, LENGTH) + BODY + following).replace("{key}", key)
        with socket.create_connection(("127.0.0.1", house.gateway.port)) as connection:
            connection.sendall(text.encode())
            eventually(lambda: house.upstream.running == 1)
        eventually(lambda: house.upstream.ended == ["cancelled"])
        assert [line.status for line in house.told(2)] == [400, 499]

    @pytest.mark.parametrize("following", NEXT)
    def test_the_first_is_answered_whole(self, house: House, following: str) -> None:
        key = f"authorization: Bearer {house.keys['good']}\r\n"
        text = (head(POST, JSON, LENGTH) + BODY + following).replace("{key}", key)
        with socket.create_connection(("127.0.0.1", house.gateway.port), timeout=20) as connection:
            connection.sendall(text.encode())
            received = b""
            while chunk := connection.recv(1 << 16):
                received += chunk
        assert received.startswith(b"HTTP/1.1 200 ")
        assert received.count(b"HTTP/1.1 ") == 1
        assert json.loads(received.partition(b"\r\n\r\n")[2])["usage"]["completion_tokens"] == 3
        assert sorted(line.status for line in house.told(2)) == [200, 400]
        assert house.gateway.metric("trireme_gateway_body_bytes", of="requests") == 0


def test_of_two_keys_the_first_counts_and_is_told(house: House) -> None:
    """The second one, empty, hid the guess from the audit."""
    guess = f"authorization: Bearer trireme_{'0' * 16}_{'x' * 43}\r\n"
    answer = send(
        house, f"GET /v1/models HTTP/1.1\r\nhost: x\r\n{guess}authorization:\r\n\r\n".encode()
    )
    assert answer.startswith(b"HTTP/1.1 401 ")
    [line] = house.told(1)
    assert line.key_id == "0" * 16
    eventually(lambda: [each["key_id"] for each in house.records("call")] == ["0" * 16])


class TestMessages:
    def socket(self, house: House) -> ClientConnection:
        return connect(
            f"ws://127.0.0.1:{house.gateway.port}{CHATS}",
            additional_headers={"authorization": f"Bearer {house.keys['good']}"},
        )

    def test_one_that_is_too_long(self, house: House) -> None:
        with self.socket(house) as connection:
            connection.send("x" * 5000)
            with pytest.raises(ConnectionClosed):
                connection.recv()
        told = house.told(2)  # the connection's own, that was never used, is the other
        assert {(line.status, line.code) for line in told} == {
            (413, "request_too_large"),
            (101, None),
        }
        assert {line.tenant for line in told} == {"acme"}

    def test_one_that_is_never_whole(self, house: House) -> None:
        def parts() -> Iterator[str]:
            yield "x" * 1000
            eventually(
                lambda: house.gateway.metric("trireme_gateway_body_bytes", of="requests") == 1000
            )
            time.sleep(3)
            yield "y"

        with self.socket(house) as connection:
            with suppress(ConnectionClosed):
                connection.send(parts())
            with pytest.raises(ConnectionClosed):
                connection.recv()
        eventually(lambda: house.gateway.metric("trireme_gateway_body_bytes", of="requests") == 0)
        assert (408, "request_timeout") in [(line.status, line.code) for line in house.told(2)]

    def test_one_of_bytes_is_an_error_and_the_next_is_answered(self, house: House) -> None:
        with self.socket(house) as connection:
            connection.send(b"\0\1")
            assert "invalid_json" in str(connection.recv())
            connection.send(json.dumps(STREAM))
            while connection.recv() != "[DONE]":
                pass
        assert [line.status for line in house.told(2)] == [400, 200]
        assert house.gateway.metric("trireme_gateway_body_bytes", of="requests") == 0
