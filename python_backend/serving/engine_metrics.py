"""What the engine tells Prometheus, on Triton's own metrics endpoint.

Every update is a message to tritonserver, of some 25 microseconds, so figures are gathered here and
published a few times a second rather than at every step.
"""

from __future__ import annotations

from bisect import bisect_left
from itertools import accumulate
from typing import Literal

import triton_python_backend_utils as pb_utils

from contract.codes import FinishReason
from contract.names import ENGINE_FINISH_REASONS
from python_backend.engine.engine_core import EngineCore
from python_backend.engine.sequence import Sequence

LATENCIES_S = (
    *(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25),
    *(0.5, 1.0, 2.5, 5.0, 10.0, 25.0, 60.0),
)
BATCH_SIZES = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0)

EndReason = FinishReason | Literal["timeout"]
"""Why a sequence ended: as its client is told, or with an error, as its time was over."""


class EngineMetrics:
    """Gauges, counters and histograms of one engine, labelled with the model's name and version."""

    def __init__(self, model: str, version: str, engine: EngineCore) -> None:
        self._engine = engine
        labels = {"model": model, "version": version}

        def gauge(name: str, description: str) -> _Gauge:
            return _Gauge(_family(name, description, pb_utils.MetricFamily.GAUGE), labels)

        def counter(name: str, description: str) -> _Counter:
            return _Counter(_family(name, description, pb_utils.MetricFamily.COUNTER), labels)

        self._running = gauge("running_sequences", "Sequences that get tokens")
        self._waiting = gauge("waiting_sequences", "Sequences that wait for room")
        self._used_blocks = gauge("kv_cache_used_blocks", "Blocks that sequences use")
        self._cached_blocks = gauge("kv_cache_cached_blocks", "Unused blocks of known prefixes")
        self._budget_blocks = gauge("kv_cache_budget_blocks", "Blocks in all")
        self._used_bytes = gauge("kv_cache_used_bytes", "Memory of blocks that sequences use")
        self._budget_bytes = gauge("kv_cache_budget_bytes", "Memory of all blocks")
        self._preempted = counter(
            "preempted_sequences_total", "Running sequences that had to wait again"
        )
        self._looked_up = counter(
            "prefix_looked_up_blocks_total", "Full blocks of prompts, looked up in the cache"
        )
        self._reused = counter("prefix_reused_blocks_total", "Those of them that were found")
        self._prompt_tokens = counter("prompt_tokens_total", "Prompt tokens of started sequences")
        self._computed_prompt_tokens = counter(
            "computed_prompt_tokens_total", "Prompt tokens computed for sequences that ended"
        )
        self._output_tokens = counter("output_tokens_total", "Tokens generated")
        ended = _family(
            "ended_sequences_total",
            "Sequences that ended, by reason",
            pb_utils.MetricFamily.COUNTER,
        )
        self._ended = {
            reason: _Counter(ended, {**labels, "reason": reason})
            for reason in (*ENGINE_FINISH_REASONS, "timeout", "error")
        }
        self._queue_s = _Histogram(
            "queue_time_seconds", "From a sequence's arrival until it first runs", labels
        )
        self._first_token_s = _Histogram(
            "time_to_first_token_seconds", "From a sequence's arrival to its first token", labels
        )
        self._gap_s = _Distribution(
            "inter_token_latency_seconds", "Between two tokens of a sequence", LATENCIES_S, labels
        )
        self._batch_size = _Distribution(
            "batch_size_sequences", "Sequences that a step computes", BATCH_SIZES, labels
        )

    def step(self, advanced: list[Sequence]) -> None:
        """Take note of a step and of the sequences that it gave tokens or ended."""
        self._batch_size.observe(self._engine.batch_size)
        for sequence in advanced:
            if sequence.num_generated > sequence.num_new_tokens:
                self._gap_s.observe(sequence.gap_ns / 1e9)
            else:
                self._prompt_tokens.value += len(sequence.prompt)
                self._queue_s.observe((sequence.first_scheduled_ns - sequence.arrival_ns) / 1e9)
                self._first_token_s.observe((sequence.first_token_ns - sequence.arrival_ns) / 1e9)
            for _ in range(sequence.num_new_tokens - 1):
                self._gap_s.observe(0)
            self._output_tokens.value += sequence.num_new_tokens

    def end(self, reason: EndReason, sequence: Sequence) -> None:
        """Take note of a sequence that ended."""
        self._ended[reason].value += 1
        self._computed_prompt_tokens.value += sequence.num_prompt_computed

    def publish(self) -> None:
        """Bring tritonserver's figures up to date."""
        stats = self._engine.stats()
        self._running.set(stats.num_running)
        self._waiting.set(stats.num_waiting)
        self._used_blocks.set(stats.num_used_blocks)
        self._cached_blocks.set(stats.num_cached_blocks)
        self._budget_blocks.set(stats.num_blocks)
        self._used_bytes.set(stats.num_used_blocks * stats.block_bytes)
        self._budget_bytes.set(stats.num_blocks * stats.block_bytes)
        self._preempted.value = stats.num_preempted
        self._looked_up.value = stats.num_looked_up_blocks
        self._reused.value = stats.num_reused_blocks
        for counter in (
            *(self._preempted, self._looked_up, self._reused),
            *(self._prompt_tokens, self._computed_prompt_tokens, self._output_tokens),
            *self._ended.values(),
        ):
            counter.publish()
        for observed in (self._queue_s, self._first_token_s, self._gap_s, self._batch_size):
            observed.publish()


