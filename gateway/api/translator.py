"""What an API is to the gateway: where it is, how its requests are read and its answers written.

A translator turns a body into a `Wish`, and its encoder the pieces of answers into events. All
between the two, which routes, counts and audits, knows no API. One API, one file beside this one;
`gateway.api.routes` lists them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

from pydantic import BaseModel

from gateway.gateway_errors import GatewayError
from gateway.generation import Delta
from gateway.order import Order, Wish
from gateway.run_progress import Progress

Body = TypeVar("Body", bound=BaseModel)


class Event(NamedTuple):
    """One event of a stream.

    Attributes:
        data: What it says, mostly JSON; on one line.
        name: What kind of event it is, where the API names its events.
    """

    data: bytes
    name: bytes = b""

    def sse(self) -> bytes:
        """The event as server-sent events have it."""
        if self.name:
            return b"event: %b\ndata: %b\n\n" % (self.name, self.data)
        return b"data: %b\n\n" % self.data


class Encoder(Protocol):
    """Writes the answers to one request."""

    def events(self, deltas: Iterable[Delta]) -> Iterator[Event]:
        """What a stream says of each piece, if it says anything."""

    def end(self, progress: Progress) -> Iterable[Event]:
        """The last events of a stream that ended well."""

    def failed(self, error: GatewayError) -> Event:
        """The last event of one that didn't."""

    def answer(self, deltas: Sequence[Delta], progress: Progress) -> bytes:
        """The whole answer, from one delta for each of its choices."""


class Endpoint(ABC, Generic[Body]):
    """Where something is asked, and the words for it.

    Attributes:
        name: Names the endpoint in the OpenAPI document.
        path: Where it is.
        summary: What it does, in a few words.
        description: And in some more.
        body: What a request says.
    """

    name: str
    path: str
    summary: str
    description: str
    body: type[Body]

    @abstractmethod
    def wish(self, body: Body) -> Wish:
        """What a body asks for.

        Raises:
            InvalidRequest: It asks for what isn't there.
        """

    @abstractmethod
    def error(self, error: GatewayError) -> bytes:
        """The body of an answer that is an error."""


class Translator(Endpoint[Body]):
    """One API: its endpoint, and the words in which it asks and is answered.

    Attributes:
        socket: Whether it is also there as a WebSocket, a body a message.
    """

    socket: bool = False

    @abstractmethod
    def encoder(self, body: Body, order: Order) -> Encoder:
        """What writes the answers to it."""

    def streaming(self, body: dict[str, Any]) -> dict[str, Any]:
        """A body that asks for a stream, whatever it said of that: a WebSocket's is one."""
        return {**body, "stream": True}
