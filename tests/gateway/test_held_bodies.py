"""Bodies are read of those who are known only, and hold no more memory together than is set."""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import pytest

from gateway.api.socket_protocol import MAX_FRAGMENTS
from gateway.configuration import ListenSettings
from gateway.open_access import LOCAL
from tests.gateway.fakes import CHAT, HANG, FakeUpstream, Keys, Running, configuration, serving
from tests.gateway.test_dispatch import eventually

MIB = 1 << 20
ALICE = replace(LOCAL, tenant="alice")
BOB = replace(LOCAL, tenant="bob")


@contextmanager
def gateway(upstream: FakeUpstream | None = None, **listen: float) -> Iterator[Running]:
    settings = configuration(
        listen=ListenSettings(port=0, shutdown_grace_s=0, **listen)  # type: ignore[arg-type]
    )
    keys = Keys({"alice": ALICE, "bob": BOB})
    with serving(upstream, settings, authenticator=keys) as running:
        yield running


def request(key: str, size: int, *more: str) -> bytes:
    lines = [
        "POST /v1/chat/completions HTTP/1.1",
        "host: x",
        "content-type: application/json",
        f"authorization: Bearer {key}",
        f"content-length: {size}",
        *more,
    ]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


def answer(connection: socket.socket) -> bytes:
    """All that comes until the connection ends, or is silent for long."""
    received = b""
    with connection:
        while chunk := connection.recv(1 << 16):
            received += chunk
            if b"connection: close" not in received:
                break
    return received


def opened(running: Running) -> socket.socket:
    return socket.create_connection(("127.0.0.1", running.port), timeout=20)


def held(running: Running) -> float:
    return running.metric("trireme_gateway_body_bytes", of="requests")


def resident_mib() -> float:
    statm = Path("/proc/self/statm").read_text(encoding="ascii")
    return int(statm.split()[1]) * os.sysconf("SC_PAGE_SIZE") / MIB


def test_who_is_not_known_is_refused_before_anything_is_read():
    with gateway() as running:
        with opened(running) as connection:
            connection.sendall(request("nobody", 4 * MIB))  # and nothing of it
            assert connection.recv(1 << 16).startswith(b"HTTP/1.1 401 ")
        with opened(running) as connection:
            connection.sendall(request("nobody", 4 * MIB, "expect: 100-continue"))
            assert connection.recv(1 << 16).startswith(b"HTTP/1.1 401 ")  # without a 100
        with opened(running) as connection:
            connection.sendall(request("alice", 4 * MIB, "expect: 100-continue"))
            assert connection.recv(1 << 16).startswith(b"HTTP/1.1 100 ")


def test_what_they_send_holds_no_memory():
    """200 connections without a key held 0.8 GB."""
    with gateway(body_timeout_s=5) as running, ExitStack() as stack:
        before = resident_mib()
        for _ in range(100):
            connection = stack.enter_context(opened(running))
            connection.sendall(request("nobody", 4 * MIB))
            connection.setblocking(False)
            with suppress(BlockingIOError):
                connection.send(b"x" * MIB)
        time.sleep(1)
        assert held(running) == 0
        assert resident_mib() - before < 40
        # Others don't notice.
        headers = {"authorization": "Bearer alice"}
        assert running.post("/v1/chat/completions", CHAT, headers=headers).status_code == 200


def test_a_short_body_of_one_who_is_refused_leaves_the_connection_usable():
    body = json.dumps(CHAT).encode()
    with gateway() as running, opened(running) as connection:
        for key, status in (("nobody", 401), ("alice", 200), ("nobody", 401)):
            connection.sendall(request(key, len(body)) + body)
            received = b""
            while not received.endswith(b"}"):
                received += connection.recv(1 << 16)
            assert received.startswith(b"HTTP/1.1 %d " % status)
            assert b"connection: close" not in received


