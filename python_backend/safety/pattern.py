r"""Regular expressions for text that arrives in pieces.

RE2 matches in linear time, so no pattern can hang the server, but it can't say whether the end of
a text could still become a match. A second expression can: it matches every beginning of what the
first one matches. Found at the end of the text, it tells where the text has to be held back.

Patterns are written in Python's syntax. Classes such as ``\d`` and ``\w``, and ``\b``, mean ASCII
as in RE2; look-around and references back are not regular and are refused.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable
from functools import lru_cache
from typing import Any

import re2

from contract.errors import TriremeError

if sys.version_info >= (3, 11):
    from re import _constants as sre  # type: ignore[attr-defined]
    from re import _parser as sre_parser  # type: ignore[attr-defined]
else:
    import sre_constants as sre
    import sre_parse as sre_parser

MAX_WIDTH = 4096
"""Most characters that a match may span, and so the most that is held back for one."""

_CLASSES = {
    sre.CATEGORY_DIGIT: r"\d",
    sre.CATEGORY_NOT_DIGIT: r"\D",
    sre.CATEGORY_SPACE: r"\s",
    sre.CATEGORY_NOT_SPACE: r"\S",
    sre.CATEGORY_WORD: r"\w",
    sre.CATEGORY_NOT_WORD: r"\W",
}
_ASSERTIONS = {
    sre.AT_BEGINNING: "^",
    sre.AT_BEGINNING_STRING: r"\A",
    sre.AT_BOUNDARY: r"\b",
    sre.AT_NON_BOUNDARY: r"\B",
    sre.AT_END: "$",
    sre.AT_END_STRING: r"\z",
}
_FLAGS = {re.IGNORECASE: "i", re.MULTILINE: "m", re.DOTALL: "s"}
_REPEATS = (sre.MAX_REPEAT, sre.MIN_REPEAT)
_MAX_REPEAT = 1000
"""RE2's own bound."""

_WORD_CHARACTERS = 32
_QUIET_WORDS = 1 << 14
"""Longest word, and how many words, that are remembered."""
_PAIRS = 1 << 14
"""How many pairs of characters are remembered."""

Tree = list[tuple[Any, Any]]


class PatternError(TriremeError, ValueError):
    """A pattern is wrong, has no bounded width or is not regular."""


class Pattern:
    """One bounded regular expression.

    Attributes:
        source: The expression as it was written.
        full: The same in RE2's syntax.
        beginning: An expression for every beginning of a match, the empty one included.
        shortest: Fewest characters that a match spans.
        width: Most characters that a match spans.
    """

    def __init__(self, source: str) -> None:
        r"""Parse and compile an expression.

        Raises:
            PatternError: It is no expression, matches the empty text, may match a text of any
                length, or needs what RE2 does not have.
        """
        self.source = source
        try:
            parsed: Any = sre_parser.parse(source)
        except (re.error, RecursionError, OverflowError) as error:
            raise PatternError(f"it is no regular expression: {error}") from None
        self.shortest, self.width = parsed.getwidth()
        if self.width > MAX_WIDTH:
            raise PatternError(
                f"it may match more than {MAX_WIDTH} characters; give repeats an upper bound, "
                "such as {0,64}"
            )
        if self.shortest == 0:
            raise PatternError("it matches the empty text")
        flags = _letters(parsed.state.flags)
        opening = f"(?{flags}:" if flags else "(?:"
        self.full = f"{opening}{_full(parsed)})"
        self.beginning = f"{opening}{_beginning(list(parsed))})"
        self._search = _compile(self.full).search
        self._horizon = _Horizon(self.beginning, self.width)

    def search(self, text: str, start: int = 0) -> tuple[int, int] | None:
        """Where the leftmost match from a place on begins and ends; the text before counts."""
        match = self._search(text, start)
        return None if match is None else match.span()

    def horizon(self, text: str, start: int = 0) -> int:
        """Where from on more text could make or change a match: the text's length for nowhere."""
        return self._horizon.of(text, start)


class AnyOf:
    """Several patterns asked at once: the cheap first questions about a piece of text."""

    def __init__(self, patterns: Iterable[Pattern]) -> None:
        patterns = list(patterns)
        self._search = _compile("|".join(each.full for each in patterns)).search
        beginnings = "|".join(each.beginning for each in patterns)
        self._horizon = _Horizon(beginnings, max(each.width for each in patterns))
        self._is_quiet = lru_cache(_QUIET_WORDS)(self._ask_word)

    def skip_words(self, text: str, start: int) -> int:
        """Where the first word begins in which a match may begin, whatever follows.

        A text has few words that it does not repeat, so most are known: a word and the space after
        it from which no match can begin says the same wherever it stands, as patterns see no more
        than the one character before.
        """
        while (end := text.find(" ", start, start + _WORD_CHARACTERS) + 1) > 0:
            before = max(start - 1, 0)
            if not self._is_quiet(text[before:end], start - before):
                break
            start = end
        return start

    def _ask_word(self, text: str, start: int) -> bool:
        """Whether no match begins in a text from a place on, nor can with more text behind it."""
        return self._search(text, start) is None and self.horizon(text, start) == len(text)

    def search(self, text: str, start: int = 0) -> int:
        """Where the leftmost match of any of them begins; the text's length for nowhere."""
        match = self._search(text, start)
        return len(text) if match is None else int(match.start())

    def horizon(self, text: str, start: int = 0) -> int:
        """Where from on more text could make or change a match of any of them."""
        return self._horizon.of(text, start)


