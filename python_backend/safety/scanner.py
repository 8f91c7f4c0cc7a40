"""The rules of one policy on one text that arrives in pieces.

What a rule takes out never leaves, not even its first characters: the end of the text that could
still become a match is held back until it can't. All else leaves at once. However the text arrives,
what leaves is the same. Where the text doesn't end but is cut, a beginning of a match that tells
something is taken out as the match would be.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from python_backend.safety.classifier import ClassifierFinder
from python_backend.safety.finder import Finder, PatternFinder, Span
from python_backend.safety.pattern import AnyOf, Pattern

Action = Literal["redact", "replace", "block", "flag"]
Side = Literal["input", "output"]

_MOST_TELLING = 16_384
_WORD = re.compile(r"\s*[A-Za-z]?[a-z]*")


class Verdict(NamedTuple):
    """What a rule found, without the text itself.

    Attributes:
        rule: The rule's name.
        kind: What it found, such as ``email``.
        action: What was done about it.
        side: In the prompt, or in the answer.
        start: The first character of it, counted in the text before redaction.
        end: The character after the last.
        message: In which message of a chat, if it was found in one.
        field: In what else than a message's content, such as ``tool_calls.0.function.name``.
    """

    rule: str
    kind: str
    action: Action
    side: Side
    start: int
    end: int
    message: int | None = None
    field: str | None = None

    def as_json(self) -> dict[str, Any]:
        """The verdict as clients get it."""
        return {name: value for name, value in self._asdict().items() if value is not None}


@dataclass(frozen=True)
class Rule:
    """What to do about what some finders find.

    Attributes:
        name: The rule's name.
        action: What to do.
        replacement: What stands in place of a match; ``{kind}`` is what was found.
        finders: What finds it.
    """

    name: str
    action: Action
    replacement: str
    finders: tuple[Finder, ...]


class _Match(NamedTuple):
    """A match in the whole stream. Of those that begin together, the longest comes first."""

    start: int
    negative_end: int
    order: int
    kind: str

    @property
    def end(self) -> int:
        return -self.negative_end


class RuleSet:
    """The rules for one side, ready to scan: shared by all streams of a policy.

    Attributes:
        blocks: Whether a rule may end a text.
        words_tell: Whether a single word may tell something, as a beginning.
        telling: Of ends of texts whether something would be taken out, were the text cut there;
            words repeat themselves.
    """

    def __init__(self, rules: Sequence[Rule], side: Side) -> None:
        self.rules = tuple(rules)
        self.side: Side = side
        self.finders = [
            (order, finder) for order, rule in enumerate(rules) for finder in rule.finders
        ]
        self.context = max((finder.context for _, finder in self.finders), default=0)
        self.blocks = any(rule.action == "block" for rule in rules)
        self.holds = [rules[order].action != "flag" for order, _ in self.finders]
        self.groups = [
            group for holds in (True, False) if (group := self._group(holds)) is not None
        ]
        grouped = {i for group in self.groups for i in group.finders}
        self.alone = [i for i in range(len(self.finders)) if i not in grouped]
        self.words_tell = any(
            finder.words_tell for order, finder in self.finders if self.takes_out(order)
        )
        self.telling: dict[tuple[bool, str], bool] = {}

    def takes_out(self, order: int) -> bool:
        """Whether a rule does more than flag."""
        return self.rules[order].action != "flag"

    def _group(self, holds: bool) -> _Group | None:
        patterns: dict[int, Pattern] = {
            i: finder.pattern
            for i, (_, finder) in enumerate(self.finders)
            if isinstance(finder, PatternFinder) and self.holds[i] == holds
        }
        if not patterns:
            return None
        distinct = {pattern.source: pattern for pattern in patterns.values()}
        return _Group(AnyOf(distinct.values()), tuple(patterns), holds)


class _Group(NamedTuple):
    """Finders whose patterns are asked at once.

    Attributes:
        any_of: Their patterns.
        finders: Their places among the rules' finders.
        holds: Whether text waits for them.
    """

    any_of: AnyOf
    finders: tuple[int, ...]
    holds: bool


@dataclass
class Scanned:
    """What is certain after some more text.

    Attributes:
        text: What may leave.
        verdicts: What was found.
        blocked: Whether a rule ended the text here.
        taken: Parts of the stream, in characters of it, that did not leave as they were.
    """

    text: str = ""
    verdicts: list[Verdict] = field(default_factory=list)
    blocked: bool = False
    taken: list[Span] = field(default_factory=list)


class Scanner:
    """One stream under one set of rules.

    Owns the end of the text that is not certain yet and the little before it that decides with it,
    and for each finder and each group of them the place from which on it has to look.

    Attributes:
        decided: Characters of the stream that left or were taken out.
    """

    def __init__(self, rules: RuleSet) -> None:
        self._rules = rules
        self._text = ""
        self._offset = 0
        self._resume = [0] * len(rules.finders)
        self._quiet = [0] * len(rules.groups)
        self._matches: list[_Match] = []
        self._blocked = False
        self.decided = 0

    def follow(self, before: str) -> None:
        """Take note, before any piece, of a text that this one goes on with and doesn't have.

        A match that begins there is taken out as far as it reaches in here.
        """
        self._text = before
        self._offset = -len(before)
        self._resume = [
            0 if isinstance(finder, ClassifierFinder) else self._offset  # its windows end in here
            for _, finder in self._rules.finders
        ]
        self._quiet = [self._offset] * len(self._quiet)

    def add(self, text: str, final: bool = False) -> Scanned:
        """Take the next piece; ``final``: no more text follows."""
        if not self._rules.finders:
            self.decided += len(text)
            return Scanned(text)
        if self._blocked:
            return Scanned(blocked=True)
        self._text += text
        self._search(final)
        scanned = self._release(self._certain())
        self._forget()
        return scanned

    def cut(self, text: str, beyond: str = "", unknown: int = 0) -> Scanned:
        """Take the last piece of a text that did not end by itself.

        Args:
            text: The piece.
            beyond: What is known to follow it. It decides with the text, and is not part of it.
            unknown: So many characters at the end stand for what is not known yet.
        """
        if not self._rules.finders:
            return self.add(text, final=True)
        if self._blocked:
            return Scanned(blocked=True)
        limit = self._offset + len(self._text) + len(text)
        known = len(text) - unknown
        self._text += text[:known] + beyond
        self._search(final=False)
        # A finder that its group was not asked for yet is asked now: where it goes on decides what
        # it takes for a beginning.
        for quiet, group in zip(self._quiet, self._rules.groups, strict=True):
            for i in group.finders:
                self._resume[i] = max(quiet, self._resume[i])
                self._ask(i, final=False)
        self._text += text[known:]
        starts = [resume - self._offset for resume in self._resume]
        asked = [self._ask_cut(i, start, unknown) for i, start in enumerate(starts)]
        begun = sorted(match for match in asked if match is not None)
        # What begins later is taken out with it, and may be none: one thing a rule is told of it.
        end = self._offset + len(self._text)
        taking = [each for each in self._matches if self._rules.takes_out(each.order)]
        starts_at = min((each.start for each in (*taking, *begun) if each.end == end), default=end)
        first = {match.order: match for match in reversed(begun) if match.start == starts_at}
        self._matches += first.values()
        self._matches = [
            match._replace(negative_end=-min(match.end, limit))
            for match in set(self._matches)
            if match.start < limit
        ]
        return self._release(limit)

    def would_take(self) -> bool:
        """Whether something would be taken out at the end, were the text cut here; it goes on."""
        if not self.held or self._blocked:
            return self._blocked
        if not self._rules.words_tell and _WORD.fullmatch(self._text, len(self._text) - self.held):
            return False
        start = len(self._text) - self.held - self._rules.context
        key = (self._offset == 0 and start <= 0, self._text[max(0, start) :])
        known = self._rules.telling
        if key not in known:
            if len(known) >= _MOST_TELLING:
                known.clear()
            known[key] = self._tells()
        return known[key]

    def _tells(self) -> bool:
        """Whether the end of the text is a match, or a beginning of one that tells something."""
        rules, end = self._rules, self._offset + len(self._text)
        if any(rules.takes_out(each.order) and each.end == end for each in self._matches):
            return True
        starts = self._resume.copy()
        for quiet, group in zip(self._quiet, rules.groups, strict=True):
            for i in group.finders:
                starts[i] = max(quiet, starts[i])
        return any(
            rules.holds[i] and finder.beginning(self._text, start - self._offset) is not None
            for i, ((_, finder), start) in enumerate(zip(rules.finders, starts, strict=True))
        )

    @property
    def held(self) -> int:
        """Characters that are held back."""
        return max(0, self._offset + len(self._text) - self.decided)

    def _search(self, final: bool) -> None:
        """Ask every finder; those of a group only where one of them has something to say."""
        for i in self._rules.alone:
            self._ask(i, final)
        for number, group in enumerate(self._rules.groups):
            start = group.any_of.skip_words(self._text, self._quiet[number] - self._offset)
            end = len(self._text)
            horizon = end if final else group.any_of.horizon(self._text, start)
            quiet = self._offset + horizon
            if start < horizon and group.any_of.search(self._text, start) < horizon:
                for i in group.finders:
                    self._resume[i] = max(self._resume[i], self._offset + start)
                    self._ask(i, final)
                quiet = min(self._resume[i] for i in group.finders)
            self._quiet[number] = quiet

    def _ask(self, number: int, final: bool) -> None:
        """Ask one finder."""
        order, finder = self._rules.finders[number]
        start = self._resume[number] - self._offset
        spans, next_start = finder.scan(self._text, start, final, self._offset)
        self._resume[number] = self._offset + max(start, next_start)
        self._note(order, finder.kind, spans)

    def _ask_cut(self, number: int, start: int, unknown: int) -> _Match | None:
        """Ask one finder about the end of a text that is cut: the beginning of a match."""
        order, finder = self._rules.finders[number]
        spans, _ = finder.scan(self._text, start, True, self._offset)
        end = len(self._text)
        place = None
        if self._rules.holds[number]:
            place = finder.beginning(self._text[: end - unknown], start)
        begun = None
        if place is not None:
            whole = [span.start for span in spans if span.end > place]
            spans = [span for span in spans if span.end <= place]
            if whole:  # as much of it as there is, as a longer match may begin with it
                spans.append(Span(min(place, *whole), end))
            else:
                at = max(0, self._offset + place)
                begun = _Match(at, -self._offset - end, order, finder.kind)
        self._note(order, finder.kind, spans)
        return begun

    def _note(self, order: int, kind: str, spans: Sequence[Span]) -> None:
        for span in spans:
            at, end = max(0, self._offset + span.start), self._offset + span.end
            if end > 0:  # else it is the text's that this one follows
                self._matches.append(_Match(at, -end, order, kind))

    def _certain(self) -> int:
        """The first place that is not certain."""
        rules = self._rules
        places = [self._resume[i] for i in rules.alone if rules.holds[i]]
        places += [self._quiet[i] for i, group in enumerate(rules.groups) if group.holds]
        return min(places, default=self._offset + len(self._text))

    def _release(self, certain: int) -> Scanned:
        """Let go of the text before a place, and say what was found in it."""
        rules = self._rules
        scanned = Scanned()
        pieces: list[str] = []
        self._matches.sort()
        waiting: list[_Match] = []
        for match in self._matches:
            rule = rules.rules[match.order]
            if rule.action != "flag" and match.start >= certain:
                waiting.append(match)
                continue
            scanned.verdicts.append(
                Verdict(rule.name, match.kind, rule.action, rules.side, match.start, match.end)
            )
            if rule.action == "flag":
                continue
            if match.start >= self.decided:
                pieces.append(self._part(self.decided, match.start))
                self.decided = match.start
                if rule.action != "block":
                    pieces.append(rule.replacement.format(kind=match.kind.upper()))
            if rule.action == "block":
                scanned.blocked = self._blocked = True
                break
            scanned.taken.append(Span(match.start, match.end))
            self.decided = max(self.decided, match.end)
        if not self._blocked and self.decided < certain:
            pieces.append(self._part(self.decided, certain))
            self.decided = certain
        self._matches = waiting
        scanned.text = "".join(pieces)
        return scanned

    def _part(self, start: int, end: int) -> str:
        return self._text[start - self._offset : end - self._offset]

    def _forget(self) -> None:
        """Keep what is not certain and the context before it."""
        places = [self.decided, *self._quiet, *(self._resume[i] for i in self._rules.alone)]
        needed = min(places) - self._rules.context
        if needed > self._offset:
            self._text = self._text[needed - self._offset :]
            self._offset = needed


def scan_text(rules: RuleSet, text: str) -> Scanned:
    """Scan a text that is known as a whole."""
    return Scanner(rules).add(text, final=True)
