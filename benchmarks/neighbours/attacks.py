"""What a tenant may send that is accepted and costs the most, each for so many seconds.

    python -m benchmarks.neighbours.attacks 127.0.0.1:8080 unread 9

A program of its own: an attacker's client is not on the machine that it attacks, so here it yields
to everything else. It prints what became of its requests.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import sys
import time
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any

import websockets

from benchmarks.neighbours.connections import (
    Chunks,
    ConnectionAttack,
    Fragments,
    Heads,
    Pieces,
    Pipelined,
    Refused,
    Slow,
)

KEY = "attacker"
STRANGER = "nobody"
"""Whose key is good for nothing."""
_CHAT = {"model": "demo", "messages": [{"role": "user", "content": "Count from 17 to 40."}]}
_LONG = {"max_tokens": 1900, "ignore_eos": True, "temperature": 1}
_NICE = 15
_PAUSE_S = 0.2


@dataclass(frozen=True)
class _Requests:
    """The same request over and over, over so many connections."""

    connections: int
    body: dict[str, Any]
    path: str = "/v1/chat/completions"

    async def send(self, attacker: Attacker, number: int) -> None:
        async with attacker.asked(self.path, self.body) as reader:
            attacker.counts[(await reader.readuntil(b"\r\n")).split()[1].decode()] += 1
            while await reader.read(1 << 16):
                pass


@dataclass(frozen=True)
class _Unread:
    """Streams of which nothing is ever read."""

    connections: int
    body: dict[str, Any]

    async def send(self, attacker: Attacker, number: int) -> None:
        async with attacker.asked("/v1/chat/completions", self.body, limit=64):
            attacker.counts["unread"] += 1
            await asyncio.sleep(attacker.left_s)


@dataclass(frozen=True)
class _Left:
    """Requests whose client leaves while they begin; every other one streams."""

    connections: int
    body: dict[str, Any]

    async def send(self, attacker: Attacker, number: int) -> None:
        body = {**self.body, "stream": bool(number % 2)}
        async with attacker.asked("/v1/chat/completions", body):
            await asyncio.sleep(random.random() * _PAUSE_S)
        attacker.counts["left"] += 1


@dataclass(frozen=True)
class _Sockets:
    """WebSockets with a message under way on each."""

    connections: int
    body: dict[str, Any]

    async def send(self, attacker: Attacker, number: int) -> None:
        async with attacker.socket() as socket:
            while True:
                await socket.send(json.dumps(self.body))
                async for message in socket:
                    if message == "[DONE]" or '"error"' in str(message):
                        attacker.counts["answered"] += 1
                        break


Attack = _Requests | _Unread | _Left | _Sockets | ConnectionAttack
_WITH_LOGPROBS = {"stream": True, "logprobs": True, "top_logprobs": 20}

ATTACKS: dict[str, Attack] = {
    "prompts": _Requests(
        4,
        {
            "model": "demo",
            "prompt": [f"{number} " + "a b c d " * 470 for number in range(64)],
            "max_tokens": 100,
        },
        "/v1/completions",
    ),
    "answers": _Requests(4, {**_CHAT, **_LONG, "n": 64}),
    "requests": _Requests(64, {**_CHAT, **_LONG}),
    "streams": _Requests(64, {**_CHAT, **_LONG, "stream": True}),
    "logprobs": _Requests(
        4,
        {
            **_CHAT,
            **_LONG,
            **_WITH_LOGPROBS,
            "n": 32,
            "stop": ["x" * 60] * 16,
            "logit_bias": {str(token): -1 for token in range(300)},
        },
    ),
    "unread": _Unread(100, {**_CHAT, **_LONG, **_WITH_LOGPROBS}),
    "cancels": _Left(32, {**_CHAT, **_LONG, "n": 16}),
    "sockets": _Sockets(200, {**_CHAT, "max_tokens": 200, "ignore_eos": True}),
    "bodies": _Requests(6, {**_CHAT, "messages": [{"role": "user", "content": "word " * 780_000}]}),
    "brief": _Requests(32, {**_CHAT, "n": 16, "max_tokens": 1}),
    "wrong": Refused(32, lambda _: {**_CHAT, "temperature": 9}, KEY),
    "strangers": Refused(32, lambda _: _CHAT, STRANGER),
    "models": Refused(32, lambda number: {**_CHAT, "model": f"none-{number % 1000}"}, KEY),
    "heads": Heads(32, 64_000),
    "pipelined": Pipelined(32, {**_CHAT, "max_tokens": 1}),
    "slow": Slow(1000, sends=True),
    "idle": Slow(10_000, sends=False),
    "fragments": Fragments(64, 3_900_000),
    "pieces": Pieces(8),
    "chunks": Chunks(8),
}
"""By name; what each is stands in `DESCRIPTIONS`."""

DESCRIPTIONS = {
    "prompts": "4 requests of 64 prompts of 1,900 tokens",
    "answers": "4 requests for 64 answers of 1,900 tokens",
    "requests": "64 requests for 1,900 tokens",
    "streams": "64 streams of 1,900 tokens",
    "logprobs": "4 streams of 32 answers, 16 stop texts, 300 biases, 20 logprobs a token",
    "unread": "100 streams of 1,900 tokens with 20 logprobs each, never read",
    "cancels": "32 clients who ask for 16 answers and leave within 0.2 s",
    "sockets": "200 WebSockets, each with an answer of 200 tokens under way",
    "bodies": "6 prompts of 3.9 MB, which are refused",
    "brief": "32 clients who ask for 16 answers of one token each, and wait for them",
    "wrong": "32 clients whose requests are a 400, at full speed",
    "strangers": "32 clients whose key is none, at full speed",
    "models": "32 clients who ask for a thousand models that are not there",
    "heads": "32 clients with headers of 64 kB",
    "pipelined": "32 connections with a thousand requests in one piece",
    "slow": "1,000 connections that send a byte a second",
    "idle": "10,000 connections that send nothing",
    "fragments": "64 WebSockets with a message of 3.9 MB that is never whole",
    "pieces": "8 WebSockets with a message without an end in pieces of one byte",
    "chunks": "8 requests whose body comes in chunks of one byte",
}


class Attacker:
    """One attack on its way.

    Attributes:
        address: The gateway's, ``host:port``.
        counts: What became of the requests.
    """

    def __init__(self, address: str, seconds: float) -> None:
        self.address = address
        self.counts: Counter[str] = Counter()
        self._end_s = time.perf_counter() + seconds

    @property
    def left_s(self) -> float:
        """How long it still goes on."""
        return max(0.0, self._end_s - time.perf_counter())

    async def run(self, attack: Attack) -> None:
        """Send until the end."""
        work = [
            asyncio.create_task(self._repeat(attack.send, number))
            for number in range(attack.connections)
        ]
        await asyncio.wait(work, timeout=self.left_s)
        for each in work:
            each.cancel()
        with suppress(TimeoutError):
            await asyncio.wait_for(asyncio.gather(*work, return_exceptions=True), 1)

    @asynccontextmanager
    async def asked(
        self, path: str, body: dict[str, Any], limit: int = 1 << 16, key: str = KEY
    ) -> AsyncGenerator[asyncio.StreamReader, None]:
        """The answer to a request over a connection of its own, which closes with the block."""
        async with self.connected(limit) as (reader, writer):
            writer.write(http_request(self.address, path, key, body, closes=True))
            await writer.drain()
            yield reader

    @asynccontextmanager
    async def connected(
        self, limit: int = 1 << 16
    ) -> AsyncGenerator[tuple[asyncio.StreamReader, asyncio.StreamWriter], None]:
        """A connection, which closes with the block."""
        host, port = self.address.split(":")
        reader, writer = await asyncio.open_connection(host, int(port), limit=limit)
        try:
            yield reader, writer
        finally:
            writer.close()

    def written(self, path: str, body: dict[str, Any]) -> bytes:
        """A request of the attacker's as it goes over the wire."""
        return http_request(self.address, path, KEY, body)

    def socket(self) -> websockets.connect:
        """A WebSocket, which closes with the block."""
        headers = {"authorization": f"Bearer {KEY}"}
        url = f"ws://{self.address}/v1/chat/completions"
        return websockets.connect(url, additional_headers=headers, proxy=None, compression=None)

    async def _repeat(self, send: Callable[[Attacker, int], Awaitable[None]], number: int) -> None:
        while self.left_s:
            try:
                await send(self, number)
            except (OSError, EOFError, ValueError, websockets.WebSocketException) as error:
                self.counts[type(error).__name__] += 1
                await asyncio.sleep(_PAUSE_S)


def http_request(
    address: str, path: str, key: str, body: dict[str, Any], *, closes: bool = False
) -> bytes:
    """A request as it goes over the wire."""
    content = json.dumps(body).encode()
    lines = [
        f"POST {path} HTTP/1.1",
        f"host: {address}",
        f"authorization: Bearer {key}",
        "content-type: application/json",
        f"content-length: {len(content)}",
        *(["connection: close"] if closes else []),
    ]
    return "\r\n".join([*lines, "", ""]).encode() + content


def main(arguments: Sequence[str]) -> None:
    """Attack."""
    address, name, seconds = arguments
    os.nice(_NICE)
    attacker = Attacker(address, float(seconds))
    asyncio.run(attacker.run(ATTACKS[name]))
    print(json.dumps(attacker.counts))


if __name__ == "__main__":
    main(sys.argv[1:])
