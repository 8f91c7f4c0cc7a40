"""Attacks by connections rather than by what is asked: slow, idle, odd or refused ones."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from benchmarks.neighbours.attacks import Attacker

_BYTE_S = 1.0


@dataclass(frozen=True)
class Refused:
    """Requests that are refused, at full speed.

    Attributes:
        connections: Over so many connections at a time.
        body: The body of each, by its number.
        key: Whose key is sent.
    """

    connections: int
    body: Callable[[int], dict[str, Any]]
    key: str

    async def send(self, attacker: Attacker, number: int) -> None:
        """Send one."""
        body = self.body(attacker.counts.total())
        async with attacker.asked("/v1/chat/completions", body, key=self.key) as reader:
            attacker.counts[(await reader.readuntil(b"\r\n")).split()[1].decode()] += 1
            while await reader.read(1 << 16):
                pass


@dataclass(frozen=True)
class Heads:
    """Requests whose headers are as long as may be, or longer.

    Attributes:
        connections: Over so many connections at a time.
        num_bytes: How long they are.
    """

    connections: int
    num_bytes: int

    async def send(self, attacker: Attacker, number: int) -> None:
        """Send one."""
        fields = "".join(f"x-{place}: {'h' * 90}\r\n" for place in range(self.num_bytes // 100))
        head = f"GET /v1/models HTTP/1.1\r\nhost: {attacker.address}\r\n{fields}\r\n"
        async with attacker.connected() as (reader, writer):
            writer.write(head.encode())
            status = (await reader.read(64)).split()
            attacker.counts[status[1].decode() if len(status) > 1 else "cut off"] += 1


@dataclass(frozen=True)
class Pipelined:
    """A thousand requests in one piece, without waiting for the answers."""

    connections: int
    body: dict[str, Any]
    requests: int = 1000

    async def send(self, attacker: Attacker, number: int) -> None:
        """Send them."""
        request = attacker.written("/v1/chat/completions", self.body)
        async with attacker.connected() as (reader, writer):
            writer.write(request * self.requests)
            while piece := await reader.read(1 << 16):
                attacker.counts["answered"] += piece.count(b"HTTP/1.1 ")


@dataclass(frozen=True)
class Chunks:
    """Requests whose body comes in chunks of one byte, until they are cut."""

    connections: int

    async def send(self, attacker: Attacker, number: int) -> None:
        """Send one."""
        head = attacker.written("/v1/chat/completions", {}).partition(b"content-length")[0]
        async with attacker.connected() as (_, writer):
            attacker.counts["begun"] += 1
            writer.write(head + b"transfer-encoding: chunked\r\n\r\n")
            while attacker.left_s:
                writer.write(b"1\r\nx\r\n" * 4096)
                await writer.drain()


@dataclass(frozen=True)
class Slow:
    """Connections that send a byte a second, or none."""

    connections: int
    sends: bool

    async def send(self, attacker: Attacker, number: int) -> None:
        """Hold one until it is cut."""
        await asyncio.sleep(number / self.connections)  # not all in one moment
        async with attacker.connected() as (reader, writer):
            attacker.counts["connections"] += 1
            rest = attacker.written("/v1/chat/completions", {"model": "demo"})
            while not reader.at_eof() and attacker.left_s:
                if self.sends and rest:
                    writer.write(rest[:1])
                    rest = rest[1:]
                with suppress(TimeoutError):
                    await asyncio.wait_for(reader.read(1), _BYTE_S)


@dataclass(frozen=True)
class Fragments:
    """WebSockets with a message that is never whole."""

    connections: int
    num_bytes: int

    async def send(self, attacker: Attacker, number: int) -> None:
        """Begin one, and wait until it is cut."""
        async with attacker.socket() as socket:
            await socket.send(self._parts(attacker))
        attacker.counts["whole"] += 1

    async def _parts(self, attacker: Attacker) -> Any:
        part = 1 << 16
        for _ in range(self.num_bytes // part):
            yield "x" * part
        attacker.counts["begun"] += 1
        await asyncio.sleep(attacker.left_s)


@dataclass(frozen=True)
class Pieces:
    """WebSockets that send a message without an end in the smallest of pieces."""

    connections: int

    async def send(self, attacker: Attacker, number: int) -> None:
        """Send one, until it is cut."""
        piece = b"\x81" + bytes(4) + b"x"  # masked with nothing
        first, next_ones = b"\x01" + piece, (b"\x00" + piece) * 4096
        async with attacker.socket() as socket:
            attacker.counts["begun"] += 1
            socket.transport.write(first)
            while not socket.transport.is_closing():
                socket.transport.write(next_ones)
                await asyncio.sleep(0.01)
                while socket.transport.get_write_buffer_size() > 1 << 20:
                    await asyncio.sleep(0.01)


ConnectionAttack = Refused | Heads | Pipelined | Chunks | Slow | Fragments | Pieces
