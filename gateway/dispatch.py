"""One request's way: a place in the queue, a replica, another one if need be, the fallback.

A `Run` pumps what an upstream makes into a mailbox, in a task of its own. Until a first piece is
there for the client, a failure is answered by asking somebody else; after it, by an error, because
the text of two runs can't be joined. A run never waits for the one who reads.
"""

from __future__ import annotations

import asyncio
import logging
import math
import secrets
import time
from collections.abc import Callable
from contextlib import aclosing
from functools import partial

import anyio
from opentelemetry.context import Context

from contract.errors import (
    GenerationError,
    InvalidRequestError,
    RequestTimeoutError,
    ServerBusyError,
    ServerUnavailableError,
    TriremeError,
)
from gateway.admission import Admission
from gateway.configuration import AffinitySettings
from gateway.gateway_errors import (
    DeadlineExceeded,
    GatewayError,
    GenerationFailed,
    InvalidRequest,
    Overloaded,
    Unavailable,
)
from gateway.generation import STOP_GRACE_S, Delta, Job
from gateway.mailbox import Mailbox
from gateway.observability.metrics import Metrics, RequestLabels
from gateway.observability.tracing import Tracing
from gateway.order import Order
from gateway.routing import Router, Target
from gateway.run_progress import Progress
from gateway.upstreams.base import PartRefusedError
from gateway.upstreams.fleet import Replica
from gateway.upstreams.silence import PATIENCE, Silence

_log = logging.getLogger("gateway.dispatch")
_STOP_AGAIN_S = 0.1
_RESCHEDULE_S = 1.0
"""Moving a time limit costs more than to look at the clock: it is moved this often at most."""


class _PutOffError(ServerUnavailableError):
    """A replica that is well has not come to a request: another may."""


class _TryElsewhereError(Exception):
    """A replica could not answer, and nothing of an answer is with the client."""

    def __init__(self, replica: Replica, *, busy: bool) -> None:
        super().__init__(replica.name)
        self.replica = replica
        self.busy = busy


class Dispatcher:
    """Starts runs."""

    def __init__(
        self,
        router: Router,
        admission: Admission,
        affinity: AffinitySettings,
        metrics: Metrics,
        tracing: Tracing,
    ) -> None:
        self.router = router
        self.admission = admission
        self.affinity = affinity
        self.metrics = metrics
        self.tracing = tracing

    def start(self, order: Order, trace: Context) -> Run:
        """Begin to work on an order; `trace` is the span that it belongs to."""
        return Run(self, order, trace)


