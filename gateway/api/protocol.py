"""uvicorn's HTTP/1.1 connection with bounds on a request's head, and one request at a time.

The fast parser has no bounds of its own: a head that never ends would grow in memory, and one that
comes a byte a minute would hold its connection for ever. A request that comes before the answer to
the one before would have uvicorn read no further, and so never see that the client has left.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from gateway.api.parts import Parts
from gateway.gateway_errors import GatewayError
from gateway.order import Arrival
from gateway.visit import Visit

MAX_HEAD_BYTES = 64 << 10
"""More than `ListenSettings.max_header_bytes` may say is cut off without an answer."""
HEAD_TIMEOUT_S = 10.0
_SMALL_BYTES = 4 << 10
"""So much is taken apart at once: most requests are smaller."""
BROKEN = "trireme.broken"
"""Where it is in a request's scope that its body was no HTTP."""


def tell_stranger(
    app: Any, client: tuple[str, int] | None, error: GatewayError, of: Visit | None = None
) -> None:
    """Tell of what the application never hears of.

    Args:
        app: The application.
        client: Where it came from.
        error: What is wrong with it.
        of: The visit of the connection that it came over, where there is one.
    """
    now, now_s = time.time(), time.monotonic()
    visit = Visit(
        Arrival(secrets.token_hex(12), {} if of is None else of.arrival.headers, now, now_s),
        client[0] if client else "",
        "unknown" if of is None else of.route,
        None if of is None else of.principal,
        error=error,
    )
    app.state.gateway.door.tell(visit, error.status)


class _TooSoonError(Exception):
    """A request came before the answer to the one before. The parser stops at it."""


class BoundedProtocol(HttpToolsProtocol):
    """One connection."""

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self._is_deaf = False
        self._head_bytes = 0
        self._around_bytes = 0  # since the last byte of a body: what chunks say of themselves
        self._head_timer: asyncio.TimerHandle | None = None
        self._parts = Parts(self.app.state.line, self)

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._begin_head()

    def data_received(self, data: bytes) -> None:
        if self._is_deaf:
            return  # it is read and dropped, so that the connection's end is seen
        if len(data) <= _SMALL_BYTES and self._parts.is_empty:
            self.parse(data)
            return
        self._parts.add(data)
        self.transport.pause_reading()

    def read_on(self) -> None:
        """Read on, unless the application has not taken what there is of a body."""
        if not self.flow.read_paused and not self.transport.is_closing():
            self.transport.resume_reading()

    def give_up(self) -> None:
        """End the connection."""
        self.transport.abort()

    def parse(self, data: bytes) -> None:
        """Take a part apart."""
        if self._is_deaf or self.transport.is_closing():
            self._parts.clear()
            return
        self._around_bytes += len(data)
        super().data_received(data)
        if self._head_timer is None and self._around_bytes > MAX_HEAD_BYTES:
            self._break("what is around the body never ends", 431)
            self.transport.abort()
        if self._head_timer is not None:
            self._head_bytes += len(data)
            if self._head_bytes > MAX_HEAD_BYTES:
                self._end_head()
                self._abort("the head never ends", 431)

    def send_400_response(self, msg: str) -> None:
        """Say that it is no HTTP; no application hears of that, so it is told here.

        Where a request is still to be answered, the answer goes out, and is the connection's last.
        """
        if self._is_deaf:
            self.cycle.keep_alive = False
            self._tell("a request came before the answer to the one before", 400)
            return
        super().send_400_response(msg)
        if self._head_timer is None and self.cycle is not None and not self.cycle.response_complete:
            self._break("this is no HTTP", 400)
        else:
            self._tell("this is no HTTP", 400)

    def handle_websocket_upgrade(self) -> None:
        super().handle_websocket_upgrade()
        # Both have this connection, which has them, and would be freed by no one.
        self._parts.clear()
        del self._parts
        self.parser = None  # type: ignore[assignment]

    def on_message_begin(self) -> None:
        if self.cycle is not None and not self.cycle.response_complete:
            self._is_deaf = True
            raise _TooSoonError
        super().on_message_begin()
        self._begin_head()

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header; not what comes behind a body, which none of our clients has to say."""
        if self._head_timer is not None:
            super().on_header(name, value)

    def on_body(self, body: bytes) -> None:
        self._around_bytes = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._around_bytes = 0
        super().on_message_complete()

    def on_headers_complete(self) -> None:
        self._end_head()
        super().on_headers_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        self._parts.clear()
        del self._parts  # they have this connection
        self._end_head()
        super().connection_lost(exc)

    def _tell(self, message: str, status: int) -> None:
        error = GatewayError(message)
        error.status = status
        tell_stranger(self.app, self.client, error)

    def _break(self, message: str, status: int) -> None:
        """Leave word of what is wrong in a body: the application has that request, and tells."""
        error = GatewayError(message)
        error.status = status
        scope: Any = self.cycle.scope
        scope[BROKEN] = error

    def _abort(self, message: str, status: int) -> None:
        self._tell(message, status)
        self.transport.abort()

    def _begin_head(self) -> None:
        self._end_head()
        self._head_bytes = 0
        self._head_timer = self.loop.call_later(HEAD_TIMEOUT_S, self._time_out)

    def _time_out(self) -> None:
        if self._head_bytes:
            self._abort("the head didn't come in time", 408)
        else:  # a connection that nothing came on is no request
            self.transport.abort()

    def _end_head(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None
