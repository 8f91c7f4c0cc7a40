"""What the beginning of personal data tells where an answer is cut within it.

Nearly every word may be the beginning of an e-mail address and every digit that of a card's number,
so where nobody knows what would have followed, not all of them can be taken out: an answer of one
word would be empty. What is taken out is what has more than a word or a number of everyday has.
Digits are ASCII here.
"""

from __future__ import annotations

import re

MOST_UNTOLD = 4
"""Most characters of a number, an identifier or a key that may leave."""

_TWO_PARTS = re.compile(r"[^\W\d_][._%+]+[^\W_]|[^\W_][._%+]+[^\W\d_]")


def _count(text: str) -> tuple[int, int]:
    """Letters and digits, and how many of them are digits."""
    return sum(map(str.isalnum, text)), sum(map(str.isdigit, text))


def number(text: str) -> bool:
    """More digits than a year has."""
    return _count(text)[1] > MOST_UNTOLD


def identifier(text: str) -> bool:
    """As many letters and digits, of which two are digits, as no word has them."""
    characters, digits = _count(text)
    return characters > MOST_UNTOLD and digits >= 2


def email(text: str) -> bool:
    """Its ``@``, or a name of two parts such as ``ana.si``: no single word."""
    return "@" in text or (_count(text)[0] > MOST_UNTOLD and _TWO_PARTS.search(text) is not None)


def ipv4(text: str) -> bool:
    """Its third part, and more digits than versions have."""
    return text.count(".") >= 2 and number(text)


def ipv6(text: str) -> bool:
    """Its fourth part: a time of day has three."""
    return text.count(":") >= 3 and identifier(text)
