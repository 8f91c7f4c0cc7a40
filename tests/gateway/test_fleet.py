"""Probes, which find out whether a replica generates."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator

import anyio
import pytest

from contract.errors import InvalidRequestError
from gateway.configuration import HealthSettings, TritonSettings
from gateway.generation import Delta, Job, Texts
from gateway.upstreams.fleet import Replica
from tests.gateway.fakes import FakeUpstream

pytestmark = pytest.mark.anyio


async def test_a_probe_asks_what_every_checkpoint_can_answer() -> None:
    """A base model has no chat template: a replica of one would never be well."""
    upstream = FakeUpstream()
    settings = TritonSettings(name="a", address="localhost:1")
    replica = Replica(settings, upstream, HealthSettings(), probe_model="ensemble")
    await replica.probe()
    (job,) = upstream.probes
    generation = job.generation
    assert (generation.prompt, generation.parameters.max_tokens) == (Texts.of(("Hi",)), 1)
    assert generation.stream  # as clients ask: of a server that can't stream no probe comes back
    assert replica.circuit.allows(time.monotonic())


@pytest.mark.parametrize("busy", [True, False])
async def test_a_late_probe_is_no_failure_where_others_get_first_tokens(busy: bool) -> None:
    class Late(FakeUpstream):
        async def generate(self, job: Job) -> AsyncGenerator[Delta, None]:
            if busy:
                replica.circuit.succeed(time.monotonic())
            await anyio.sleep(10)
            yield Delta()

    settings = TritonSettings(name="a", address="localhost:1")
    health = HealthSettings(timeout_s=0.05, failures=1)
    replica = Replica(settings, Late(), health, probe_model="ensemble")
    replica.circuit.succeed(time.monotonic())
    await replica.probe()
    assert replica.circuit.closed is busy


async def test_why_a_probe_fails_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    class Once(FakeUpstream):
        async def generate(self, job: Job) -> AsyncGenerator[Delta, None]:
            raise InvalidRequestError("stream is true; streaming is only supported …", "stream")
            yield Delta()

    settings = TritonSettings(name="a", address="localhost:1")
    replica = Replica(settings, Once(), HealthSettings(), probe_model="ensemble")
    for _ in range(3):
        await replica.probe()
    assert not replica.circuit.allows(time.monotonic())
    (record,) = caplog.records
    assert vars(record)["error"].startswith("stream is true")
    assert vars(record)["upstream"] == "a"
