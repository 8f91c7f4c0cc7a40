"""The queue before the upstreams: bounded, by class, and honest about how long it takes.

A request gets a replica with room or waits for one, higher classes first, and within a class the
tenants in turns. It takes as many places as it has answers: each is a sequence of the engine. A
lower class leaves a part of every replica free for those above it, so that a person finds room
while batch work saturates the machine, and every class has a guaranteed part, so that none starves.
A tenant with little there also gets into a replica that is full, where that shares its places out
itself: who was there first has no more right to them. Who would wait past the deadline is refused
at once: an answer that comes too late costs as much as one in time.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import Counter, deque
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
_MOST_REMEMBERED = 1024
_FAIR_PART = 1 / 8
"""With less than this part of a fair replica's places a tenant gets in though it is full."""
_MOST_TIMES = 8
"""As long as it has no more sequences than so many times its places: they wait in the engine."""


@dataclass(eq=False)
class _Waiter:
    replicas: tuple[Replica, ...]
    prefix: bytes | None
    tenant: str
    sequences: int
    place: asyncio.Future[Replica]


class Admission:
    """Hands out places at replicas."""

    def __init__(self, settings: AdmissionSettings, affinity: AffinitySettings) -> None:
        self._settings = settings
        self._load_factor = affinity.load_factor
        self._waiting: dict[TenantClass, deque[_Waiter]] = {c: deque() for c in TENANT_CLASSES}
        self._held: Counter[str] = Counter()  # places of each tenant
        self._turn = 0
        self._turns: dict[str, int] = {}  # which was each tenant's last, the latest last
        self._hold_s: float | None = None  # how long a request has its place, smoothed

    @asynccontextmanager
    async def place(
        self,
        replicas: tuple[Replica, ...],
        tenant_class: TenantClass,
        prefix: bytes | None,
        deadline_s: float,
        tenant: str = "",
        sequences: int = 1,
    ) -> AsyncGenerator[Replica, None]:
        """A place at one of some replicas, for the time of a `with` block.

        Args:
            replicas: Which will do.
            tenant_class: The priority.
            prefix: Beginning of the prompt, for affinity; None for none.
            deadline_s: When the answer must be there, on the clock of `time.monotonic`.
            tenant: Who asks.
            sequences: For how many answers.

        Raises:
            Overloaded: The class's queue is full, or the place would come too late.
            DeadlineExceeded: The place didn't come in time.
            Unavailable: None of the replicas is well, or not any more.
        """
        future: asyncio.Future[Replica] = asyncio.get_running_loop().create_future()
        waiter = _Waiter(replicas, prefix, tenant, sequences, future)
        replica = await self._enter(waiter, tenant_class, deadline_s)
        entered_s = time.monotonic()
        try:
            yield replica
        finally:
            self._leave(waiter, replica, tenant_class)
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
        self, waiter: _Waiter, tenant_class: TenantClass, deadline_s: float
    ) -> Replica:
        queue = self._waiting[tenant_class]
        queue.append(waiter)
        self.wake()
        if waiter.place.done():
            return waiter.place.result()
        remaining_s = deadline_s - time.monotonic()
        try:
            self._check_queue(waiter, tenant_class, remaining_s)
            # Not `wait_for`: up to Python 3.11 it loses a cancellation that comes with the place.
            await asyncio.wait([waiter.place], timeout=remaining_s)
            if not waiter.place.done():
                raise DeadlineExceeded("the deadline passed while the request waited")
            return waiter.place.result()
        except BaseException:
            with suppress(ValueError):
                queue.remove(waiter)
            if waiter.place.done() and not waiter.place.exception():
                # It came in the same moment.
                self._leave(waiter, waiter.place.result(), tenant_class)
                self.wake()
            raise

    def _leave(self, waiter: _Waiter, replica: Replica, tenant_class: TenantClass) -> None:
        replica.leave(tenant_class, waiter.tenant, waiter.sequences)
        self._held[waiter.tenant] -= waiter.sequences
        if not self._held[waiter.tenant]:
            del self._held[waiter.tenant]

    def _check_queue(self, waiter: _Waiter, tenant_class: TenantClass, remaining_s: float) -> None:
        """Refuse who has just been put last, where the queue is too long for it.

        A tenant that has no more than its part of the queue is not refused for the others' length.
        """
        expected_s = self._expected_wait_s(waiter.replicas, tenant_class, waiter.tenant)
        limit = self._settings.of(tenant_class).max_waiting
        waiting = Counter(each.tenant for each in self._waiting[tenant_class])
        count = len(self._waiting[tenant_class])
        if count > 2 * limit or (count > limit and waiting[waiter.tenant] * len(waiting) > limit):
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
        full: set[tuple[tuple[Replica, ...], str]] = set()
        for waiter in self._in_turns(tenant_class):
            if (waiter.replicas, waiter.tenant) in full:
                continue
            available = [r for r in waiter.replicas if r.available]
            free = [r for r in available if self._has_room(r, tenant_class, guaranteed)]
            if not (free or guaranteed):
                free = [r for r in available if _makes_room(r, waiter)]
            if available and not free:
                full.add((waiter.replicas, waiter.tenant))
                continue
            self._waiting[tenant_class].remove(waiter)
            if waiter.place.done():
                continue  # cancelled
            if not available:
                waiter.place.set_exception(Unavailable("no replica of the model is available"))
                waiter.place.exception()  # who has gone meanwhile doesn't fetch it
                continue
            replica = choose(free, waiter.prefix, self._load_factor)
            replica.enter(tenant_class, waiter.tenant, waiter.sequences)
            self._held[waiter.tenant] += waiter.sequences
            self._note_turn(waiter.tenant)
            waiter.place.set_result(replica)

    def _note_turn(self, tenant: str) -> None:
        self._turn += 1
        self._turns.pop(tenant, None)
        self._turns[tenant] = self._turn
        if len(self._turns) > _MOST_REMEMBERED:
            del self._turns[next(iter(self._turns))]

    def _in_turns(self, tenant_class: TenantClass) -> list[_Waiter]:
        """Those of a class that wait: whose tenant has the fewest places first.

        Among equals the one whose tenant's turn is longest ago.
        """
        waiting = list(self._waiting[tenant_class])
        if len({each.tenant for each in waiting}) < 2:
            return waiting
        load = dict(self._held)
        keys: dict[_Waiter, tuple[int, int]] = {}
        for each in waiting:
            before = load.get(each.tenant, 0)
            keys[each] = before, self._turns.get(each.tenant, 0)
            load[each.tenant] = before + each.sequences
        return sorted(waiting, key=keys.__getitem__)

    def _has_room(self, replica: Replica, tenant_class: TenantClass, guaranteed: bool) -> bool:
        filled = sum(
            min(replica.by_class[each], max(self._ceiling(replica, each), self._own(replica, each)))
            for each in TENANT_CLASSES
        )
        if filled >= replica.capacity:
            return False
        if guaranteed:
            return replica.by_class[tenant_class] < self._own(replica, tenant_class)
        return filled < self._ceiling(replica, tenant_class)

    def _ceiling(self, replica: Replica, tenant_class: TenantClass) -> float:
        """Up to how many places a class gets in. One request may have more answers than that: the
        places that others are to find are not taken for filled by them.
        """
        return max(1.0, math.floor(self._settings.of(tenant_class).ceiling * replica.capacity))

    def _own(self, replica: Replica, tenant_class: TenantClass) -> float:
        """How many places a class is guaranteed."""
        return max(1.0, self._settings.of(tenant_class).guarantee * replica.capacity)

    def _expected_wait_s(
        self, replicas: Sequence[Replica], tenant_class: TenantClass, tenant: str
    ) -> float:
        """Seconds until the turn of who waits last, as places have come free of late."""
        if self._hold_s is None:
            return 0.0
        ceiling = self._settings.of(tenant_class).ceiling
        places = sum(ceiling * r.capacity for r in replicas if r.available)
        higher = TENANT_CLASSES[: TENANT_CLASSES.index(tenant_class)]
        before = sum(each.sequences for other in higher for each in self._waiting[other])
        beside: Counter[str] = Counter()
        for each in self._waiting[tenant_class]:
            beside[each.tenant] += each.sequences
        before += min(beside.total(), beside[tenant] * len(beside))  # tenants take turns
        return before * self._hold_s / max(1.0, places)


def _makes_room(replica: Replica, waiter: _Waiter) -> bool:
    """Whether a replica that is full has others give way to this tenant."""
    few = max(1.0, _FAIR_PART * replica.capacity)
    most = _MOST_TIMES * replica.capacity
    return (
        replica.is_fair
        and replica.by_tenant[waiter.tenant] < few
        and replica.in_flight + waiter.sequences <= most
    )
