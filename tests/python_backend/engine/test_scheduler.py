"""The scheduler: whatever comes and goes, memory is accounted for and every sequence ends."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from contract.names import DEFAULT_PRIORITY, PRIORITY_LEVELS
from python_backend.engine import scheduler as scheduler_module
from python_backend.engine.attention import BLOCK_TOKENS
from python_backend.engine.kv_cache import BlockPool
from python_backend.engine.scheduler import MAX_OVERTAKES, Scheduled, Scheduler
from python_backend.engine.sequence import SamplingParams, Sequence


def make_sequence(
    prompt: int | list[int], max_tokens: int = 5, priority: int = DEFAULT_PRIORITY
) -> Sequence:
    tokens = [0] * prompt if isinstance(prompt, int) else prompt
    params = SamplingParams(max_tokens=max_tokens)
    return Sequence(np.array(tokens, dtype=np.int32), params, priority)


def make_scheduler(blocks: int = 64, max_sequences: int = 4, max_num_tokens: int = 64) -> Scheduler:
    return Scheduler(BlockPool(blocks), max_sequences, max_num_tokens)


def advance(scheduler: Scheduler, work: list[Scheduled]) -> None:
    """Do a step's work as the engine does."""
    samples = [each.sequence for each in work if each.samples]
    for each in work:
        scheduler.computed(each)
    for sequence in samples:
        sequence.append(0)
        if sequence.finished:
            scheduler.remove(sequence)


