"""The tokens of a prompt, and the text of tokens: asked of a replica, and nothing is generated.

It passes the queue, as it takes nothing of an engine. What it takes of the text steps is bounded:
each tenant has one of these at a time, and each counts as a request.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TypeVar

import anyio

from contract.errors import (
    GenerationError,
    InvalidRequestError,
    RequestTimeoutError,
    ServerUnavailableError,
)
from gateway.gateway_errors import DeadlineExceeded, GenerationFailed, InvalidRequest, Unavailable
from gateway.generation import Job
from gateway.interfaces import Limiter
from gateway.order import Order
from gateway.routing import Router
from gateway.upstreams.base import TokenTeller

_Found = TypeVar("_Found")


class Tokenizing:
    """Asks the replicas of a model."""

    def __init__(self, router: Router, limiter: Limiter) -> None:
        self._router = router
        self._limiter = limiter
        self._turns: dict[str, tuple[asyncio.Lock, int]] = {}

    async def tokens(self, order: Order) -> list[int]:
        """The tokens of an order's prompt, as the model gets it.

        Raises:
            GatewayError: Nobody tells them.
        """
        return await self._ask(order, lambda teller, job: teller.tokens(job))

    async def text(self, order: Order) -> str:
        """The text of an order's prompt, which is tokens.

        Raises:
            GatewayError: Nobody tells it.
        """
        return await self._ask(order, lambda teller, job: teller.text(job))

    async def _ask(
        self, order: Order, ask: Callable[[TokenTeller, Job], Awaitable[_Found]]
    ) -> _Found:
        reservation = await self._limiter.reserve(order.principal, order.model.asked, 0, 0)
        try:
            with anyio.fail_after(max(0.0, order.deadline_s - time.monotonic())):
                async with self._turn(order.principal.tenant):
                    return await self._ask_any(order, ask)
        except (RequestTimeoutError, TimeoutError):
            raise DeadlineExceeded("the answer was not there at the deadline") from None
        except InvalidRequestError as error:
            raise InvalidRequest(error.message, input_name=error.param, code=error.code) from None
        except GenerationError as error:
            raise GenerationFailed(f"the model failed: {error}") from None
        finally:
            await reservation.settle(0, 0)

    async def _ask_any(
        self, order: Order, ask: Callable[[TokenTeller, Job], Awaitable[_Found]]
    ) -> _Found:
        """Ask one replica after the other, until one answers."""
        generation = order.generation
        target = self._router.target(
            order.model, order.principal, generation.request_id, len(generation.prompt.encoded)
        )
        tellers = [
            (replica, replica.upstream)
            for replica in target.replicas
            if isinstance(replica.upstream, TokenTeller)
        ]
        if not tellers:
            raise InvalidRequest(
                f"{order.model.asked}: those who serve it don't tell tokens",
                code="unsupported_parameter",
            )
        for replica, teller in tellers:
            if not replica.available:
                continue
            remaining_s = order.deadline_s - time.monotonic()
            job = Job(generation, generation.request_id, target.model, max(0.0, remaining_s))
            try:
                return await ask(teller, job)
            except ServerUnavailableError:
                continue  # it may be busy, or its prober finds out
        raise Unavailable("no replica of the model is available")

    @asynccontextmanager
    async def _turn(self, tenant: str) -> AsyncIterator[None]:
        """Wait for those of the same tenant who came before."""
        lock, count = self._turns.get(tenant) or (asyncio.Lock(), 0)
        self._turns[tenant] = lock, count + 1
        try:
            async with lock:
                yield
        finally:
            lock, count = self._turns.pop(tenant)
            if count > 1:
                self._turns[tenant] = lock, count - 1
