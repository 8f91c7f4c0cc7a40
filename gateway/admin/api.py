"""The admin API, under `/admin/v1`, with credentials of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from datetime import date, datetime, timezone
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from fastapi.routing import APIRoute
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy.exc import SQLAlchemyError
from starlette.exceptions import HTTPException

from contract.settings_base import Settings
from gateway.admin.operations import Administration
from gateway.api.routes import ErrorAnswer
from gateway.gateway_errors import AuthenticationError, IdentityUnavailable
from gateway.tenants import credentials
from gateway.tenants.directory import DirectoryError, NotFound
from gateway.tenants.tenant import ApiKey, KeyPolicy, Name, Tenant, TenantPolicy
from gateway.usage.prices import Price
from gateway.usage.usage_report import Dimension, UsageRow, to_csv
from gateway.usage.usage_report import Query as UsageQuery

_DAY_S = 86_400


class NewTenant(TenantPolicy):
    """A tenant to make."""

    name: Name


class Rotation(Settings):
    """How to rotate a key.

    Attributes:
        overlap_s: How long the old one goes on.
        expires_at: When the new one ends, seconds since the epoch; null is never.
    """

    overlap_s: float = Field(default=_DAY_S, ge=0, le=366 * _DAY_S)
    expires_at: Annotated[int, Field(gt=0)] | None = None


class KeyInfo(KeyPolicy):
    """A key without anything that would help to use it."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    id: str
    tenant: str
    created_at: int
    revoked_at: int | None
    successor: str | None

    @classmethod
    def of(cls, key: ApiKey) -> KeyInfo:
        """What may be told of a key."""
        return cls.model_validate(key.model_dump())


class NewKey(BaseModel):
    """A key that was just made.

    Attributes:
        key: What it may.
        api_key: The key itself. It is never shown again.
    """

    key: KeyInfo
    api_key: str


class AdminRoute(APIRoute):
    """Lets administrators in before anything else is looked at, and answers what went wrong."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Wrap the route's own handler."""
        handler = super().get_route_handler()

        async def authenticated(request: Request) -> Response:
            administration: Administration = request.app.state.administration
            token = credentials.bearer(request.headers.get("authorization"))
            try:
                name = token and await asyncio.to_thread(administration.directory.admin, token)
                if not name:
                    raise AuthenticationError("an admin token is needed", code="invalid_token")
                request.state.admin = name
                return await handler(request)
            except NotFound as error:
                raise HTTPException(404, str(error)) from None
            except DirectoryError as error:
                raise HTTPException(409, str(error)) from None
            except SQLAlchemyError as error:
                raise IdentityUnavailable("the database doesn't answer") from error

        return authenticated


_STATUSES = (400, 401, 404, 408, 409, 413, 431, 500, 503)

ERRORS: dict[int | str, dict[str, Any]] = {status: {"model": ErrorAnswer} for status in _STATUSES}
"""What every route of the admin API may answer instead."""

admin = APIRouter(
    prefix="/admin/v1",
    route_class=AdminRoute,
    tags=["admin"],
    responses=ERRORS,
)


@admin.get("/tenants")
async def list_tenants(request: Request) -> list[Tenant]:
    """All tenants."""
    return await asyncio.to_thread(_of(request).directory.tenants)


@admin.post("/tenants", status_code=201)
async def create_tenant(body: NewTenant, request: Request) -> Tenant:
    """Make a tenant."""
    policy = TenantPolicy.model_validate(body.model_dump(exclude={"name"}))
    return await _of(request).create_tenant(_who(request), body.name, policy)


@admin.get("/tenants/{name}")
async def get_tenant(name: str, request: Request) -> Tenant:
    """One tenant."""
    return await asyncio.to_thread(_of(request).directory.tenant, name)


@admin.put("/tenants/{name}")
async def update_tenant(name: str, body: TenantPolicy, request: Request) -> Tenant:
    """Give a tenant another policy, whole: what is left out gets its default."""
    return await _of(request).update_tenant(_who(request), name, body)


@admin.get("/tenants/{name}/keys")
async def list_keys(name: str, request: Request) -> list[KeyInfo]:
    """A tenant's keys."""
    directory = _of(request).directory
    await asyncio.to_thread(directory.tenant, name)
    return [KeyInfo.of(key) for key in await asyncio.to_thread(directory.keys, name)]


@admin.post("/tenants/{name}/keys", status_code=201)
async def create_key(name: str, body: KeyPolicy, request: Request) -> NewKey:
    """Make a key, which is shown this once."""
    key, credential = await _of(request).create_key(_who(request), name, body)
    return NewKey(key=KeyInfo.of(key), api_key=credential.text)


@admin.post("/keys/{identity}/rotate", status_code=201)
async def rotate_key(identity: str, body: Rotation, request: Request) -> NewKey:
    """Make a key in place of another, which goes on for the overlap."""
    key, credential = await _of(request).rotate_key(
        _who(request), identity, body.overlap_s, body.expires_at
    )
    return NewKey(key=KeyInfo.of(key), api_key=credential.text)


@admin.delete("/keys/{identity}")
async def revoke_key(identity: str, request: Request) -> KeyInfo:
    """End a key."""
    return KeyInfo.of(await _of(request).revoke_key(_who(request), identity))


@admin.get("/prices")
async def list_prices(request: Request) -> list[Price]:
    """All prices."""
    return await asyncio.to_thread(_of(request).prices.all)


@admin.put("/prices")
async def set_price(body: Price, request: Request) -> Price:
    """Set a model's price from a day on."""
    await _of(request).set_price(_who(request), body)
    return body


@admin.get(
    "/usage",
    response_model=list[UsageRow],
    responses={200: {"content": {"application/json": {}, "text/csv": {}}}},
)
async def usage(
    request: Request,
    first: date | None = None,
    last: date | None = None,
    by: Annotated[list[Dimension] | None, Query()] = None,
    tenant: str | None = None,
    format: Annotated[str, Query(pattern="^(json|csv)$")] = "json",
) -> Any:
    """Usage and its cost, from the first of the month to today where no days are given."""
    today = datetime.now(timezone.utc).date()
    query = UsageQuery(
        first=first or today.replace(day=1),
        last=last or today,
        by=tuple(by or ("tenant", "application", "model", "day")),
        tenant=tenant,
    )
    rows = await _of(request).report(query)
    if format == "json":
        return rows
    return Response(to_csv(rows, query.by), media_type="text/csv")


def _of(request: Request) -> Administration:
    administration: Administration = request.app.state.administration
    return administration


def _who(request: Request) -> str:
    return f"admin:{request.state.admin}"