class Comings(RuleBasedStateMachine):
    """Sequences of any priority come, go and run, in little memory and with shared prefixes."""

    @initialize(blocks=st.integers(4, 10), rows=st.integers(1, 5), budget=st.integers(1, 40))
    def start(self, blocks: int, rows: int, budget: int) -> None:
        self.num_blocks, self.num_rows, self.budget = blocks, rows, budget
        self.scheduler = make_scheduler(blocks, rows, budget)
        self.alive: list[Sequence] = []

    @rule(
        kind=st.integers(0, 2),
        prompt=st.integers(1, 60),
        max_tokens=st.integers(1, 40),
        priority=st.integers(1, PRIORITY_LEVELS),
    )
    def add(self, kind: int, prompt: int, max_tokens: int, priority: int) -> None:
        if self.scheduler.pool.blocks_for(prompt + max_tokens) <= self.num_blocks:
            sequence = make_sequence([kind] * prompt, max_tokens, priority)
            self.scheduler.add(sequence)
            self.alive.append(sequence)

    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        if self.alive:
            sequence = data.draw(st.sampled_from(self.alive))
            self.scheduler.remove(sequence)
            self.alive.remove(sequence)

    @rule()
    def cancel_what_is_gone(self) -> None:
        self.scheduler.remove(make_sequence(1))

    @rule()
    def step(self) -> None:
        work = self.scheduler.schedule()
        assert bool(work) == bool(self.alive)
        self.check_budget(work)
        for each in work:
            assert each.num_tokens > 0
            end = each.sequence.num_computed + each.num_tokens
            assert self.scheduler.pool.blocks_for(end) <= len(each.sequence.blocks)
        advance(self.scheduler, work)
        self.alive = [sequence for sequence in self.alive if not sequence.finished]

    def check_budget(self, work: list[Scheduled]) -> None:
        scheduled = [each.sequence for each in work]
        assert len(scheduled) == len({id(sequence) for sequence in scheduled})
        decodes = sum(each.sequence.num_pending == 1 for each in work)
        assert sum(each.num_tokens for each in work) <= max(self.budget, decodes + 1)

    @invariant()
    def blocks_are_accounted_for(self) -> None:
        users = Counter(block for sequence in self.alive for block in sequence.blocks)
        pool = self.scheduler.pool
        assert pool.num_used == len(users)
        assert pool.num_used + pool.num_available == self.num_blocks
        for sequence in self.alive:
            assert self.scheduler.pool.blocks_for(sequence.num_computed) <= len(sequence.blocks)
            full = sequence.num_computed // BLOCK_TOKENS
            assert full <= len(sequence.digests) <= sequence.num_tokens // BLOCK_TOKENS

    @invariant()
    def what_is_written_to_is_shared_with_nobody(self) -> None:
        written = [
            block
            for sequence in self.scheduler.running
            for block in sequence.blocks[sequence.num_computed // BLOCK_TOKENS :]
        ]
        users = Counter(block for sequence in self.alive for block in sequence.blocks)
        assert all(users[block] == 1 for block in written)

    @invariant()
    def the_most_urgent_are_first(self) -> None:
        for held in (self.scheduler.running, self.scheduler.waiting):
            ranks = [(each.priority * (not each.is_promoted), each.id) for each in held]
            assert ranks == sorted(ranks)

    @invariant()
    def nobody_is_lost(self) -> None:
        held = [*self.scheduler.running, *self.scheduler.waiting]
        assert {sequence.id for sequence in held} == {sequence.id for sequence in self.alive}
        assert len(held) == len(self.alive)
        assert len(self.scheduler.running) <= self.num_rows
        assert self.scheduler.has_work == bool(self.alive)

    def teardown(self) -> None:
        if not hasattr(self, "scheduler"):
            return
        for _ in range(10_000):
            if not self.alive:
                break
            self.step()
        assert not self.scheduler.has_work
        assert self.scheduler.pool.num_used == 0


TestComings = Comings.TestCase
TestComings.settings = settings(max_examples=80, stateful_step_count=30, deadline=None)


def test_prompts_are_cut_to_the_budget_beside_what_runs() -> None:
    scheduler = make_scheduler(max_num_tokens=8)
    first, second, third = (make_sequence([kind] * n) for kind, n in ((1, 3), (2, 9), (3, 2)))
    scheduler.add(first)
    advance(scheduler, scheduler.schedule())
    scheduler.add(second)
    scheduler.add(third)
    work = scheduler.schedule()
    assert work == [Scheduled(first, 1), Scheduled(second, 7)]
    advance(scheduler, work)
    assert scheduler.schedule() == [
        Scheduled(first, 1),
        Scheduled(second, 2),
        Scheduled(third, 2),
    ]


def test_every_stream_advances_even_where_the_budget_is_smaller() -> None:
    scheduler = make_scheduler(max_num_tokens=2)
    sequences = [make_sequence([kind], max_tokens=9) for kind in range(3)]
    for sequence in sequences:
        scheduler.add(sequence)
    while scheduler.waiting:
        advance(scheduler, scheduler.schedule())
    assert [each.num_tokens for each in scheduler.schedule()] == [1, 1, 1]


def test_first_come_first_served() -> None:
    scheduler = make_scheduler(max_sequences=1)
    first, second = make_sequence([1], 2), make_sequence([2], 2)
    scheduler.add(first)
    scheduler.add(second)
    advance(scheduler, scheduler.schedule())
    assert scheduler.running == [first]
    advance(scheduler, scheduler.schedule())
    assert first.finished
    assert [each.sequence for each in scheduler.schedule()] == [second]
    assert second.first_scheduled_ns >= first.first_scheduled_ns > 0


def test_a_prompt_that_finds_no_room_waits() -> None:
    scheduler = make_scheduler(blocks=4)
    first, second = make_sequence([1] * 40, 2), make_sequence([2] * 40, 2)
    scheduler.add(first)
    scheduler.add(second)
    advance(scheduler, scheduler.schedule())
    assert scheduler.running == [first]
    assert scheduler.waiting == [second]
    advance(scheduler, scheduler.schedule())
    assert [each.sequence for each in scheduler.schedule()] == [second]


def test_where_memory_runs_out_the_youngest_waits_again() -> None:
    scheduler = make_scheduler(blocks=3)
    first, second = make_sequence([1] * 16, 30), make_sequence([2] * 16, 30)
    scheduler.add(first)
    scheduler.add(second)
    advance(scheduler, scheduler.schedule())
    assert scheduler.running == [first, second]
    advance(scheduler, scheduler.schedule())
    assert scheduler.num_preempted == 1
    assert scheduler.running == [first]
    assert scheduler.waiting == [second]
    assert second.blocks == []
    assert len(second.output) == 1


def test_an_urgent_prompt_goes_before_the_rest_of_a_long_one_that_is_not() -> None:
    scheduler = make_scheduler(max_num_tokens=64)
    long, urgent = make_sequence(300, priority=5), make_sequence([7] * 40, priority=1)
    scheduler.add(long)
    advance(scheduler, scheduler.schedule())
    scheduler.add(urgent)
    assert scheduler.schedule() == [Scheduled(urgent, 40), Scheduled(long, 24)]


def test_the_rest_of_a_long_prompt_is_put_off_so_often_and_no_more() -> None:
    scheduler = make_scheduler(blocks=4 * MAX_OVERTAKES + 40, max_sequences=99, max_num_tokens=64)
    long = make_sequence(300, priority=5)
    scheduler.add(long)
    advance(scheduler, scheduler.schedule())
    steps = 0
    while long.num_computed < 300:  # each step's budget would be an urgent one's
        steps += 1
        scheduler.add(make_sequence([steps] * 64, max_tokens=1, priority=1))
        advance(scheduler, scheduler.schedule())
        assert steps < 4 * MAX_OVERTAKES
    assert steps > MAX_OVERTAKES


def test_the_more_urgent_go_first_and_among_equals_the_earlier() -> None:
    scheduler = make_scheduler(max_sequences=1)
    sequences = [make_sequence([7], 1, priority) for priority in (3, 5, 1, 3, 1)]
    for sequence in sequences:
        scheduler.add(sequence)
    order = []
    while scheduler.has_work:
        (work,) = scheduler.schedule()
        order.append(sequences.index(work.sequence))
        advance(scheduler, [work])
    assert order == [2, 4, 0, 3, 1]


@pytest.mark.parametrize("urgent", [0, 1])
def test_where_memory_runs_out_the_least_urgent_waits_again(urgent: int) -> None:
    """The same two as above, but for their priorities: youth counts among equals only."""
    scheduler = make_scheduler(blocks=3)
    sequences = [
        make_sequence([kind] * 16, 30, priority=1 if kind == urgent else 5) for kind in (0, 1)
    ]
    for sequence in sequences:
        scheduler.add(sequence)
    advance(scheduler, scheduler.schedule())
    advance(scheduler, scheduler.schedule())
    assert scheduler.running == [sequences[urgent]]
    assert scheduler.waiting == [sequences[1 - urgent]]


def test_an_urgent_prompt_takes_memory_from_streams_that_are_less_urgent() -> None:
    scheduler = make_scheduler(blocks=6, max_num_tokens=17)
    stream, prompt = make_sequence([1] * 16, 60, 5), make_sequence([2] * 64, 2, 1)
    scheduler.add(stream)
    advance(scheduler, scheduler.schedule())
    scheduler.add(prompt)
    for _ in range(20):
        advance(scheduler, scheduler.schedule())
    assert prompt.finished
    assert not stream.finished


def test_the_least_urgent_ends_however_many_urgent_ones_come() -> None:
    """With so little memory that urgent sequences would put it off at every step."""
    scheduler = make_scheduler(blocks=4, max_sequences=2, max_num_tokens=32)
    humble = make_sequence([1] * 20, 30, priority=5)
    scheduler.add(humble)
    for kind in range(10, 400):
        while len(scheduler.waiting) < 3:
            scheduler.add(make_sequence([kind] * 20, 20, priority=1))
        advance(scheduler, scheduler.schedule())
        if humble.finished:
            break
    assert humble.finish_reason == "length"


def test_the_one_that_waits_longest_is_overtaken_so_often_and_no_more() -> None:
    scheduler = make_scheduler(max_sequences=1)
    humble = make_sequence([1], 1, priority=5)
    scheduler.add(humble)
    overtaken = 0
    while not humble.finished:
        scheduler.add(make_sequence([2], 1, priority=1))
        advance(scheduler, scheduler.schedule())
        overtaken += not humble.finished
    assert overtaken == MAX_OVERTAKES


def test_sequences_that_arrive_together_compute_their_shared_beginning_once() -> None:
    scheduler = make_scheduler(max_num_tokens=48)
    sequences = [make_sequence([7] * 64 + [kind] * 8, 1) for kind in range(3)]
    for sequence in sequences:
        scheduler.add(sequence)
    computed = 0
    while scheduler.has_work:
        work = scheduler.schedule()
        computed += sum(each.num_tokens for each in work)
        advance(scheduler, work)
    assert computed == 64 + 3 * 8
    assert (scheduler.num_looked_up_blocks, scheduler.num_reused_blocks) == (12, 8)


def test_a_sequence_that_waits_is_looked_up_without_reading_its_tokens_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    scheduler = make_scheduler(blocks=5)
    scheduler.add(make_sequence([1] * 40, 3))
    scheduler.add(make_sequence([2] * 40, 3))
    advance(scheduler, scheduler.schedule())
    assert scheduler.waiting
    monkeypatch.delattr(scheduler_module, "chain")
    advance(scheduler, scheduler.schedule())
    assert scheduler.waiting


def test_a_shared_beginning_is_computed_once() -> None:
    scheduler = make_scheduler()
    first, second = make_sequence([7] * 40), make_sequence([7] * 40 + [8])
    scheduler.add(first)
    advance(scheduler, scheduler.schedule())
    scheduler.add(second)
    work = scheduler.schedule()
    assert Scheduled(second, 41 - 32) in work
    assert second.blocks[:2] == first.blocks[:2]
    assert second.num_reused_blocks == 2


def test_at_least_the_last_token_is_computed() -> None:
    scheduler = make_scheduler()
    first, second = make_sequence([7] * 32, 1), make_sequence([7] * 32, 1)
    for sequence in (first, second):
        scheduler.add(sequence)
        work = scheduler.schedule()
        advance(scheduler, work)
    assert second.num_reused_blocks == 1
    assert second.finished


def test_the_least_recently_used_prefix_makes_room() -> None:
    scheduler = make_scheduler(blocks=4)
    for kind in (1, 2, 1, 3):
        sequence = make_sequence([kind] * 20, 1)
        scheduler.add(sequence)
        advance(scheduler, scheduler.schedule())
        assert sequence.num_reused_blocks == (
            1 if scheduler.pool.num_cached == 2 and kind == 1 else 0
        )
    again = make_sequence([1] * 20, 1)
    scheduler.add(again)
    scheduler.schedule()
    assert again.num_reused_blocks == 1
