"""The admin API's view of the upstreams: which are well, and which are drained for maintenance.

It is about one gateway process: others have their own view, and are told for themselves.
"""

from __future__ import annotations

from fastapi import APIRouter, Request
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from contract.settings_base import Settings
from gateway.admin.api import ERRORS, AdminRoute
from gateway.upstreams.fleet import Fleet, Replica

upstreams = APIRouter(prefix="/admin/v1", route_class=AdminRoute, tags=["admin"], responses=ERRORS)


class Maintenance(Settings):
    """Whether an upstream gets anything new.

    Attributes:
        drained: It doesn't; what runs there ends by itself.
    """

    drained: bool


class UpstreamInfo(BaseModel):
    """One upstream now.

    Attributes:
        name: Its name.
        available: Whether it gets requests.
        drained: Whether it was drained.
        in_flight: Sequences under way there: a drained one can be stopped when there are none.
    """

    name: str
    available: bool
    drained: bool
    in_flight: int

    @classmethod
    def of(cls, replica: Replica) -> UpstreamInfo:
        """What is known of a replica."""
        return cls(
            name=replica.name,
            available=replica.available,
            drained=replica.drained,
            in_flight=replica.in_flight,
        )


@upstreams.get("/upstreams")
async def list_upstreams(request: Request) -> list[UpstreamInfo]:
    """All upstreams."""
    return [UpstreamInfo.of(replica) for replica in request.app.state.fleet]


@upstreams.put("/upstreams/{name}")
async def maintain_upstream(name: str, body: Maintenance, request: Request) -> UpstreamInfo:
    """Drain an upstream, or have it back."""
    fleet: Fleet = request.app.state.fleet
    try:
        fleet.drain(name, body.drained)
    except KeyError:
        raise HTTPException(404, f"there is no upstream {name[:128]!r}") from None
    return UpstreamInfo.of(fleet[name])
