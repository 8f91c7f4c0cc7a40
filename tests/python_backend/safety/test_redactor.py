"""Redaction: what is caught, what is not, and that cutting the stream changes nothing."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from python_backend.safety.redactor import KINDS, Kind, Redactor, is_card


def redact(text: str, kinds: tuple[Kind, ...] = KINDS) -> str:
    return Redactor(kinds).add(text, final=True)


@pytest.mark.parametrize(
    ("text", "redacted"),
    [
        ("Write to ana.silva@acme.example.", "Write to [EMAIL]."),
        ("a@b.example, c@d.example", "[EMAIL], [EMAIL]"),
        ("a@b@c.example", "a@[EMAIL]"),
        ("phone +44 20 7946 0123, thanks", "phone [PHONE], thanks"),
        ("phone +1 (202) 555-0143\n", "phone [PHONE]\n"),
        ("card 4111 1111 1111 1111.", "card [CARD]."),
        ("4111-1111-1111-1111", "[CARD]"),
        ("4111111111111111 4111111111111111", "[CARD] [CARD]"),
        ("no 12 4111 1111 1111 1111 35", "no 12 [CARD] 35"),
        ("4111 1111 1111 1111@mail.example", "4111 1111 1111 [EMAIL]"),
        ("4111 1111 1111 1112", "4111 1111 1111 1112"),
        ("1, 2, 3 and 17 18 19 20 21 22 23", "1, 2, 3 and 17 18 19 20 21 22 23"),
        ("invoice 2024-11-20 no. 12345678", "invoice 2024-11-20 no. 12345678"),
        ("user@localhost, @name, 3 + 4", "user@localhost, @name, 3 + 4"),
        ("Zoë 東京 🐱 ", "Zoë 東京 🐱 "),
    ],
)
def test_what_is_redacted(text: str, redacted: str) -> None:
    assert redact(text) == redacted


def test_only_the_chosen_kinds_are_redacted() -> None:
    text = "a@b.example +44 20 7946 0123, 4111 1111 1111 1111"
    assert redact(text, ("card",)) == "a@b.example +44 20 7946 0123, [CARD]"
    assert redact(text, ()) == text


def test_ordinary_text_leaves_at_the_next_word() -> None:
    redactor = Redactor()
    assert redactor.add("The cat") == "The "
    assert redactor.add(" sat") == "cat "
    assert redactor.add("", final=True) == "sat"


def test_a_match_does_not_leave_before_it_is_whole() -> None:
    redactor = Redactor()
    assert redactor.add("to ana@acme.exam") == "to "
    assert redactor.add("ple") == ""
    assert redactor.add(", or") == "[EMAIL], "


FRAGMENTS = st.sampled_from(
    "a ana.silva @ acme .example . - + +44 20 7946 0123 4111 1111 ( ) , é 猫 🐱 x 0 % _".split()
)
SPACES = st.sampled_from([" ", "\n", "1111 1111"])
TEXTS = st.lists(FRAGMENTS | SPACES, max_size=30).map("".join)


@given(TEXTS, st.lists(st.integers(0, 60), max_size=20))
def test_redacting_the_stream_is_redacting_the_whole(text: str, cuts: list[int]) -> None:
    redactor = Redactor()
    places = sorted({0, len(text), *(cut for cut in cuts if cut < len(text))})
    pieces = [redactor.add(text[a:b]) for a, b in pairwise(places)]
    assert "".join(pieces) + redactor.add("", final=True) == redact(text)


@given(TEXTS)
def test_cut_at_every_character(text: str) -> None:
    redactor = Redactor()
    streamed = "".join(redactor.add(character) for character in text)
    assert streamed + redactor.add("", final=True) == redact(text)


def test_a_long_word_takes_linear_time() -> None:
    redactor = Redactor()
    text = "a" * 100_000
    assert redactor.add(text) == ""
    assert redactor.add(" ") == text + " "


@pytest.mark.parametrize("digits", ["4111111111111111", "378282246310005", "6011000990139424"])
def test_luhn(digits: str) -> None:
    assert is_card(digits)
    assert not is_card(digits[:-1] + str((int(digits[-1]) + 1) % 10))
    assert not is_card("0" * 12)