def _family(name: str, description: str, kind: int) -> pb_utils.MetricFamily:
    return pb_utils.MetricFamily(name=f"trireme_{name}", description=description, kind=kind)


class _Gauge:
    """A figure that goes up and down; told where it has changed."""

    def __init__(self, family: pb_utils.MetricFamily, labels: dict[str, str]) -> None:
        self._family = family  # kept alive: its metrics end with it
        self._metric = family.Metric(labels=labels)
        self._told: float = 0

    def set(self, value: float) -> None:
        if value != self._told:
            self._metric.set(value)
            self._told = value


class _Counter:
    """A figure that only rises; what it rose by is told at once."""

    def __init__(self, family: pb_utils.MetricFamily, labels: dict[str, str]) -> None:
        self._family = family
        self._metric = family.Metric(labels=labels)
        self.value: float = 0
        self._told: float = 0

    def publish(self) -> None:
        if self.value != self._told:
            self._metric.increment(self.value - self._told)
            self._told = self.value


class _Histogram:
    """Triton's own histogram, which is told each value: for what happens once a sequence."""

    def __init__(self, name: str, description: str, labels: dict[str, str]) -> None:
        self._family = _family(name, description, pb_utils.MetricFamily.HISTOGRAM)
        self._metric = self._family.Metric(labels=labels, buckets=list(LATENCIES_S))
        self._values: list[float] = []

    def observe(self, value: float) -> None:
        self._values.append(value)

    def publish(self) -> None:
        for value in self._values:
            self._metric.observe(value)
        self._values.clear()


class _Distribution:
    """A histogram's series made of counters, for what happens at every token or step.

    Triton's own would take a message for each value; Prometheus computes the same quantiles from
    these.
    """

    def __init__(
        self, name: str, description: str, bounds: tuple[float, ...], labels: dict[str, str]
    ) -> None:
        kind = pb_utils.MetricFamily.COUNTER
        buckets = _family(f"{name}_bucket", f"{description}, up to le", kind)
        self._bounds = bounds
        self._buckets = [
            _Counter(buckets, {**labels, "le": le}) for le in (*map("{:g}".format, bounds), "+Inf")
        ]
        self._sum = _Counter(_family(f"{name}_sum", f"{description}, added up", kind), labels)
        self._count = _Counter(_family(f"{name}_count", f"{description}, counted", kind), labels)
        self._counts = [0] * len(self._buckets)

    def observe(self, value: float) -> None:
        self._counts[bisect_left(self._bounds, value)] += 1
        self._sum.value += value

    def publish(self) -> None:
        for bucket, count in zip(self._buckets, accumulate(self._counts), strict=True):
            bucket.value = count
            bucket.publish()
        self._count.value = self._buckets[-1].value
        self._count.publish()
        self._sum.publish()
