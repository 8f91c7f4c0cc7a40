"""Which sequences run in the next step, and with how many of their tokens.

First come, first served, at every step: sequences join as soon as there is room and leave as they
finish. Long prompts are computed in chunks beside the running sequences, under a budget of tokens a
step that bounds the gap between two tokens of a running stream. Memory is taken as sequences grow;
where it runs out, the youngest running sequence waits again and later goes on where it was.

Pure bookkeeping: no model and no arrays but the tokens.
"""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass

from python_backend.engine.attention import BLOCK_TOKENS
from python_backend.engine.kv_cache import BlockPool, chain
from python_backend.engine.sequence import Sequence


@dataclass(frozen=True)
class Scheduled:
    """Tokens of one sequence that are computed in one step, from ``num_computed`` on."""

    sequence: Sequence
    num_tokens: int

    @property
    def samples(self) -> bool:
        """Whether the sequence's newest token is among them, so that a next one is chosen."""
        return self.sequence.num_computed + self.num_tokens == self.sequence.num_tokens


class Scheduler:
    """Owns the waiting and the running sequences and their blocks.

    Attributes:
        waiting: In the order in which they are to run.
        running: In the order in which they began.
        num_preempted: How often a running sequence had to wait again.
    """

    def __init__(self, pool: BlockPool, max_sequences: int, max_num_tokens: int) -> None:
        """Make an empty scheduler.

        Args:
            pool: The blocks of the KV cache.
            max_sequences: Most sequences that run at once.
            max_num_tokens: Budget of tokens a step, prompt and output tokens together.
        """
        self.pool = pool
        self._max_sequences = max_sequences
        self._max_num_tokens = max_num_tokens
        self.waiting: deque[Sequence] = deque()
        self.running: list[Sequence] = []
        self.num_preempted = 0
        self._emptied: list[int] = []

    def add(self, sequence: Sequence) -> None:
        """Queue a new sequence."""
        self.waiting.append(sequence)

    @property
    def has_work(self) -> bool:
        """Whether a sequence waits or runs."""
        return bool(self.waiting or self.running)

    def schedule(self) -> list[Scheduled]:
        """The next step's work: sequences that decode first, then prompts, then new sequences."""
        scheduled: list[Scheduled] = []
        preempted = self.num_preempted
        for sequence in [sequence for sequence in self.running if sequence.num_pending == 1]:
            self._continue(sequence, 1, scheduled)
        # A prompt advances in every step, even where decoding alone uses the budget up.
        budget = max(self._max_num_tokens - len(scheduled), 1)
        for sequence in [sequence for sequence in self.running if sequence.num_pending > 1]:
            if budget > 0:
                budget -= self._continue(sequence, min(sequence.num_pending, budget), scheduled)
        while budget > 0 and self.num_preempted == preempted and self._admit():
            sequence = self.running[-1]
            budget -= self._continue(sequence, min(sequence.num_pending, budget), scheduled)
        return scheduled

    def computed(self, work: Scheduled) -> None:
        """Note that tokens were computed, and what the blocks that became full hold."""
        self._computed(work.sequence, work.num_tokens)

    def _computed(self, sequence: Sequence, num_tokens: int) -> None:
        sequence.num_computed += num_tokens
        full = sequence.num_computed // BLOCK_TOKENS
        if full == len(sequence.digests):
            return
        tokens = sequence.tokens()
        for index in range(len(sequence.digests), full):
            before = sequence.digests[-1] if sequence.digests else b""
            part = tokens[index * BLOCK_TOKENS : (index + 1) * BLOCK_TOKENS]
            sequence.digests.append(chain(before, part))
            self.pool.remember(sequence.blocks[index], sequence.digests[-1])

    def remove(self, sequence: Sequence) -> None:
        """Take out a sequence and give its blocks back."""
        if sequence in self.running:
            self.running.remove(sequence)
        elif sequence in self.waiting:
            self.waiting.remove(sequence)
        self._release(sequence)

    def take_emptied(self) -> list[int]:
        """Blocks that hold nothing of use since the last call, for who owns the memory to clear."""
        emptied = [block for block in self._emptied if self.pool.is_free(block)]
        self._emptied = []
        return emptied

    def _continue(self, sequence: Sequence, num_tokens: int, scheduled: list[Scheduled]) -> int:
        """Schedule tokens of a running sequence, if there is room or room can be made.

        Returns:
            How many were scheduled: all of them, or none where the sequence has to wait again.
        """
        while sequence in self.running and not self._fits(sequence, num_tokens):
            busy = {id(work.sequence) for work in scheduled}
            self._preempt(next(other for other in reversed(self.running) if id(other) not in busy))
        if sequence not in self.running:
            return 0
        blocks = self.pool.take(self._wanted(sequence, num_tokens))
        sequence.blocks += blocks
        sequence.num_new_blocks += len(blocks)
        scheduled.append(Scheduled(sequence, num_tokens))
        return num_tokens

    def _admit(self) -> bool:
        """Start the first waiting sequence if all that it has to compute first finds room."""
        if not self.waiting or len(self.running) == self._max_sequences:
            return False
        sequence = self.waiting[0]
        tokens = sequence.tokens()
        sequence.blocks = self.pool.find(tokens)
        if blocks_for(len(tokens)) - len(sequence.blocks) > self.pool.num_available:
            self._release(sequence)
            return False
        self.waiting.popleft()
        self.running.append(sequence)
        sequence.num_reused_blocks = len(sequence.blocks)
        self._computed(sequence, len(sequence.blocks) * BLOCK_TOKENS)
        if not sequence.first_scheduled_ns:
            sequence.first_scheduled_ns = time.time_ns()
        return True

    def _fits(self, sequence: Sequence, num_tokens: int) -> bool:
        return self._wanted(sequence, num_tokens) <= self.pool.num_available

    def _wanted(self, sequence: Sequence, num_tokens: int) -> int:
        return blocks_for(sequence.num_computed + num_tokens) - len(sequence.blocks)

    def _preempt(self, sequence: Sequence) -> None:
        """Let a running sequence wait again, first in the queue.

        Its full blocks stay cached as long as nobody needs them, so it may lose little.
        """
        self.running.remove(sequence)
        self._release(sequence)
        self.waiting.appendleft(sequence)
        self.num_preempted += 1

    def _release(self, sequence: Sequence) -> None:
        self._emptied += self.pool.release(sequence.blocks)
        sequence.blocks = []
        sequence.digests = []
        sequence.num_computed = 0


def blocks_for(num_tokens: int) -> int:
    """Blocks that so many tokens take."""
    return -(-num_tokens // BLOCK_TOKENS)
