"""Rounds, turn about: every system on a workload, then the next workload, then the next round."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.hardware import Hardware, measure_hardware
from benchmarks.peers.peers_quality import Quality, Remembered, WorkerPredictor
from benchmarks.peers.prepare import PrepareError
from benchmarks.peers.process import Worker, WorkerError
from benchmarks.workloads import Workload
from build.quality.closeness import Kept, Passage, Predictor, compare


class Questions:
    """What is asked of a real model, in its chat template.

    Attributes:
        end_ids: Tokens that end an answer.
    """

    def __init__(self, prompts: Sequence[Sequence[int]], end_ids: Sequence[int]) -> None:
        self.end_ids = tuple(end_ids)
        self._prompts = prompts
        self._left: list[int] = []

    def some(self, rng: np.random.Generator, count: int) -> list[list[int]]:
        """Questions that were not asked before, as long as there are such."""
        if len(self._left) < count:
            self._left = rng.permutation(len(self._prompts)).tolist()
        chosen, self._left = self._left[:count], self._left[count:]
        return [list(self._prompts[place]) for place in chosen]


MEMORY_BYTES = 16 << 30
"""What all systems that are loaded at a time may take together."""


class Comparison:
    """The systems, and what they were measured at.

    Systems stay loaded from one turn to the next as far as memory allows. Where it doesn't, those
    that load the quickest end, and are loaded and warmed up again for their next turn.

    Attributes:
        ready: What each system said when it was loaded first, by name, in the order of turns.
        seconds: Of each round, by workload and system.
        quality: What each system makes of the checkpoint, where that was asked.
        failures: Why a system was left out, by name.
        hardware: The machine's rates, the best of measurements before every round.
    """

    def __init__(
        self,
        seed: int,
        start: Callable[[str], Worker],
        memory_bytes: int = MEMORY_BYTES,
        questions: Questions | None = None,
    ) -> None:
        """Describe the comparison; nothing is loaded yet.

        Args:
            seed: Of the prompts.
            start: Loads a system by its name; raises ``PrepareError`` or ``WorkerError``.
            memory_bytes: What loaded systems may take together.
            questions: What workloads of talk ask.
        """
        self.ready: dict[str, dict[str, Any]] = {}
        self.seconds: dict[str, dict[str, list[float]]] = {}
        self.failures: dict[str, str] = {}
        self.quality: dict[str, Quality] = {}
        self.hardware = Hardware(0, 0.0, 0.0, 0.0)
        self._rng = np.random.default_rng(seed)
        self._start = start
        self._memory_bytes = memory_bytes
        self._questions = questions
        self._loaded: dict[str, Worker] = {}

    def load(self, name: str) -> None:
        """Load a system, for the first time or again."""
        try:
            worker = self._start(name)
        except (PrepareError, WorkerError) as error:
            self._leave_out(name, str(error))
            return
        self._loaded[name] = worker
        self.ready.setdefault(name, worker.ready)
        self._make_room(name)

    def run(self, workloads: Sequence[Workload], rounds: int) -> None:
        """Measure; a round before the first warms up and isn't counted.

        Raises:
            WorkerError: No system is left.
        """
        for round_ in range(rounds + 1):
            self.hardware = self.hardware.best(measure_hardware())
            for workload in workloads:
                self._turns(round_, workload)

    def read(
        self,
        reference: Predictor,
        passages: Sequence[Passage],
        sizes: Callable[[str], int],
        kept: Callable[[str], Kept],
    ) -> None:
        """Compare what each system predicts with a reference.

        One that can't say, such as a graph that computes a prompt's last token alone, stays.

        Args:
            reference: What the others are held against.
            passages: What is read.
            sizes: The bytes of a system's weights.
            kept: Where to remember what was found of a system, which takes the longest.
        """
        with tempfile.TemporaryDirectory() as folder:
            remembered = Remembered(reference, Path(folder))
            for name in list(self.ready):
                if name not in self._loaded:
                    self.load(name)
                if name not in self._loaded:
                    continue
                predictor = WorkerPredictor(self._loaded[name], Path(folder))
                try:
                    (found,) = compare(remembered, [predictor], passages, kept=[kept(name)])
                except WorkerError as error:
                    print(f"{name}: its quality is not known: {error}", flush=True)
                    continue
                self.quality[name] = Quality(sizes(name), found)
                print(f"reading  {name:24} {found.divergence:.5f} nats a token", flush=True)

    def close(self) -> None:
        """End every system."""
        for name in list(self._loaded):
            self._unload(name)

    def _turns(self, round_: int, workload: Workload) -> None:
        """Every system once, on the same prompts; each round begins with another one."""
        prompts, others = self._prompts(workload), self._prompts(workload)
        ends = self._questions.end_ids if self._questions and workload.is_talk else ()
        names = list(self.ready)
        if not names:
            raise WorkerError("no system is left to measure")
        first = round_ % len(names)
        for name in names[first:] + names[:first]:
            try:
                if name not in self._loaded:
                    self.load(name)
                    if name in self.failures:
                        continue
                    self._loaded[name].run(others, workload.output, ends)
                duration_s = self._loaded[name].run(prompts, workload.output, ends)
            except WorkerError as error:
                self._leave_out(name, str(error))
                continue
            self._make_room(name)
            print(
                f"{f'round {round_}' if round_ else 'warming'}  {workload.name:12} {name:24} "
                f"{duration_s:8.3f} s",
                flush=True,
            )
            if round_:
                by_system = self.seconds.setdefault(workload.name, {})
                by_system.setdefault(name, []).append(duration_s)

    def _prompts(self, workload: Workload) -> list[list[int]]:
        if workload.is_talk:
            assert self._questions is not None, "a workload of talk needs questions"
            return self._questions.some(self._rng, workload.concurrent)
        return [prompt.tolist() for prompt in workload.prompts(self._rng)]

    def _make_room(self, current: str) -> None:
        """End what loads the quickest, but not the system whose turn it is, until the rest fits."""
        others = [name for name in self._loaded if name != current]
        for name in sorted(others, key=lambda name: float(self.ready[name]["load_s"])):
            taken = sum(worker.memory_bytes for worker in self._loaded.values())
            if taken <= self._memory_bytes:
                return
            print(f"{name}: unloaded, {taken / 2**30:.1f} GiB were taken", flush=True)
            self._unload(name)

    def _leave_out(self, name: str, reason: str) -> None:
        """Go on without a system that failed: the others' figures are still worth having."""
        print(f"{name} is left out: {reason}", flush=True)
        self.failures[name] = reason
        self.ready.pop(name, None)
        for by_system in self.seconds.values():
            by_system.pop(name, None)
        self._unload(name)

    def _unload(self, name: str) -> None:
        worker = self._loaded.pop(name, None)
        if worker is not None:
            worker.stop()
