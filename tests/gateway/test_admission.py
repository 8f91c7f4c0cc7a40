"""The queue: order, bounds, ceilings, guarantees."""

from __future__ import annotations

import asyncio
import time
from contextlib import AsyncExitStack

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.admission import Admission
from gateway.configuration import (
    AdmissionSettings,
    AffinitySettings,
    ClassSettings,
)
from gateway.gateway_errors import Overloaded
from gateway.interfaces import TENANT_CLASSES, TenantClass
from tests.gateway.queueing import Clients, admission, replica

pytestmark = pytest.mark.anyio


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
