"""What tests of the scheduler share: sequences, and a model that babbles."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from contract.names import DEFAULT_PRIORITY
from python_backend.engine.kv_cache import BlockPool
from python_backend.engine.scheduled import Scheduled
from python_backend.engine.scheduler import SPARE_ROWS, Scheduler
from python_backend.engine.sequence import LogProbs, Outcome, SamplingParams, Sequence

Follow = Callable[[list[int]], int]
"""What a model would choose after some tokens."""


def make_sequence(
    prompt: int | list[int],
    max_tokens: int = 5,
    priority: int = DEFAULT_PRIORITY,
    salt: bytes = b"",
    **settings: Any,
) -> Sequence:
    tokens = [0] * prompt if isinstance(prompt, int) else prompt
    params = SamplingParams(max_tokens=max_tokens, **settings)
    return Sequence(np.array(tokens, dtype=np.int32), params, priority, salt)


def make_scheduler(
    blocks: int = 64,
    max_sequences: int = 4,
    max_num_tokens: int = 64,
    spare_rows: int = SPARE_ROWS,
    clock: Callable[[], float] = time.monotonic,
) -> Scheduler:
    return Scheduler(BlockPool(blocks), max_sequences, max_num_tokens, spare_rows, clock)


def chunk(sequence: Sequence, num_tokens: int) -> Scheduled:
    """Tokens without the newest one: no logits are wanted."""
    return Scheduled(sequence, num_tokens)


def newest(sequence: Sequence, num_tokens: int) -> Scheduled:
    """Tokens up to the newest one, after which a token is chosen."""
    return Scheduled(sequence, num_tokens, num_chosen=1)


def outcome_of(work: Scheduled, follow: Follow) -> Outcome:
    """What a model says; the log probability of a prompt's token is its place."""
    sequence = work.sequence
    end = sequence.num_computed + work.num_tokens
    scored = range(end - work.num_rows + 1, end - work.num_chosen + 1)
    tokens = sequence.tokens().tolist()
    chosen = [follow(tokens + sequence.drafts[:ahead]) for ahead in range(work.num_chosen)]
    assert not chosen or end - work.num_chosen == len(tokens) - 1
    log_probs = [LogProbs(place, [], []) for place in scored]
    return Outcome(log_probs, chosen, [])


def advance(scheduler: Scheduler, work: list[Scheduled], follow: Follow = lambda _: 0) -> None:
    """Do a step's work as the engine does."""
    for each, outcome in [(each, outcome_of(each, follow)) for each in work]:
        scheduler.computed(each, right=each.sequence.take(outcome))
        if each.sequence.finished:
            scheduler.remove(each.sequence)


def babble(tokens: list[int]) -> int:
    return (7 * tokens[-1] + len(tokens) ** 2 // 3) % 5


def alone(sequence: Sequence) -> tuple[list[int], str]:
    """What becomes of a sequence, and why it ends, a token at a time."""
    single = Sequence(sequence.prompt, sequence.params)
    while not single.finished:
        single.append(babble(single.tokens().tolist()))
    return single.output, single.finish_reason
