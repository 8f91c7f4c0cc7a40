"""The queue: order, bounds, ceilings, guarantees, deadlines."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.admission import Admission, _Waiter
from gateway.configuration import (
    AdmissionSettings,
    AffinitySettings,
    ClassSettings,
    HealthSettings,
    TritonSettings,
)
from gateway.gateway_errors import DeadlineExceeded, Overloaded, Unavailable
from gateway.interfaces import TENANT_CLASSES, TenantClass
from gateway.upstreams.fleet import Replica
from tests.gateway.fakes import FakeUpstream

pytestmark = pytest.mark.anyio


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


@pytest.fixture
def pass_time(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """The queue's clock stands still, until it is told how many seconds pass."""
    now_s = time.monotonic()

    def go_on(seconds: float) -> None:
        nonlocal now_s
        now_s += seconds

    monkeypatch.setattr("gateway.admission.time", SimpleNamespace(monotonic=lambda: now_s))
    return go_on


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


async def test_higher_classes_go_first_and_each_class_in_order():
    clients = Clients(admission(), replica(capacity=1))
    await clients.come("first")
    for name, tenant_class in (("b1", "batch"), ("s1", "standard"), ("s2", "standard")):
        await clients.come(name, tenant_class)  # type: ignore[arg-type]
    await clients.come("i1", "interactive")
    await clients.go("first", "b1", "s1", "s2", "i1")
    await clients.end()
    assert clients.order == ["first", "i1", "s1", "s2", "b1"]


async def test_batch_leaves_room_for_people():
    only = replica(capacity=8)
    clients = Clients(admission(), only)
    for index in range(10):
        await clients.come(f"b{index}", "batch")
    assert only.in_flight == 6  # three quarters
    for index in range(4):
        await clients.come(f"i{index}", "interactive")
    assert clients.order[-2:] == ["i0", "i1"]
    assert only.in_flight == 8
    await clients.end()


async def test_a_request_takes_a_place_for_each_of_its_answers():
    only = replica(capacity=8)
    clients = Clients(admission(), only)
    await clients.come("b0", "batch", sequences=5)
    await clients.come("b1", "batch", sequences=64)  # five of batch's six are filled
    await clients.come("b2", "batch")
    assert clients.order == ["b0", "b1"]
    assert (only.in_flight, only.by_class["batch"]) == (69, 69)
    # However many there are, batch fills no more than its own part.
    await clients.come("i0", "interactive", sequences=2)
    await clients.come("i1", "interactive")
    assert clients.order == ["b0", "b1", "i0"]
    await clients.go("b1")
    assert clients.order == ["b0", "b1", "i0", "i1"]
    await clients.end()
    assert (only.in_flight, only.by_class.total(), only.by_tenant.total()) == (0, 0, 0)


async def test_tenants_of_a_class_take_turns():
    clients = Clients(admission(), replica(capacity=1, fair=False))
    for name in ("a0", "a1", "a2", "a3", "b0", "b1"):
        await clients.come(name, tenant=name[0])
    await clients.go("a0", "b0", "a1", "b1", "a2", "a3")
    await clients.end()
    assert clients.order == ["a0", "b0", "a1", "b1", "a2", "a3"]


@pytest.mark.parametrize("fair", [True, False])
async def test_who_has_little_gets_in_where_the_engine_shares_its_places_out(fair: bool):
    only = replica(capacity=16, fair=fair)
    clients = Clients(admission(), only)
    for index in range(20):
        await clients.come(f"a{index}", "interactive", tenant="a")
    assert only.in_flight == 16
    for index in range(4):
        await clients.come(f"b{index}", "interactive", tenant="b")
    assert only.by_tenant["b"] == (2 if fair else 0)
    await clients.come("c", "batch", tenant="c", sequences=128)  # more than may wait there
    assert only.by_tenant["c"] == 0
    await clients.end()


async def test_a_tenant_that_fills_the_queue_fills_its_own():
    settings = ClassSettings(max_waiting=4)
    clients = Clients(admission(standard=settings), replica(capacity=1, fair=False))
    for index in range(5):
        await clients.come(f"a{index}", tenant="a")
    for index in range(2):
        await clients.come(f"b{index}", tenant="b")
    assert clients.queue.waiting("standard") == 6
    for tenant in "ab":
        with pytest.raises(Overloaded, match="class standard is full"):
            async with clients.queue.place(
                clients.replicas, "standard", None, time.monotonic() + 60, tenant
            ):
                pass
    await clients.end()


async def test_batch_has_a_guarantee_while_people_fill_the_machine():
    only = replica(capacity=8)
    clients = Clients(admission(batch=ClassSettings(guarantee=0.25, ceiling=0.5)), only)
    for index in range(20):
        await clients.come(f"i{index}", "interactive")
    for index in range(4):
        await clients.come(f"b{index}", "batch")
    await clients.go("i0", "i1", "i2")
    # Two places of eight are batch's own, whoever waits; the third goes to who is first in line.
    assert clients.order[8:] == ["b0", "b1", "i8"]
    await clients.end()


