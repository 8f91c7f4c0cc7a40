"""Who asks for much takes what is free, and no more than that from the others."""

from __future__ import annotations

from collections import Counter

import pytest

from python_backend.engine.fairness import (
    BEGINNING_TOKENS,
    LEAST_PROMPTS,
    LEAST_STREAMS,
    SHARED_PART,
    Turns,
)
from python_backend.engine.scheduled import Scheduled
from python_backend.engine.scheduler import Scheduler
from python_backend.engine.sequence import SamplingParams, Sequence
from tests.python_backend.engine.scheduling import advance, make_scheduler, make_sequence

BATCH, STANDARD, INTERACTIVE = 5, 3, 1


def ask(
    scheduler: Scheduler,
    count: int,
    *,
    priority: int = STANDARD,
    share: str = "",
    request: int | None = None,
    prompt: int = 4,
    max_tokens: int = 200,
) -> list[Sequence]:
    """A request of so many sequences, each with a prompt of its own."""
    made = []
    for _ in range(count):
        sequence = make_sequence(prompt, max_tokens, priority)
        sequence.prompt[:] = sequence.id % 2**31
        sequence.share = share
        sequence.owner = share or (sequence.id if request is None else request)
        scheduler.add(sequence)
        made.append(sequence)
    return made


def step(scheduler: Scheduler, count: int = 1) -> None:
    for _ in range(count):
        advance(scheduler, scheduler.schedule())


def held(scheduler: Scheduler) -> Counter[object]:
    return Counter(sequence.owner for sequence in scheduler.running)


def test_a_sequence_belongs_to_its_tenant_or_else_to_its_request() -> None:
    prompt, params = make_sequence(3).prompt, SamplingParams(max_tokens=1)
    assert Sequence(prompt, params, share="a", request=7).owner == "a"
    assert Sequence(prompt, params, request=7).owner == 7
    alone = Sequence(prompt, params)
    assert alone.owner == alone.id


def test_the_more_urgent_take_the_places_of_the_less_urgent() -> None:
    scheduler = make_scheduler(max_sequences=8, max_num_tokens=999)
    ask(scheduler, 64, priority=BATCH, share="a")
    step(scheduler, 5)
    people = ask(scheduler, 3, priority=INTERACTIVE, share="a", max_tokens=2)
    step(scheduler)
    assert all(len(each.output) == 1 for each in people)
    assert (scheduler.num_preempted, len(scheduler.running)) == (3, 8)
    step(scheduler)
    assert all(each.finished for each in people)
    step(scheduler)
    assert len(scheduler.running) == 8  # and give them back


def test_they_take_memory_as_well() -> None:
    scheduler = make_scheduler(blocks=16, max_sequences=8, max_num_tokens=999)
    ask(scheduler, 4, priority=BATCH, prompt=60, max_tokens=4)
    step(scheduler)
    assert scheduler.pool.num_available == 0
    (person,) = ask(scheduler, 1, priority=INTERACTIVE, prompt=60, max_tokens=1)
    step(scheduler)
    assert person.finished


def test_who_has_two_more_than_another_gives_one_up() -> None:
    scheduler = make_scheduler(max_sequences=8, max_num_tokens=999)
    ask(scheduler, 64, share="a")
    step(scheduler, 3)
    ask(scheduler, 1, share="b")
    step(scheduler)
    assert held(scheduler) == {"a": 7, "b": 1}
    ask(scheduler, 64, share="b")
    step(scheduler)
    assert held(scheduler) == {"a": 4, "b": 4}
    preempted = scheduler.num_preempted
    step(scheduler, 20)
    assert scheduler.num_preempted == preempted  # and that is that
    ask(scheduler, 9, share="c")
    step(scheduler)
    assert sorted(held(scheduler).values()) == [2, 3, 3]


def test_where_no_tenant_is_known_requests_share() -> None:
    scheduler = make_scheduler(max_sequences=8, max_num_tokens=999)
    ask(scheduler, 64, request=1)
    step(scheduler, 3)
    (single,) = ask(scheduler, 1)
    ask(scheduler, 64, request=2)
    step(scheduler)
    assert len(single.output) == 1
    assert (held(scheduler)[1], held(scheduler)[2]) == (4, 3)