class _Horizon:
    """The first place from which the rest of a text is the beginning of a match.

    Asked place by place: read from its end, an expression with bounded repeats has so many states
    that RE2 gives up its automaton; read forward, it has few, and most places are refused at once.
    At most places the character itself says no: a beginning of a match has beginnings down to its
    first character, and that sees no more than the one before it, so what such a pair says is
    remembered. In UTF-8, as RE2 would encode the text at each place anew.
    """

    def __init__(self, beginning: str, width: int) -> None:
        self._begins = _compile(beginning.encode()).fullmatch
        self._width = width
        self._may_begin = lru_cache(_PAIRS)(self._ask_pair)

    def of(self, text: str, start: int) -> int:
        data = text.encode()
        place = max(start, len(text) - self._width)
        byte_place = byte = 0
        while place < len(text):
            if self._may_begin(text[max(place - 1, 0) : place], text[place]):
                byte += len(text[byte_place:place].encode())
                byte_place = place
                if self._begins(data, byte) is not None:
                    break
            place += 1
        return place

    def _ask_pair(self, before: str, character: str) -> bool:
        """Whether a match may begin with a character that stands behind another, or first."""
        return self._begins((before + character).encode(), len(before.encode())) is not None


def _compile(source: str | bytes) -> Any:
    options = re2.Options()
    options.log_errors = False
    options.max_mem = 64 << 20
    try:
        return re2.compile(source, options)
    except re2.error as error:
        reason = error.args[0].decode() if isinstance(error.args[0], bytes) else str(error)
        raise PatternError(f"RE2 can't compile it: {reason[:200]}") from None


def _letters(flags: int) -> str:
    return "".join(letter for flag, letter in _FLAGS.items() if flags & flag)


def _full(tree: Iterable[tuple[Any, Any]]) -> str:
    return "".join(_one(operation, argument) for operation, argument in tree)


def _one(operation: Any, argument: Any) -> str:
    """One element of a parsed expression in RE2's syntax."""
    if operation is sre.LITERAL:
        return _literal(argument)
    if operation is sre.NOT_LITERAL:
        return f"[^{_literal(argument)}]"
    if operation is sre.ANY:
        return "."
    if operation is sre.IN:
        return _set(argument)
    if operation is sre.AT and argument in _ASSERTIONS:
        return _ASSERTIONS[argument]
    if operation is sre.BRANCH:
        return f"(?:{'|'.join(_full(branch) for branch in argument[1])})"
    if operation is sre.SUBPATTERN:
        return f"{_opening(argument)}{_full(argument[3])})"
    if operation in _REPEATS:
        lowest, highest, body = argument
        lazy = "?" if operation is sre.MIN_REPEAT else ""
        return f"(?:{_full(body)}){_count(lowest, int(highest))}{lazy}"
    raise PatternError(f"{str(operation).lower()} is not regular; RE2 does not have it")


def _beginning(tree: Tree) -> str:
    """An expression for every beginning of what a sequence of elements matches."""
    expression = ""
    for operation, argument in reversed(tree):
        whole = _one(operation, argument) + expression
        if operation is sre.BRANCH:
            parts = [_beginning(list(branch)) for branch in argument[1]]
        elif operation is sre.SUBPATTERN:
            parts = [f"{_opening(argument)}{_beginning(list(argument[3]))})"]
        elif operation in _REPEATS and argument[1] > 0:
            _, highest, body = argument
            before = f"(?:{_full(body)}){_count(0, int(highest) - 1)}" if highest > 1 else ""
            parts = [before + _beginning(list(body))]
        else:
            parts = [""]
        expression = f"(?:{'|'.join([whole, *parts])})"
    return expression


def _opening(argument: Any) -> str:
    _, added, removed, _ = argument
    flags = _letters(added) + (f"-{_letters(removed)}" if _letters(removed) else "")
    return f"(?{flags}:" if flags else "(?:"


def _count(lowest: int, highest: int) -> str:
    if highest > _MAX_REPEAT:
        raise PatternError(f"it repeats up to {highest} times; RE2 counts to {_MAX_REPEAT}")
    return f"{{{lowest},{highest}}}"


def _literal(code: int) -> str:
    return rf"\x{{{code:x}}}"


def _set(items: Iterable[tuple[Any, Any]]) -> str:
    pieces = []
    for operation, argument in items:
        if operation is sre.NEGATE:
            pieces.append("^")
        elif operation is sre.LITERAL:
            pieces.append(_literal(argument))
        elif operation is sre.RANGE:
            pieces.append(f"{_literal(argument[0])}-{_literal(argument[1])}")
        else:
            pieces.append(_CLASSES[argument])
    return f"[{''.join(pieces)}]"
