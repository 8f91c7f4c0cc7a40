"""A queue before some replicas, and requests that come to it."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from gateway.admission import Admission, _Waiter
from gateway.configuration import (
    AdmissionSettings,
    AffinitySettings,
    HealthSettings,
    TritonSettings,
)
from gateway.interfaces import TenantClass
from gateway.upstreams.fleet import Replica
from tests.gateway.fakes import FakeUpstream


def replica(name: str = "a", capacity: int = 4, *, well: bool = True, fair: bool = True) -> Replica:
    settings = TritonSettings(
        name=name, address="localhost:1", max_concurrent=capacity, priorities=fair
    )
    made = Replica(settings, FakeUpstream(), HealthSettings(), probe_model="ensemble")
    if well:
        made.circuit.succeed(time.monotonic())
    return made


def admission(**more: Any) -> Admission:
    return Admission(AdmissionSettings(**more), AffinitySettings())


def waiter(tenant: str = "", sequences: int = 1) -> _Waiter:
    place = asyncio.get_running_loop().create_future()
    return _Waiter((), None, tenant, sequences, place)


class Clients:
    """Requests that hold their places until told to go."""

    def __init__(self, queue: Admission, *replicas: Replica) -> None:
        self.queue = queue
        self.replicas = replicas
        self.order: list[str] = []
        self.served_by: dict[str, str] = {}
        self._leave: dict[str, asyncio.Event] = {}
        self._tasks: list[asyncio.Task[None]] = []

    async def come(
        self,
        name: str,
        tenant_class: TenantClass = "standard",
        replicas: tuple[Replica, ...] | None = None,
        prefix: bytes | None = None,
        tenant: str = "",
        sequences: int = 1,
    ) -> None:
        self._leave[name] = asyncio.Event()

        async def stay() -> None:
            deadline_s = time.monotonic() + 60
            wanted = self.replicas if replicas is None else replicas
            async with self.queue.place(
                wanted, tenant_class, prefix, deadline_s, tenant, sequences
            ) as replica:
                self.order.append(name)
                self.served_by[name] = replica.name
                await self._leave[name].wait()

        self._tasks.append(asyncio.create_task(stay()))
        await asyncio.sleep(0)

    async def go(self, *names: str) -> None:
        for name in names:
            self._leave[name].set()
        for _ in range(5):
            await asyncio.sleep(0)

    async def end(self) -> None:
        for event in self._leave.values():
            event.set()
        await asyncio.gather(*self._tasks)
