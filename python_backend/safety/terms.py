"""Lists of terms, thousands of them, found in one pass however they are written."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Iterator

import ahocorasick

from python_backend.safety.finder import Finder, Span
from python_backend.safety.normal import CONTEXT, Folded, apart, joined, spellings, words_of
from python_backend.safety.pattern import MAX_WIDTH


class TermFinder(Finder):
    """Finds terms in folded text with an Aho-Corasick automaton.

    Of terms that overlap the leftmost counts, and of those that begin together the longest.
    """

    context = CONTEXT

    def __init__(self, kind: str, terms: Iterable[str], whole_words: bool = True) -> None:
        """Build the automaton.

        Args:
            kind: What a match is called.
            terms: The terms; one without a letter or digit is left out.
            whole_words: A term within a longer word is none. Scripts that write no spaces between
                words are exempt.
        """
        self.kind = kind
        self._whole_words = whole_words
        self._automaton = ahocorasick.Automaton()
        self._longest = 0
        for term in terms:
            for spelling in spellings(term) - {""}:
                self._automaton.add_word(spelling, len(spelling))
                self._longest = max(self._longest, len(spelling))
        self._automaton.make_automaton()

    def scan(self, text: str, start: int, final: bool, offset: int = 0) -> tuple[list[Span], int]:
        words, gap = words_of(text, max(0, start - CONTEXT))
        if not words or not self._longest:
            return [], len(text)
        together = joined(words, gap)
        # A match can't hang on how the last letter turns out: it is held back until that is known.
        forms = [apart(words, bool(gap)), *together[:1]]
        matches = sorted(
            (span for form in forms for span in self._matches(form, text, start)),
            key=lambda span: (span.start, -span.end),
        )
        open_starts: list[int] = []
        if not final:
            for form in [*forms, *together[1:]]:
                open_starts += self._open_starts(form, text, start)
        found: list[Span] = []
        position = start
        for span in matches:
            if position <= span.start < _horizon(open_starts, position, len(text)):
                found.append(span)
                position = span.end
        return found, _horizon(open_starts, position, len(text))

    def beginning(self, text: str, start: int) -> int | None:
        """Where a term begins that is cut with more than half of it there, as it is folded."""
        words, gap = words_of(text, max(0, start - CONTEXT))
        if not words or not self._longest:
            return None
        forms = [apart(words, bool(gap)), *joined(words, gap)]
        tells = [
            form.places[i]
            for form in forms
            for i in self._opens(form, text, start)
            if 2 * len(form.text[i:].strip()) > min(self._automaton.values(form.text[i:]))
        ]
        return min(tells, default=None)

    def _matches(self, form: Folded, text: str, start: int) -> Iterator[Span]:
        for last, length in self._automaton.iter(form.text):
            span = Span(form.places[last - length + 1], form.places[last] + 1)
            if (
                span.start >= start
                and span.end - span.start <= MAX_WIDTH
                and self._may_begin(text, span.start)
                and self._may_end(text, span.end)
            ):
                yield span

    def _open_starts(self, form: Folded, text: str, start: int) -> Iterator[int]:
        """Places where a term may have begun that is not complete, or not certain."""
        return (form.places[i] for i in self._opens(form, text, start))

    def _opens(self, form: Folded, text: str, start: int) -> Iterator[int]:
        """The same as places of the folded text."""
        for i in range(max(0, len(form.text) - self._longest), len(form.text)):
            place = form.places[i]
            if (
                place >= start
                and form.text[i] != " "
                and len(text) - place <= MAX_WIDTH
                and self._may_begin(text, place)
                and self._automaton.match(form.text[i:])
            ):
                yield i

    def _may_begin(self, text: str, place: int) -> bool:
        return not self._whole_words or place == 0 or not _one_word(text[place - 1], text[place])

    def _may_end(self, text: str, place: int) -> bool:
        if not self._whole_words:
            return True
        last = text[place - 1]
        while place < len(text) and unicodedata.category(text[place]) in ("Mn", "Me", "Cf"):
            place += 1
        return place == len(text) or not _one_word(last, text[place])


def _horizon(open_starts: list[int], position: int, end: int) -> int:
    return min((place for place in open_starts if place >= position), default=end)


def _one_word(left: str, right: str) -> bool:
    """Whether two neighbours belong to one word, in scripts that keep words apart with spaces."""
    return (
        left.isalnum()
        and right.isalnum()
        and "Lo" not in (unicodedata.category(left), unicodedata.category(right))
    )
