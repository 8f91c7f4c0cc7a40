"""uvicorn's WebSocket connection with bounds on messages that aren't whole.

A message is in memory before the application hears of it. So here it is seen that all of them that
are on their way hold no more than there is for bodies, those of one tenant no more than its half of
that, and that none is on its way for ever.
"""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from gateway.api.incoming import tenant_of
from gateway.api.parts import Parts
from gateway.api.protocol import tell_stranger
from gateway.gateway_errors import BodyTimeout, BodyTooLarge, GatewayError, Overloaded
from gateway.visit import SCOPE_KEY, Visit

MAX_FRAGMENTS = 4096
"""Pieces of one message; each costs as much as a request's head, however short it is."""
_TOO_LARGE, _POLICY_VIOLATION, _TRY_AGAIN_LATER = 1009, 1008, 1013
_BAD_REQUEST = b"HTTP/1.1 400 Bad Request\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"


class BoundedSocketProtocol(WebSocketsSansIOProtocol):
    """One connection."""

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self._frame_bytes = 0
        self._held_bytes = 0
        self._tenant = ""
        self._timer: asyncio.TimerHandle | None = None
        self._fragments = 0
        self._parts = Parts(self.app.state.line, self)

    def data_received(self, data: bytes) -> None:
        if not self.handshake_initiated:
            self.parse(data)
            return
        self._parts.add(data)
        self.transport.pause_reading()

    def read_on(self) -> None:
        """Read on, unless a whole message waits for the application."""
        if not self.read_paused and not self.transport.is_closing():
            self.transport.resume_reading()

    def give_up(self) -> None:
        """End the connection."""
        self.transport.abort()

    def parse(self, data: bytes) -> None:
        """Take a part apart."""
        super().data_received(data)
        if self.conn.handshake_exc is not None and not self.handshake_initiated:
            self._refuse_handshake()
        if self.transport.is_closing():
            self._parts.clear()
            self._hold(0)
            return
        try:
            self._hold(self._frame_bytes + len(self.conn.reader.buffer))
        except Overloaded as error:
            self._fail(_TRY_AGAIN_LATER, error)

    def connection_lost(self, exc: Exception | None) -> None:
        self._parts.clear()
        del self._parts  # they have this connection
        self._hold(0)
        super().connection_lost(exc)

    def handle_connect(self, event: Any) -> None:
        super().handle_connect(event)
        if self.response.status_code != 101:
            error = GatewayError("this is no handshake")
            error.status = self.response.status_code
            tell_stranger(self.app, self.client, error)

    def handle_text(self, event: Any) -> None:
        self._frame_bytes = len(event.data)
        super().handle_text(event)

    def handle_bytes(self, event: Any) -> None:
        self._frame_bytes = len(event.data)
        super().handle_bytes(event)

    def handle_cont(self, event: Any) -> None:
        if self.transport.is_closing():
            return
        self._frame_bytes += len(event.data)
        self._fragments += 1
        if self._fragments > MAX_FRAGMENTS:
            error = GatewayError(f"the message is in more than {MAX_FRAGMENTS} pieces")
            error.status = 400
            self._fail(_POLICY_VIOLATION, error)
            return
        super().handle_cont(event)

    def send_receive_event_to_app(self) -> None:
        self._frame_bytes = self._fragments = 0
        super().send_receive_event_to_app()

    def handle_parser_exception(self) -> None:
        sent = self.conn.close_sent
        if sent is not None and sent.code == _TOO_LARGE:
            self._tell(BodyTooLarge(f"the message has more than {self.config.ws_max_size} bytes"))
        else:
            error = GatewayError("this is no message")
            error.status = 400
            self._tell(error)
        super().handle_parser_exception()

    def _refuse_handshake(self) -> None:
        error = GatewayError("this is no handshake")
        error.status = 400
        tell_stranger(self.app, self.client, error)
        self.transport.write(_BAD_REQUEST)
        self.transport.close()

    def _hold(self, count: int) -> None:
        """Hold so many bytes of what isn't whole yet, for so long.

        Raises:
            Overloaded: There is no room for them.
        """
        held = self.app.state.held
        if not self._held_bytes:  # else what was taken is given back by the same
            self._tenant = self._known_tenant()
        if count > self._held_bytes:
            held.take(self._tenant, count - self._held_bytes)
        elif count < self._held_bytes:
            held.give_back(self._tenant, self._held_bytes - count)
        self._held_bytes = count
        if count and self._timer is None:
            settings = self.app.state.gateway.configuration.listen
            self._timer = self.loop.call_later(settings.body_timeout_s, self._time_out)
        elif not count and self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _known_tenant(self) -> str:
        """Whose connection it is; empty while that isn't known, and where nobody is asked."""
        scope: dict[str, Any] = getattr(self, "scope", {})  # it comes with the handshake
        visit: Visit | None = scope.get(SCOPE_KEY)
        return "" if visit is None else tenant_of(visit.principal)

    def _time_out(self) -> None:
        self._timer = None
        self._fail(_POLICY_VIOLATION, BodyTimeout("the message was not complete in time"))

    def _fail(self, code: int, error: GatewayError) -> None:
        self._hold(0)
        self._parts.clear()
        self._frame_bytes = self._fragments = 0
        self.frames = []
        self._tell(error)
        if not self.handshake_complete:
            self.transport.abort()
            return
        self.queue.put_nowait({"type": "websocket.disconnect", "code": code})
        self.conn.send_close(code, error.message)
        self.transport.write(b"".join(self.conn.data_to_send()))
        self.close_sent = True
        self.transport.close()

    def _tell(self, error: GatewayError) -> None:
        """Of a message that nobody was handed."""
        scope: dict[str, Any] = {**self.scope}
        tell_stranger(self.app, self.client, error, scope.get(SCOPE_KEY))
