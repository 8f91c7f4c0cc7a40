"""Rounds, turn about: every system on a workload, then the next workload, then the next round."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from benchmarks.hardware import Hardware, measure_hardware
from benchmarks.peers.process import Worker, WorkerError
from benchmarks.workloads import Workload

MEMORY_BYTES = 18 << 30
"""What all systems together may take: they stay loaded side by side, and only one computes."""


class Comparison:
    """The workers, and what they were measured at.

    Attributes:
        workers: By name; one that fails leaves.
        seconds: Of each round, by workload and system.
        failures: Why a system was left out, by name.
        hardware: The machine's rates, the best of measurements before every round.
    """

    def __init__(self, seed: int) -> None:
        self.workers: dict[str, Worker] = {}
        self.seconds: dict[str, dict[str, list[float]]] = {}
        self.failures: dict[str, str] = {}
        self.hardware = Hardware(0, 0.0, 0.0, 0.0)
        self._rng = np.random.default_rng(seed)

    def add(self, worker: Worker) -> None:
        """Take a loaded system in."""
        self.workers[worker.name] = worker

    def leave_out(self, name: str, reason: str) -> None:
        """Go on without a system that failed: the others' figures are still worth having."""
        print(f"{name} is left out: {reason}", flush=True)
        self.failures[name] = reason
        for by_system in self.seconds.values():
            by_system.pop(name, None)
        worker = self.workers.pop(name, None)
        if worker is not None:
            worker.stop()

    def run(self, workloads: Sequence[Workload], rounds: int) -> None:
        """Measure; a round before the first warms up and isn't counted.

        Raises:
            WorkerError: The systems take too much memory, or none is left.
        """
        for round_ in range(rounds + 1):
            self.hardware = self.hardware.best(measure_hardware())
            for workload in workloads:
                self._turn(round_, workload)
            taken = sum(worker.memory_bytes for worker in self.workers.values())
            if taken > MEMORY_BYTES:
                raise WorkerError(
                    f"the systems take {taken / 2**30:.1f} GiB together, more than "
                    f"{MEMORY_BYTES >> 30} GiB: choose fewer with PEERS="
                )

    def _turn(self, round_: int, workload: Workload) -> None:
        """Every system once, on the same prompts; each round begins with another one."""
        prompts = [prompt.tolist() for prompt in workload.prompts(self._rng)]
        first = round_ % len(self.workers) if self.workers else 0
        names = list(self.workers)
        for name in names[first:] + names[:first]:
            try:
                duration_s = self.workers[name].run(prompts, workload.output)
            except WorkerError as error:
                self.leave_out(name, str(error))
                continue
            print(
                f"{f'round {round_}' if round_ else 'warming'}  {workload.name:12} {name:24} "
                f"{duration_s:8.3f} s",
                flush=True,
            )
            if round_:
                by_system = self.seconds.setdefault(workload.name, {})
                by_system.setdefault(name, []).append(duration_s)
        if not self.workers:
            raise WorkerError("no system is left to measure")
