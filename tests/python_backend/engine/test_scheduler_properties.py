"""The scheduler: whatever comes and goes, memory is accounted for and every sequence ends."""

from __future__ import annotations

import copy
from collections import Counter
from typing import Any

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from contract.names import PRIORITY_LEVELS
from python_backend.engine.attention import BLOCK_TOKENS
from python_backend.engine.kv_cache import chain, root
from python_backend.engine.scheduled import Scheduled
from python_backend.engine.sequence import Sequence
from tests.examples import examples
from tests.python_backend.engine.scheduling import (
    advance,
    alone,
    babble,
    make_scheduler,
    make_sequence,
)


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
TestComings.settings = settings(max_examples=examples(80), stateful_step_count=30, deadline=None)
