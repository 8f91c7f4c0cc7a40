"""Waiting in the queue: how long, for whom, until when, and who leaves it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from types import SimpleNamespace

import pytest

from gateway.configuration import (
    ClassSettings,
)
from gateway.gateway_errors import DeadlineExceeded, Overloaded, Unavailable
from gateway.interfaces import TENANT_CLASSES
from tests.gateway.queueing import Clients, admission, replica, waiter

pytestmark = pytest.mark.anyio


@pytest.fixture
def pass_time(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """The queue's clock stands still, until it is told how many seconds pass."""
    now_s = time.monotonic()

    def go_on(seconds: float) -> None:
        nonlocal now_s
        now_s += seconds

    monkeypatch.setattr("gateway.admission.time", SimpleNamespace(monotonic=lambda: now_s))
    return go_on


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
