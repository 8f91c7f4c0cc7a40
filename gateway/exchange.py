"""One request from intake to audit: who asks, may they, who answers, what it came to.

`Gateway.open` takes a request in, and every exchange that was opened is closed exactly once: its
reservation is settled, its audit record written, its metrics and its log line too, whether it was
answered, failed or left by its client.
"""

from __future__ import annotations

import asyncio
import logging
import time
from types import TracebackType

import anyio
from typing_extensions import Self

from gateway.configuration import Configuration
from gateway.conversations import Conversations
from gateway.dispatch import Dispatcher, Run
from gateway.gateway_errors import GatewayError, GenerationFailed
from gateway.intake import Intake
from gateway.interfaces import (
    AuditLog,
    AuditRecord,
    Authenticator,
    Limiter,
    Principal,
    Reservation,
    Ticket,
)
from gateway.leaving import Leavers
from gateway.observability.metrics import Metrics, RequestLabels
from gateway.observability.tracing import RequestSpan, Tracing
from gateway.order import CLIENT_DEADLINE, Order
from gateway.tokenizing import Tokenizing
from gateway.turnstile import Turnstile
from gateway.visit import CLIENT_CLOSED_REQUEST, Door, Visit

_log = logging.getLogger("gateway.requests")
_BYTES_PER_TOKEN = 3
"""For the estimate that limits are reserved by; the true count replaces it."""


class Gateway:
    """All that answers requests, without the API around it."""

    def __init__(
        self,
        configuration: Configuration,
        authenticator: Authenticator,
        limiter: Limiter,
        audit: AuditLog,
        dispatcher: Dispatcher,
        metrics: Metrics,
        tracing: Tracing,
    ) -> None:
        self.configuration = configuration
        self.authenticator = authenticator
        self.limiter = limiter
        self.audit = audit
        self.dispatcher = dispatcher
        self.metrics = metrics
        self.tracing = tracing
        self.router = dispatcher.router
        self.turnstile = Turnstile()
        self.leavers = Leavers()
        self.conversations = Conversations(configuration.keeping)
        self.intake = Intake(dispatcher.router, configuration.admission, self.conversations)
        self.tokenizing = Tokenizing(dispatcher.router, limiter)
        self.door = Door(metrics, audit)

    async def authenticate(self, authorization: str | None) -> Principal:
        """Who asks, see `Authenticator`; who is known no longer waits behind those who aren't."""
        principal = await self.authenticator.authenticate(authorization)
        self.turnstile.know(authorization)
        return principal

    async def open(self, order: Order, visit: Visit) -> Exchange:
        """Take a request in: audited, within the limits, on its way to a replica.

        From then on the exchange tells of it, and no longer the door.

        Raises:
            GatewayError: It isn't taken in, and nothing was done for it.
        """
        arrival, generation, asked = order.arrival, order.generation, order.model.asked
        visit.order = order
        span = self.tracing.request(
            generation.prompt.operation, asked, arrival.request_id, arrival.headers
        )
        try:
            await self.leavers.turn(
                order.principal.tenant, generation.num_answers, order.deadline_s
            )
            await self.audit.check()
            reservation = await self.limiter.reserve(
                order.principal,
                asked,
                len(generation.prompt.encoded) // _BYTES_PER_TOKEN + 1,
                generation.parameters.max_tokens * generation.num_answers,
                generation.num_answers,
            )
            try:
                ticket = self.audit.begin(arrival.request_id, arrival.time, order.principal, asked)
            except BaseException:
                await reservation.settle(0, 0)
                raise
        except GatewayError as error:
            span.failed(error, order.cause(error), is_client_s=order.is_client_s(error))
            span.end()
            raise
        visit.is_told = True
        return Exchange(self, order, visit.route, reservation, ticket, span)


