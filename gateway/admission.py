"""The queue before the upstreams: bounded, by class, and honest about how long it takes.

A request gets a replica with room or waits for one, higher classes first. A lower class leaves a
part of every replica free for those above it, so that a person finds room while batch work
saturates the machine, and every class has a guaranteed part, so that none starves. Who would wait
past the deadline is refused at once: an answer that comes too late costs as much as one in time.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

from gateway.balance import choose
from gateway.configuration import AdmissionSettings, AffinitySettings
from gateway.gateway_errors import DeadlineExceeded, Overloaded, Unavailable
from gateway.interfaces import TENANT_CLASSES, TenantClass
from gateway.upstreams.fleet import Replica

_SMOOTHING = 0.1
"""How much the latest request weighs in the estimate of how long one takes."""


@dataclass(eq=False)
class _Waiter:
    replicas: tuple[Replica, ...]
    prefix: bytes | None
    place: asyncio.Future[Replica]


class Admission:
    """Hands out places at replicas."""

    def __init__(self, settings: AdmissionSettings, affinity: AffinitySettings) -> None:
        self._settings = settings
        self._load_factor = affinity.load_factor
        self._waiting: dict[TenantClass, deque[_Waiter]] = {c: deque() for c in TENANT_CLASSES}
        self._hold_s: float | None = None  # how long a request has its place, smoothed

    @asynccontextmanager
    async def place(
        self,
        replicas: tuple[Replica, ...],
        tenant_class: TenantClass,
        prefix: bytes | None,
        deadline_s: float,
    ) -> AsyncGenerator[Replica, None]:
        """A place at one of some replicas, for the time of a `with` block.

        Args:
            replicas: Which will do.
            tenant_class: The priority.
            prefix: Beginning of the prompt, for affinity; None for none.
            deadline_s: When the answer must be there, on the clock of `time.monotonic`.

        Raises:
            Overloaded: The class's queue is full, or the place would come too late.
            DeadlineExceeded: The place didn't come in time.
            Unavailable: None of the replicas is well, or not any more.
        """
        replica = await self._enter(replicas, tenant_class, prefix, deadline_s)
        entered_s = time.monotonic()
        try:
            yield replica
        finally:
            replica.leave(tenant_class)
            held_s = time.monotonic() - entered_s
            before_s = held_s if self._hold_s is None else self._hold_s
            self._hold_s = before_s + _SMOOTHING * (held_s - before_s)
            self.wake()

    def waiting(self, tenant_class: TenantClass) -> int:
        """How many of a class wait."""
        return len(self._waiting[tenant_class])

    def wake(self) -> None:
        """Give free places to those who wait; for when a replica has got well or ill, too."""
        for guaranteed in (True, False):
            for tenant_class in TENANT_CLASSES:
                self._serve(tenant_class, guaranteed)

    async def _enter(
        self,
        replicas: tuple[Replica, ...],
        tenant_class: TenantClass,
        prefix: bytes | None,
        deadline_s: float,
    ) -> Replica:
        queue = self._waiting[tenant_class]
        waiter = _Waiter(replicas, prefix, asyncio.get_running_loop().create_future())
        queue.append(waiter)
        self.wake()
        if waiter.place.done():
            return waiter.place.result()
        remaining_s = deadline_s - time.monotonic()
        try:
            self._check_queue(replicas, tenant_class, remaining_s)
            # Not `wait_for`: up to Python 3.11 it loses a cancellation that comes with the place.
            await asyncio.wait([waiter.place], timeout=remaining_s)
            if not waiter.place.done():
                raise DeadlineExceeded("the deadline passed while the request waited")
            return waiter.place.result()
        except BaseException:
            with suppress(ValueError):
                queue.remove(waiter)
            if waiter.place.done() and not waiter.place.exception():
                waiter.place.result().leave(tenant_class)  # it came in the same moment
                self.wake()
            raise

    def _check_queue(
        self, replicas: tuple[Replica, ...], tenant_class: TenantClass, remaining_s: float
    ) -> None:
        """Refuse who has just been put last, where the queue is too long for it."""
        expected_s = self._expected_wait_s(replicas, tenant_class)
        limit = self._settings.of(tenant_class).max_waiting
        if len(self._waiting[tenant_class]) > limit:
            raise Overloaded(
                f"the queue of class {tenant_class} is full: {limit} requests wait",
                retry_after_s=expected_s,
                code="queue_full",
            )
        if expected_s > remaining_s:
            raise Overloaded(
                f"the request would wait about {expected_s:.1f} s; its deadline is in "
                f"{max(0.0, remaining_s):.1f} s",
                retry_after_s=expected_s,
                code="deadline_unreachable",
            )

    def _serve(self, tenant_class: TenantClass, guaranteed: bool) -> None:
        """Give places to those of one class, in order; only up to its guarantee, or all it may."""
        full: set[tuple[Replica, ...]] = set()
        for waiter in tuple(self._waiting[tenant_class]):
            if waiter.replicas in full:
                continue
            available = [r for r in waiter.replicas if r.available]
            free = [r for r in available if self._has_room(r, tenant_class, guaranteed)]
            if available and not free:
                full.add(waiter.replicas)
                continue
            self._waiting[tenant_class].remove(waiter)
            if waiter.place.done():
                continue  # cancelled
            if not available:
                waiter.place.set_exception(Unavailable("no replica of the model is available"))
                waiter.place.exception()  # who has gone meanwhile doesn't fetch it
                continue
            replica = choose(free, waiter.prefix, self._load_factor)
            replica.enter(tenant_class)
            waiter.place.set_result(replica)

    def _has_room(self, replica: Replica, tenant_class: TenantClass, guaranteed: bool) -> bool:
        settings = self._settings.of(tenant_class)
        if replica.in_flight >= replica.capacity:
            return False
        if guaranteed:
            return replica.by_class[tenant_class] < max(1.0, settings.guarantee * replica.capacity)
        return replica.in_flight < max(1.0, math.floor(settings.ceiling * replica.capacity))

    def _expected_wait_s(self, replicas: Sequence[Replica], tenant_class: TenantClass) -> float:
        """Seconds until the turn of who waits last, as places have come free of late."""
        if self._hold_s is None:
            return 0.0
        ceiling = self._settings.of(tenant_class).ceiling
        places = sum(ceiling * r.capacity for r in replicas if r.available)
        higher = TENANT_CLASSES[: TENANT_CLASSES.index(tenant_class) + 1]
        return sum(map(self.waiting, higher)) * self._hold_s / max(1.0, places)
