"""Which sequences run in the next step.

First come, first served, at every step: new sequences join as soon as a cache row is free, and
leave as they finish. Prompts are computed in chunks beside the running sequences, under a budget of
tokens a step that bounds the gap between two tokens of a running stream. Pure bookkeeping: no
model, no arrays.
"""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass, field

from python_backend.engine.sequence import Sequence


@dataclass(frozen=True)
class Chunk:
    """Prompt tokens of one sequence, computed in one step.

    Attributes:
        sequence: Whose prompt.
        row: Its cache row.
        tokens: How many tokens, from ``sequence.num_computed`` on.
    """

    sequence: Sequence
    row: int
    tokens: int


@dataclass
class Batch:
    """The work of one step.

    Attributes:
        decodes: Sequences that get one token each; the i-th lies in cache row i.
        chunks: Prompt chunks, in the rows that follow.
    """

    decodes: list[Sequence] = field(default_factory=list)
    chunks: list[Chunk] = field(default_factory=list)


@dataclass(frozen=True)
class Move:
    """A cache row that takes another's place, with so many computed tokens."""

    source: int
    target: int
    tokens: int


class Scheduler:
    """Owns the waiting and the running sequences.

    The i-th running sequence lies in cache row i. Only the last one can have an unfinished prompt.
    """

    def __init__(self, max_sequences: int, max_num_tokens: int) -> None:
        """Make an empty scheduler.

        Args:
            max_sequences: Rows of the cache.
            max_num_tokens: Budget of tokens a step, prompt and output tokens together.
        """
        self._max_sequences = max_sequences
        self._max_num_tokens = max_num_tokens
        self.waiting: deque[Sequence] = deque()
        self.running: list[Sequence] = []

    def add(self, sequence: Sequence) -> None:
        """Queue a new sequence."""
        self.waiting.append(sequence)

    @property
    def has_work(self) -> bool:
        """Whether a sequence waits or runs."""
        return bool(self.waiting or self.running)

    def schedule(self) -> Batch:
        """The next step's work. Running sequences come first; prompts share what is left."""
        batch = Batch(decodes=[sequence for sequence in self.running if not sequence.is_prefill])
        # A prompt advances in every step, even where decoding alone uses the budget up.
        budget = max(self._max_num_tokens - len(batch.decodes), 1)
        while budget > 0:
            if self.running and self.running[-1].is_prefill and not batch.chunks:
                sequence = self.running[-1]
            elif self.waiting and len(self.running) < self._max_sequences:
                sequence = self.waiting.popleft()
                sequence.first_scheduled_ns = time.time_ns()
                self.running.append(sequence)
            else:
                break
            tokens = min(budget, len(sequence.prompt) - sequence.num_computed)
            batch.chunks.append(Chunk(sequence, len(self.running) - 1, tokens))
            budget -= tokens
        return batch

    def remove(self, sequence: Sequence) -> list[Move]:
        """Take out a sequence that ended; rows move up so that running ones stay together.

        Returns:
            The moves to make in the cache, in order.
        """
        if sequence not in self.running:
            if sequence in self.waiting:
                self.waiting.remove(sequence)
            return []
        moves: list[Move] = []
        hole = self.running.index(sequence)
        last = len(self.running) - 1
        if self.running[last].is_prefill and hole < last - 1:
            hole = self._fill(hole, last - 1, moves)
        self._fill(hole, last, moves)
        self.running.pop()
        return moves

    def _fill(self, hole: int, source: int, moves: list[Move]) -> int:
        """Move the sequence in a row into the hole; its own row is the hole now."""
        if hole != source:
            moved = self.running[source]
            self.running[hole] = moved
            moves.append(Move(source, hole, moved.num_computed))
        return source
