"""What is published of an engine, figure by figure."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from python_backend.engine.engine_core import EngineStats
from python_backend.engine.sequence import SamplingParams, Sequence
from tests.python_backend.sample_engine import SampleEngine
from tests.python_backend.serving.fake_triton import Metric, MetricFamily

from python_backend.serving.engine_metrics import LATENCIES_S, EngineMetrics  # isort: skip


class FakeEngine(SampleEngine):
    """An engine that says what the test has it say."""

    said = EngineStats()

    def stats(self) -> EngineStats:
        return self.said


@pytest.fixture
def engine() -> FakeEngine:
    MetricFamily.made.clear()
    return FakeEngine()


@pytest.fixture
def metrics(engine: FakeEngine) -> EngineMetrics:
    return EngineMetrics("m", "1", engine)


def series(name: str, **labels: str) -> Metric:
    wanted = {"model": "m", "version": "1", **labels}
    return MetricFamily.made[f"trireme_{name}"].series[frozenset(wanted.items())]


def value(name: str, **labels: str) -> float:
    return series(name, **labels).value


def make_sequence(arrival_s: float, scheduled_s: float, *tokens_s: float) -> Sequence:
    """A sequence of a three-token prompt whose tokens came at these times."""
    params = SamplingParams(max_tokens=9)
    sequence = Sequence(np.array([1, 2, 3], dtype=np.int32), params)
    times: Any = [round(1e9 * each) for each in (arrival_s, scheduled_s, *tokens_s)]
    sequence.arrival_ns, sequence.first_scheduled_ns, sequence.first_token_ns = times[:3]
    sequence.last_token_ns = times[-1]
    if len(times) > 3:
        sequence.gap_ns = times[-1] - times[-2]
    return sequence


def test_nothing_is_told_before_it_is_published(metrics: EngineMetrics) -> None:
    ended = make_sequence(1, 1, 1)
    ended.num_prompt_done, ended.num_cached_tokens = 3, 1
    metrics.end("stop", ended)
    assert value("ended_sequences_total", reason="stop") == 0
    metrics.publish()
    metrics.publish()
    assert value("ended_sequences_total", reason="stop") == 1
    assert value("ended_sequences_total", reason="timeout") == 0
    assert value("computed_prompt_tokens_total") == 2


def test_the_first_token_tells_of_the_wait_for_it(
    engine: FakeEngine, metrics: EngineMetrics
) -> None:
    engine.batch_size = 1
    metrics.step([make_sequence(5, 5.25, 6)])
    metrics.publish()
    assert series("queue_time_seconds").observed == [0.25]
    assert series("time_to_first_token_seconds").observed == [1.0]
    assert series("time_to_first_token_seconds").buckets == list(LATENCIES_S)
    assert value("prompt_tokens_total") == 3
    assert value("output_tokens_total") == 1
    assert value("inter_token_latency_seconds_count") == 0


def test_later_tokens_tell_of_the_gaps_between_them(
    engine: FakeEngine, metrics: EngineMetrics
) -> None:
    engine.batch_size = 3
    metrics.step([make_sequence(5, 5, 6, 6.25), make_sequence(5, 5, 6, 6.5)])
    metrics.publish()
    metrics.step([make_sequence(5, 5, 6, 706)])
    metrics.publish()
    gaps = "inter_token_latency_seconds"
    counts = {le: value(f"{gaps}_bucket", le=le) for le in ("0.1", "0.25", "0.5", "60", "+Inf")}
    assert counts == {"0.1": 0, "0.25": 1, "0.5": 2, "60": 2, "+Inf": 3}
    assert value(f"{gaps}_count") == 3
    assert value(f"{gaps}_sum") == pytest.approx(700.75)
    assert value("batch_size_sequences_bucket", le="2") == 0
    assert value("batch_size_sequences_bucket", le="4") == 2
    assert value("batch_size_sequences_sum") == 6
    assert value("prompt_tokens_total") == 0


def test_memory_and_queues_are_the_engines(engine: FakeEngine, metrics: EngineMetrics) -> None:
    engine.said = EngineStats(
        num_running=2,
        num_waiting=1,
        num_preempted=4,
        num_used_blocks=5,
        num_cached_blocks=3,
        num_blocks=8,
        block_bytes=1000,
        num_looked_up_blocks=7,
        num_reused_blocks=6,
    )
    metrics.publish()
    assert (value("running_sequences"), value("waiting_sequences")) == (2, 1)
    assert (value("kv_cache_used_blocks"), value("kv_cache_used_bytes")) == (5, 5000)
    assert (value("kv_cache_budget_blocks"), value("kv_cache_budget_bytes")) == (8, 8000)
    assert value("kv_cache_cached_blocks") == 3
    assert value("preempted_sequences_total") == 4
    assert value("prefix_looked_up_blocks_total") == 7
    assert value("prefix_reused_blocks_total") == 6
