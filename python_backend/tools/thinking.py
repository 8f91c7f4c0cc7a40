"""What a model thinks before it answers, told apart from the answer."""

from __future__ import annotations

from typing import NamedTuple

from python_backend.tools.call_parser import longest_beginning
from python_backend.tools.events import Reasoning

_BREAKS = "\n"


class Marks(NamedTuple):
    """What stands around it."""

    begin: str
    end: str


KNOWN_MARKS = (Marks("<think>", "</think>"), Marks("[THINK]", "[/THINK]"))


class ThinkingReader:
    """Tells it apart in a text that arrives in pieces.

    It stands at the beginning of an answer. The line breaks around it are nobody's.
    """

    def __init__(self, marks: Marks, begun: bool) -> None:
        """Begin an answer; ``begun``: the prompt ends with the first mark."""
        self._marks = marks
        self._state = "at its beginning" if begun else "before"
        self._text = ""

    def add(self, text: str, final: bool = False) -> tuple[list[Reasoning], str]:
        """What is certain after some more text: of the thinking, and of what follows it."""
        self._text += text
        thought: list[Reasoning] = []
        if self._state == "before" and not self._find_beginning(final):
            return thought, ""
        if self._state == "at its beginning":
            self._text = self._text.lstrip(_BREAKS)
            if not self._text:
                return thought, ""
            self._state = "within"
        if self._state == "within":
            thought.append(Reasoning(self._think(final)))
        if self._state == "behind":
            self._text = self._text.lstrip(_BREAKS)
            if not self._text:
                return thought, ""
            self._state = "answering"
        if self._state != "answering":
            return thought, ""
        rest, self._text = self._text, ""
        return thought, rest

    def _find_beginning(self, final: bool) -> bool:
        """Whether it is known if the answer begins with thinking."""
        stripped = self._text.lstrip()
        begin = self._marks.begin
        if stripped.startswith(begin):
            self._text = stripped[len(begin) :]
            self._state = "at its beginning"
        elif final or not begin.startswith(stripped):
            self._state = "answering"
        else:
            return False
        return True

    def _think(self, final: bool) -> str:
        end = self._marks.end
        place = self._text.find(end)
        if place >= 0:
            thought = self._text[:place].rstrip(_BREAKS)
            self._text = self._text[place + len(end) :]
            self._state = "behind"
            return thought
        sure = len(self._text)
        if not final:
            sure -= longest_beginning(self._text, (end,))
            sure = len(self._text[:sure].rstrip(_BREAKS))
        thought, self._text = self._text[:sure], self._text[sure:]
        return thought
