"""Probes, which find out whether a replica generates."""

from __future__ import annotations

import time

import pytest

from gateway.configuration import HealthSettings, TritonSettings
from gateway.generation import Texts
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
    assert replica.circuit.allows(time.monotonic())
