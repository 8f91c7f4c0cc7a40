"""Which sequences run in the next step, and with how many of their tokens.

A sequence has tokens that are known and tokens that are computed, and a step closes the distance,
whether it is a prompt's, what was lost for want of memory, or the newest token's alone. Drafts are
computed with what is left of a step, and what was wrong of them is taken back.

The most urgent first: by priority, and within a priority in the order of arrival, as far as that is
fair (`fairness`). Sequences join as soon as there is room, which somebody less urgent, or with more
than a fair share, makes for them, and leave as they finish. Long prompts are computed in chunks
beside the running sequences, under a budget of tokens a step that bounds the gap between two tokens
of a running stream; it is smaller where somebody else may come meanwhile. Memory is taken as
sequences grow; where it runs out, the least urgent running sequence waits again and later goes on
where it was.

Nobody starves: after ``MAX_OVERTAKES`` others have been let in before the sequence that has waited
longest, or before the rest of a prompt that runs, it is promoted above all priorities, for
admission as for memory. The oldest promoted sequence is put off by nobody, so it ends, and the next
becomes the oldest.

Pure bookkeeping: no model and no arrays but the tokens.
"""

from __future__ import annotations

import time
from bisect import insort
from collections.abc import Callable
from dataclasses import dataclass, field

from python_backend.engine.fairness import (
    LEAST_TOKENS,
    PROMOTED_PART,
    SHARED_PART,
    Beginnings,
    Company,
    Turns,
    first_in_line,
    urgency,
    who_yields,
)
from python_backend.engine.kv_cache import BlockPool, chain, root
from python_backend.engine.scheduled import Scheduled
from python_backend.engine.sequence import Sequence

MAX_OVERTAKES = 8
"""Sequences that are let in before the one that waits longest, at most: others of higher priority
keep eight ninths of the admissions however many of lower priority wait."""


SPARE_ROWS = 64
"""Rows of logits a step beside one for each sequence: a step that scores so many tokens of a prompt
takes little longer for each than larger ones do."""


@dataclass
class _Step:
    """A step in the making.

    Attributes:
        tokens: What is left of its budget of tokens, beside the newest one of each sequence.
        rows: What is left of its rows of logits, beside one for each sequence.
        work: What is scheduled so far.
    """

    tokens: int
    rows: int
    work: list[Scheduled] = field(default_factory=list)


