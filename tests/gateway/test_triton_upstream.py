"""A Triton replica over gRPC: how it is asked, how it fails, and how it is left."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import anyio
import pytest

from gateway.configuration import TritonSettings
from gateway.generation import Delta, Job
from gateway.upstreams.base import (
    UpstreamBusy,
    UpstreamError,
    UpstreamFailed,
    UpstreamLost,
    UpstreamRefused,
    UpstreamTimeout,
    UpstreamUnavailable,
)
from gateway.upstreams.triton_upstream import Triton
from tests.clients.fakes import HANG, Failure, FakeTriton, start, text
from tests.gateway.test_provider_upstream import job


@pytest.fixture
def server() -> Iterator[FakeTriton]:
    yield from start(FakeTriton())


def upstream(server: FakeTriton) -> Triton:
    return Triton(TritonSettings(name="a", address=server.urls["grpc"]))


async def collect(triton: Triton, wanted: Job) -> list[Delta]:
    return [delta async for delta in triton.generate(wanted)]


def test_pieces_come_as_the_server_sends_them(server):
    server.script = [text("Hel"), text("lo", "stop")]
    deltas = asyncio.run(collect(upstream(server), job()))
    assert [(delta.text, delta.finish_reason) for delta in deltas] == [("Hel", ""), ("lo", "stop")]
    (received,) = server.received
    assert received.inputs["stream"].item() is True
    assert received.inputs["priority"].item() == 5


@pytest.mark.parametrize(
    ("failure", "kind"),
    [
        (Failure("INVALID_ARGUMENT", "top_p is 2; it must be between 0 and 1"), UpstreamRefused),
        (Failure("UNAVAILABLE", "the queue is full: 64 sequences wait"), UpstreamBusy),
        (Failure("DEADLINE_EXCEEDED", "the request's timeout expired"), UpstreamTimeout),
        (Failure(None, "Exceeds maximum queue size"), UpstreamBusy),
        (Failure(None, "Server is stopping"), UpstreamUnavailable),
        (Failure(None, "Stub process 'tensorrt_llm_0_0' is not healthy."), UpstreamLost),
        (Failure("INTERNAL", "the engine failed"), UpstreamFailed),
    ],
)
def test_failures_are_told_apart_however_soon_they_come(
    server: FakeTriton, failure: Failure, kind: type[UpstreamError]
) -> None:
    """Python's gRPC loses the status of some calls that end while they are being written."""
    server.script = [failure]

    async def ask_many() -> list[Any]:
        triton = upstream(server)
        asked = (collect(triton, job(request_id=str(i))) for i in range(100))
        return await asyncio.gather(*asked, return_exceptions=True)

    assert {type(error) for error in asyncio.run(ask_many())} == {kind}


def test_a_deadline_is_the_request_s_own(server):
    server.script = [HANG, text("late", "stop")]
    with pytest.raises(UpstreamTimeout):
        asyncio.run(collect(upstream(server), job(timeout_s=0.1)))


def test_a_server_that_is_silent_can_be_left_at_any_time(server):
    """Before the first response gRPC waits in a task of its own, which hides who cancelled."""
    server.script = [HANG, text("late", "stop")]

    async def leave() -> bool:
        with anyio.CancelScope() as scope:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(cancel_when_asked, scope)
                await collect(upstream(server), job())
        return scope.cancelled_caught

    async def cancel_when_asked(scope: anyio.CancelScope) -> None:
        while not server.received:
            await anyio.sleep(0.005)
        scope.cancel()

    assert asyncio.run(leave())
    assert server.cancelled.wait(30)
