"""Who has more than a fair share of the engine, and who is owed a place.

Sequences have an owner: a tenant where its name came with the request, else the request itself.
Within a priority, places go to the owner that has the fewest, and one that has two more than
another gives one up to it. So who asks for many sequences at once takes what is free, and no more
than that from the others (max-min fairness, in places). Of the prompts, those of the tenant that
had the least computed of late come first (least attained service), in steps that are short while
there are several tenants or classes: who comes next waits for the end of one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterable
from math import inf

from python_backend.engine.sequence import Sequence

PROMOTED_PART = 8
"""Of so many places one is kept by sequences that were promoted for their age: the others are there
for those that are owed one, however many of a lower priority have waited long."""

SHARED_PART = 8
"""While several ask, a step computes so small a part of its budget of prompts: a newcomer waits for
the end of a step, and for its own. Prompts take a fifth to a third longer for it."""
LEAST_TOKENS = 64
"""But no fewer than this: fewer take as long."""

BEGINNING_TOKENS = 8
"""An answer's first tokens: its first word or number, which a policy may hold back whole."""
LEAST_STREAMS = 8
"""So many streams of a tenant's have their next token in every step."""
LEAST_PROMPTS = 16
"""So many tokens of prompts of those who give way are in every step."""

_MOST_REMEMBERED = 1024
_MEMORY_TOKENS = 1 << 15
"""After so many tokens of anybody's, what a tenant had before counts e times less."""
_MEMORY_S = 10.0
"""After so long without prompts somebody is not taken for there any more."""


class Turns:
    """What each tenant had of late: of prompts, who had the least has the next turn."""

    def __init__(self) -> None:
        self._had: dict[str, float] = {}
        self._weight = 1.0  # of a token now; one of earlier times weighed less

    def take(self, sequence: Sequence, num_tokens: int) -> None:
        """Note that a part of a prompt is computed."""
        if not sequence.share:
            return
        self._weight *= 1 + num_tokens / _MEMORY_TOKENS
        had = self._had.pop(sequence.share, 0.0)
        self._had[sequence.share] = had + num_tokens * self._weight
        if len(self._had) > _MOST_REMEMBERED:
            del self._had[next(iter(self._had))]
        if self._weight > 1e6:
            self._had = {share: had / self._weight for share, had in self._had.items()}
            self._weight = 1.0

    def urgency(self, sequence: Sequence) -> tuple[int, float, int]:
        """Smaller is sooner: who had the least of late, among those of a level."""
        level, age = urgency(sequence)
        return level, 0 if sequence.is_promoted else self._had.get(sequence.share, 0), age


def urgency(sequence: Sequence) -> tuple[int, int]:
    """Smaller is sooner: the promoted, the priorities, and among those of a level the eldest."""
    return (0 if sequence.is_promoted else sequence.priority, sequence.id)


class Company:
    """Who has asked of late: tenants, each in the classes that it asks in."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._last_s: dict[tuple[int, str], float] = {}

    def note(self, sequence: Sequence) -> None:
        """Note that a sequence comes, or that a part of its prompt is computed."""
        key = sequence.priority, sequence.share
        self._last_s.pop(key, None)
        self._last_s[key] = self._clock()

    @property
    def is_mixed(self) -> bool:
        """Whether there are several."""
        while self._last_s:
            key, last_s = next(iter(self._last_s.items()))
            if self._clock() - last_s < _MEMORY_S:
                break
            del self._last_s[key]
        return len(self._last_s) > 1


def places(running: Iterable[Sequence]) -> Counter[Hashable]:
    """How many places each owner has."""
    return Counter(sequence.owner for sequence in running)


class Beginnings:
    """Whose answers begin, and who makes room for them in a step.

    A step takes the longer the more streams and prompts it has. While an answer of a tenant's
    begins, others that are not more urgent and have more places, and more than a few, give way:
    they have no more streams in a step than that tenant has places, or a few, and few tokens of
    prompts.
    """

    def __init__(self, running: list[Sequence], waiting: list[Sequence]) -> None:
        """See who begins, of those with places and those who may have one in this step."""
        self._all = [*running, *waiting]
        self._running = running
        self._held = places(running)
        self._fewest: dict[int, int] = {}  # places of those whose answers begin, by priority
        for each in self._all:
            if each.share and not each.is_promoted and len(each.output) < BEGINNING_TOKENS:
                before = self._fewest.get(each.priority, self._held[each.owner])
                self._fewest[each.priority] = min(before, self._held[each.owner])

    def sitting_out(self) -> set[int]:
        """The ids of running sequences that lack one token and don't get it in the next step.

        Who had none the longest is first, so they take turns.
        """
        if not self._fewest:
            return set()
        streams: Counter[Hashable] = Counter()
        left_out = set()
        for sequence in sorted(self._running, key=lambda sequence: sequence.last_token_ns):
            if sequence.num_pending == 1 and not sequence.is_promoted:
                streams[sequence.owner] += 1
                if streams[sequence.owner] > self._most(sequence):
                    left_out.add(sequence.id)
        return left_out

    def prompt_tokens(self, most: int) -> int:
        """A step's budget of prompts: what those who don't give way lack, and few of the others."""
        if not self._fewest:
            return most
        lacking = [each for each in self._all if each.num_pending > 1]
        firm = [each for each in lacking if not self._gives_way(each)]
        if len(firm) == len(lacking):
            return most
        return min(most, LEAST_PROMPTS + sum(each.num_pending for each in firm))

    def _gives_way(self, sequence: Sequence) -> bool:
        return not sequence.is_promoted and self._held[sequence.owner] > self._most(sequence)

    def _most(self, sequence: Sequence) -> float:
        """So many streams its owner has in a step."""
        fewest = [count for level, count in self._fewest.items() if level <= sequence.priority]
        return max(LEAST_STREAMS, min(fewest, default=inf))


def first_in_line(waiting: list[Sequence], running: list[Sequence], turns: Turns) -> Sequence:
    """The waiting sequence that is to have the next place.

    Args:
        waiting: At least one, the most urgent first.
        running: Who has the places.
        turns: Who comes first of those that have as many.
    """
    first = waiting[0]
    if first.is_promoted:
        return first
    held = places(running)
    best = held[first.owner], turns.urgency(first)
    for sequence in waiting:
        if (best[0] == 0 and best[1][1] == 0) or sequence.priority != first.priority:
            break
        rank = held[sequence.owner], turns.urgency(sequence)
        if rank < best:
            first, best = sequence, rank
    return first


def who_yields(wanting: Sequence, running: list[Sequence], kept: int) -> Sequence | None:
    """The running sequence that is to give its place up to one that waits, if one is.

    Args:
        wanting: Who waits.
        running: The most urgent first.
        kept: So many of the promoted ones, the oldest, give way to nobody.
    """
    held = places(running)
    found: Sequence | None = None
    for sequence in running:
        if sequence.is_promoted and kept:
            kept -= 1
        elif _yields(sequence, wanting, held) and (
            found is None or _burden(sequence, held) > _burden(found, held)
        ):
            found = sequence
    return found


def _yields(sequence: Sequence, wanting: Sequence, held: Counter[Hashable]) -> bool:
    if sequence.priority != wanting.priority:
        return sequence.priority > wanting.priority
    if wanting.is_promoted:
        return not sequence.is_promoted
    return held[sequence.owner] > held[wanting.owner] + 1


def _burden(sequence: Sequence, held: Counter[Hashable]) -> tuple[int, int, int]:
    return sequence.priority, held[sequence.owner], sequence.id
