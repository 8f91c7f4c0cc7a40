"""An exchange over one HTTP connection: one JSON answer, or server-sent events.

The connection is watched all the while: a client that goes away ends its request at once, wherever
it stands. Nothing is sent before the first piece is there, so that what fails until then has a
status of its own; what fails later is the last event of the stream.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing, asynccontextmanager, suppress
from functools import partial
from typing import Any, NamedTuple

import anyio
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from clients.aside import aside
from gateway.api.edge import refuse
from gateway.api.tokens import TokenEndpoint
from gateway.api.translator import Encoder, Event
from gateway.exchange import Exchange, Gateway
from gateway.gateway_errors import AuditUnavailable, GatewayError, GenerationFailed
from gateway.generation import Delta
from gateway.order import Order
from gateway.visit import SCOPE_KEY

_log = logging.getLogger("gateway.api")
_EVENTS = "text/event-stream; charset=utf-8"


class Reply(Response):
    """Opens an exchange when it is called, and sends what comes of it."""

    def __init__(self, gateway: Gateway, order: Order, encoder: Encoder) -> None:
        self._gateway = gateway
        self._order = order
        self._encoder = encoder
        self.background = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with _until_gone(receive):
            await self._exchange(scope, send)

    async def _exchange(self, scope: Scope, send: Send) -> None:
        begun = False
        try:
            async with await self._gateway.open(self._order, scope[SCOPE_KEY]) as exchange:
                await exchange.begun()
                if self._order.generation.stream:
                    headers = {**exchange.headers, "content-type": _EVENTS}
                    await _start(send, headers)
                    begun = True
                    async with aclosing(events(exchange, self._encoder)) as stream:
                        async for batch in stream:
                            body = b"".join([event.sse() for event in batch.events])
                            await _send(send, body, more=not batch.is_last)
                else:
                    body = await whole(exchange, self._encoder)
                    headers = {
                        **exchange.headers,
                        "content-type": "application/json",
                        "content-length": str(len(body)),
                    }
                    await _start(send, headers)
                    begun = True
                    await _send(send, body, more=False)
        except GatewayError as error:
            if not begun:
                await refuse(scope, send, error)
        except Exception as error:
            fields = {"request_id": self._order.arrival.request_id}
            _log.error("an exchange failed", exc_info=error, extra=fields)
            if not begun:
                failure = GenerationFailed("the gateway failed on this request")
                await refuse(scope, send, failure)


class Batch(NamedTuple):
    """Events that are there together, and go out in one write: a write costs more than an event.

    Attributes:
        events: They.
        is_last: Nothing follows.
    """

    events: list[Event]
    is_last: bool = False


async def events(exchange: Exchange, encoder: Encoder) -> AsyncGenerator[Batch, None]:
    """Yield what is sent for a stream.

    The last pieces wait until the request is audited as answered. An error is the last event, and
    closes the exchange.
    """
    run = exchange.run
    try:
        while deltas := await run.mailbox.take():
            if len(run.progress.finish_reasons) == exchange.order.generation.num_answers:
                break
            yield Batch(await _encoded(encoder, deltas))
        deltas += await run.mailbox.take_rest()
        await exchange.close()
        encoded = await _encoded(encoder, deltas)
        yield Batch([*encoded, *encoder.end(run.progress)], is_last=True)
    except GatewayError as error:
        with suppress(AuditUnavailable):  # one error is enough
            await exchange.close(error=error)
        yield Batch([encoder.failed(error)], is_last=True)


async def whole(exchange: Exchange, encoder: Encoder) -> bytes:
    """The whole answer, audited."""
    deltas = await exchange.run.mailbox.take_rest()
    await exchange.close()
    encode = partial(encoder.answer, deltas, exchange.run.progress)
    return await aside(encode, _num_entries(deltas))


async def _encoded(encoder: Encoder, deltas: list[Delta]) -> list[Event]:
    return await aside(lambda: list(encoder.events(deltas)), _num_entries(deltas))


def _num_entries(deltas: list[Delta]) -> int:
    return sum(delta.num_entries for delta in deltas)


class TokenReply(Response):
    """Answers where nothing is generated, for as long as somebody waits for it."""

    def __init__(self, gateway: Gateway, order: Order, endpoint: TokenEndpoint[Any]) -> None:
        self._gateway = gateway
        self._order = order
        self._endpoint = endpoint
        self.background = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with _until_gone(receive):
            try:
                body = await self._endpoint.answer(self._gateway, self._order)
            except GatewayError as error:
                await refuse(scope, send, error)
                return
            length = str(len(body))
            await _start(send, {"content-type": "application/json", "content-length": length})
            await _send(send, body, more=False)


@asynccontextmanager
async def _until_gone(receive: Receive) -> AsyncIterator[None]:
    """End what is done in here as soon as the client has left."""
    with anyio.CancelScope() as connection:
        watcher = asyncio.create_task(_cancel_when_gone(receive, connection))
        try:
            yield
        finally:
            watcher.cancel()


async def _cancel_when_gone(receive: Receive, connection: anyio.CancelScope) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    connection.cancel()


async def _start(send: Send, headers: Mapping[str, str]) -> None:
    fields = [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": 200, "headers": fields})


async def _send(send: Send, body: bytes, *, more: bool) -> None:
    await send({"type": "http.response.body", "body": body, "more_body": more})
