"""The Python client: one class for threads, one for asyncio, both over gRPC or HTTP."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Generator, Iterable
from contextlib import aclosing, closing
from dataclasses import replace
from operator import attrgetter
from types import TracebackType
from typing import Literal

from typing_extensions import Self, Unpack

from clients.client_errors import GenerationError, ServerUnavailableError
from clients.grpc_transport import AsyncGrpcTransport, GrpcTransport
from clients.http_transport import AsyncHttpTransport, HttpTransport
from clients.options import GenerationOptions, OptionKeywords
from clients.request import Request
from clients.results import Outputs, Piece, Result
from contract.names import ENSEMBLE, SAFETY_POLICY

WireProtocol = Literal["grpc", "http"]

DEFAULT_ADDRESSES: dict[WireProtocol, str] = {"grpc": "127.0.0.1:8001", "http": "127.0.0.1:8000"}
"""Where Triton listens by default."""

DEFAULT_TIMEOUT_S = 300.0
"""How long an answer may take where nobody says."""

_POLL_S = 0.2
_PROBE_S = 5.0


class _Endpoint:
    """What both clients know: where the model is, and how a call becomes a request."""

    def __init__(
        self,
        url: str | None = None,
        *,
        protocol: WireProtocol = "grpc",
        model: str = ENSEMBLE,
        timeout_s: float | None = DEFAULT_TIMEOUT_S,
        safety_policy: str | None = None,
    ) -> None:
        """Describe the server; nothing is sent yet.

        Args:
            url: ``host:port``; over HTTP ``http://host:port`` or ``https://…`` too. By default
                Triton's own port on this machine.
            protocol: ``grpc`` or ``http``.
            model: The model to ask.
            timeout_s: How long an answer may take, from the request to the last token, where a
                call does not say; None is without end.
            safety_policy: The safety policy that prompts and answers are held to, in place of the
                server's default.

        Raises:
            ValueError: The protocol is another, or the address does not fit it.
        """
        if protocol not in DEFAULT_ADDRESSES:
            raise ValueError(f"protocol is {protocol!r}; it must be 'grpc' or 'http'")
        self.url = DEFAULT_ADDRESSES[protocol] if url is None else url
        if protocol == "grpc" and "://" in self.url:
            raise ValueError(f"url is {self.url!r}; over gRPC it is host:port, without a scheme")
        self.protocol = protocol
        self.model = model
        self.timeout_s = timeout_s
        self.parameters = {} if safety_policy is None else {SAFETY_POLICY: safety_policy}
        self._connect()

    def _connect(self) -> None:
        """Make the transport."""
        raise NotImplementedError

    def _request(
        self,
        prompt: str,
        options: GenerationOptions | None,
        keywords: OptionKeywords,
        request_id: str,
        timeout_s: float | None,
        *,
        stream: bool = False,
    ) -> Request:
        options = replace(options or GenerationOptions(), **keywords)
        timeout_s = self.timeout_s if timeout_s is None else timeout_s
        return Request(self.model, prompt, options, stream, request_id, timeout_s, self.parameters)

    def _not_ready(self, timeout_s: float) -> ServerUnavailableError:
        return ServerUnavailableError(
            f"{self.model} at {self.url} was not ready after {timeout_s:g} s", self.url
        )


class Client(_Endpoint):
    """Asks a served model for text; threads may share one.

        with Client("localhost:8001") as client:
            print(client.generate("What is the capital of France?", max_tokens=64).text)
            for piece in client.stream("Tell me about triremes."):
                print(piece.text, end="", flush=True)

    Every call takes the fields of `GenerationOptions` as keywords, or a `GenerationOptions` that
    several calls share, and

    - `request_id`, which names the request in the server's log and traces;
    - `timeout_s`, how long the whole answer may take, in place of the client's own.

    A call raises `InvalidRequestError`, `ServerUnavailableError`, `GenerationError` or
    `DeadlineExceededError`, each a `ClientError`.
    """

    def _connect(self) -> None:
        transport = GrpcTransport if self.protocol == "grpc" else HttpTransport
        self._transport = transport(self.url)

    def generate(
        self,
        prompt: str,
        options: GenerationOptions | None = None,
        *,
        request_id: str = "",
        timeout_s: float | None = None,
        **keywords: Unpack[OptionKeywords],
    ) -> Result:
        """Return the answer when it is complete."""
        request = self._request(prompt, options, keywords, request_id, timeout_s)
        request.check_single()
        return _results(self._transport.responses(request))[0]

    def generate_all(
        self,
        prompt: str,
        options: GenerationOptions | None = None,
        *,
        request_id: str = "",
        timeout_s: float | None = None,
        **keywords: Unpack[OptionKeywords],
    ) -> list[Result]:
        """Return all `num_return_sequences` answers when they are complete, by sequence index."""
        request = self._request(prompt, options, keywords, request_id, timeout_s)
        return _results(self._transport.responses(request))

    def stream(
        self,
        prompt: str,
        options: GenerationOptions | None = None,
        *,
        request_id: str = "",
        timeout_s: float | None = None,
        **keywords: Unpack[OptionKeywords],
    ) -> Generator[Piece, None, None]:
        """Return a generator of the answer's pieces as they are made.

        The request goes out when the first piece is asked for. Closing the generator cancels it at
        the server; leaving a `for` loop early closes it in time, `contextlib.closing` at once.
        """
        return self._pieces(
            self._request(prompt, options, keywords, request_id, timeout_s, stream=True)
        )

    def _pieces(self, request: Request) -> Generator[Piece, None, None]:
        with closing(self._transport.responses(request)) as responses:
            for outputs in responses:
                yield Piece.from_outputs(outputs)

    def is_ready(self) -> bool:
        """Whether the server answers and has the model ready."""
        return self._transport.is_ready(self.model, _PROBE_S)

    def wait_until_ready(self, timeout_s: float = 60.0) -> None:
        """Return as soon as the model is ready.

        Raises:
            ServerUnavailableError: It was not, in time.
        """
        deadline = time.monotonic() + timeout_s
        while not self.is_ready():
            if time.monotonic() > deadline:
                raise self._not_ready(timeout_s)
            time.sleep(_POLL_S)

    def close(self) -> None:
        """Close the connections; requests that run are lost."""
        self._transport.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


class AsyncClient(_Endpoint):
    """Asks a served model for text from asyncio; for the tasks of one event loop.

        async with AsyncClient("localhost:8001") as client:
            result = await client.generate("What is the capital of France?", max_tokens=64)
            async for piece in client.stream("Tell me about triremes."):
                print(piece.text, end="", flush=True)

    It is `Client`, with the same arguments, results and errors. Cancelling a task that waits for an
    answer cancels the request at the server.
    """

    def _connect(self) -> None:
        transport = AsyncGrpcTransport if self.protocol == "grpc" else AsyncHttpTransport
        self._transport = transport(self.url)

    async def generate(
        self,
        prompt: str,
        options: GenerationOptions | None = None,
        *,
        request_id: str = "",
        timeout_s: float | None = None,
        **keywords: Unpack[OptionKeywords],
    ) -> Result:
        """Return the answer when it is complete."""
        request = self._request(prompt, options, keywords, request_id, timeout_s)
        request.check_single()
        return _results([outputs async for outputs in self._transport.responses(request)])[0]

    async def generate_all(
        self,
        prompt: str,
        options: GenerationOptions | None = None,
        *,
        request_id: str = "",
        timeout_s: float | None = None,
        **keywords: Unpack[OptionKeywords],
    ) -> list[Result]:
        """Return all `num_return_sequences` answers when they are complete, by sequence index."""
        request = self._request(prompt, options, keywords, request_id, timeout_s)
        return _results([outputs async for outputs in self._transport.responses(request)])

    def stream(
        self,
        prompt: str,
        options: GenerationOptions | None = None,
        *,
        request_id: str = "",
        timeout_s: float | None = None,
        **keywords: Unpack[OptionKeywords],
    ) -> AsyncGenerator[Piece, None]:
        """Return an asynchronous generator of the answer's pieces as they are made.

        The request goes out when the first piece is asked for. Closing the generator cancels it at
        the server; leaving an `async for` loop early closes it in time, `contextlib.aclosing` at
        once.
        """
        return self._pieces(
            self._request(prompt, options, keywords, request_id, timeout_s, stream=True)
        )

    async def _pieces(self, request: Request) -> AsyncGenerator[Piece, None]:
        async with aclosing(self._transport.responses(request)) as responses:
            async for outputs in responses:
                yield Piece.from_outputs(outputs)

    async def is_ready(self) -> bool:
        """Whether the server answers and has the model ready."""
        return await self._transport.is_ready(self.model, _PROBE_S)

    async def wait_until_ready(self, timeout_s: float = 60.0) -> None:
        """Return as soon as the model is ready.

        Raises:
            ServerUnavailableError: It was not, in time.
        """
        deadline = time.monotonic() + timeout_s
        while not await self.is_ready():
            if time.monotonic() > deadline:
                raise self._not_ready(timeout_s)
            await asyncio.sleep(_POLL_S)

    async def aclose(self) -> None:
        """Close the connections; requests that run are lost."""
        await self._transport.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()


def _results(responses: Iterable[Outputs]) -> list[Result]:
    results = sorted(map(Result.from_outputs, responses), key=attrgetter("sequence_index"))
    if not results:
        raise GenerationError("the server ended the request without an answer")
    return results
