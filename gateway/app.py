"""The application: everything wired together, for `python -m gateway` and for tests."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import get_args

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware

from contract.version import VERSION
from gateway.admin.api import admin
from gateway.admin.upstreams import upstreams as upstreams_admin
from gateway.admission import Admission
from gateway.api.edge import Edge, written
from gateway.api.error_objects import error_headers, invalid
from gateway.api.incoming import Held
from gateway.api.parts import Line
from gateway.api.routes import api, health, tokens
from gateway.configuration import (
    AnyUpstream,
    Configuration,
    ProviderSettings,
    ServiceSettings,
    TritonSettings,
)
from gateway.dispatch import Dispatcher
from gateway.exchange import Gateway
from gateway.gateway_errors import GatewayError
from gateway.interfaces import TENANT_CLASSES, AuditLog, AuditState, Authenticator, Limiter
from gateway.observability.metrics import Metrics
from gateway.observability.tracing import Tracing
from gateway.routing import Router
from gateway.served_name import follow
from gateway.services import Services
from gateway.upstreams.base import Upstream
from gateway.upstreams.fleet import Fleet, Replica
from gateway.upstreams.provider_upstream import Provider
from gateway.upstreams.triton_upstream import Triton

_DESCRIPTION = """OpenAI's API before Triton Inference Server. Parameters that OpenAI's API doesn't
have and others do (`top_k`, `min_p`, `repetition_penalty`, `min_tokens`, `ignore_eos`) are taken;
what isn't supported is refused by name."""


def create_app(
    configuration: Configuration,
    *,
    services: Services | None = None,
    authenticator: Authenticator | None = None,
    limiter: Limiter | None = None,
    audit: AuditLog | None = None,
    tracing: Tracing | None = None,
    upstreams: Mapping[str, Upstream] | None = None,
    served: Path | None = None,
) -> FastAPI:
    """Make the application.

    Args:
        configuration: What it is told.
        services: Who knows the keys and the limits, and writes requests down; closed with the
            application. None takes everybody for the local tenant, without limits and audit.
        authenticator: Who knows the keys, in place of the services'.
        limiter: Who knows the limits, likewise.
        audit: Where requests are written down, likewise.
        tracing: Where spans go, in place of the configuration's.
        upstreams: Upstreams in place of those that the configuration describes, by name.
        served: A file that says which model is served, and is followed: see `served_name`.

    Raises:
        ValueError: A provider's key isn't in the environment.
    """
    services = services or Services.open(ServiceSettings())
    metrics = Metrics()
    tracing = tracing or Tracing(configuration.tracing)
    replicas = {
        settings.name: _replica(settings, configuration, upstreams or {})
        for settings in configuration.upstreams
    }
    fleet = Fleet(replicas)
    admission = Admission(configuration.admission, configuration.affinity)
    fleet.on_change = admission.wake
    metrics.watch(
        "audit",
        "1 for what the audit log is",
        "state",
        lambda: {each: float(gateway.audit.state == each) for each in get_args(AuditState)},
    )
    held = Held(configuration.listen.max_held_bytes)
    _watch(metrics, fleet, admission)
    metrics.watch(
        "kept_bytes",
        "Kept of answers",
        "of",
        lambda: {"responses": gateway.conversations.held_bytes},
    )
    metrics.watch("body_bytes", "Held of bodies", "of", lambda: {"requests": held.total})
    router = Router(configuration, replicas)
    gateway = Gateway(
        configuration,
        authenticator or services.authenticator,
        limiter or services.limiter,
        audit or services.audit,
        Dispatcher(router, admission, configuration.affinity, metrics, tracing),
        metrics,
        tracing,
    )

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with services.running():
            fleet.start()
            follower = None if served is None else asyncio.create_task(follow(served, router))
            try:
                yield
            finally:
                if follower is not None:
                    follower.cancel()
                await fleet.aclose()
                tracing.close()

    app = FastAPI(
        title="Trireme gateway",
        version=VERSION,
        description=_DESCRIPTION,
        docs_url=None,
        redirect_slashes=False,  # to where the request says, maybe without TLS
        redoc_url=None,
        lifespan=lifespan,
        telemetry={"auto_configure": False, "tracing": False, "metrics": False, "logs": False},
    )
    app.state.gateway = gateway
    app.state.fleet = fleet
    app.state.held = held
    app.state.line = Line()
    app.include_router(health)
    app.include_router(api)
    app.include_router(tokens)
    if services.administration is not None:
        app.state.administration = services.administration
        app.include_router(admin)
        app.include_router(upstreams_admin)
    app.add_exception_handler(GatewayError, _on_gateway_error)
    app.add_exception_handler(RequestValidationError, _on_invalid)
    app.add_exception_handler(HTTPException, _on_http_error)
    if configuration.listen.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(configuration.listen.cors_origins),
            allow_methods=["GET", "POST"],
            allow_headers=["authorization", "content-type", "x-api-key", "x-request-id"],
            expose_headers=["x-request-id", "x-trireme-served-by", "retry-after"],
        )
    app.add_middleware(Edge, settings=configuration.listen, held=held, turnstile=gateway.turnstile)
    return app


def _watch(metrics: Metrics, fleet: Fleet, admission: Admission) -> None:
    """Show how busy the upstreams are and how many requests wait."""
    metrics.watch(
        "waiting_requests",
        "Wait for a replica",
        "tenant_class",
        lambda: {each: admission.waiting(each) for each in TENANT_CLASSES},
    )
    metrics.watch(
        "upstream_requests",
        "Under way there",
        "upstream",
        lambda: {replica.name: replica.in_flight for replica in fleet},
    )
    metrics.watch(
        "upstream_available",
        "1 where it gets requests",
        "upstream",
        lambda: {replica.name: replica.available for replica in fleet},
    )


def _replica(
    settings: AnyUpstream, configuration: Configuration, given: Mapping[str, Upstream]
) -> Replica:
    upstream = given.get(settings.name)
    if isinstance(settings, ProviderSettings):
        return Replica(
            settings, upstream or Provider(settings), configuration.health, probe_model=None
        )
    if settings.region is None:
        settings = settings.model_copy(update={"region": configuration.region})
    return Replica(
        settings,
        upstream or Triton(settings),
        configuration.health,
        probe_model=_probe_model(settings, configuration),
    )


def _probe_model(settings: TritonSettings, configuration: Configuration) -> str | None:
    """What a Triton is asked to see whether it is well: the first model that it serves."""
    for model in configuration.models.values():
        for version in model.versions:
            if settings.name in version.upstreams:
                return version.model
    return None


async def _on_gateway_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, GatewayError)
    body = written(request.scope, error)
    return Response(body, error.status, error_headers(error), media_type="application/json")


async def _on_invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    return await _on_gateway_error(request, invalid(error.errors()))


async def _on_http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    if isinstance(error.__cause__, GatewayError):  # FastAPI's, of a body that could not be read
        return await _on_gateway_error(request, error.__cause__)
    known = GatewayError(f"{request.method} {request.url.path[:256]}: {error.detail}")
    known.status = error.status_code
    known.headers.update(error.headers or {})
    return await _on_gateway_error(request, known)