async def test_the_queue_is_bounded_by_class():
    clients = Clients(admission(standard=ClassSettings(max_waiting=2)), replica(capacity=1))
    for name in ("running", "w1", "w2"):
        await clients.come(name)
    with pytest.raises(Overloaded, match="class standard is full: 2 requests wait") as refused:
        async with clients.queue.place(clients.replicas, "standard", None, time.monotonic() + 60):
            pass
    assert refused.value.code == "queue_full"
    assert int(refused.value.headers["retry-after"]) >= 1
    await clients.come("interactive", "interactive")
    assert clients.queue.waiting("interactive") == 1
    await clients.end()


async def test_a_deadline_that_passes_in_the_queue():
    clients = Clients(admission(), replica(capacity=1))
    await clients.come("running")
    with pytest.raises(DeadlineExceeded):
        async with clients.queue.place(clients.replicas, "standard", None, time.monotonic() + 0.02):
            pass
    assert clients.queue.waiting("standard") == 0
    await clients.end()
    assert clients.replicas[0].in_flight == 0


async def test_who_would_wait_too_long_is_refused_at_once(pass_time):
    only = replica(capacity=1)
    clients = Clients(admission(), only)
    await clients.come("measured")
    pass_time(10)
    await clients.go("measured")  # from now on a request is known to take 10 s
    await clients.come("running")
    await clients.come("waiting")
    with pytest.raises(Overloaded) as refused:
        async with clients.queue.place(clients.replicas, "standard", None, time.monotonic() + 19):
            pass
    assert refused.value.code == "deadline_unreachable"
    await clients.end()


async def test_nobody_waits_for_replicas_that_are_ill():
    ill = replica(well=False)
    with pytest.raises(Unavailable):
        async with admission().place((ill,), "standard", None, time.monotonic() + 60):
            pass


async def test_who_waits_is_told_when_the_last_replica_falls_ill_or_is_drained():
    only = replica(capacity=1)
    clients = Clients(admission(), only)
    await clients.come("running")
    waiting = asyncio.create_task(clients.come("waiting"))
    await waiting
    only.drained = True
    clients.queue.wake()
    with pytest.raises(Unavailable):
        await asyncio.gather(*clients._tasks)
    await clients.go("running")


async def test_who_waits_gets_the_replica_that_recovers():
    full, ill = replica("a", capacity=1), replica("b", capacity=1, well=False)
    clients = Clients(admission(), full, ill)
    await clients.come("running")
    await clients.come("waiting")
    assert clients.order == ["running"]
    ill.circuit.succeed(time.monotonic())
    clients.queue.wake()
    await clients.go()
    assert clients.order == ["running", "waiting"]
    await clients.end()


async def test_a_cancelled_waiter_leaves_no_trace():
    only = replica(capacity=1)
    clients = Clients(admission(), only)
    await clients.come("running")
    await clients.come("leaves")
    clients._tasks[-1].cancel()
    with pytest.raises(asyncio.CancelledError):
        await clients._tasks.pop()
    await clients.come("stays")
    await clients.go("running")
    assert clients.order == ["running", "stays"]
    await clients.end()
    assert only.in_flight == 0


async def test_who_waits_for_a_full_replica_holds_nobody_up_who_wants_another():
    full, other, ill = replica("a", 1), replica("b", 3), replica("c", 1, well=False)
    clients = Clients(admission(), full, other)
    await clients.come("running", replicas=(full,))
    await clients.come("waits", replicas=(full,))
    await clients.come("waits too", replicas=(full,))
    await clients.come("served", replicas=(other,))
    assert clients.order == ["running", "served"]
    # One wake-up serves all whom it can: who is told that nobody is there ends no round.
    other.drained = True
    await clients.come("told", replicas=(other, ill))
    with pytest.raises(Unavailable, match="no replica of the model is available"):
        await clients._tasks.pop()
    other.drained = False
    full.drained = ill.drained = True
    waiting = [clients._tasks.pop(2), clients._tasks.pop(1)]
    clients.queue.wake()
    for each in waiting:
        with pytest.raises(Unavailable):
            await each
    await clients.end()


async def test_cancelled_waiters_end_no_round():
    only = replica(capacity=2)
    clients = Clients(admission(standard=ClassSettings(ceiling=1)), only)
    for name in ("first", "second", "leaves", "stays"):
        await clients.come(name)
    waiter = clients.queue._waiting["standard"][0]
    waiter.place.cancel()
    clients._leave["first"].set()
    for _ in range(5):
        await asyncio.sleep(0)
    assert clients.order == ["first", "second", "stays"]
    clients._tasks.pop(2).cancel()
    await clients.end()