@pytest.mark.parametrize("size", [4 * MIB + 1, 6 * MIB, 64 * MIB])
@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize(("key", "status"), [("alice", 413), ("nobody", 401)])
def test_who_sends_all_first_gets_the_answer_however_long_it_is(size, chunked, key, status):
    with gateway() as running, opened(running) as connection:
        if chunked:
            head = request(key, 0).replace(b"content-length: 0", b"transfer-encoding: chunked")
            connection.sendall(head)
            for _ in range(size // MIB):
                connection.sendall(b"%x\r\n%b\r\n" % (MIB, b"x" * MIB))
            rest = size % MIB
            connection.sendall(
                (b"%x\r\n%b\r\n" % (rest, b"x" * rest) if rest else b"") + b"0\r\n\r\n"
            )
        else:
            connection.sendall(request(key, size))
            for start in range(0, size, MIB):
                connection.sendall(b"x" * min(MIB, size - start))
        assert answer(connection).startswith(b"HTTP/1.1 %d " % status)


def test_bodies_hold_so_much_together_and_a_tenant_half_of_it():
    most = 4 * MIB
    with (
        gateway(max_held_bytes=most, max_body_bytes=MIB, body_timeout_s=20) as running,
        ExitStack() as stack,
    ):
        for _ in range(2):
            connection = stack.enter_context(opened(running))
            connection.sendall(request("alice", MIB) + b"x" * (MIB - 1))
        eventually(lambda: held(running) == 2 * (MIB - 1))
        with opened(running) as connection:
            connection.sendall(request("alice", MIB) + b"x" * MIB)
            refused = answer(connection)
        assert refused.startswith(b"HTTP/1.1 503 ")
        assert b"retry-after: 1\r\n" in refused
        assert json.loads(refused.partition(b"\r\n\r\n")[2])["error"]["code"] == "overloaded"
        assert held(running) == 2 * (MIB - 1)
        headers = {"authorization": "Bearer bob"}
        assert running.post("/v1/chat/completions", CHAT, headers=headers).status_code == 200
        stack.close()
        eventually(lambda: held(running) == 0)


def unfinished(size: int) -> bytes:
    """A part of a WebSocket's text message, of which more is to come; its mask changes nothing."""
    return b"\x01\xff" + size.to_bytes(8, "big") + bytes(4) + b"x" * size


def converse(running: Running, key: str) -> socket.socket:
    """A WebSocket that has been accepted."""
    connection = opened(running)
    lines = [
        "GET /v1/chat/completions HTTP/1.1",
        "host: x",
        "connection: upgrade",
        "upgrade: websocket",
        "sec-websocket-version: 13",
        "sec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==",
        f"authorization: Bearer {key}",
    ]
    connection.sendall(("\r\n".join(lines) + "\r\n\r\n").encode())
    assert connection.recv(1 << 16).startswith(b"HTTP/1.1 101 ")
    return connection


def test_messages_that_are_not_whole_hold_a_tenant_s_half_at_most():
    with (
        gateway(max_held_bytes=4 * MIB, max_body_bytes=MIB, body_timeout_s=20) as running,
        ExitStack() as stack,
    ):
        sockets = [stack.enter_context(converse(running, "alice")) for _ in range(3)]
        for connection in sockets[:2]:
            connection.sendall(unfinished(MIB - 1))
        eventually(lambda: held(running) == 2 * (MIB - 1))
        sockets[2].sendall(unfinished(MIB - 1))
        refused = sockets[2].recv(1 << 16)
        assert refused[:1] == b"\x88", "it is closed"
        assert int.from_bytes(refused[2:4], "big") == 1013
        eventually(lambda: held(running) == 2 * (MIB - 1))
        other = stack.enter_context(converse(running, "bob"))
        other.sendall(unfinished(MIB - 1))
        eventually(lambda: held(running) == 3 * (MIB - 1))
        stack.close()
        eventually(lambda: held(running) == 0)


def test_a_message_in_too_many_pieces_is_cut_off():
    with gateway() as running, converse(running, "alice") as connection:
        piece = b"\x81" + bytes(4) + b"x"
        with suppress(OSError):
            connection.sendall(b"\x01" + piece + (b"\x00" + piece) * (MAX_FRAGMENTS + 1))
        refused = connection.recv(1 << 16)
        assert refused[:1] == b"\x88", "it is closed"
        assert int.from_bytes(refused[2:4], "big") == 1008
        eventually(lambda: held(running) == 0)


def test_a_body_is_held_as_long_as_its_request_runs():
    upstream = FakeUpstream([HANG])
    body = json.dumps(CHAT).encode()
    with gateway(upstream) as running, opened(running) as connection:
        connection.sendall(request("alice", len(body)) + body)
        eventually(lambda: upstream.running)
        assert held(running) == len(body)
        connection.close()
        eventually(lambda: held(running) == 0)


def test_who_sends_slowly_is_given_up():
    with gateway(body_timeout_s=0.5) as running, opened(running) as connection:
        connection.sendall(request("alice", 1000))
        connection.settimeout(0.1)
        received, end_s = b"", time.monotonic() + 10
        with suppress(ConnectionError):
            while time.monotonic() < end_s:
                connection.sendall(b"x")
                with suppress(TimeoutError):
                    received += connection.recv(1 << 16)
        assert time.monotonic() < end_s
        assert received.startswith(b"HTTP/1.1 408 ")
        assert held(running) == 0