def test_a_place_that_comes_free_goes_to_who_has_the_fewest() -> None:
    scheduler = make_scheduler(max_sequences=4, max_num_tokens=999)
    first = ask(scheduler, 4, share="a")
    ask(scheduler, 4, share="a")
    step(scheduler)
    ask(scheduler, 4, share="b")
    step(scheduler)
    for each in first[:2]:
        scheduler.remove(each)
    step(scheduler)
    assert held(scheduler) == {"a": 2, "b": 2}


def test_prompts_of_tenants_take_turns() -> None:
    scheduler = make_scheduler(blocks=200, max_sequences=16, max_num_tokens=32)
    ask(scheduler, 8, share="a", prompt=160, max_tokens=1)
    (other,) = ask(scheduler, 1, share="b", prompt=96, max_tokens=1)
    steps = 0
    while not other.finished:
        steps += 1
        step(scheduler)
    assert steps == 6  # three parts of its prompt, each after one of the other's


def test_who_had_little_of_late_comes_first_with_all_of_a_prompt() -> None:
    scheduler = make_scheduler(blocks=400, max_sequences=16, max_num_tokens=32)
    ask(scheduler, 8, share="a", prompt=320, max_tokens=1)
    step(scheduler, 20)
    (other,) = ask(scheduler, 1, share="b", prompt=160, max_tokens=1)
    step(scheduler, 5)
    assert other.finished


def test_what_was_had_long_ago_does_not_count() -> None:
    turns = Turns()
    first, second = make_sequence(4), make_sequence(4)
    first.share, second.share = "a", "b"
    turns.take(first, 10_000)
    turns.take(second, 1_000)
    assert turns.urgency(second) < turns.urgency(first)
    for _ in range(200):
        turns.take(make_other(), 10_000)
    turns.take(second, 100)
    assert turns.urgency(first) < turns.urgency(second)


def make_other() -> Sequence:
    other = make_sequence(4)
    other.share = "c"
    return other


@pytest.mark.parametrize(("share", "priority"), [("b", STANDARD), ("a", INTERACTIVE)])
def test_steps_are_short_where_a_newcomer_would_wait_for_their_end(
    share: str, priority: int
) -> None:
    now_s = [0.0]
    scheduler = make_scheduler(
        blocks=900, max_sequences=4, max_num_tokens=512, clock=lambda: now_s[0]
    )
    ask(scheduler, 4, share="a", prompt=3_000)
    assert sum(work.num_tokens for work in scheduler.schedule()) == 512
    ask(scheduler, 1, share=share, priority=priority, max_tokens=1)
    step(scheduler)
    for _ in range(3):
        work = scheduler.schedule()
        assert sum(each.num_tokens for each in work) == 512 // SHARED_PART
        now_s[0] += 4  # it may come again
        advance(scheduler, work)
    assert sum(work.num_tokens for work in scheduler.schedule()) == 512


def test_a_promoted_prompt_leaves_others_half_of_a_step() -> None:
    scheduler = make_scheduler(blocks=200, max_sequences=4, max_num_tokens=512)
    (long,) = ask(scheduler, 1, share="a", prompt=1_000)
    long.is_promoted = True
    (other,) = ask(scheduler, 1, share="b", prompt=30, max_tokens=1)
    ask(scheduler, 1, share="c")
    step(scheduler)
    assert other.finished


def test_a_stream_takes_no_turn() -> None:
    """A tenant whose streams run has its turn with the next prompt all the same."""
    scheduler = make_scheduler(blocks=200, max_sequences=16, max_num_tokens=33)
    ask(scheduler, 1, share="a")
    step(scheduler, 2)
    ask(scheduler, 1, share="b", prompt=160, max_tokens=1)
    (second,) = ask(scheduler, 1, share="a", prompt=96, max_tokens=1)
    steps = 0
    while not second.finished:
        steps += 1
        step(scheduler)
    assert steps == 6  # three parts of its prompt, each after one of the other's


def test_a_prompt_of_two_tokens_takes_a_turn() -> None:
    scheduler = make_scheduler(max_num_tokens=2)
    (same,) = ask(scheduler, 1, share="a", prompt=96)
    (other,) = ask(scheduler, 1, share="b", prompt=96)
    step(scheduler, 2)
    assert (same.num_computed, other.num_computed) == (2, 2)
    (short,) = ask(scheduler, 1, priority=INTERACTIVE, share="a", prompt=2, max_tokens=1)
    step(scheduler)
    assert short.finished
    step(scheduler)
    assert (same.num_computed, other.num_computed) == (2, 4)


