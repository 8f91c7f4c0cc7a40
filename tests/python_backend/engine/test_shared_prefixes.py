"""What sequences begin with is computed once, and what is known is not computed again."""

from __future__ import annotations

import pytest

from python_backend.engine import scheduler as scheduler_module
from python_backend.engine.attention import BLOCK_TOKENS
from tests.python_backend.engine.scheduling import (
    advance,
    make_scheduler,
    make_sequence,
    newest,
)


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
