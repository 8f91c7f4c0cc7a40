"""Redaction of personal data in a stream of text.

Nothing that is redacted ever leaves, not even its first characters, however the text is cut: the
end of the stream that could still become a match is held back until it can't. Text that can't be
part of a match leaves at once. Redacting the stream equals redacting the whole.
"""

from __future__ import annotations

import re
import string
from collections.abc import Collection, Iterator
from typing import Literal, get_args

Kind = Literal["email", "phone", "card"]
KINDS: tuple[Kind, ...] = get_args(Kind)

_LETTERS = string.ascii_letters + string.digits
_LOCAL = _LETTERS + "._%+-"
_DOMAIN = _LETTERS + ".-"
_DIGITS = string.digits
_SEPARATORS = " .()-"

_EMAIL = re.compile(r"(?<![A-Za-z0-9._%+\-])[A-Za-z0-9._%+\-]+@[A-Za-z0-9\-]+(?:\.[A-Za-z0-9\-]+)+")
_NUMBER = re.compile(r"\+?[0-9](?:[ .()\-]{0,2}[0-9])*")
_GROUP = re.compile(r"\+?[0-9]+")


class Redactor:
    """The redacted text of one stream.

    Owns the end of the text that is not certain yet: at most one word or one run of digits.
    """

    def __init__(self, kinds: Collection[Kind] = KINDS) -> None:
        self._kinds = frozenset(kinds)
        self._held = ""

    def add(self, text: str, final: bool = False) -> str:
        """Redacted text that is certain after some more text.

        Args:
            text: The next piece.
            final: No more text follows.

        Returns:
            The text that follows what was returned before.
        """
        if not self._kinds:
            return text
        text = self._held + text
        end = len(text) if final else _tail_start(text)
        pieces: list[str] = []
        position = 0
        for match in _candidates(text):
            if match.end() > end:
                end = min(end, match.start())
                break
            pieces.append(text[position : match.start()])
            pieces.extend(self._redact(match))
            position = match.end()
        pieces.append(text[position:end])
        self._held = text[end:]
        return "".join(pieces)

    def _redact(self, match: re.Match[str]) -> Iterator[str]:
        run = match[0]
        if match.re is _EMAIL:
            yield "[EMAIL]" if "email" in self._kinds else run
            return
        groups = list(_GROUP.finditer(run))
        position = index = 0
        while index < len(groups):
            found = self._longest(run, groups, index)
            if found is None:
                index += 1
                continue
            kind, last = found
            yield run[position : groups[index].start()]
            yield f"[{kind.upper()}]"
            position = groups[last].end()
            index = last + 1
        yield run[position:]

    def _longest(
        self, run: str, groups: list[re.Match[str]], first: int
    ) -> tuple[Kind, int] | None:
        """The longest sequence of digit groups from the given one that is of a redacted kind."""
        best: tuple[Kind, int] | None = None
        for last in range(first, len(groups)):
            number = run[groups[first].start() : groups[last].end()]
            digits = re.sub(r"[^0-9]", "", number)
            if len(digits) > 19:
                break
            if is_card(digits) and "card" in self._kinds:
                best = ("card", last)
            elif number.startswith("+") and 8 <= len(digits) <= 15 and "phone" in self._kinds:
                best = ("phone", last)
        return best


def _candidates(text: str) -> Iterator[re.Match[str]]:
    """What looks like an e-mail address, and the runs of digits between those, in order."""
    position = 0
    for email in _EMAIL.finditer(text):
        yield from _NUMBER.finditer(text, position, email.start())
        yield email
        position = email.end()
    yield from _NUMBER.finditer(text, position)


def _tail_start(text: str) -> int:
    """Where the end of a text begins that could still become, or be part of, a candidate."""
    email = len(text.rstrip(_LOCAL))
    domain = len(text.rstrip(_DOMAIN))
    if text[domain - 1 : domain] == "@":
        email = min(email, len(text[: domain - 1].rstrip(_LOCAL)))
    number = len(text.rstrip(_DIGITS + _SEPARATORS))
    while number < len(text) and text[number] not in _DIGITS:
        number += 1
    if text[number - 1 : number] == "+":
        number -= 1
    return min(email, number)


def is_card(digits: str) -> bool:
    """Whether digits are a payment-card number: 13 to 19 of them with a Luhn checksum.

    From ISO/IEC 7812-1, annex B.
    """
    if not 13 <= len(digits) <= 19:
        return False
    doubled = (int(digit) * (1 + i % 2) for i, digit in enumerate(reversed(digits)))
    return sum(value - 9 if value > 9 else value for value in doubled) % 10 == 0
