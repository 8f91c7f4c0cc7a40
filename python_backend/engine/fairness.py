"""Who has more than a fair share of the engine, and who is owed a place.

Sequences have an owner: a tenant where its name came with the request, else the request itself.
Within a priority, places go to the owner that has the fewest, and one that has two more than
another gives one up to it. So who asks for many sequences at once takes what is free, and no more
than that from the others (max-min fairness, in places). Prompts of tenants are computed in turns.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable

from python_backend.engine.sequence import Sequence

PROMOTED_PART = 8
"""Of so many places one is kept by sequences that were promoted for their age: the others are there
for those that are owed one, however many of a lower priority have waited long."""

_MOST_REMEMBERED = 1024


class Turns:
    """Whose prompt was computed when: a tenant that had its turn lets the others have theirs."""

    def __init__(self) -> None:
        self._last: dict[str, int] = {}
        self._count = 0

    def take(self, sequence: Sequence) -> None:
        """Note that a part of a prompt is computed."""
        if sequence.share:
            self._count += 1
            self._last.pop(sequence.share, None)
            self._last[sequence.share] = self._count
            if len(self._last) > _MOST_REMEMBERED:
                del self._last[next(iter(self._last))]

    def urgency(self, sequence: Sequence) -> tuple[int, int, int]:
        """Smaller is sooner: who had no turn for longest, among those of a level."""
        level, age = urgency(sequence)
        return level, 0 if sequence.is_promoted else self._last.get(sequence.share, 0), age


def urgency(sequence: Sequence) -> tuple[int, int]:
    """Smaller is sooner: the promoted, the priorities, and among those of a level the eldest."""
    return (0 if sequence.is_promoted else sequence.priority, sequence.id)


def places(running: Iterable[Sequence]) -> Counter[Hashable]:
    """How many places each owner has."""
    return Counter(sequence.owner for sequence in running)


def first_in_line(waiting: list[Sequence], running: list[Sequence]) -> Sequence:
    """The waiting sequence that is to have the next place.

    Args:
        waiting: At least one, the most urgent first.
        running: Who has the places.
    """
    first = waiting[0]
    if first.is_promoted:
        return first
    held = places(running)
    fewest = held[first.owner]
    for sequence in waiting:
        if not fewest or sequence.priority != first.priority:
            break
        if held[sequence.owner] < fewest:
            first, fewest = sequence, held[sequence.owner]
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
