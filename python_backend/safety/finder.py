"""What finds something in a text that arrives in pieces.

A finder says what it found and from where on more text could still make or change a match. Both
depend on nothing but the text around a match, so that a stream, however it is cut, has the same
matches as the whole.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import NamedTuple

from python_backend.safety.pattern import Pattern


class Span(NamedTuple):
    """A part of a text, in characters."""

    start: int
    end: int


class Finder(ABC):
    """Finds one kind of thing.

    Attributes:
        kind: What a match is called in a placeholder and in a verdict.
        context: Characters before the place where a search begins that decide with it.
        words_tell: Whether a single word of lower-case letters may tell something, as a beginning.
    """

    kind: str
    context: int = 1
    words_tell: bool = True

    @abstractmethod
    def scan(self, text: str, start: int, final: bool, offset: int = 0) -> tuple[list[Span], int]:
        """Find what is certain.

        Args:
            text: The part of the stream that is known and was kept.
            start: Where in it to begin; all that lies before is decided.
            final: No more text follows.
            offset: Characters of the stream before the first of the text.

        Returns:
            Matches in order, none of them overlapping, and the place where the next search begins:
            nothing that begins before it can become a match any more.
        """

    def beginning(self, text: str, start: int) -> int | None:
        """Where a match begins that the end of the text cuts and that tells something already.

        Asked where a text was cut: what would have followed is not known. What tells, and what is
        no more than the beginning of any word or number, is for each finder to say.

        Args:
            text: As for ``scan``.
            start: The place where ``scan``, not final, said that the next search begins.
        """
        return None


class PatternFinder(Finder):
    """Finds what a pattern matches, or what of it passes a check."""

    def __init__(self, kind: str, pattern: Pattern) -> None:
        self.kind = kind
        self.pattern = pattern

    def scan(self, text: str, start: int, final: bool, offset: int = 0) -> tuple[list[Span], int]:
        horizon = len(text) if final else self.pattern.horizon(text, start)
        found: list[Span] = []
        position = start
        while True:
            match = self.pattern.search(text, position)
            if match is None or match[0] >= horizon:
                return found, horizon
            end = self.check(text, *match)
            if end is None:
                position = match[0] + 1
                continue
            found.append(Span(match[0], end))
            position = end
            if not final and end > horizon:
                horizon = self.pattern.horizon(text, end)

    def beginning(self, text: str, start: int) -> int | None:
        place = self.pattern.horizon(text, start)
        while place < len(text):
            if self.may_begin(text, place) and self.tells(text[place:]):
                return place
            place = self.pattern.horizon(text, place + 1)
        return None

    def may_begin(self, text: str, place: int) -> bool:
        """Whether what stands before a place lets a match begin there."""
        return True

    def tells(self, beginning: str) -> bool:
        """Whether a beginning of a match tells something: here more than half of the shortest."""
        return 2 * len(beginning) > self.pattern.shortest

    def check(self, text: str, start: int, end: int) -> int | None:
        """Where the match that begins at a place ends: at the pattern's end or before; None: none.

        It may look at no more of the text than from the character before the start to the one
        after the end.
        """
        return end
