"""The routes: chats, completions, models and health."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Coroutine, Sequence
from contextlib import aclosing
from typing import Any, TypeVar

import anyio
import orjson
from fastapi import APIRouter, Request, Response, WebSocket
from fastapi.routing import APIRoute
from pydantic import BaseModel, ValidationError
from starlette.websockets import WebSocketDisconnect

from gateway.api.edge import with_id
from gateway.api.encode import ChatEncoder, CompletionEncoder, Encoder
from gateway.api.error_objects import error_body, invalid
from gateway.api.reply import Reply, events
from gateway.api.schema import TIERS, ChatRequest, CompletionRequest, GenerationRequest
from gateway.exchange import Arrival, Gateway, Wish
from gateway.gateway_errors import BodyTooLarge, GatewayError, InvalidRequest, PermissionDenied
from gateway.generation import Job, Message
from gateway.interfaces import Principal
from gateway.routing import Model

DEADLINE_HEADER = "x-trireme-timeout-s"

R = TypeVar("R", bound=GenerationRequest)
_POLICY_VIOLATION = 1008


class AuthenticatedRoute(APIRoute):
    """Knows who asks before anything of the body is looked at."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Wrap the route's own handler."""
        handler = super().get_route_handler()

        async def authenticated(request: Request) -> Response:
            gateway: Gateway = request.app.state.gateway
            request.state.principal = await gateway.authenticator.authenticate(
                request.headers.get("authorization")
            )
            return await handler(_JsonRequest(request.scope, request.receive))

        return authenticated


class _JsonRequest(Request):
    """A request whose body is read strictly: no NaN, and no text that isn't Unicode."""

    async def json(self) -> Any:
        return orjson.loads(await self.body())


class ErrorDetail(BaseModel):
    """OpenAI's error."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorAnswer(BaseModel):
    """The body of every answer that is an error."""

    error: ErrorDetail


_STATUSES = (400, 401, 403, 404, 408, 413, 429, 431, 500, 502, 503, 504)
_ERRORS: dict[int | str, dict[str, Any]] = {status: {"model": ErrorAnswer} for status in _STATUSES}

health = APIRouter()
api = APIRouter(prefix="/v1", route_class=AuthenticatedRoute, responses=_ERRORS)


@api.post("/chat/completions", summary="Answer a chat")
async def chat(body: ChatRequest, request: Request) -> Response:
    """Streamed or not; OpenAI's parameters, and those of `ChatRequest` beside them."""
    return _reply(body, request)


@api.post("/completions", summary="Go on with a text")
async def completions(body: CompletionRequest, request: Request) -> Response:
    """The text goes to the model as it is, without a chat template."""
    return _reply(body, request)


@api.get("/models", summary="List the models")
async def models(request: Request) -> dict[str, Any]:
    """All that the key may ask, aliases too."""
    gateway: Gateway = request.app.state.gateway
    found = gateway.router.models(request.state.principal)
    return {"object": "list", "data": [_model_object(model) for model in found]}


@api.get("/models/{name:path}", summary="Describe a model")
async def model(name: str, request: Request) -> dict[str, Any]:
    """One model."""
    gateway: Gateway = request.app.state.gateway
    return _model_object(gateway.router.resolve(name, request.state.principal))


@api.websocket("/chat/completions")
async def chat_socket(socket: WebSocket) -> None:
    """The stream of a chat over a WebSocket.

    The client sends the body of a chat as one message; it gets each event of the stream as a
    message, and may then send the next. Closing ends the request.
    """
    gateway: Gateway = socket.app.state.gateway
    origin = socket.headers.get("origin")
    try:
        if origin is not None and origin not in gateway.configuration.listen.cors_origins:
            raise PermissionDenied("the page's origin is not among cors_origins", code="origin")
        principal = await gateway.authenticator.authenticate(socket.headers.get("authorization"))
    except GatewayError as error:
        await socket.close(_POLICY_VIOLATION, error.message)
        return
    await socket.accept()
    arrival: Arrival = socket.scope["trireme.arrival"]
    try:
        while True:
            text = await socket.receive_text()
            await _converse(gateway, socket, principal, arrival, text)
            arrival = with_id(arrival, secrets.token_hex(12))
    except WebSocketDisconnect:
        pass


@health.get("/health/live", summary="Whether the gateway runs")
async def live() -> dict[str, str]:
    """It does."""
    return {"status": "live"}


@health.get("/health/ready", summary="Whether it can answer", responses={503: {}})
async def ready(request: Request) -> Response:
    """Whether an upstream is there that has lately generated a token."""
    available = [replica.name for replica in request.app.state.fleet if replica.available]
    return Response(
        orjson.dumps({"status": "ready" if available else "unavailable"}),
        status_code=200 if available else 503,
        media_type="application/json",
    )


