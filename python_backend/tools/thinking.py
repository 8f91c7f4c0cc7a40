"""What a model thinks before it answers, told apart from the answer."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, NamedTuple

from python_backend.text.detokenizer import Vocabulary
from python_backend.tools.call_parser import longest_beginning
from python_backend.tools.events import Reasoning

if TYPE_CHECKING:
    from python_backend.tools.answer_reading import Reading

_BREAKS = "\n"


class Marks(NamedTuple):
    """What stands around it."""

    begin: str
    end: str


KNOWN_MARKS = (Marks("<think>", "</think>"), Marks("[THINK]", "[/THINK]"))


class ThoughtCounter:
    """Counts the tokens of thinking, its marks among them, by the bytes that tokens are."""

    def __init__(self, vocabulary: Vocabulary, reading: Reading) -> None:
        marks = reading.marks
        self._vocabulary = vocabulary
        self._begin = marks.begin.encode() if marks else b""
        self._end = marks.end.encode() if marks else b""
        self._state = "ended" if marks is None else "within" if reading.begun else "before"
        self._seen = b""
        self._num_before = 0

    def add(self, token_ids: Iterable[int]) -> int:
        """How many of some more tokens are thinking; the beginning counts when it is one."""
        count = 0
        for token in token_ids:
            if self._state == "ended":
                return count
            self._seen += self._vocabulary.bytes_of(token) or b""
            if self._state == "before":
                self._num_before += 1
                self._look_for_beginning()
                count += self._num_before if self._state == "within" else 0
            else:
                count += 1
            if self._state == "within":
                if self._end in self._seen:
                    self._state = "ended"
                self._seen = self._seen[-len(self._end) :]
        return count

    def _look_for_beginning(self) -> None:
        seen = self._seen.lstrip()
        if seen.startswith(self._begin):
            self._state, self._seen = "within", seen[len(self._begin) :]
        elif not self._begin.startswith(seen):
            self._state = "ended"


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