class Run:
    """One request under way.

    Attributes:
        mailbox: Where its pieces are taken from.
        progress: What is known of it.
    """

    def __init__(self, dispatcher: Dispatcher, order: Order, trace: Context) -> None:
        self.mailbox = Mailbox()
        self.progress = Progress(order.generation.n)
        self._order = order
        self._generation = order.generation
        self._trace = trace
        self._dispatcher = dispatcher
        self._prefix = order.prefix(dispatcher.affinity)
        # Whether there is a first piece; where there will be none, the mailbox says why.
        self._begun: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        # Clients may share an id, and what one of them ends is not to end another's.
        self._nonce = secrets.token_hex(4)
        self._last_piece_s = 0.0
        self._labels = RequestLabels(order.tenant_class, order.model.name)
        self._stop: Callable[[], None] | None = None
        self._stopping: asyncio.Task[None] | None = None
        self._is_stopped = False
        name = order.generation.request_id
        self._task: asyncio.Task[None] | None = asyncio.create_task(self._run(), name=name)

    async def begun(self) -> None:
        """Return as soon as the first piece is there.

        Raises:
            GatewayError: There will be none.
        """
        if not await asyncio.shield(self._begun):
            await self.mailbox.take_rest()

    async def aclose(self) -> None:
        """End it, also at the upstream; where it was asked, see what it came to until then."""
        task, self._task = self._task, None  # one that was cancelled has all that it ran through
        if task is None:
            return
        if self._stop is not None:
            self._stop()
            await asyncio.wait([task], timeout=STOP_GRACE_S)
        task.cancel()
        await asyncio.wait([task])

    async def _run(self) -> None:
        # What holds where the task is cancelled: nobody is left waiting, whoever cancelled it.
        error: GatewayError | None = GenerationFailed("the request was cancelled")
        try:
            await self._find_answer()
            error = None
        except GatewayError as known:
            error = known
        except Exception as unknown:
            _log.error("a run failed", exc_info=unknown, extra={"id": self._generation.request_id})
            error = GenerationFailed("the gateway failed on this request")
        finally:
            if not self._begun.done():
                error = error or GenerationFailed("the model made no answer")
                self._begun.set_result(False)
            self.mailbox.close(error)

    async def _find_answer(self) -> None:
        router, order = self._dispatcher.router, self._order
        target = router.target(
            order.model,
            order.principal,
            self._generation.request_id,
            len(self._generation.prompt.encoded),
        )
        try:
            await self._ask_any(target)
        except (Unavailable, Overloaded) as error:
            fallback = router.fallback(order.model, order.principal)
            cause = "unavailable" if isinstance(error, Unavailable) else "saturated"
            if fallback is None or cause not in fallback[1].when:
                raise
            self._dispatcher.metrics.fell_back(self._labels, cause)
            await self._ask_any(fallback[0])

    async def _ask_any(self, target: Target) -> None:
        """Ask the replicas of a target, one after the other, until one answers."""
        order = self._order
        remaining = target.replicas
        busy = True
        while remaining:
            waited_from_s = time.monotonic()
            try:
                async with self._dispatcher.admission.place(
                    remaining,
                    order.tenant_class,
                    self._prefix,
                    order.deadline_s,
                    order.principal.tenant,
                    order.generation.num_answers,
                ) as replica:
                    self.progress.queue_s += time.monotonic() - waited_from_s
                    await self._ask(target, replica)
                    return
            except _TryElsewhereError as failed:
                busy = busy and failed.busy
                remaining = tuple(r for r in remaining if r is not failed.replica)
                self._dispatcher.metrics.retried(failed.replica.name)
        if busy:
            raise Overloaded("every replica's queue is full", retry_after_s=1.0)
        raise Unavailable("no replica of the model is available")

    async def _ask(self, target: Target, replica: Replica) -> None:
        """Let one replica answer.

        Raises:
            _TryElsewhereError: It could not, and another may.
            GatewayError: It could not, and that is the end.
        """
        order, progress = self._order, self.progress
        progress.attempts += 1
        remaining_s = order.deadline_s - time.monotonic()
        if remaining_s <= 0:
            raise DeadlineExceeded("the deadline passed before a model was asked")
        with self._dispatcher.tracing.upstream(
            self._generation, replica.settings, target.model, self._trace
        ) as span:
            job = Job(
                self._generation,
                request_id=f"{self._generation.request_id}.{self._nonce}.{progress.attempts}",
                model=target.model,
                timeout_s=remaining_s,
                headers=span.headers(),
            )
            try:
                await self._pump(job, target, replica)
            except InvalidRequestError as error:
                raise InvalidRequest(
                    error.message, input_name=error.param, code=error.code
                ) from None
            except RequestTimeoutError:
                raise DeadlineExceeded("the answer was not complete at the deadline") from None
            except ServerBusyError as error:
                span.failed(error)
                raise _TryElsewhereError(replica, busy=True) from None
            except ServerUnavailableError as error:
                if not isinstance(error, _PutOffError):
                    replica.fail(error)
                span.failed(error)
                _log.warning("%s went away: %s", replica.name, error)
                if self._begun.done():
                    raise GenerationFailed(
                        f"{replica.name} went away after the answer had begun",
                        code="upstream_lost",
                    ) from None
                raise _TryElsewhereError(replica, busy=False) from None
            except GenerationError as error:
                span.failed(error)
                raise GenerationFailed(f"the model failed: {error}") from None

    async def _pump(self, job: Job, target: Target, replica: Replica) -> None:
        """Move the pieces of an answer to the mailbox.

        Raises:
            GenerationError: The upstream's, or `ServerUnavailableError` where it falls silent.
        """
        settings = replica.settings
        streams = self._generation.stream
        kept: list[Delta] = []
        end_s = anyio.current_time() + job.timeout_s
        # A request that doesn't stream has no first token to wait for; a probe tells instead.
        limit_s = settings.first_token_timeout_s if streams else math.inf
        with (
            anyio.move_on_after(min(PATIENCE * limit_s, job.timeout_s + STOP_GRACE_S)) as scope,
            Silence(replica, scope, limit_s) as silence,
        ):
            replica.unanswered.add(scope)
            self._stop = partial(self._begin_to_stop, job, replica, scope)
            timer = asyncio.get_running_loop().call_later(job.timeout_s, self._stop)
            try:
                async with aclosing(replica.upstream.generate(job)) as deltas:
                    async for delta in deltas:
                        if self._is_stopped:
                            self.progress.add(delta)
                            continue
                        if not streams:
                            kept.append(delta)
                            continue
                        replica.heard_s = now_s = time.monotonic()
                        if not self._begun.done():
                            replica.unanswered.discard(scope)
                            replica.answering.add(scope)
                            silence.limit(settings.token_timeout_s)
                            self._begin(target, replica, now_s)
                        self._put(delta, now_s)
                        patience_s = PATIENCE * settings.token_timeout_s
                        last_s = end_s + STOP_GRACE_S
                        deadline_s = min(anyio.current_time() + patience_s, last_s)
                        if abs(deadline_s - scope.deadline) > _RESCHEDULE_S:
                            scope.deadline = deadline_s
            except PartRefusedError as error:
                for delta in (*kept, *error.last):
                    self.progress.add(delta)
                raise
            except GenerationError:
                if not self._is_stopped:
                    raise
            finally:
                timer.cancel()
                self._stop = None
                if self._stopping is not None:
                    self._stopping.cancel()
                    self._stopping = None
                replica.unanswered.discard(scope)
                replica.answering.discard(scope)
        if self._is_stopped:
            for delta in kept:
                self.progress.add(delta)
            # Whoever left doesn't hear of it.
            raise RequestTimeoutError("the deadline has passed")
        if scope.cancelled_caught:
            if silence.is_whole or not replica.circuit.closed:
                raise ServerUnavailableError("it fell silent")
            raise _PutOffError("it answered others only")
        if kept:
            replica.heard_s = now_s = time.monotonic()
            self._begin(target, replica, now_s)
            for delta in kept:
                self._put(delta, now_s)
        reasons = self.progress.finish_reasons
        if len(reasons) < self._generation.num_answers or "cancelled" in reasons.values():
            raise ServerUnavailableError("its answer ended too early")
        if "error" in reasons.values():
            raise GenerationFailed("the model failed in the middle of the answer")

    def _begin_to_stop(self, job: Job, replica: Replica, scope: anyio.CancelScope) -> None:
        """Have the upstream end a job, rather than leave it and never know what it computed."""
        if not self._is_stopped:
            self._is_stopped = True
            scope.deadline = min(scope.deadline, anyio.current_time() + STOP_GRACE_S)
            self._stopping = asyncio.create_task(self._ask_to_stop(job, replica, scope))

    async def _ask_to_stop(self, job: Job, replica: Replica, scope: anyio.CancelScope) -> None:
        """Ask until it has ended: a job that is still on its way is not there to be stopped."""
        try:
            while await replica.upstream.stop(job):
                await asyncio.sleep(_STOP_AGAIN_S)
        except TriremeError as error:
            _log.warning("%s could not be told to stop: %s", replica.name, error)
        scope.cancel()

    def _begin(self, target: Target, replica: Replica, now_s: float) -> None:
        replica.circuit.succeed(now_s)
        self.progress.upstream = replica.name
        self.progress.version = target.version
        self.progress.ttft_s = now_s - self._order.arrival.received_s
        self._last_piece_s = now_s
        self._dispatcher.metrics.began(self._labels, self.progress.ttft_s)
        self._begun.set_result(True)

    def _put(self, delta: Delta, now_s: float) -> None:
        self.progress.add(delta)
        if now_s > self._last_piece_s and delta.output_tokens:
            self._dispatcher.metrics.token(self._labels, now_s - self._last_piece_s)
            self._last_piece_s = now_s
        self.mailbox.put(delta)
