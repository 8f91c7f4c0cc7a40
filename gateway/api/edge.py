"""The outermost layer: what a connection may send, what every answer carries, and that it is told.

Every request gets an id, its client's own where it has a usable one, and ends here, whatever
becomes of it: so here it is told of, unless an exchange does.
"""

from __future__ import annotations

import logging
import re
import secrets
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.api.error_objects import error_body, error_headers
from gateway.api.incoming import Held, Incoming
from gateway.api.protocol import BROKEN
from gateway.configuration import ListenSettings
from gateway.gateway_errors import GatewayError, HeadersTooLarge
from gateway.order import Arrival
from gateway.turnstile import Turnstile
from gateway.visit import CLIENT_CLOSED_REQUEST, SCOPE_KEY, Visit

_log = logging.getLogger("gateway.api")
_REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
_HEADERS = {
    "cache-control": "no-store",
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}
ERROR_WRITER = "trireme.error"
"""Where a route leaves word, in the scope, of how its API writes an error."""
_HSTS = ("strict-transport-security", "max-age=31536000")
_CLOSE = (b"connection", b"close")


class Edge:
    """ASGI middleware around the whole API."""

    def __init__(
        self, app: ASGIApp, settings: ListenSettings, held: Held, turnstile: Turnstile
    ) -> None:
        self._app = app
        self._turnstile = turnstile
        self._settings = settings
        self._held = held
        headers = [*_HEADERS.items(), *([_HSTS] if settings.tls else [])]
        self._headers = _encode(headers)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        arrival = _arrival(scope)
        scope["trireme.arrival"] = arrival
        visit = scope[SCOPE_KEY] = Visit(arrival, address=(scope.get("client") or ("",))[0])
        headers = [*self._headers, (b"x-request-id", arrival.request_id.encode())]
        incoming = Incoming(scope, receive, visit, self._settings, self._held)
        answer = _Answer(send, headers, incoming)
        try:
            self._check_headers(scope)
            if scope["type"] == "http":
                receive = incoming.receive
            await self._turnstile.turn(arrival.authorization)
            await self._app(scope, receive, answer.send)
        except GatewayError as error:
            if scope["type"] == "http":
                await refuse(scope, answer.send, error)
            else:
                visit.error = error
                await send({"type": "websocket.close", "code": 1008, "reason": error.message})
        except ClientDisconnect:
            answer.status = CLIENT_CLOSED_REQUEST
        except Exception as error:
            # Nothing of an error that nobody foresaw is for the one who asked.
            _log.error("a request failed", exc_info=error, extra={"request_id": arrival.request_id})
            failure = visit.error = GatewayError("the gateway failed on this request")
            if scope["type"] == "http" and not answer.begun:
                await refuse(scope, answer.send, failure)
        finally:
            visit.route = visit.route or route_of(scope)
            visit.error = visit.error or scope.get(BROKEN)
            scope["app"].state.gateway.door.tell(visit, answer.status)
            incoming.release()

    def _check_headers(self, scope: Scope) -> None:
        size = sum(len(name) + len(value) for name, value in scope["headers"])
        size += len(scope.get("raw_path") or b"") + len(scope["query_string"])
        if size > self._settings.max_header_bytes:
            raise HeadersTooLarge(
                f"path and headers have {size} bytes; {self._settings.max_header_bytes} are read"
            )


class _Answer:
    """What goes out for one request.

    Where its body is still to come, the answer doesn't wait for it, and the connection closes: only
    after a while, in which what comes is dropped.

    Attributes:
        begun: Whether some of it has gone out.
        status: Of the answer; 499 where there was none.
    """

    def __init__(self, send: Send, headers: list[tuple[bytes, bytes]], incoming: Incoming) -> None:
        self.begun = False
        self.status = CLIENT_CLOSED_REQUEST
        self._send = send
        self._headers = headers
        self._incoming = incoming
        self._closes = False

    async def send(self, message: Message) -> None:
        """Send on, with the headers that every answer has."""
        kind = message["type"]
        if kind == "http.response.start":
            self.status = message["status"]
            given = [*message.get("headers", ()), *self._headers]
            if self._incoming.unread:
                await self._incoming.drop_short()
            if self._incoming.unread:
                self._closes = True
                given = [*(field for field in given if field[0].lower() != _CLOSE[0]), _CLOSE]
            message["headers"] = given
        elif kind == "websocket.accept":
            self.status = 101
            message["headers"] = [*message.get("headers", ()), *self._headers]
        elif kind == "websocket.close" and not self.begun:
            self.status = 403
        self.begun = True
        if kind == "http.response.body" and self._closes and not message.get("more_body", False):
            await self._send({**message, "more_body": True})
            await self._incoming.drop()
            message = {"type": kind, "body": b"", "more_body": False}
        await self._send(message)


def route_of(scope: Scope) -> str:
    """Method and route of a request, of which there are only so many."""
    route = getattr(scope.get("route"), "path", "unknown")
    method = "WS" if scope["type"] == "websocket" else scope["method"]
    return f"{method} {route}"


def written(scope: Scope, error: GatewayError) -> bytes:
    """An error in the words of the API that was asked; in OpenAI's before that is known.

    Every answer that is an error passes here, so this is where it is noted for what is told.
    """
    scope[SCOPE_KEY].error = error
    writer: Callable[[GatewayError], bytes] = scope.get(ERROR_WRITER, error_body)
    return writer(error)


async def refuse(scope: Scope, send: Send, error: GatewayError) -> None:
    """Answer with an error."""
    body = written(scope, error)
    fields: list[tuple[str, Any]] = [
        ("content-type", "application/json"),
        ("content-length", str(len(body))),
        *error_headers(error).items(),
    ]
    if isinstance(error, HeadersTooLarge):
        fields.append(("connection", "close"))
    start = {"type": "http.response.start", "status": error.status, "headers": _encode(fields)}
    await send(start)
    await send({"type": "http.response.body", "body": body})


def _arrival(scope: Scope) -> Arrival:
    headers: dict[str, str] = {}
    for name, value in scope["headers"]:  # of several the first, which is what routes read
        headers.setdefault(name.decode("latin-1"), value.decode("latin-1"))
    given = headers.get("x-request-id", "")
    request_id = given if _REQUEST_ID.fullmatch(given) else secrets.token_hex(12)
    return Arrival(request_id, headers, time.time(), time.monotonic())


def with_id(arrival: Arrival, request_id: str) -> Arrival:
    """A further request of the same connection, that comes now."""
    return replace(arrival, request_id=request_id, time=time.time(), received_s=time.monotonic())


def _encode(headers: list[tuple[str, Any]]) -> list[tuple[bytes, bytes]]:
    return [(name.encode("latin-1"), str(value).encode("latin-1")) for name, value in headers]
