"""An API over a WebSocket: a body a message, and each event of its stream as one."""

from __future__ import annotations

import asyncio
import secrets
from contextlib import aclosing, suppress
from typing import Any

import anyio
import anyio.lowlevel
from fastapi import WebSocket
from starlette.websockets import WebSocketDisconnect, WebSocketState

from gateway.api.body import Read, read
from gateway.api.edge import route_of, with_id
from gateway.api.reply import events
from gateway.api.translator import Translator
from gateway.exchange import Gateway
from gateway.gateway_errors import (
    AuthenticationError,
    BodyTooLarge,
    GatewayError,
    PermissionDenied,
)
from gateway.interfaces import Principal
from gateway.visit import CLIENT_CLOSED_REQUEST, SCOPE_KEY, Visit

_POLICY_VIOLATION = 1008
_TRY_AGAIN_LATER = 1013


class Conversation:
    """One WebSocket.

    The client sends the body of a request as one message; it gets each event of the stream as a
    message, and may then send the next. Closing ends the request.
    """

    def __init__(self, translator: Translator[Any], socket: WebSocket) -> None:
        self._translator = translator
        self._socket = socket
        self._gateway: Gateway = socket.app.state.gateway

    async def run(self) -> None:
        """Answer until the client leaves."""
        visit: Visit = self._socket.scope[SCOPE_KEY]
        visit.route = route_of(self._socket.scope)
        try:
            visit.principal = await self._admit()
        except GatewayError as error:
            visit.error = error
            await self._socket.close(_POLICY_VIOLATION, error.message)
            return
        await self._socket.accept()
        try:
            while True:
                text = await self._next_text()
                await self._gateway.turnstile.turn(visit.arrival.authorization)
                try:
                    # A key may have been revoked since the last message.
                    visit.principal = await self._admit_again(visit)
                    await self._answer(visit, text)
                finally:
                    self._gateway.door.tell(visit, CLIENT_CLOSED_REQUEST)
                arrival = with_id(visit.arrival, secrets.token_hex(12))
                visit = Visit(arrival, visit.address, visit.route)
        except WebSocketDisconnect:
            pass

    async def _next_text(self) -> str:
        """What the client sends next; what isn't text is nothing that can be read.

        Raises:
            WebSocketDisconnect: It left.
        """
        message = await self._socket.receive()
        if message["type"] == "websocket.disconnect":
            raise WebSocketDisconnect(message.get("code", 1000))
        return message.get("text") or ""

    async def _admit(self) -> Principal:
        headers = self._socket.headers
        origin = headers.get("origin")
        if origin is not None and origin not in self._gateway.configuration.listen.cors_origins:
            raise PermissionDenied("the page's origin is not among cors_origins", code="origin")
        return await self._gateway.authenticate(headers.get("authorization"))

    async def _admit_again(self, visit: Visit) -> Principal:
        """Who sends another message; nobody that is known any more is told so, and cut off.

        Raises:
            WebSocketDisconnect: It was closed.
        """
        try:
            return await self._admit()
        except GatewayError as error:
            visit.error = error
            await self._socket.send_text(self._translator.error(error).decode())
            if isinstance(error, AuthenticationError | PermissionDenied):
                await self._socket.close(_POLICY_VIOLATION, error.message)
            else:  # it can't be found out now
                await self._socket.close(_TRY_AGAIN_LATER, error.message)
            raise WebSocketDisconnect(_POLICY_VIOLATION) from None

    async def _answer(self, visit: Visit, text: str) -> None:
        """Answer one message. Whatever the client sends meanwhile, or that it leaves, ends it."""
        with anyio.CancelScope() as connection:
            watcher = asyncio.create_task(self._cancel_at_next_message(connection))
            try:
                body, wish = await self._read(text)
                assert visit.principal is not None
                order = self._gateway.intake.order(visit.principal, visit.arrival, wish)
                encoder = self._translator.encoder(body, order)
                async with await self._gateway.open(order, visit) as exchange:
                    await exchange.begun()
                    async with aclosing(events(exchange, encoder)) as stream:
                        async for batch in stream:
                            for event in batch.events:
                                await self._say(event.data, connection)
            except GatewayError as error:
                visit.error = error
                await self._say(self._translator.error(error), connection)
            except Exception:
                visit.error = GatewayError("the gateway failed on this request")
                raise
            finally:
                watcher.cancel()
                await asyncio.wait([watcher])
        if connection.cancel_called:
            if self._is_open:
                await self._socket.close(_POLICY_VIOLATION, "one request at a time")
            raise WebSocketDisconnect(_POLICY_VIOLATION)

    @property
    def _is_open(self) -> bool:
        """Whether something can be sent; that the client has left may not be known yet."""
        return self._socket.application_state is WebSocketState.CONNECTED

    async def _say(self, data: bytes, connection: anyio.CancelScope) -> None:
        """Send a message; where the client has left, end as if that had been heard first."""
        if self._is_open:
            with suppress(WebSocketDisconnect):
                await self._socket.send_text(data.decode())
                return
        connection.cancel()
        await anyio.lowlevel.checkpoint()

    async def _read(self, text: str) -> Read:
        limit = self._gateway.configuration.listen.max_body_bytes
        raw = text.encode(errors="replace")
        if len(raw) > limit:
            raise BodyTooLarge(f"the message has more than {limit} bytes")
        return await read(self._translator, raw, streaming=True)

    async def _cancel_at_next_message(self, connection: anyio.CancelScope) -> None:
        await self._socket.receive()
        connection.cancel()
