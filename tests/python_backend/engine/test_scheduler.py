"""The scheduler: whatever comes and goes, rows stay together and every sequence ends."""

from __future__ import annotations

from collections import deque

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from python_backend.engine.scheduler import Batch, Chunk, Move, Scheduler
from python_backend.engine.sequence import SamplingParams, Sequence


def make_sequence(prompt: int, max_tokens: int = 5) -> Sequence:
    return Sequence(np.zeros(prompt, dtype=np.int32), SamplingParams(max_tokens=max_tokens))


def advance(batch: Batch) -> list[Sequence]:
    """Do a step's work as the engine does; returns the sequences that have one more token."""
    for sequence in batch.decodes:
        sequence.num_computed += 1
    for chunk in batch.chunks:
        chunk.sequence.num_computed += chunk.tokens
    done = [chunk.sequence for chunk in batch.chunks if not chunk.sequence.is_prefill]
    for sequence in (*batch.decodes, *done):
        sequence.append(0)
    return [*batch.decodes, *done]


class Comings(RuleBasedStateMachine):
    """Sequences come, go and run, in any order.

    Beside the scheduler, two plain models: the queue of sequences that were never scheduled, and
    the cache's rows, each with whose tokens and how many it holds.
    """

    @initialize(rows=st.integers(1, 5), budget=st.integers(1, 12))
    def start(self, rows: int, budget: int) -> None:
        self.num_rows, self.budget = rows, budget
        self.scheduler = Scheduler(rows, budget)
        self.queue: deque[Sequence] = deque()
        self.alive: list[Sequence] = []
        self.rows: dict[int, tuple[int, int]] = {}

    @rule(prompt=st.integers(1, 20), max_tokens=st.integers(1, 6))
    def add(self, prompt: int, max_tokens: int) -> None:
        sequence = make_sequence(prompt, max_tokens)
        self.scheduler.add(sequence)
        self.queue.append(sequence)
        self.alive.append(sequence)

    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        if self.alive:
            self.remove(data.draw(st.sampled_from(self.alive)))

    @rule()
    def cancel_what_is_gone(self) -> None:
        assert self.scheduler.remove(make_sequence(1)) == []

    @rule()
    def step(self) -> None:
        batch = self.scheduler.schedule()
        self.check_budget(batch)
        for row, sequence in enumerate(batch.decodes):
            assert self.rows[row] == (sequence.id, sequence.num_computed)
            self.rows[row] = (sequence.id, sequence.num_computed + 1)
        for chunk in batch.chunks:
            if chunk.sequence.num_computed:
                assert self.rows[chunk.row] == (chunk.sequence.id, chunk.sequence.num_computed)
            else:
                assert chunk.sequence is self.queue.popleft()
            self.rows[chunk.row] = (chunk.sequence.id, chunk.sequence.num_computed + chunk.tokens)
        for sequence in advance(batch):
            if sequence.finished:
                self.remove(sequence)

    def remove(self, sequence: Sequence) -> None:
        for move in self.scheduler.remove(sequence):
            owner, tokens = self.rows[move.source]
            assert tokens == move.tokens
            self.rows[move.target] = (owner, tokens)
        self.alive.remove(sequence)
        if sequence in self.queue:
            self.queue.remove(sequence)

    def check_budget(self, batch: Batch) -> None:
        used = len(batch.decodes) + sum(chunk.tokens for chunk in batch.chunks)
        bound = max(self.budget, len(batch.decodes) + 1)
        assert used <= bound
        assert used > 0 or not self.alive
        assert all(chunk.tokens > 0 for chunk in batch.chunks)
        # Nothing waits while there is a row and budget for it.
        assert not self.scheduler.waiting or used == bound or self.rows_are_full()

    def rows_are_full(self) -> bool:
        return len(self.scheduler.running) == self.num_rows

    @invariant()
    def the_ith_running_sequence_lies_in_row_i(self) -> None:
        for row, sequence in enumerate(self.scheduler.running):
            assert self.rows[row] == (sequence.id, sequence.num_computed)
        assert len(self.scheduler.running) <= self.num_rows

    @invariant()
    def only_the_last_prompt_is_unfinished(self) -> None:
        assert not any(sequence.is_prefill for sequence in self.scheduler.running[:-1])

    @invariant()
    def first_come_first_served(self) -> None:
        assert self.scheduler.waiting == self.queue

    @invariant()
    def nobody_is_lost(self) -> None:
        held = [*self.scheduler.running, *self.scheduler.waiting]
        assert sorted(sequence.id for sequence in held) == [sequence.id for sequence in self.alive]
        assert self.scheduler.has_work == bool(self.alive)

    def teardown(self) -> None:
        if not hasattr(self, "scheduler"):
            return
        steps = sum(len(sequence.prompt) + sequence.params.max_tokens for sequence in self.alive)
        for _ in range(steps):
            self.step()
        assert not self.scheduler.has_work


TestComings = Comings.TestCase
TestComings.settings = settings(max_examples=50, stateful_step_count=25)


def test_prompts_are_cut_to_the_budget_beside_what_runs() -> None:
    scheduler = Scheduler(max_sequences=4, max_num_tokens=8)
    first, second, third = (make_sequence(prompt) for prompt in (3, 9, 2))
    scheduler.add(first)
    advance(scheduler.schedule())
    scheduler.add(second)
    scheduler.add(third)
    batch = scheduler.schedule()
    assert batch == Batch(decodes=[first], chunks=[Chunk(second, row=1, tokens=7)])
    advance(batch)
    assert scheduler.schedule() == Batch(
        decodes=[first], chunks=[Chunk(second, row=1, tokens=2), Chunk(third, row=2, tokens=2)]
    )


def test_a_prompt_advances_even_where_decoding_uses_the_budget_up() -> None:
    scheduler = Scheduler(max_sequences=4, max_num_tokens=2)
    for _ in range(3):
        scheduler.add(make_sequence(1))
    while scheduler.waiting:
        advance(scheduler.schedule())
    late = make_sequence(4)
    scheduler.add(late)
    assert scheduler.schedule().chunks == [Chunk(late, row=3, tokens=1)]


def test_what_runs_moves_up_and_an_unfinished_prompt_stays_last() -> None:
    scheduler = Scheduler(max_sequences=4, max_num_tokens=6)
    first, second, third, prompt = (make_sequence(tokens) for tokens in (1, 1, 1, 9))
    for sequence in (first, second, third, prompt):
        scheduler.add(sequence)
    advance(scheduler.schedule())
    assert prompt.is_prefill
    moves = scheduler.remove(first)
    assert moves == [Move(2, 0, third.num_computed), Move(3, 2, prompt.num_computed)]
    assert scheduler.running == [third, second, prompt]


def test_the_last_one_leaves_without_a_move() -> None:
    scheduler = Scheduler(max_sequences=2, max_num_tokens=8)
    first, second = make_sequence(1), make_sequence(1)
    scheduler.add(first)
    scheduler.add(second)
    advance(scheduler.schedule())
    assert scheduler.remove(second) == []
    assert scheduler.remove(second) == []
    assert scheduler.running == [first]


def test_the_time_of_the_first_schedule_is_noted() -> None:
    scheduler = Scheduler(max_sequences=1, max_num_tokens=8)
    first, second = make_sequence(1), make_sequence(1)
    scheduler.add(first)
    scheduler.add(second)
    scheduler.schedule()
    assert first.first_scheduled_ns >= first.arrival_ns
    assert second.first_scheduled_ns == 0