async def test_a_place_that_comes_as_its_waiter_leaves_goes_to_the_next():
    only = replica(capacity=1)
    clients = Clients(admission(), only)
    await clients.come("running")
    await clients.come("leaves")
    await clients.come("stays")
    leaves = clients._tasks.pop(1)
    clients._leave["running"].set()
    while only.in_flight == 1 and clients.queue.waiting("standard") == 2:
        await asyncio.sleep(0)
    # Its place is there, and it has not taken it up yet.
    leaves.cancel()
    with pytest.raises(asyncio.CancelledError):
        await leaves
    for _ in range(5):
        await asyncio.sleep(0)
    assert clients.order == ["running", "stays"]
    await clients.end()
    assert (only.in_flight, sum(only.by_class.values())) == (0, 0)


async def test_a_prompt_goes_where_its_beginning_is_known_unless_that_is_too_busy():
    replicas = tuple(replica(name, 16) for name in "abcd")
    clients = Clients(Admission(AdmissionSettings(), AffinitySettings(load_factor=2)), *replicas)
    for index in range(16):
        await clients.come(f"same {index}", prefix=b"beginning")
    served = [*clients.served_by.values()]
    # The first is sent there, and no more than twice the average of the four.
    assert served.count(served[0]) == 8
    await clients.end()


async def test_one_place_is_there_for_each_class_however_small_a_replica_is():
    only = replica(capacity=1)
    settings = ClassSettings(ceiling=0.1, guarantee=0)
    clients = Clients(admission(standard=settings, batch=settings), only)
    await clients.come("standard")
    assert clients.order == ["standard"]
    await clients.go("standard")
    await clients.come("batch", "batch")
    assert clients.order == ["standard", "batch"]
    await clients.end()
    # No more than one, by guarantee or by ceiling.
    only = replica(capacity=4)
    clients = Clients(admission(batch=ClassSettings(ceiling=0.3, guarantee=0.25)), only)
    for index in range(3):
        await clients.come(f"batch {index}", "batch")
    assert only.in_flight == 1
    await clients.end()


@pytest.mark.parametrize(
    ("tenant_class", "expected_s"),
    [("interactive", 2 * 10 / 8), ("standard", 5 * 10 / 4), ("batch", 9 * 10 / 2)],
)
async def test_the_wait_is_what_those_before_take_at_the_places_there_are(tenant_class, expected_s):
    replicas = (replica("a", 4), replica("b", 4), replica("c", 100, well=False))
    halves = {"standard": ClassSettings(ceiling=0.5), "batch": ClassSettings(ceiling=0.25)}
    queue = admission(**halves)
    assert queue._expected_wait_s(replicas, tenant_class, "") == 0
    queue._hold_s = 10
    for count, each in zip((2, 3, 4), TENANT_CLASSES, strict=True):
        queue._waiting[each].append(waiter(sequences=count))
    assert queue._expected_wait_s(replicas, tenant_class, "") == expected_s
    # A fraction of a place is taken for a whole one.
    few = (replica("d", 1),)
    assert queue._expected_wait_s(few, "batch", "") == 9 * 10


async def test_who_asks_for_little_does_not_wait_for_all_that_another_asked_for():
    queue = admission()
    queue._hold_s = 10
    queue._waiting["standard"].extend([waiter("much", 90), waiter("little", 1)])
    replicas = (replica(capacity=10),)
    assert queue._expected_wait_s(replicas, "standard", "little") == pytest.approx(2 * 10 / 9)
    assert queue._expected_wait_s(replicas, "standard", "much") == pytest.approx(91 * 10 / 9)


@given(st.lists(st.tuples(st.sampled_from(TENANT_CLASSES), st.booleans()), max_size=60))
def test_no_place_is_lost_or_given_twice(steps):
    """Whoever comes and goes: places add up, and all who wait get one in the end."""

    async def scenario() -> None:
        replicas = (replica("a", 2), replica("b", 3))
        queue = admission()
        leave: list[asyncio.Event] = []
        tasks = []

        async def stay(tenant_class: TenantClass, event: asyncio.Event) -> None:
            async with queue.place(replicas, tenant_class, None, time.monotonic() + 60):
                await event.wait()

        async with AsyncExitStack():
            for tenant_class, goes in steps:
                leave.append(asyncio.Event())
                tasks.append(asyncio.create_task(stay(tenant_class, leave[-1])))
                await asyncio.sleep(0)
                if goes:
                    leave.pop(0).set()
                    await asyncio.sleep(0)
                for each in replicas:
                    assert 0 <= each.in_flight <= each.capacity
                    assert each.in_flight == sum(each.by_class.values())
            for event in leave:
                event.set()
            await asyncio.gather(*tasks)
        assert [each.in_flight for each in replicas] == [0, 0]

    asyncio.run(scenario())


async def test_one_long_request_changes_little_of_what_a_wait_is_taken_for(pass_time):
    clients = Clients(admission(), replica(capacity=1))
    await clients.come("usual")
    pass_time(1)
    await clients.go("usual")
    await clients.come("long")
    pass_time(11)
    await clients.go("long")
    assert clients.queue._hold_s == pytest.approx(2)
    await clients.end()
