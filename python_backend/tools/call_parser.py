"""Finding calls in a text that arrives in pieces: what the parsers of all formats have in common.

A parser is a generator that goes through the text as if all of it were there, and yields where it
needs more. What it decides never depends on how much has come yet, so the events are the same
however the text is cut. What turns out to be no call is text; nothing is lost.
"""

from __future__ import annotations

import json
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Sequence
from typing import TypeVar

from python_backend.tools.events import Arguments, CallBegun, Content, Event, joined
from python_backend.tools.tool_functions import Functions

_R = TypeVar("_R")
Parsing = Generator[None, None, _R]
"""Yields where it needs more text; returns what it found."""

MOST_CALLS = 128
"""In one answer; what follows is text."""
_LONGEST_NAME = 256

_SPACE = " \t\r\n"
_OF_A_VALUE = re.compile(r'["{}\[\]]')
_OF_A_STRING = re.compile(r'["\\]')
_END_OF_A_WORD = re.compile(r"[,}\]\s]")
_NAMES, _ARGUMENTS = ("name", "function"), ("arguments", "parameters")


class NoCallError(Exception):
    """What looked like a call is none."""


class CallParser(ABC):
    """Reads one answer's calls.

    Owns the text that isn't decided yet.

    Attributes:
        num_begun: Calls that have begun.
        num_whole: Those of them whose arguments are complete.
    """

    def __init__(self, functions: Functions, new_id: Callable[[], str]) -> None:
        self.functions = functions
        self.num_begun = 0
        self.num_whole = 0
        self._new_id = new_id
        self._text = ""
        self._final = False
        self._space = ""
        self._kept: list[str] | None = None
        self._events: list[Event] = []
        self._parsing = self._parse()

    def add(self, text: str, final: bool = False) -> list[Event]:
        """What is certain after some more text; ``final``: no more follows."""
        self._text += text
        self._final = final
        next(self._parsing, None)
        events, self._events = self._events, []
        return joined(events)

    @abstractmethod
    def _parse(self) -> Parsing[None]:
        """Go through the text."""

    # What a parser is made of.

    def _say(self, text: str) -> None:
        self._events.append(Content(text))

    def _take(self, count: int) -> str:
        """The next characters, which are there."""
        taken, self._text = self._text[:count], self._text[count:]
        if self._kept is not None:
            self._kept.append(taken)
        return taken

    def _more(self, count: int = 1) -> Parsing[bool]:
        """Wait for so many characters; whether they came."""
        while len(self._text) < count:
            if self._final:
                return False
            yield
        return True

    def _next(self) -> Parsing[str]:
        """The next character that is no space, not taken; empty at the end."""
        while True:
            stripped = self._text.lstrip(_SPACE)
            self._take(len(self._text) - len(stripped))
            if self._text:
                return self._text[0]
            if self._final:
                return ""
            yield

    def _follows(self, *words: str) -> Parsing[str]:
        """Which of some words comes next, and take it; empty where none does."""
        while True:
            for word in words:
                if self._text.startswith(word):
                    return self._take(len(word))
            if self._final or not any(word.startswith(self._text) for word in words):
                return ""
            yield

    def _end_of_calls(self, mark: str) -> Parsing[None]:
        """Take the mark behind calls, where it is; a part of it, at the end, is nobody's text."""
        yield from self._next()
        if not (yield from self._follows(mark)) and mark.startswith(self._text):
            self._take(len(self._text))
        yield from self._next()

    def _say_until(self, *marks: str) -> Parsing[str]:
        """Say all before the first of some marks, but for the space before it, and take the mark.

        Empty at the end of the text, all of which was said.
        """
        while True:
            found = min(
                ((place, mark) for mark in marks if (place := self._text.find(mark)) >= 0),
                default=None,
            )
            if found is not None:
                place, mark = found
                before = self._text[:place].rstrip(_SPACE)
                self._say(before)
                self._space = self._text[len(before) : place]
                self._text = self._text[place + len(mark) :]
                return mark
            if self._final:
                self._say(self._text)
                self._text = ""
                return ""
            sure = len(self._text) - longest_beginning(self._text, marks)
            sure = len(self._text[:sure].rstrip(_SPACE))
            self._say(self._take(sure))
            yield

    def _try(self, mark: str, calls: Parsing[None]) -> Parsing[bool]:
        """Read what looks like calls after a mark; where it is none, it is text, with the mark."""
        outer, self._kept = self._kept, []
        begun = self.num_begun
        try:
            yield from calls
        except NoCallError:
            if self.num_begun == begun:
                self._say(self._space + mark + "".join(self._kept))
                return False
        finally:
            self._kept = outer
            self._space = ""
        return True

    def _begin(self, name: str) -> int:
        """Say that a call begins."""
        number = self.num_begun
        if number >= MOST_CALLS or not name:
            raise NoCallError
        self.num_begun += 1
        self._events.append(CallBegun(number, self._new_id(), name))
        return number

    def _argue(self, number: int, text: str) -> None:
        self._events.append(Arguments(number, text))

    # JSON.

    def _json_calls(self, *, known_only: bool = False) -> Parsing[None]:
        """One object with a name and arguments, or a list of them."""
        first = yield from self._next()
        if first != "[":
            yield from self._json_call(known_only)
            return
        self._take(1)
        while (yield from self._next()) == "{":
            yield from self._json_call(known_only)
            if (yield from self._next()) == ",":
                self._take(1)
        if (yield from self._next()) != "]":
            raise NoCallError
        self._take(1)

    def _json_call(self, known_only: bool) -> Parsing[None]:
        """An object of a call, of which the arguments are said as they come."""
        yield from self._expect("{")
        name, early, number = "", "", -1
        while (yield from self._next()) == '"':
            key = yield from self._json_string()
            yield from self._expect(":")
            first = yield from self._next()
            if key in _NAMES and first == '"' and not name:
                name = yield from self._json_string(_LONGEST_NAME)
                if known_only and name not in self.functions:
                    raise NoCallError
            elif key in _ARGUMENTS and name and number < 0:
                number = self._begin(name)
                yield from self._json_arguments(number)
            elif key in _ARGUMENTS and number < 0:
                parts: list[str] = []
                yield from self._json_value(parts.append)
                early = "".join(parts)
            else:
                yield from self._json_value(lambda _: None)
            if (yield from self._next()) == ",":
                self._take(1)
        if number < 0:
            if (yield from self._next()) != "}":
                raise NoCallError
            number = self._begin(name)
            self._argue(number, as_object(early))
            self.num_whole += 1
        yield from self._expect("}")

    def _json_arguments(self, number: int) -> Parsing[None]:
        """A call's arguments: an object as it is, or a text that holds one."""
        if (yield from self._next()) == "{":
            yield from self._json_value(lambda text: self._argue(number, text))
        else:
            parts: list[str] = []
            yield from self._json_value(parts.append)
            self._argue(number, as_object("".join(parts)))
        self.num_whole += 1

    def _json_string(self, most: int = 1 << 20) -> Parsing[str]:
        """A string, decoded."""
        parts: list[str] = []
        yield from self._json_literal(parts.append)
        literal = "".join(parts)
        try:
            text = json.loads(literal, strict=False)
        except ValueError:
            raise NoCallError from None
        if len(text) > most:
            raise NoCallError
        return str(text)

    def _json_literal(self, take: Callable[[str], None]) -> Parsing[None]:
        """A string with its quotes, as it is."""
        take((yield from self._expect('"')))
        while True:
            found = _OF_A_STRING.search(self._text)
            if found is None:
                take(self._take(len(self._text)))
                if not (yield from self._more()):
                    raise NoCallError
                continue
            take(self._take(found.start()))
            if found[0] == '"':
                take(self._take(1))
                return
            if not (yield from self._more(2)):
                take(self._take(len(self._text)))
                raise NoCallError
            take(self._take(2))

    def _json_value(self, take: Callable[[str], None]) -> Parsing[None]:
        """Any value, as it is, as it comes."""
        first = yield from self._next()
        if first == '"':
            yield from self._json_literal(take)
            return
        if first not in ("{", "["):
            yield from self._json_word(take)
            return
        depth = 0
        while True:
            found = _OF_A_VALUE.search(self._text)
            if found is None:
                take(self._take(len(self._text)))
                if not (yield from self._more()):
                    raise NoCallError
                continue
            take(self._take(found.start()))
            if found[0] == '"':
                yield from self._json_literal(take)
                continue
            depth += 1 if found[0] in "{[" else -1
            take(self._take(1))
            if not depth:
                return

    def _json_word(self, take: Callable[[str], None]) -> Parsing[None]:
        """A number, true, false or null."""
        while True:
            found = _END_OF_A_WORD.search(self._text)
            if found is not None:
                if not found.start():
                    raise NoCallError
                take(self._take(found.start()))
                return
            if len(self._text) > _LONGEST_NAME or not (yield from self._more(len(self._text) + 1)):
                take(self._take(len(self._text)))
                raise NoCallError

    def _expect(self, character: str) -> Parsing[str]:
        if (yield from self._next()) != character:
            raise NoCallError
        return self._take(1)


def longest_beginning(text: str, marks: Sequence[str]) -> int:
    """Length of the longest end of a text that a mark begins with."""
    longest = max(map(len, marks)) - 1
    for length in range(min(longest, len(text)), 0, -1):
        if any(mark.startswith(text[-length:]) for mark in marks):
            return length
    return 0


def as_object(text: str) -> str:
    """Arguments that aren't written as an object: a text that holds one, or none at all."""
    try:
        value = json.loads(text, strict=False)
    except ValueError:
        return text or "{}"
    if isinstance(value, str):
        return value.strip() or "{}"
    return "{}" if value is None else text
