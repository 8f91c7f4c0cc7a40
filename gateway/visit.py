"""What is known of a request at the door, and its end told once: one line, one metric, one record.

An exchange tells of the request that it was opened for. Of every other one, refused on whatever
ground or only looking something up, `Door.tell` does, from the one place where all requests end.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass

from gateway.gateway_errors import GatewayError
from gateway.interfaces import AuditLog, CallRecord, Principal
from gateway.observability.metrics import Metrics, RequestLabels
from gateway.open_access import LOCAL
from gateway.order import Arrival, Order

_log = logging.getLogger("gateway.requests")
CLIENT_CLOSED_REQUEST = 499
"""nginx's status for a client that went away."""
SCOPE_KEY = "trireme.visit"
"""Where a request's visit is, in its scope."""


@dataclass
class Visit:
    """One request as the door sees it.

    Attributes:
        arrival: How it came.
        address: Where from; empty where that isn't known.
        route: Its method and route; a path that is no route is ``unknown``.
        principal: Who asks, once that is known.
        order: What is to be done, once that is known.
        error: What it was refused with.
        is_told: Whether somebody has told of it, or will.
    """

    arrival: Arrival
    address: str = ""
    route: str = ""
    principal: Principal | None = None
    order: Order | None = None
    error: GatewayError | None = None
    is_told: bool = False


class Door:
    """Tells of the requests that no exchange was opened for."""

    def __init__(self, metrics: Metrics, audit: AuditLog) -> None:
        self._metrics = metrics
        self._audit = audit

    def tell(self, visit: Visit, status: int) -> None:
        """Tell how a request ended, if nobody has.

        Args:
            visit: It; its error is let go of, whose way led through all that has the visit. The
                search for garbage would have to find such a ring, and with it the whole body.
            status: Of its answer, where it wasn't refused with an error.
        """
        error, visit.error = visit.error, None
        if visit.is_told:
            return
        visit.is_told = True
        if error is not None:
            status = error.status
        code = "disconnected" if status == CLIENT_CLOSED_REQUEST else ""
        if error is not None:
            is_http = type(error) is GatewayError  # a status, and nothing that has a word
            code = error.code or (f"http_{status}" if is_http else type(error).__name__)
            if visit.order is not None and not is_http:
                code = visit.order.cause(error)
        record = _record(visit, error, status, code)
        self._count(visit, record)
        if record.tenant or visit.arrival.authorization:
            self._audit.call(record)
        is_probe = visit.route.startswith("GET /health/") and status == 200
        _log.log(
            logging.DEBUG if is_probe else logging.INFO,
            "request",
            extra={
                "request_id": record.request_id,
                "route": record.route,
                "address": record.address,
                "tenant": record.tenant or None,
                "application": record.application or None,
                "key_id": record.key_id or None,
                "model": record.model or None,
                "status": status,
                "code": code or None,
                "latency_s": round(time.monotonic() - visit.arrival.received_s, 4),
            },
        )

    def _count(self, visit: Visit, record: CallRecord) -> None:
        order = visit.order
        if order is not None and record.status >= 400:
            labels = RequestLabels(order.tenant_class, order.model.name)
            self._metrics.refused(labels, record.status, record.code)
        else:
            self._metrics.called(record.route, record.status, record.code)


def _record(visit: Visit, error: GatewayError | None, status: int, code: str) -> CallRecord:
    principal = visit.principal
    tenant = application = key_id = ""
    if principal is not None and principal != LOCAL:
        tenant, application = principal.tenant, principal.application
        key_id = principal.key_id
    elif error is not None and error.shown is not None:
        tenant, application, key_id = error.shown
    return CallRecord(
        request_id=visit.arrival.request_id,
        time=visit.arrival.time,
        tenant=tenant,
        application=application,
        key_id=key_id,
        address=visit.address,
        route=visit.route,
        model=visit.order.model.asked if visit.order is not None else "",
        status=status,
        code=code,
    )
