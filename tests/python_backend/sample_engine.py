"""An engine in sixty lines: what serving asks of one, and the template of the next.

It "generates" each prompt's own tokens, over and over. Serving's tests run on it.
"""

from __future__ import annotations

import time

import numpy as np
from numpy.typing import NDArray

from contract.errors import EngineError, InvalidRequestError
from python_backend.engine.engine_core import EngineCore, EngineStats
from python_backend.engine.sequence import SamplingParams, Sequence

CONTEXT = 4096
END = 2


class SampleEngine(EngineCore):
    """Repeats prompts.

    Attributes:
        fails: Whether the next step fails.
    """

    def __init__(self, max_sequences: int = 4) -> None:
        self.batch_size = 0
        self.fails = False
        self._max_sequences = max_sequences
        self._waiting: list[Sequence] = []
        self._running: list[Sequence] = []

    @property
    def name(self) -> str:
        return "a sample"

    @property
    def end_token_ids(self) -> tuple[int, ...]:
        return (END,)

    @property
    def has_work(self) -> bool:
        return bool(self._waiting or self._running)

    def check(self, prompt: NDArray[np.int32], params: SamplingParams) -> SamplingParams:
        if not 0 < prompt.size <= CONTEXT - params.max_tokens:
            raise InvalidRequestError(
                f"the prompt has {prompt.size} tokens and max_tokens is {params.max_tokens}; "
                f"together they can be {CONTEXT}"
            )
        return params

    def add(self, sequence: Sequence) -> None:
        self._waiting.append(sequence)

    def step(self) -> list[Sequence]:
        while self._waiting and len(self._running) < self._max_sequences:
            sequence = self._waiting.pop(0)
            sequence.first_scheduled_ns = sequence.first_scheduled_ns or time.time_ns()
            self._running.append(sequence)
        if self.fails:
            self.fails = False
            raise EngineError("the sample is broken")
        advanced = list(self._running)
        self.batch_size = len(advanced)
        for sequence in advanced:
            sequence.append(int(sequence.prompt[len(sequence.output) % sequence.prompt.size]))
            if sequence.finished:
                self._running.remove(sequence)
        return advanced

    def cancel(self, sequence: Sequence) -> None:
        if not sequence.finished:
            sequence.finish_reason = "cancelled"
            self.drop(sequence)

    def drop(self, sequence: Sequence) -> None:
        for queue in (self._waiting, self._running):
            if sequence in queue:
                queue.remove(sequence)

    def drop_running(self) -> list[Sequence]:
        dropped, self._running = self._running, []
        return dropped

    def stats(self) -> EngineStats:
        return EngineStats(num_running=len(self._running), num_waiting=len(self._waiting))