async def _converse(
    gateway: Gateway, socket: WebSocket, principal: Principal, arrival: Arrival, text: str
) -> None:
    """Answer one message. Whatever the client sends meanwhile, or that it leaves, ends it."""
    with anyio.CancelScope() as connection:
        watcher = asyncio.create_task(_cancel_at_next_message(socket, connection))
        try:
            limit = gateway.configuration.listen.max_body_bytes
            if len(text) > limit:
                raise BodyTooLarge(f"the message has more than {limit} bytes")
            try:
                body = ChatRequest.model_validate({**_json_object(text), "stream": True})
            except ValidationError as error:
                raise invalid(error) from None
            wish, encoder = _wish(gateway, principal, arrival, body)
            async with await gateway.open(principal, arrival, wish) as exchange:
                await exchange.begun()
                async with aclosing(events(exchange, encoder)) as stream:
                    async for batch in stream:
                        for event in batch.events:
                            await socket.send_text(event.decode())
        except GatewayError as error:
            await socket.send_text(error_body(error).decode())
        finally:
            watcher.cancel()
            await asyncio.wait([watcher])
    if connection.cancel_called:
        await socket.close(_POLICY_VIOLATION, "one request at a time")
        raise WebSocketDisconnect(_POLICY_VIOLATION)


async def _cancel_at_next_message(socket: WebSocket, connection: anyio.CancelScope) -> None:
    await socket.receive()
    connection.cancel()


def _json_object(text: str) -> dict[str, Any]:
    try:
        value = orjson.loads(text)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise InvalidRequest("the message is not a JSON object", code="invalid_json")
    return value


def _reply(body: GenerationRequest, request: Request) -> Response:
    gateway: Gateway = request.app.state.gateway
    arrival: Arrival = request.scope["trireme.arrival"]
    principal: Principal = request.state.principal
    wish, encoder = _wish(gateway, principal, arrival, body)
    return Reply(gateway, principal, arrival, wish, encoder)


def _wish(
    gateway: Gateway, principal: Principal, arrival: Arrival, body: GenerationRequest
) -> tuple[Wish, Encoder]:
    """What a body asks for, and how the answer is written."""
    found = gateway.router.resolve(body.model, principal)
    settings = found.settings
    max_tokens = body.max_tokens_asked or min(settings.default_max_tokens, settings.max_tokens)
    if max_tokens > settings.max_tokens:
        raise InvalidRequest(
            f"max_tokens is {max_tokens}; {found.asked} gives at most {settings.max_tokens}",
            param="max_tokens",
            code="invalid_value",
        )
    admission = gateway.configuration.admission
    deadline_s = _deadline(arrival, admission.default_deadline_s, admission.max_deadline_s)
    chat_body = body if isinstance(body, ChatRequest) else None
    messages = tuple(each.plain() for each in chat_body.messages) if chat_body else None
    prompts = body.prompts if isinstance(body, CompletionRequest) else ()
    job = Job(
        request_id=arrival.request_id,
        model="",
        messages=messages,
        prompts=prompts,
        n=body.n,
        sampling=body.sampling(max_tokens, settings.default_temperature),
        stream=body.stream,
        tenant_class=principal.tenant_class,
        policy=principal.policy,
        timeout_s=deadline_s,
    )
    prompt = orjson.dumps(messages) if messages else "\n".join(prompts).encode()
    wish = Wish(
        model=found,
        job=job,
        prompt=prompt,
        beginning=_opening(messages) if messages else prompt,
        tenant_class=body.tenant_class,
        affinity_key=body.prompt_cache_key or body.user,
        deadline_s=deadline_s,
    )
    common = {
        "request_id": arrival.request_id,
        "model": found.asked,
        "service_tier": TIERS[gateway.tenant_class(principal, wish)],
        "include_usage": bool(body.stream_options and body.stream_options.include_usage),
    }
    if isinstance(body, CompletionRequest):
        echo = prompts if body.echo else ()
        return wish, CompletionEncoder(**common, echo=echo, n=body.n)
    return wish, ChatEncoder(**common)


def _opening(messages: Sequence[Message]) -> bytes:
    """A chat up to its user's first message: the same at each of its turns."""
    first = next((i for i, each in enumerate(messages) if each["role"] == "user"), len(messages))
    return orjson.dumps(messages[: first + 1])


def _deadline(arrival: Arrival, default_s: float, max_s: float) -> float:
    text = arrival.headers.get(DEADLINE_HEADER)
    if text is None:
        return default_s
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not 0 < value <= max_s:
        raise InvalidRequest(
            f"{DEADLINE_HEADER} is {text[:32]!r}; it must be seconds above 0, at most {max_s:g}",
            param=DEADLINE_HEADER,
            code="invalid_value",
        )
    return value


def _model_object(found: Model) -> dict[str, Any]:
    return {"id": found.asked, "object": "model", "created": 0, "owned_by": "trireme"}
