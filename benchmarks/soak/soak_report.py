"""Whether the server's memory stayed flat, and all else that a long run shows."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from benchmarks.soak.watch import Sample
from clients.perf.load_report import Machine

GROWTH_SHARE = 0.02
GROWTH_BYTES = 8 << 20
"""What a process may have grown by, whichever is more: allocators move within such a range."""


@dataclass(frozen=True)
class Growth:
    """One process's memory: medians over the second and over the last quarter of the run.

    Attributes:
        early_bytes: Once it had warmed up.
        late_bytes: At the end.
    """

    early_bytes: int
    late_bytes: int

    @property
    def is_flat(self) -> bool:
        """Whether it grew by no more than allocators vary."""
        allowed = max(GROWTH_BYTES, GROWTH_SHARE * self.early_bytes)
        return self.late_bytes - self.early_bytes <= allowed


def growths(samples: Sequence[Sample]) -> dict[str, Growth]:
    """How each process's memory went, by name.

    Raises:
        ValueError: There are too few samples for quarters.
    """
    if len(samples) < 8:
        raise ValueError(f"{len(samples)} samples are too few: 8 or more are needed")
    quarter = len(samples) // 4
    early, late = samples[quarter : 2 * quarter], samples[-quarter:]
    return {
        name: Growth(_median(name, early), _median(name, late)) for name in samples[0].memory_bytes
    }


@dataclass(frozen=True)
class Report:
    """One long run.

    Attributes:
        date: When it began, ISO 8601.
        revision: The checkout's commit.
        machine: Where.
        minutes: How long the load lasted.
        concurrency: Requests under way at any time.
        settings: Of the model repository.
        samples: The server over time.
        errors: How often each error was met.
        used_blocks_at_rest: Blocks that sequences held when all requests had ended.
    """

    date: str
    revision: str | None
    machine: Machine
    minutes: float
    concurrency: int
    settings: Sequence[str]
    samples: Sequence[Sample]
    errors: Mapping[str, int]
    used_blocks_at_rest: int

    @property
    def problems(self) -> list[str]:
        """What is wrong, for a person; nothing where the run is good."""
        found = [
            f"{name} grew from {growth.early_bytes / 2**20:,.0f} to "
            f"{growth.late_bytes / 2**20:,.0f} MiB"
            for name, growth in growths(self.samples).items()
            if not growth.is_flat
        ]
        if {*self.samples[0].memory_bytes} != {*self.samples[-1].memory_bytes}:
            found.append("the server's processes are not those that it began with")
        if self.used_blocks_at_rest:
            found.append(f"{self.used_blocks_at_rest} blocks are held though nothing runs")
        found += [f"{count} × {error}" for error, count in self.errors.items()]
        if not self.samples[-1].counts["completed"]:
            found.append("no request was completed")
        return found

    def to_json(self) -> str:
        """The whole report, for programs."""
        found = {
            name: {**asdict(growth), "is_flat": growth.is_flat}
            for name, growth in growths(self.samples).items()
        }
        content = {**asdict(self), "growth": found, "problems": self.problems}
        return json.dumps(content, indent=2, ensure_ascii=False) + "\n"

    def summary(self) -> str:
        """A few lines, for people."""
        last = self.samples[-1]
        counts = ", ".join(f"{count:,} {name}" for name, count in last.counts.items())
        lines = [
            f"{self.minutes:g} minutes, {self.concurrency} concurrent: {counts}",
            f"put off: {last.gauges['preempted_sequences_total']:,.0f} sequences; "
            f"reused: {last.gauges['prefix_reused_blocks_total']:,.0f} blocks",
        ]
        for name, growth in growths(self.samples).items():
            lines.append(
                f"{name:32} {growth.early_bytes / 2**20:8,.1f} → {growth.late_bytes / 2**20:8,.1f} "
                f"MiB  {'flat' if growth.is_flat else 'GREW'}"
            )
        return "\n".join([*lines, *(f"problem: {problem}" for problem in self.problems)])


def _median(name: str, samples: Sequence[Sample]) -> int:
    return round(statistics.median(sample.memory_bytes.get(name, 0) for sample in samples))
