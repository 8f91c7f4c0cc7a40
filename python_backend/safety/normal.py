"""Text as a reader sees it, so that look-alike characters and spacing tricks hide nothing.

Each character is folded by itself: marks and invisible characters go, letters of other scripts that
look like Latin ones become those (Unicode's table of confusables), case goes, and the digits and
signs that stand for letters in "l33t" become them. Letters that are spelt apart ("w o r d",
"w.o.r.d") are put together again.
"""

from __future__ import annotations

import json
import unicodedata
from functools import cache, lru_cache
from importlib.resources import files
from typing import NamedTuple

_MAX_GAP = 3
"""Most characters between two letters that are spelt apart."""

_LEET = str.maketrans("013457@$€|", "oieastasei")

CONTEXT = 16
"""Characters to the left that decide how a text is folded, and more."""


class Word(NamedTuple):
    """A run of folded letters and digits.

    Attributes:
        letters: The run.
        places: For each character of it the character of the text that it comes from.
        gap: How many characters lie between it and the word before.
    """

    letters: str
    places: list[int]
    gap: int


class Folded(NamedTuple):
    """Words put together: one space between them, and for each character its place in the text."""

    text: str
    places: list[int]


@lru_cache(maxsize=65536)
def fold(character: str) -> str:
    """A character as it looks: no characters, one, or a few."""
    if character.isascii():
        return character.translate(_LEET).lower()
    pieces = []
    for part in unicodedata.normalize("NFKD", character):
        if unicodedata.category(part) not in ("Mn", "Me", "Cf"):
            pieces.append(_latin().get(part) or _latin().get(part.casefold()) or part.casefold())
    return "".join(pieces).translate(_LEET).lower()


def words_of(text: str, start: int = 0) -> tuple[list[Word], int]:
    """The folded words of a text from a place on, and how many characters follow the last."""
    words: list[Word] = []
    letters: list[str] = []
    places: list[int] = []
    gap = word_gap = 0
    for place in range(start, len(text)):
        for part in fold(text[place]):
            if part.isalnum():
                if not letters:
                    word_gap, gap = gap, 0
                letters.append(part)
                places.append(place)
                continue
            if letters:
                words.append(Word("".join(letters), places, word_gap))
                letters, places = [], []
            gap += 1
    if letters:
        words.append(Word("".join(letters), places, word_gap))
    return words, gap


def apart(words: list[Word], space: bool) -> Folded:
    """Words as they stand; ``space``: one more space follows the last."""
    return _put_together(words, [False] * len(words), space)


def joined(words: list[Word], gap: int) -> list[Folded]:
    """Words with single letters that are spelt apart put together, in each way it may turn out.

    The last letter may be the first of a longer word, and a gap at the end may be one within a word
    that is spelt apart: more text will tell.

    Args:
        words: The words.
        gap: How many characters follow the last.

    Returns:
        Readings of the words, the likeliest first; none where no letters are spelt apart.
    """
    joins = [
        i > 0 and len(word.letters) == 1 == len(words[i - 1].letters) and word.gap <= _MAX_GAP
        for i, word in enumerate(words)
    ]
    may_go_on = bool(words) and len(words[-1].letters) == 1 and gap <= _MAX_GAP
    readings = []
    if any(joins) or (may_go_on and gap):
        readings.append(_put_together(words, joins, gap > _MAX_GAP))
        if may_go_on and gap:
            readings.append(_put_together(words, joins, True))
        elif any(joins[-1:]):
            readings.append(_put_together(words, [*joins[:-1], False], False))
    return readings


def _put_together(words: list[Word], joins: list[bool], space: bool) -> Folded:
    pieces: list[str] = []
    places: list[int] = []
    for word, join in zip(words, joins, strict=True):
        if pieces and not join:
            pieces.append(" ")
            places.append(word.places[0])
        pieces.append(word.letters)
        places += word.places
    if space and words:
        pieces.append(" ")
        places.append(words[-1].places[-1])
    return Folded("".join(pieces), places)


def spellings(term: str) -> set[str]:
    """A term folded: with and without its spaces, and with each ``l`` that may be written ``1``."""
    plain = apart(words_of(term)[0], space=False).text
    found = {plain, plain.replace(" ", "")}
    for spelling in tuple(found):
        for place in [i for i, letter in enumerate(spelling) if letter == "l"][:4]:
            found |= {
                f"{each[:place]}i{each[place + 1 :]}"
                for each in found
                if each[place : place + 1] == "l"
            }
    return found


@cache
def _latin() -> dict[str, str]:
    """The ASCII letter or digit that a character of another script looks like."""
    source = files("confusable_homoglyphs").joinpath("confusables.json").read_bytes()
    table: dict[str, list[dict[str, str]]] = json.loads(source)
    latin: dict[str, str] = {}
    for character, alike in table.items():
        if len(character) != 1 or character.isascii():
            continue
        for other in alike:
            if len(other["c"]) == 1 and other["c"].isascii() and other["c"].isalnum():
                latin[character] = other["c"].lower()
                break
    return latin
