"""The outermost layer: what a connection may send, and what every answer carries.

A body is read here, whole, within its bounds of length and time, so that nothing behind has to
think of them. Every request gets an id, its client's own where it has a usable one.
"""

from __future__ import annotations

import logging
import re
import secrets
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import anyio
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.api.error_objects import error_body, error_headers
from gateway.configuration import ListenSettings
from gateway.gateway_errors import BodyTimeout, BodyTooLarge, GatewayError, HeadersTooLarge
from gateway.order import Arrival
from gateway.turnstile import Turnstile

_log = logging.getLogger("gateway.api")
_REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
_HEADERS = {
    "cache-control": "no-store",
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}
_SILENCE_S = 1.0
"""After how long nothing more is expected of a body that is not read."""
ERROR_WRITER = "trireme.error"
"""Where a route leaves word, in the scope, of how its API writes an error."""
_HSTS = ("strict-transport-security", "max-age=31536000")


class Edge:
    """ASGI middleware around the whole API."""

    def __init__(self, app: ASGIApp, settings: ListenSettings, turnstile: Turnstile) -> None:
        self._app = app
        self._turnstile = turnstile
        self._settings = settings
        headers = [*_HEADERS.items(), *([_HSTS] if settings.tls else [])]
        self._headers = _encode(headers)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        arrival = _arrival(scope)
        scope["trireme.arrival"] = arrival
        headers = [*self._headers, (b"x-request-id", arrival.request_id.encode())]

        begun = False

        async def send_with_headers(message: Message) -> None:
            nonlocal begun
            begun = True
            if message["type"] in ("http.response.start", "websocket.accept"):
                message["headers"] = [*message.get("headers", ()), *headers]
            await send(message)

        try:
            self._check_headers(scope)
            if scope["type"] == "http":
                receive = await self._with_body(scope, receive)
            await self._turnstile.turn(arrival.headers.get("authorization"))
            await self._app(scope, receive, send_with_headers)
        except GatewayError as error:
            if scope["type"] == "http" and isinstance(error, BodyTooLarge):
                await self._refuse_unread(scope, receive, send_with_headers, error)
            elif scope["type"] == "http":
                await refuse(scope, send_with_headers, error)
            else:
                await send({"type": "websocket.close", "code": 1008, "reason": error.message})
        except Exception as error:
            # Nothing of an error that nobody foresaw is for the one who asked.
            _log.error("a request failed", exc_info=error, extra={"request_id": arrival.request_id})
            if scope["type"] == "http" and not begun:
                failure = GatewayError("the gateway failed on this request")
                await refuse(scope, send_with_headers, failure)

    async def _refuse_unread(
        self, scope: Scope, receive: Receive, send: Send, error: BodyTooLarge
    ) -> None:
        """Answer while the body still comes, and let it come for a while, dropped.

        Were the connection closed at once, the kernel would answer what comes with a reset, and
        a client that sends all before it reads would lose the answer.
        """

        async def send_open(message: Message) -> None:
            await send({**message, "more_body": True})

        await refuse(scope, send_open, error)
        with anyio.move_on_after(self._settings.body_timeout_s):
            more = True
            while more:
                more = False
                with anyio.move_on_after(_SILENCE_S):
                    more = (await receive()).get("more_body", False)
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    def _check_headers(self, scope: Scope) -> None:
        size = sum(len(name) + len(value) for name, value in scope["headers"])
        size += len(scope.get("raw_path") or b"") + len(scope["query_string"])
        if size > self._settings.max_header_bytes:
            raise HeadersTooLarge(
                f"path and headers have {size} bytes; {self._settings.max_header_bytes} are read"
            )

    async def _with_body(self, scope: Scope, receive: Receive) -> Receive:
        """Read the body; return what hands it on in one piece."""
        limit = self._settings.max_body_bytes
        for name, value in scope["headers"]:
            if name == b"content-length" and int(value) > limit:  # the server has checked it
                raise BodyTooLarge(f"the body has {int(value)} bytes; {limit} are read")
        body = bytearray()
        more = True
        try:
            with anyio.fail_after(self._settings.body_timeout_s):
                while more:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        break
                    body += message.get("body", b"")
                    more = message.get("more_body", False)
                    if len(body) > limit:
                        raise BodyTooLarge(f"the body has more than {limit} bytes")
        except TimeoutError:
            raise BodyTimeout(
                f"the body was not complete after {self._settings.body_timeout_s:g} s"
            ) from None
        pending: Message | None = {"type": "http.request", "body": bytes(body), "more_body": False}

        async def receive_body() -> Message:
            nonlocal pending
            message, pending = pending, None
            return await receive() if message is None else message

        return receive_body


def written(scope: Scope, error: GatewayError) -> bytes:
    """An error in the words of the API that was asked; in OpenAI's before that is known."""
    writer: Callable[[GatewayError], bytes] = scope.get(ERROR_WRITER, error_body)
    return writer(error)


async def refuse(scope: Scope, send: Send, error: GatewayError) -> None:
    """Answer with an error. Where the request wasn't read to its end, the connection closes."""
    body = written(scope, error)
    fields: list[tuple[str, Any]] = [
        ("content-type", "application/json"),
        ("content-length", str(len(body))),
        *error_headers(error).items(),
    ]
    if isinstance(error, BodyTimeout | BodyTooLarge | HeadersTooLarge):
        fields.append(("connection", "close"))
    start = {"type": "http.response.start", "status": error.status, "headers": _encode(fields)}
    await send(start)
    await send({"type": "http.response.body", "body": body})


def _arrival(scope: Scope) -> Arrival:
    headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
    given = headers.get("x-request-id", "")
    request_id = given if _REQUEST_ID.fullmatch(given) else secrets.token_hex(12)
    return Arrival(request_id, headers, time.time(), time.monotonic())


def with_id(arrival: Arrival, request_id: str) -> Arrival:
    """A further request of the same connection, that comes now."""
    return replace(arrival, request_id=request_id, time=time.time(), received_s=time.monotonic())


def _encode(headers: list[tuple[str, Any]]) -> list[tuple[bytes, bytes]]:
    return [(name.encode("latin-1"), str(value).encode("latin-1")) for name, value in headers]
