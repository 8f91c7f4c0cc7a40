from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, get_args

import pytest

from clients import AsyncClient, Client, Piece, Result
from clients.client import WireProtocol
from tests.clients.fakes import FakeTriton, start


@pytest.fixture
def triton() -> Iterator[FakeTriton]:
    yield from start(FakeTriton())


@pytest.fixture(params=get_args(WireProtocol))
def protocol(request):
    return request.param


@dataclass
class Asker:
    """The sync or the async client, called the same way, so that one test is for both."""

    url: str
    protocol: WireProtocol
    style: str

    def generate(self, prompt: str, **keywords: Any) -> Result:
        result: Result = self._call("generate", prompt, **keywords)
        return result

    def generate_all(self, prompt: str, **keywords: Any) -> list[Result]:
        results: list[Result] = self._call("generate_all", prompt, **keywords)
        return results

    def pieces(self, prompt: str, stop_after: int | None = None, **keywords: Any) -> list[Piece]:
        """Pieces of a stream; a stream that is stopped is closed early."""
        if self.style == "sync":
            with Client(self.url, protocol=self.protocol) as client:
                pieces = []
                for piece in client.stream(prompt, **keywords):
                    pieces.append(piece)
                    if len(pieces) == stop_after:
                        break
                return pieces

        async def collect() -> list[Piece]:
            async with AsyncClient(self.url, protocol=self.protocol) as client:
                pieces = []
                async for piece in client.stream(prompt, **keywords):
                    pieces.append(piece)
                    if len(pieces) == stop_after:
                        break
                return pieces

        return asyncio.run(collect())

    def _call(self, method: str, *arguments: Any, **keywords: Any) -> Any:
        if self.style == "sync":
            with Client(self.url, protocol=self.protocol) as client:
                return getattr(client, method)(*arguments, **keywords)

        async def call() -> Any:
            async with AsyncClient(self.url, protocol=self.protocol) as client:
                return await getattr(client, method)(*arguments, **keywords)

        return asyncio.run(call())

    def is_ready(self) -> bool:
        ready: bool = self._call("is_ready")
        return ready

    def wait_until_ready(self, timeout_s: float) -> None:
        self._call("wait_until_ready", timeout_s)


@pytest.fixture(params=["sync", "async"])
def asker(request, triton: FakeTriton, protocol: WireProtocol) -> Asker:
    return Asker(triton.urls[protocol], protocol, request.param)
