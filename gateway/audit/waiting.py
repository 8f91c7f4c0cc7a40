"""Those who wait until their lines are on disk, and what they are told."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable

from gateway.gateway_errors import AuditUnavailable


def resolve(waiters: list[asyncio.Future[None]], error: Exception | None) -> None:
    """Tell all who wait."""
    for waiter in waiters:
        if waiter.done():  # whoever waited went away
            continue
        if error is None:
            waiter.set_result(None)
        else:
            waiter.set_exception(error)


def look(waiter: asyncio.Future[None]) -> None:
    """Take note of an error that nobody may wait for any more."""
    if not waiter.cancelled():
        waiter.exception()


def done() -> Awaitable[None]:
    """What needn't be waited for."""
    waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    waiter.set_result(None)
    return waiter


def unavailable() -> AuditUnavailable:
    """What is said while the log can't be written."""
    return AuditUnavailable(
        "requests can't be written to the audit log now, and none is served without"
    )
