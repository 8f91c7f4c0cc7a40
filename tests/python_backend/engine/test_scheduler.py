"""The scheduler: whatever comes and goes, memory is accounted for and every sequence ends."""

from __future__ import annotations

import copy
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from contract.names import DEFAULT_PRIORITY, PRIORITY_LEVELS
from python_backend.engine import scheduler as scheduler_module
from python_backend.engine.attention import BLOCK_TOKENS
from python_backend.engine.kv_cache import BlockPool, chain, root
from python_backend.engine.scheduled import Scheduled
from python_backend.engine.scheduler import MAX_OVERTAKES, SPARE_ROWS, Scheduler
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


class Comings(RuleBasedStateMachine):
    """Sequences of any priority come, go and run, in little memory and with shared prefixes.

    ``held`` is what lies in each place of each block: all that its keys and values follow from.
    """

    @initialize(
        blocks=st.integers(4, 10),
        rows=st.integers(1, 5),
        budget=st.integers(1, 40),
        spare_rows=st.integers(0, 12),
    )
    def start(self, blocks: int, rows: int, budget: int, spare_rows: int) -> None:
        self.num_blocks, self.num_rows, self.budget = blocks, rows, budget
        self.spare_rows = spare_rows
        self.scheduler = make_scheduler(blocks, rows, budget, spare_rows)
        self.alive: list[Sequence] = []
        self.held: dict[tuple[int, int], Any] = {}

    @rule(
        kind=st.integers(0, 2),
        prompt=st.integers(1, 60),
        max_tokens=st.integers(0, 40),
        priority=st.integers(1, PRIORITY_LEVELS),
        salt=st.sampled_from([b"", b"", b"a", b"b"]),
        share=st.sampled_from(["", "", "a", "b"]),
        scored=st.sampled_from([0, 0, 1, 20, 99]),
        ends=st.sampled_from([{}, {"end_ids": frozenset([2])}, {"stop_words": ((0, 2), (3, 1))}]),
    )
    def add(
        self,
        kind: int,
        prompt: int,
        max_tokens: int,
        priority: int,
        salt: bytes,
        share: str,
        scored: int,
        ends: dict[str, Any],
    ) -> None:
        if self.scheduler.pool.blocks_for(prompt + max_tokens) <= self.num_blocks:
            max_tokens = max_tokens or int(not scored)
            sequence = make_sequence(
                [kind] * prompt, max_tokens, priority, salt, num_prompt_log_probs=scored, **ends
            )
            sequence.share = share
            sequence.owner = share or sequence.owner
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

    @rule(wrong=st.lists(st.integers(0, 20), min_size=5, max_size=5), count=st.integers(1, 20))
    def guess(self, wrong: list[int], count: int) -> None:
        """Draft for some: so many tokens, from some place on wrong ones."""
        for sequence, first_wrong in zip(self.alive, wrong, strict=False):
            tokens = sequence.tokens().tolist()
            for ahead in range(count):
                tokens.append((babble(tokens) + (ahead >= first_wrong)) % 5)
            sequence.drafts = tokens[-count:]

    @rule()
    def clear(self) -> None:
        """Have the memory of what is of no use cleared: all of it, and nothing else."""
        for block in self.scheduler.take_emptied():
            for place in range(BLOCK_TOKENS):
                self.held.pop((block, place), None)
        of_use = {block for sequence in self.alive for block in sequence.blocks}
        of_use |= self.scheduler.pool._digest_of.keys()
        assert {block for block, _ in self.held} <= of_use

    @rule()
    def step(self) -> None:
        undrafted = copy.deepcopy(self.scheduler)
        for sequence in (*undrafted.running, *undrafted.waiting):
            sequence.drafts = []
        work = self.scheduler.schedule()
        assert bool(work) == bool(self.alive)
        self.check_budget(work)
        assert [(each.sequence.id, each.num_tokens) for each in undrafted.schedule()] == [
            (each.sequence.id, each.num_tokens - each.num_drafts) for each in work
        ]
        for each in work:
            assert each.num_tokens > 0
            end = each.sequence.num_computed + each.num_tokens
            assert self.scheduler.pool.blocks_for(end) <= len(each.sequence.blocks)
            self.write(each.sequence, each.sequence.num_computed, end)
        advance(self.scheduler, work, babble)
        for sequence in self.alive:
            if sequence.finished:
                self.check_what_it_became(sequence)
        self.alive = [sequence for sequence in self.alive if not sequence.finished]

    def write(self, sequence: Sequence, start: int, end: int) -> None:
        known = self.follows_from(sequence, [*sequence.tokens().tolist(), *sequence.drafts])
        for place in range(start, end):
            block = sequence.blocks[place // BLOCK_TOKENS]
            self.held[block, place % BLOCK_TOKENS] = known[place]

    @staticmethod
    def follows_from(sequence: Sequence, tokens: list[int]) -> list[Any]:
        return [(sequence.salt, *tokens[: place + 1]) for place in range(len(tokens))]

    def check_budget(self, work: list[Scheduled]) -> None:
        scheduled = [each.sequence for each in work]
        assert len(scheduled) == len({id(sequence) for sequence in scheduled})
        decodes = sum(each.sequence.num_pending == 1 for each in work)
        assert sum(each.num_tokens for each in work) <= max(self.budget, decodes + 1)
        assert sum(each.num_rows for each in work) <= len(work) + self.spare_rows

    def check_what_it_became(self, sequence: Sequence) -> None:
        assert (sequence.output, sequence.finish_reason) == alone(sequence)
        length = len(sequence.prompt)
        scored = min(sequence.params.num_prompt_log_probs, length - 1)
        places = [each.chosen for each in sequence.prompt_log_probs]
        assert places == list(range(length - scored, length))

    @invariant()
    def blocks_hold_what_sequences_computed(self) -> None:
        for sequence in self.alive:
            known = self.follows_from(sequence, sequence.tokens().tolist())
            for place in range(sequence.num_computed):
                block = sequence.blocks[place // BLOCK_TOKENS]
                assert self.held[block, place % BLOCK_TOKENS] == known[place]

    @invariant()
    def digests_say_what_blocks_hold(self) -> None:
        for block, digest in self.scheduler.pool._digest_of.items():
            salt, *tokens = self.held[block, BLOCK_TOKENS - 1]
            expected = root(salt)
            for start in range(0, len(tokens), BLOCK_TOKENS):
                part = tokens[start : start + BLOCK_TOKENS]
                expected = chain(expected, np.array(part, dtype=np.int32))
            assert digest == expected
            for place in range(BLOCK_TOKENS):
                end = len(tokens) - BLOCK_TOKENS + place + 1
                assert self.held[block, place] == (salt, *tokens[:end])

    @invariant()
    def blocks_are_accounted_for(self) -> None:
        users = Counter(block for sequence in self.alive for block in sequence.blocks)
        pool = self.scheduler.pool
        assert pool.num_used == len(users)
        assert pool.num_used + pool.num_available == self.num_blocks
        for sequence in self.alive:
            assert pool.blocks_for(sequence.num_computed) <= len(sequence.blocks)
            assert len(sequence.blocks) <= pool.blocks_for(sequence.num_tokens)
            full = sequence.num_computed // BLOCK_TOKENS
            assert full <= len(sequence.digests) <= sequence.num_tokens // BLOCK_TOKENS
            if sequence.num_pending == 1:  # it is about to fill no block that another waits for
                assert len(sequence.digests) == full

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
    assert work == [newest(first, 1), chunk(second, 7)]
    advance(scheduler, work)
    assert scheduler.schedule() == [
        newest(first, 1),
        newest(second, 2),
        newest(third, 2),
    ]


def test_every_stream_advances_even_where_the_budget_is_smaller() -> None:
    scheduler = make_scheduler(max_num_tokens=2)
    sequences = [make_sequence([kind], max_tokens=9) for kind in range(3)]
    for sequence in sequences:
        scheduler.add(sequence)
    while scheduler.waiting:
        advance(scheduler, scheduler.schedule())
    long = make_sequence([9] * 40)
    scheduler.add(long)
    assert scheduler.schedule() == [*(newest(each, 1) for each in sequences), chunk(long, 1)]
    assert scheduler.schedule()[3:] == [chunk(long, 1)]


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
    assert (second.blocks, second.num_computed) == ([], 0)
    assert len(second.output) == 1


def test_an_urgent_prompt_goes_before_the_rest_of_a_long_one_that_is_not() -> None:
    scheduler = make_scheduler(max_num_tokens=64)
    long, urgent = make_sequence(300, priority=5), make_sequence([7] * 40, priority=1)
    scheduler.add(long)
    advance(scheduler, scheduler.schedule())
    scheduler.add(urgent)
    work = scheduler.schedule()
    assert work == [newest(urgent, 40), chunk(long, 24)]
    advance(scheduler, work)
    another = make_sequence([8] * 63, priority=1)
    scheduler.add(another)
    assert scheduler.schedule() == [newest(urgent, 1), newest(another, 63)]


def test_the_rest_of_a_long_prompt_is_put_off_so_often_and_no_more() -> None:
    scheduler = make_scheduler(blocks=4 * MAX_OVERTAKES + 40, max_sequences=99, max_num_tokens=64)
    long = make_sequence(300, priority=5)
    scheduler.add(long)
    advance(scheduler, scheduler.schedule())
    steps = put_off = 0
    while long.num_computed < 300:  # each step's budget would be an urgent one's
        steps += 1
        scheduler.add(make_sequence([steps] * 64, max_tokens=1, priority=1))
        before = long.num_computed
        advance(scheduler, scheduler.schedule())
        put_off += long.num_computed == before
        assert put_off <= MAX_OVERTAKES
    assert put_off == MAX_OVERTAKES


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


def test_where_memory_runs_out_who_was_promoted_goes_before_the_most_urgent() -> None:
    scheduler = make_scheduler(blocks=3)
    urgent, humble = make_sequence([1] * 16, 30, priority=1), make_sequence([2] * 16, 30, 5)
    humble.is_promoted = True
    for sequence in (urgent, humble):
        scheduler.add(sequence)
    advance(scheduler, scheduler.schedule())
    advance(scheduler, scheduler.schedule())
    assert (scheduler.running, scheduler.waiting) == ([humble], [urgent])


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
    for _ in range(3):
        humble = make_sequence([1], 1, priority=5)
        scheduler.add(humble)
        overtaken = 0
        while not humble.finished:
            scheduler.add(make_sequence([2], 1, priority=1))
            advance(scheduler, scheduler.schedule())
            overtaken += not humble.finished
        assert overtaken == MAX_OVERTAKES
        while scheduler.has_work:
            advance(scheduler, scheduler.schedule())


def test_who_came_first_and_went_first_has_overtaken_nobody() -> None:
    scheduler = make_scheduler(max_sequences=1)
    for _ in range(3 * MAX_OVERTAKES):
        scheduler.add(make_sequence([1], 1))
        advance(scheduler, scheduler.schedule())
    humble, urgent = make_sequence([1], 1, priority=5), make_sequence([1], 1, priority=1)
    scheduler.add(humble)
    scheduler.add(urgent)
    assert scheduler.schedule() == [newest(urgent, 1)]


def test_a_sequence_that_had_to_wait_again_counts_once() -> None:
    scheduler = make_scheduler()
    known, sequence = make_sequence([7] * 32, 1), make_sequence([7] * 40, 30)
    scheduler.add(known)
    advance(scheduler, scheduler.schedule())
    scheduler.add(sequence)
    advance(scheduler, scheduler.schedule())
    first_ns = sequence.first_scheduled_ns
    assert (sequence.num_reused_blocks, sequence.num_new_blocks) == (2, 1)
    scheduler._preempt(sequence)
    advance(scheduler, scheduler.schedule())
    assert (sequence.num_reused_blocks, sequence.first_scheduled_ns) == (2, first_ns)
    assert (scheduler.num_looked_up_blocks, scheduler.num_reused_blocks) == (3, 2)
    assert scheduler.num_preempted == 1


def test_two_that_are_scored_share_the_rows_of_a_step() -> None:
    scheduler = make_scheduler(spare_rows=9)
    first, second = (make_sequence([kind] * 8, num_prompt_log_probs=7) for kind in range(2))
    for sequence in (first, second):
        scheduler.add(sequence)
    # A row each, seven more for the first, and two for the second.
    assert scheduler.schedule() == [
        Scheduled(first, 8, num_scored=7, num_chosen=1),
        Scheduled(second, 3, num_scored=3),
    ]


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
    assert newest(second, 41 - 32) in work
    assert second.blocks[:2] == first.blocks[:2]
    assert second.num_reused_blocks == 2


def test_memory_that_holds_nothing_of_use_is_told_once() -> None:
    scheduler = make_scheduler(blocks=4)
    first, second = make_sequence(20, 1), make_sequence([1] * 20, 30)
    for sequence in (first, second):
        scheduler.add(sequence)
    work = scheduler.schedule()
    _, last = first.blocks
    advance(scheduler, work)
    assert scheduler.take_emptied() == [last]  # the full one before it may serve another
    assert scheduler.take_emptied() == []
    given = list(second.blocks)
    scheduler.remove(second)
    third = make_sequence([2] * 40, 1)
    scheduler.add(third)
    scheduler.schedule()
    assert given[1] in third.blocks
    assert scheduler.take_emptied() == []  # it is used again


@pytest.mark.parametrize("together", [True, False])
def test_sequences_of_different_salts_share_nothing(together: bool) -> None:
    scheduler = make_scheduler(max_sequences=9, max_num_tokens=400)
    salts = (b"", b"a", b"b", b"a", b"")
    sequences = [make_sequence([7] * 40, 50, salt=salt) for salt in salts]
    for sequence in sequences:
        scheduler.add(sequence)
        if not together:
            advance(scheduler, scheduler.schedule())
    while scheduler.waiting:
        advance(scheduler, scheduler.schedule())
    assert [each.num_reused_blocks for each in sequences] == [0, 0, 0, 2, 2]
    held = [set(each.blocks[:2]) for each in sequences]
    assert (held[0], held[1]) == (held[4], held[3])
    assert len(held[0] | held[1] | held[2]) == 6


def test_a_salt_does_not_stand_for_tokens() -> None:
    """Whoever chooses a salt can't make it another sequence's digest."""
    scheduler = make_scheduler()
    first = make_sequence([7] * 40)
    scheduler.add(first)
    advance(scheduler, scheduler.schedule())
    for salt in (first.digests[0], first.prompt[:BLOCK_TOKENS].tobytes()):
        second = make_sequence([7] * 24, salt=salt)
        scheduler.add(second)
        scheduler.schedule()
        assert second.num_reused_blocks == 0


def test_at_least_the_last_token_is_computed() -> None:
    scheduler = make_scheduler()
    first, second = make_sequence([7] * 32, 1), make_sequence([7] * 32, 1)
    for sequence in (first, second):
        scheduler.add(sequence)
        work = scheduler.schedule()
        advance(scheduler, work)
    assert second.num_reused_blocks == 1
    assert second.finished


def test_a_prompt_is_scored_in_chunks_of_the_rows_that_are_left() -> None:
    scheduler = make_scheduler(max_num_tokens=64, spare_rows=9)
    first, second = make_sequence([1]), make_sequence([2] * 40, num_prompt_log_probs=25)
    for sequence in (first, second):
        scheduler.add(sequence)
    # After 14 tokens of which nothing is wanted; the first one has a row of its own.
    assert scheduler.schedule() == [newest(first, 1), Scheduled(second, 24, num_scored=10)]
    advance(scheduler, [newest(first, 1), Scheduled(second, 24, num_scored=10)])
    for num_scored in (10, 5):
        work = scheduler.schedule()
        num_chosen = int(num_scored == 5)
        expected = Scheduled(second, num_scored + num_chosen, num_scored, num_chosen)
        assert work == [newest(first, 1), expected]
        advance(scheduler, work)
    assert scheduler.schedule() == [newest(first, 1), newest(second, 1)]


@pytest.mark.parametrize(("scored", "reused"), [(0, 3), (1, 3), (15, 3), (16, 2), (33, 1), (99, 0)])
def test_what_is_scored_is_computed_though_its_prefix_is_known(scored: int, reused: int) -> None:
    scheduler = make_scheduler(spare_rows=5)
    for num_scored in (0, scored):
        sequence = make_sequence([7] * 64, 1, num_prompt_log_probs=num_scored)
        scheduler.add(sequence)
        while not sequence.finished:
            advance(scheduler, scheduler.schedule())
    assert sequence.num_reused_blocks == reused
    assert len(sequence.prompt_log_probs) == min(scored, 63)


def test_what_was_scored_before_a_sequence_had_to_wait_is_not_scored_again() -> None:
    scheduler = make_scheduler(spare_rows=4)
    sequence = make_sequence([7] * 40, 1, num_prompt_log_probs=39)
    scheduler.add(sequence)
    for _ in range(4):
        advance(scheduler, scheduler.schedule())
    scheduler._preempt(sequence)
    assert scheduler.schedule() == [Scheduled(sequence, 9, num_scored=5)]
    assert sequence.num_computed == 16


def test_drafts_are_computed_with_the_newest_token_and_taken_as_far_as_they_are_right() -> None:
    scheduler = make_scheduler()
    sequence = make_sequence([0] * 15, 90)
    scheduler.add(sequence)
    advance(scheduler, scheduler.schedule(), babble)
    output, _ = alone(sequence)
    for right in range(6):
        before = list(sequence.output)
        following = output[len(before) :]
        sequence.drafts = [*following[:right], (following[right] + 1) % 5, 0, 1]
        work = scheduler.schedule()
        assert work == [Scheduled(sequence, right + 4, num_chosen=right + 4)]
        advance(scheduler, work, babble)
        assert sequence.output == before + following[: right + 1]
        assert sequence.num_pending == 1
        assert len(sequence.blocks) == scheduler.pool.blocks_for(sequence.num_tokens)


def test_drafts_take_what_is_left_of_a_step() -> None:
    scheduler = make_scheduler(max_num_tokens=20, spare_rows=7)
    first, second, prompt = make_sequence([1], 90), make_sequence([2], 5), make_sequence([3] * 26)
    for sequence in (first, second):
        scheduler.add(sequence)
    advance(scheduler, scheduler.schedule())
    scheduler.add(prompt)
    first.drafts = second.drafts = [9] * 6
    assert scheduler.schedule() == [newest(first, 1), newest(second, 1), chunk(prompt, 18)]
    prompt.num_computed += 18
    # Ten tokens and seven rows are left; the second has room for three more before its last.
    assert scheduler.schedule() == [
        Scheduled(first, 7, num_chosen=7),
        Scheduled(second, 2, num_chosen=2),
        newest(prompt, 8),
    ]
    first.drafts = []
    assert scheduler.schedule()[1] == Scheduled(second, 4, num_chosen=4)


def test_drafts_of_several_share_what_is_left_of_a_step() -> None:
    scheduler = make_scheduler(max_num_tokens=10)
    first, second = make_sequence([1], 90), make_sequence([2], 90)
    for sequence in (first, second):
        scheduler.add(sequence)
    advance(scheduler, scheduler.schedule())
    first.drafts = second.drafts = [9] * 6
    assert scheduler.schedule() == [
        Scheduled(first, 7, num_chosen=7),
        Scheduled(second, 3, num_chosen=3),
    ]


def test_drafts_wait_until_what_comes_before_them_is_computed() -> None:
    scheduler = make_scheduler(max_num_tokens=20)
    sequence = make_sequence(30, 90)
    sequence.drafts = [9] * 3
    scheduler.add(sequence)
    advance(scheduler, scheduler.schedule())
    assert sequence.num_computed == 20
    assert scheduler.schedule() == [Scheduled(sequence, 13, num_chosen=4)]


def test_who_has_room_goes_on_where_another_has_to_wait_again() -> None:
    scheduler = make_scheduler(blocks=3)
    first, second, third = (make_sequence([kind] * n, 30) for kind, n in ((1, 16), (2, 8), (3, 16)))
    for sequence in (first, second, third):
        scheduler.add(sequence)
    advance(scheduler, scheduler.schedule())
    assert scheduler.schedule() == [newest(first, 1), newest(second, 1)]
    assert scheduler.waiting == [third]


def test_drafts_put_nobody_off_for_want_of_memory() -> None:
    scheduler = make_scheduler(blocks=3)
    first, second = make_sequence([1] * 12, 30), make_sequence([2] * 12, 30)
    for sequence in (first, second):
        scheduler.add(sequence)
    advance(scheduler, scheduler.schedule())
    first.drafts = second.drafts = [9] * 25
    # A block more for the first; the second's has three places left after its newest token.
    assert scheduler.schedule() == [
        Scheduled(first, 20, num_chosen=20),
        Scheduled(second, 4, num_chosen=4),
    ]
    assert scheduler.num_preempted == 0


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