class Exchange:
    """One request that was taken in; an asynchronous context manager that closes it.

    Attributes:
        order: What is to be done.
        run: Who does it.
    """

    def __init__(
        self,
        gateway: Gateway,
        order: Order,
        route: str,
        reservation: Reservation,
        ticket: Ticket,
        span: RequestSpan,
    ) -> None:
        self.order = order
        self.run: Run = gateway.dispatcher.start(order, span.context)
        self._gateway = gateway
        self._route = route
        self._reservation = reservation
        self._ticket = ticket
        self._written = asyncio.ensure_future(ticket.written)
        self._span = span
        self._closed = False

    @property
    def headers(self) -> dict[str, str]:
        """Headers of the answer, once it has begun: who served it, and the limits."""
        progress = self.run.progress
        return {
            **self._reservation.headers,
            "x-trireme-served-by": progress.upstream,
            "x-trireme-model-version": progress.version,
        }

    async def begun(self) -> None:
        """Return when the answer's first piece is there and the request is in the audit, on disk.

        Raises:
            GatewayError: There will be no answer.
        """
        await self.run.begun()
        await self._written

    async def close(self, status: int = 200, error: BaseException | None = None) -> None:
        """Settle, audit, count and log, whoever leaves meanwhile; does nothing the second time.

        Raises:
            AuditUnavailable: The audit can't take the record.
        """
        if self._closed:
            return
        self._closed = True
        with anyio.CancelScope(shield=True):
            await self._close(status, error)

    async def _close(self, status: int, error: BaseException | None) -> None:
        await self.run.aclose()
        order, progress = self.order, self.run.progress
        latency_s = time.monotonic() - order.arrival.received_s
        cause = None if error is None else order.cause(error)
        try:
            await self._reservation.settle(
                progress.charged_prompt_tokens, progress.charged_output_tokens
            )
        finally:
            try:
                await self._gateway.audit.append(
                    self._record(status, cause, latency_s), self._ticket
                )
            finally:
                self._report(status, cause, error, latency_s)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._closed:
            return
        status = 500
        if isinstance(error, GatewayError):
            status = error.status
        elif isinstance(error, asyncio.CancelledError):
            status = CLIENT_CLOSED_REQUEST
            self._note_left()
        try:
            await self.close(status, error or GenerationFailed("the exchange was left open"))
        except GatewayError as failed:
            _log.error("a request could not be closed: %s", failed.message)

    def _note_left(self) -> None:
        """Its client has left: what had been begun for it is ended early."""
        order, progress = self.order, self.run.progress
        if progress.attempts:
            unended = order.generation.num_answers - len(progress.finish_reasons)
            self._gateway.leavers.left(order.principal.tenant, unended)

    def _record(self, status: int, cause: str | None, latency_s: float) -> AuditRecord:
        order, progress = self.order, self.run.progress
        reasons = tuple(dict.fromkeys(progress.finish_reasons.values()))
        if cause is not None:
            is_cut_off = cause in ("disconnected", CLIENT_DEADLINE)
            reasons = ("cancelled",) if is_cut_off else ("error",)
        return AuditRecord(
            request_id=order.arrival.request_id,
            time=order.arrival.time,
            principal=order.principal,
            model=order.model.asked,
            model_version=progress.version,
            upstream=progress.upstream,
            policy=order.generation.policy,
            prompt_tokens=progress.all_prompt_tokens,
            output_tokens=progress.output_tokens,
            cached_tokens=progress.cached_tokens,
            charged_prompt_tokens=progress.charged_prompt_tokens,
            charged_output_tokens=progress.charged_output_tokens,
            ttft_s=progress.ttft_s,
            latency_s=latency_s,
            finish_reasons=reasons,
            status=status,
            verdicts=tuple(dict.fromkeys(progress.verdicts)),
            prompt=order.generation.prompt.encoded,
            answer=progress.answer.encode("utf-8", "surrogatepass"),
            code=cause or "",
        )

    def _report(
        self, status: int, cause: str | None, error: BaseException | None, latency_s: float
    ) -> None:
        order, progress = self.order, self.run.progress
        self._gateway.metrics.ended(
            RequestLabels(order.tenant_class, order.model.name),
            status=status,
            cause=cause,
            duration_s=latency_s,
            queue_s=progress.queue_s,
            tokens={
                "prompt": progress.all_prompt_tokens,
                "output": progress.output_tokens,
                "cached": progress.cached_tokens,
                "charged_prompt": progress.charged_prompt_tokens,
                "charged_output": progress.charged_output_tokens,
            },
        )
        reasons: list[str] = [*progress.finish_reasons.values()]
        self._span.set(
            gen_ai_response_model=progress.version or None,
            gen_ai_response_finish_reasons=reasons or None,
            gen_ai_usage_input_tokens=progress.all_prompt_tokens,
            gen_ai_usage_output_tokens=progress.output_tokens,
            trireme_served_by=progress.upstream or None,
            trireme_time_to_first_token_s=progress.ttft_s,
            trireme_queue_time_s=progress.queue_s,
            http_response_status_code=status,
        )
        if error is not None:
            self._span.failed(error, cause, is_client_s=order.is_client_s(error))
        self._span.end()
        _log.info(
            "request",
            extra={
                "request_id": order.arrival.request_id,
                "route": self._route,
                "tenant": order.principal.tenant,
                "application": order.principal.application,
                "key_id": order.principal.key_id,
                "tenant_class": order.tenant_class,
                "model": order.model.asked,
                "model_version": progress.version,
                "served_by": progress.upstream,
                "attempts": progress.attempts,
                "status": status,
                "code": cause,
                "finish_reasons": reasons,
                "prompt_tokens": progress.all_prompt_tokens,
                "output_tokens": progress.output_tokens,
                "charged_prompt_tokens": progress.charged_prompt_tokens,
                "charged_output_tokens": progress.charged_output_tokens,
                "queue_s": round(progress.queue_s, 4),
                "ttft_s": None if progress.ttft_s is None else round(progress.ttft_s, 4),
                "latency_s": round(latency_s, 4),
            },
        )
