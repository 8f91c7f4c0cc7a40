"""The ensemble over HTTP: Triton's ``generate`` and ``generate_stream`` endpoints.

Leaving a response unread closes its connection, and that cancels the request at the server. Triton
sees it after the first response only, though: a request that does not stream runs to its end.
"""

from __future__ import annotations

import json
import time
from collections.abc import AsyncGenerator, Generator, Iterator
from contextlib import contextmanager
from typing import Any

import httpx

from clients import wire
from clients.client_errors import DeadlineExceededError, server_error, unavailable
from clients.request import Request
from clients.results import Outputs
from clients.sse import EventParser

# Long enough for a handshake across the world.
_CONNECT_S = 10.0
# As many requests as there are callers; a proxy of the environment is not for a server in-house.
_SETTINGS: dict[str, Any] = {
    "limits": httpx.Limits(max_connections=None, max_keepalive_connections=64),
    "trust_env": False,
}


class HttpTransport:
    """Sends requests over HTTP; threads may share it."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._client = httpx.Client(base_url=_base_url(address), **_SETTINGS)

    def responses(self, request: Request) -> Generator[Outputs, None, None]:
        """Send a request and yield its responses; closing the generator cancels the request.

        Raises:
            ClientError: The request failed; `clients.client_errors` lists how it can.
        """
        answer = _Answer(request, self._address)
        with _translated(self._address), self._client.stream(**_arguments(request)) as response:
            answer.begin(response)
            for chunk in response.iter_bytes():
                yield from answer.feed(chunk)
        yield from answer.end()

    def is_ready(self, model: str, timeout_s: float) -> bool:
        """Whether the model can take requests; what does not answer is not ready."""
        try:
            return self._client.get(f"/v2/models/{model}/ready", timeout=timeout_s).is_success
        except httpx.TransportError:
            return False

    def close(self) -> None:
        """Close the connections."""
        self._client.close()


class AsyncHttpTransport:
    """Sends requests over HTTP from one event loop."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._client = httpx.AsyncClient(base_url=_base_url(address), **_SETTINGS)

    async def responses(self, request: Request) -> AsyncGenerator[Outputs, None]:
        """Send a request and yield its responses; closing the generator cancels the request.

        Raises:
            ClientError: The request failed; `clients.client_errors` lists how it can.
        """
        answer = _Answer(request, self._address)
        with _translated(self._address):
            async with self._client.stream(**_arguments(request)) as response:
                answer.begin(response)
                async for chunk in response.aiter_bytes():
                    for outputs in answer.feed(chunk):
                        yield outputs
        for outputs in answer.end():
            yield outputs

    async def is_ready(self, model: str, timeout_s: float) -> bool:
        """Whether the model can take requests; what does not answer is not ready."""
        try:
            response = await self._client.get(f"/v2/models/{model}/ready", timeout=timeout_s)
        except httpx.TransportError:
            return False
        return response.is_success

    async def aclose(self) -> None:
        """Close the connections."""
        await self._client.aclose()


class _Answer:
    """The body of one answer as it arrives, of whatever kind it turns out to be."""

    def __init__(self, request: Request, address: str) -> None:
        self._address = address
        self._timeout_s = request.timeout_s
        self._started = time.monotonic()
        self._status = 200
        self._events: EventParser | None = None
        self._body = b""

    def begin(self, response: httpx.Response) -> None:
        self._status = response.status_code
        if response.headers.get("content-type", "").startswith("text/event-stream"):
            self._events = EventParser()

    def feed(self, chunk: bytes) -> Iterator[Outputs]:
        if self._timeout_s is not None and time.monotonic() - self._started > self._timeout_s:
            raise DeadlineExceededError(f"the answer was not complete after {self._timeout_s:g} s")
        if self._events is None:
            self._body += chunk
        else:
            for data in self._events.feed(chunk):
                yield self._outputs(data)

    def end(self) -> Iterator[Outputs]:
        if self._events is None:
            yield self._outputs(self._body)

    def _outputs(self, data: str | bytes) -> Outputs:
        try:
            fields = json.loads(data)
        except ValueError:
            fields = None
        if not isinstance(fields, dict):
            raise unavailable(self._address, f"what answers is no Triton, status {self._status}")
        if "error" in fields:
            raise server_error(str(fields["error"]), _STATUSES.get(self._status), self._address)
        return {
            name: value if isinstance(value, list) else [value] for name, value in fields.items()
        }


# Statuses that say more than that something was wrong; see `server_error`.
_STATUSES = {500: "INTERNAL", 503: "UNAVAILABLE"}


def _arguments(request: Request) -> dict[str, Any]:
    """What httpx sends.

    httpx bounds each read, not the whole: so a silent server is noticed by the read's bound, and a
    slow one when data arrives after the time is up.
    """
    # What is no input of the model, the endpoint takes as a request parameter.
    body: dict[str, Any] = {**request.parameters}
    body.update((name, wire.to_json(name, values)) for name, values in request.inputs.items())
    if request.request_id:
        body["id"] = request.request_id
    endpoint = "generate" if request.single else "generate_stream"
    return {
        "method": "POST",
        "url": f"/v2/models/{request.model}/{endpoint}",
        "json": body,
        "headers": dict(request.headers),
        "timeout": httpx.Timeout(
            request.timeout_s, connect=min(_CONNECT_S, request.timeout_s or _CONNECT_S)
        ),
    }


def _base_url(address: str) -> str:
    return address if "://" in address else f"http://{address}"


@contextmanager
def _translated(address: str) -> Iterator[None]:
    """Raise httpx's errors as ours."""
    try:
        yield
    except (httpx.ConnectError, httpx.ConnectTimeout) as error:
        raise unavailable(address, str(error) or "the connection timed out") from None
    except httpx.TimeoutException:
        raise DeadlineExceededError("the answer was not complete in time") from None
    except httpx.TransportError as error:
        raise unavailable(address, str(error) or "the connection was lost") from None