def test_what_has_waited_long_keeps_one_place_of_eight() -> None:
    """Otherwise those who hurry would find all places with what they once overtook."""
    scheduler = make_scheduler(max_sequences=16, max_num_tokens=999, blocks=999)
    ask(scheduler, 64, priority=BATCH, share="a", max_tokens=10_000)
    before: list[Sequence] = []
    for _ in range(400):
        people = ask(scheduler, 1, priority=INTERACTIVE, share="b", max_tokens=1)
        step(scheduler)  # in which somebody's time may have come
        assert all(each.finished for each in before)
        before = people
        assert sum(each.is_promoted for each in scheduler.running) <= 2
    assert sum(each.is_promoted for each in scheduler.running) == 2


def test_all_end_whatever_is_given_up() -> None:
    scheduler = make_scheduler(max_sequences=4, max_num_tokens=64)
    everything = [
        each
        for round_ in range(20)
        for each in ask(scheduler, 3, priority=1 + 2 * (round_ % 3), share="ab"[round_ % 2])
    ]
    for _ in range(8_000):
        step(scheduler)
        if not scheduler.has_work:
            break
    assert all(each.finish_reason == "length" for each in everything)
    assert all(len(each.output) == 200 for each in everything)


def singles(work: list[Scheduled]) -> Counter[object]:
    """Whose sequences have one token in a step."""
    return Counter(each.sequence.owner for each in work if each.sequence.num_pending == 1)


def test_many_streams_take_turns_while_another_tenant_s_answer_begins() -> None:
    scheduler = make_scheduler(blocks=999, max_sequences=64, max_num_tokens=999)
    many = ask(scheduler, 30, share="a")
    step(scheduler, BEGINNING_TOKENS + 2)
    assert singles(scheduler.schedule()) == {"a": 30}
    ask(scheduler, 1, share="b")
    before = [len(each.output) for each in many]
    for _ in range(BEGINNING_TOKENS):
        work = scheduler.schedule()
        assert sum(each.sequence.share == "a" for each in work) == LEAST_STREAMS
        assert sum(each.sequence.share == "b" for each in work) == 1
        advance(scheduler, work)
    had = [len(each.output) - count for each, count in zip(many, before, strict=True)]
    assert sum(had) == BEGINNING_TOKENS * LEAST_STREAMS
    assert max(had) - min(had) <= 1  # in turns
    assert singles(scheduler.schedule()) == {"a": 30, "b": 1}


def test_many_prompts_take_little_of_a_step_while_another_tenant_s_answer_begins() -> None:
    scheduler = make_scheduler(blocks=9999, max_sequences=64, max_num_tokens=999)
    ask(scheduler, 40, share="a", prompt=300)
    step(scheduler, 4)
    of_another = ask(scheduler, 1, share="b", prompt=40)
    for tokens in (40, *[1] * (BEGINNING_TOKENS - 1)):
        work = scheduler.schedule()
        (own,) = (each.num_tokens for each in work if each.sequence in of_another)
        others = sum(each.num_tokens for each in work if each.sequence.num_pending > 1)
        assert (own, others - (own if own > 1 else 0)) == (tokens, LEAST_PROMPTS)
        advance(scheduler, work)
    assert sum(each.num_tokens for each in scheduler.schedule()) > 64


def test_nobody_sits_out_for_who_has_as_many() -> None:
    scheduler = make_scheduler(blocks=999, max_sequences=64, max_num_tokens=999)
    ask(scheduler, 20, share="a")
    ask(scheduler, 20, share="b")
    step(scheduler, BEGINNING_TOKENS + 2)
    ask(scheduler, 1, share="a")
    step(scheduler)
    assert singles(scheduler.schedule()) == {"a": 21, "b": 20}


def test_nobody_sits_out_for_who_is_less_urgent() -> None:
    scheduler = make_scheduler(blocks=999, max_sequences=64, max_num_tokens=999)
    ask(scheduler, 20, share="a", priority=INTERACTIVE)
    step(scheduler, BEGINNING_TOKENS + 2)
    ask(scheduler, 1, share="b", priority=BATCH)
    step(scheduler)
    assert singles(scheduler.schedule()) == {"a": 20, "b": 1}