class Scheduler:
    """Owns the waiting and the running sequences and their blocks.

    Attributes:
        waiting: The most urgent first.
        running: The most urgent first.
        num_preempted: How often a running sequence had to wait again.
        num_looked_up_blocks: Full blocks of prompts that were looked up in the prefix cache.
        num_reused_blocks: Those that were found there.
    """

    def __init__(
        self,
        pool: BlockPool,
        max_sequences: int,
        max_num_tokens: int,
        spare_rows: int = SPARE_ROWS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Make an empty scheduler.

        Args:
            pool: The blocks of the KV cache.
            max_sequences: Most sequences that run at once.
            max_num_tokens: Budget of tokens a step, prompt and output tokens together.
            spare_rows: Budget of rows of logits a step beside one for each sequence, for prompts
                that are scored and for drafts.
            clock: What time it is.
        """
        self.pool = pool
        self._max_sequences = max_sequences
        self._max_num_tokens = max_num_tokens
        self._spare_rows = spare_rows
        self.waiting: list[Sequence] = []
        self.running: list[Sequence] = []
        self.num_preempted = 0
        self.num_looked_up_blocks = 0
        self.num_reused_blocks = 0
        self._overtakes = 0
        self._turns = Turns()
        self._company = Company(clock)
        self._emptied: set[int] = set()

    def add(self, sequence: Sequence) -> None:
        """Queue a new sequence."""
        insort(self.waiting, sequence, key=urgency)
        if not sequence.is_promoted:  # a probe is nobody's
            self._company.note(sequence)

    @property
    def has_work(self) -> bool:
        """Whether a sequence waits or runs."""
        return bool(self.waiting or self.running)

    def schedule(self) -> list[Scheduled]:
        """The next step's work: what each running sequence lacks, as far as the budget goes.

        Whoever lacks one token has it, as that is all that a stream waits for: nobody's many tokens
        put it off, and it takes no turn, unless its tenant has many such and another's answer
        begins. The others share what is left, which is never nothing, so that they advance in
        every step.
        """
        self._make_room()
        preempted = self.num_preempted
        single = sum(sequence.num_pending == 1 for sequence in self.running)
        beginnings = Beginnings(self.running, self.waiting)
        most = beginnings.prompt_tokens(self._prompt_tokens(single))
        step = _Step(most, self._spare_rows)
        left_out = beginnings.sitting_out()
        for sequence in sorted(self.running, key=self._turns.urgency):
            if self.num_preempted > preempted and sequence not in self.running:
                continue
            if sequence.id in left_out:
                continue
            if sequence.num_pending == 1:
                self._continue(sequence, 1, step)
                continue
            if self.num_preempted == preempted:
                self._start_waiting(step, before=sequence)
            if step.tokens > 0:
                most = self._most(sequence, step)
                step.tokens -= self._continue(sequence, most, step)
        if self.num_preempted == preempted:
            self._start_waiting(step)
        self._add_drafts(step)
        return step.work

    def _prompt_tokens(self, single: int) -> int:
        """A step's budget beside those who lack one token."""
        most = max(self._max_num_tokens - single, 1)
        if not self._company.is_mixed:
            return most
        return min(most, max(self._max_num_tokens // SHARED_PART, LEAST_TOKENS))

    def _most(self, sequence: Sequence, step: _Step) -> int:
        """How much of a step a prompt may take: half where it was promoted and others are there."""
        if sequence.is_promoted and self._company.is_mixed:
            return max(step.tokens // 2, 1)
        return step.tokens

    def computed(self, work: Scheduled, right: int = 0) -> None:
        """Note that tokens were computed, and what the blocks that became full hold.

        Args:
            work: What was computed.
            right: How many of its drafts were right; the sequence has them in its output now.
        """
        sequence = work.sequence
        full_before = sequence.num_computed // self.pool.block_tokens
        sequence.num_computed += work.num_tokens - work.num_drafts + right
        prompt_done = min(sequence.num_computed, len(sequence.prompt))
        sequence.num_prompt_done = max(sequence.num_prompt_done, prompt_done)
        full = sequence.num_computed // self.pool.block_tokens
        if full > full_before:
            self._extend_digests(sequence, full)
        for index in range(full_before, full):
            self.pool.remember(sequence.blocks[index], sequence.digests[index])
        if right < work.num_drafts:
            kept = self.pool.blocks_for(sequence.num_tokens)
            self._emptied.update(self.pool.release(sequence.blocks[kept:]))
            del sequence.blocks[kept:]

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
        self._emptied.clear()
        return emptied

    def _start_waiting(self, step: _Step, before: Sequence | None = None) -> None:
        """Start sequences that wait, or only those more urgent than a running one."""
        while step.tokens > 0:
            if before is not None and not (
                self.waiting and self._turns.urgency(self._next()) < self._turns.urgency(before)
            ):
                break
            admitted = self._admit()
            if admitted is None:
                break
            step.tokens -= self._continue(admitted, self._most(admitted, step), step)
            if before is not None:
                self._note_overtaken(before)

    def _make_room(self) -> None:
        """Start who is owed a place, or memory, that another has more than a fair share of.

        Before a step's work is chosen: what is in it can't be put off any more.
        """
        while self.waiting:
            sequence, yielded = self._next(), False
            while self._lacks_room(sequence):
                other = who_yields(sequence, self.running, self._kept)
                if other is None:
                    return
                self._preempt(other)
                yielded = True
            if not yielded or self._admit() is not sequence:
                return

    def _lacks_room(self, sequence: Sequence) -> bool:
        """Whether a waiting sequence finds no place, or no memory."""
        if len(self.running) == self._max_sequences:
            return True
        found = self.pool.find(self._known(sequence))
        wanted = self.pool.blocks_for(sequence.num_tokens) - len(found)
        lacks = wanted > self.pool.num_available
        self._emptied.update(self.pool.release(found))
        return lacks

    @property
    def _kept(self) -> int:
        """How many places the promoted keep."""
        return max(self._max_sequences // PROMOTED_PART, 1)

    def _note_overtaken(self, sequence: Sequence) -> None:
        """Promote a running sequence before the rest of which others were started so often."""
        sequence.num_overtaken += 1
        if sequence.num_overtaken >= MAX_OVERTAKES and sequence in self.running:
            self.running.remove(sequence)
            sequence.is_promoted = True
            insort(self.running, sequence, key=urgency)

    def _continue(self, sequence: Sequence, most: int, step: _Step) -> int:
        """Schedule a running sequence's next tokens, if there is room or room can be made.

        Args:
            sequence: The sequence.
            most: Most tokens; those that are known and the rows that are left are other bounds.
            step: What they are added to.

        Returns:
            How many were scheduled: none where the sequence has to wait again.
        """
        without_rows = max(sequence.next_row - sequence.num_computed, 0)
        num_tokens = min(most, sequence.num_pending, without_rows + 1 + step.rows)
        while not self._fits(sequence, num_tokens):
            busy = {id(work.sequence) for work in step.work}
            last = next(other for other in reversed(self.running) if id(other) not in busy)
            self._preempt(last)
            if last is sequence:
                return 0
        if sequence.num_pending > 1:
            self._turns.take(sequence, num_tokens)
            self._company.note(sequence)
        self._take_blocks(sequence, num_tokens)
        work = Scheduled.of(sequence, num_tokens)
        step.work.append(work)
        step.rows -= max(work.num_rows - 1, 0)
        return num_tokens

    def _add_drafts(self, step: _Step) -> None:
        """Have drafts computed with what is left: what may be wrong puts nothing and nobody off."""
        for index, work in enumerate(step.work):
            sequence = work.sequence
            if not (sequence.drafts and work.num_chosen):
                continue
            blocks = len(sequence.blocks) + self.pool.num_available
            room = blocks * self.pool.block_tokens - sequence.num_computed - work.num_tokens
            # The last token of all is not computed: nothing follows it.
            wanted = min(
                len(sequence.drafts), sequence.params.max_tokens - len(sequence.output) - 1
            )
            count = min(wanted, room, step.tokens, step.rows)
            if count > 0:
                self._take_blocks(sequence, work.num_tokens + count)
                step.tokens -= count
                step.rows -= count
                step.work[index] = work._replace(
                    num_tokens=work.num_tokens + count, num_chosen=1 + count
                )

    def _take_blocks(self, sequence: Sequence, num_tokens: int) -> None:
        """Give a sequence the blocks that its next tokens need."""
        blocks = self.pool.take(self._wanted(sequence, num_tokens))
        sequence.blocks += blocks
        sequence.num_new_blocks += len(blocks)

    def _admit(self) -> Sequence | None:
        """Start the next waiting sequence if all that it has to compute first finds room."""
        if not self.waiting or len(self.running) == self._max_sequences:
            return None
        sequence = self._next()
        known = self._known(sequence)
        sequence.blocks = self.pool.find(known)
        found = len(sequence.blocks)
        no_room = self.pool.blocks_for(sequence.num_tokens) - found > self.pool.num_available
        if no_room or (found < len(known) and self._is_being_computed(known[found])):
            self._release(sequence)
            return None
        self.waiting.remove(sequence)
        insort(self.running, sequence, key=urgency)
        sequence.num_computed = found * self.pool.block_tokens
        overtaken = any(other.id < sequence.id for other in self.waiting)
        self._overtakes = self._overtakes + 1 if overtaken else 0
        if not sequence.first_scheduled_ns:
            sequence.first_scheduled_ns = time.time_ns()
            sequence.num_reused_blocks = found
            sequence.num_cached_tokens = sequence.num_computed
            self.num_looked_up_blocks += len(known)
            self.num_reused_blocks += found
        return sequence

    def _known(self, sequence: Sequence) -> list[bytes]:
        """The digests of the blocks that a waiting sequence need not compute where they are known.

        What the first row that is wanted comes after is left to compute.
        """
        full = sequence.next_row // self.pool.block_tokens
        self._extend_digests(sequence, full)
        return sequence.digests[:full]

    def _next(self) -> Sequence:
        """The waiting sequence whose turn it is."""
        promoted = sum(sequence.is_promoted for sequence in self.running)
        due = self._overtakes >= MAX_OVERTAKES and not self.waiting[0].is_promoted
        if due and promoted < self._kept:
            longest = min(self.waiting, key=lambda sequence: sequence.id)
            self.waiting.remove(longest)
            longest.is_promoted = True
            insort(self.waiting, longest, key=urgency)
        return first_in_line(self.waiting, self.running, self._turns)

    def _is_being_computed(self, digest: bytes) -> bool:
        """Whether a running sequence is about to fill such a block: then it is worth to wait."""
        return any(
            digest in sequence.digests[sequence.num_computed // self.pool.block_tokens :]
            for sequence in self.running
        )

    def _fits(self, sequence: Sequence, num_tokens: int) -> bool:
        return self._wanted(sequence, num_tokens) <= self.pool.num_available

    def _wanted(self, sequence: Sequence, num_tokens: int) -> int:
        return self.pool.blocks_for(sequence.num_computed + num_tokens) - len(sequence.blocks)

    def _preempt(self, sequence: Sequence) -> None:
        """Let a running sequence wait again, in its place in the queue.

        Its full blocks stay cached as long as nobody needs them, so it may lose little.
        """
        self.running.remove(sequence)
        self._release(sequence)
        insort(self.waiting, sequence, key=urgency)
        self.num_preempted += 1

    def _release(self, sequence: Sequence) -> None:
        self._emptied.update(self.pool.release(sequence.blocks))
        sequence.blocks = []
        sequence.num_computed = 0

    def _extend_digests(self, sequence: Sequence, count: int) -> None:
        """Have the digests of a sequence's first blocks; they outlive the blocks while it waits."""
        if len(sequence.digests) >= count:
            return
        tokens, size = sequence.tokens(), self.pool.block_tokens
        for index in range(len(sequence.digests), count):
            first = root(sequence.salt, sequence.rotary_start)
            before = sequence.digests[-1] if sequence.digests else first
            part = tokens[index * size : (index + 1) * size]
            sequence.digests.append(chain(before, part))
