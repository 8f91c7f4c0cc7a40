"""The routes: every API, the models and health."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

import orjson
from fastapi import APIRouter, Request, Response, WebSocket
from fastapi.routing import APIRoute
from pydantic import BaseModel
from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope

from gateway.api.anthropic_messages import MessagesTranslator
from gateway.api.body import read
from gateway.api.chat import ChatTranslator
from gateway.api.completions import CompletionTranslator
from gateway.api.edge import ERROR_WRITER, route_of
from gateway.api.reply import Reply, TokenReply
from gateway.api.responses import ResponsesTranslator
from gateway.api.socket import Conversation
from gateway.api.tokens import ENDPOINTS, TokenEndpoint
from gateway.api.translator import Endpoint, Translator
from gateway.exchange import Gateway
from gateway.gateway_errors import AuditUnavailable, InvalidRequest
from gateway.interfaces import AuditLog
from gateway.routing import Model
from gateway.visit import SCOPE_KEY

TRANSLATORS: tuple[Translator[Any], ...] = (
    ChatTranslator(),
    CompletionTranslator(),
    MessagesTranslator(),
    ResponsesTranslator(),
)
"""The APIs."""


class AuthenticatedRoute(APIRoute):
    """Knows who asks before anything of the body is looked at."""

    async def take(self, request: Request) -> Request:
        """What the handler gets, once it is known who asks."""
        return request

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Wrap the route's own handler."""
        handler = super().get_route_handler()

        async def authenticated(request: Request) -> Response:
            gateway: Gateway = request.app.state.gateway
            visit = request.scope[SCOPE_KEY]
            visit.route = route_of(request.scope)
            visit.principal = request.state.principal = await gateway.authenticate(
                visit.arrival.authorization
            )
            return await handler(await self.take(request))

        return authenticated


def _route_of(translator: Endpoint[Any]) -> type[AuthenticatedRoute]:
    """The route of an API: whatever goes wrong behind it is said in its words."""

    class TranslatedRoute(AuthenticatedRoute):
        async def take(self, request: Request) -> Request:
            raw = await _body(request)
            if raw:
                _check_json(request.headers.get("content-type", ""))
                request.state.read = await read(translator, raw)
            return _ReadRequest(request.scope, request.receive, raw)

        def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
            handler = super().get_route_handler()

            async def translated(request: Request) -> Response:
                request.scope[ERROR_WRITER] = translator.error
                return await handler(request)

            return translated

    return TranslatedRoute


def _check_json(content_type: str) -> None:
    """A body of JSON says so. What doesn't, a page of another site's may send without being asked.

    Raises:
        InvalidRequest: It doesn't.
    """
    kind = content_type.partition(";")[0].strip().lower()
    if kind != "application/json":
        raise InvalidRequest(
            f"the header content-type is {kind[:64]!r}; it must be 'application/json'",
            code="invalid_value",
        )


async def _body(request: Request) -> bytes:
    """The body, which comes in one piece: `Request.body` would copy it."""
    message = await request.receive()
    if message["type"] == "http.disconnect":
        raise ClientDisconnect
    body: bytes = message["body"]
    return body


class _ReadRequest(Request):
    """A request whose body has been read: what FastAPI asks for is there."""

    def __init__(self, scope: Scope, receive: Receive, raw: bytes) -> None:
        super().__init__(scope, receive)
        self._body = raw

    async def json(self) -> Any:
        return self.state.read.body


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
tokens = APIRouter(route_class=AuthenticatedRoute, responses=_ERRORS)


def add_api(router: APIRouter, translator: Translator[Any]) -> None:
    """Put an API where its clients look for it."""

    async def answer(body: BaseModel, request: Request) -> Response:
        gateway: Gateway = request.app.state.gateway
        order = gateway.intake.order(
            request.state.principal, request.scope["trireme.arrival"], request.state.read.wish
        )
        return Reply(gateway, order, translator.encoder(body, order))

    async def converse(socket: WebSocket) -> None:
        await Conversation(translator, socket).run()

    answer.__annotations__["body"] = translator.body
    router.add_api_route(
        translator.path,
        answer,
        methods=["POST"],
        name=translator.name,
        summary=translator.summary,
        description=translator.description,
        route_class_override=_route_of(translator),
    )
    if translator.socket:
        router.add_api_websocket_route(translator.path, converse)


def add_token_endpoint(router: APIRouter, endpoint: TokenEndpoint[Any]) -> None:
    """Put an endpoint for which nothing is generated where its clients look for it."""

    async def answer(body: BaseModel, request: Request) -> Response:
        gateway: Gateway = request.app.state.gateway
        visit = request.scope[SCOPE_KEY]
        visit.order = gateway.intake.order(
            request.state.principal, request.scope["trireme.arrival"], request.state.read.wish
        )
        return TokenReply(gateway, visit.order, endpoint)

    answer.__annotations__["body"] = endpoint.body
    router.add_api_route(
        endpoint.path,
        answer,
        methods=["POST"],
        name=endpoint.name,
        summary=endpoint.summary,
        description=endpoint.description,
        route_class_override=_route_of(endpoint),
    )


for each in TRANSLATORS:
    add_api(api, each)
for endpoint in ENDPOINTS:
    add_token_endpoint(tokens, endpoint)


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


@api.get("/responses/{answer_id}", summary="An answer that is kept")
async def response(answer_id: str, request: Request) -> Response:
    """As it was given."""
    gateway: Gateway = request.app.state.gateway
    found = gateway.conversations.find(request.state.principal.tenant, answer_id)
    return Response(found, media_type="application/json")


@api.delete("/responses/{answer_id}", summary="Keep an answer no longer")
async def forget(answer_id: str, request: Request) -> dict[str, Any]:
    """Nothing goes on with it any more."""
    gateway: Gateway = request.app.state.gateway
    gateway.conversations.forget(request.state.principal.tenant, answer_id)
    return {"id": answer_id, "object": "response", "deleted": True}


@health.get("/health/live", summary="Whether the gateway runs")
async def live() -> dict[str, str]:
    """It does."""
    return {"status": "live"}


@health.get("/health/ready", summary="Whether it can answer", responses={503: {}})
async def ready(request: Request) -> Response:
    """Whether an upstream is there that has lately generated a token, and the audit is written."""
    audit: AuditLog = request.app.state.gateway.audit
    available = any(replica.available for replica in request.app.state.fleet)
    try:
        await audit.check()
    except AuditUnavailable:
        available = False
    return Response(
        orjson.dumps(
            {"status": "ready" if available else "unavailable", "audit": audit.state},
        ),
        status_code=200 if available else 503,
        media_type="application/json",
    )


def _model_object(found: Model) -> dict[str, Any]:
    described = {
        "id": found.asked,
        "object": "model",
        "created": found.settings.created_s,
        "owned_by": "trireme",
    }
    if found.settings.context_length is not None:
        described["context_length"] = found.settings.context_length
    return described
