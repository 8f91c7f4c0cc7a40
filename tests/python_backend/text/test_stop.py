"""Stop texts: the text ends at the first that is complete, wherever it is cut."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from python_backend.text.stop import StopTexts


def streamed(stops: list[str], include: bool, pieces: list[str]) -> tuple[str, bool]:
    matcher = StopTexts(stops, include)
    text = "".join(matcher.add(piece) for piece in pieces)
    return text + matcher.add("", final=True), matcher.found


@pytest.mark.parametrize(
    ("stops", "text", "excluded", "included"),
    [
        (["b"], "abc", "a", "ab"),
        (["\n\n"], "a\nb\n\nc", "a\nb", "a\nb\n\n"),
        (["abcd", "bc"], "xabcd", "xa", "xabc"),
        (["bc", "abc"], "xabc", "x", "xabc"),
        (["aab"], "aaab", "a", "aaab"),
        (["🐱"], "a 🐱!", "a ", "a 🐱"),
        (["x"], "abc", "abc", "abc"),
        ([""], "abc", "abc", "abc"),
    ],
)
def test_where_a_text_ends(stops: list[str], text: str, excluded: str, included: str) -> None:
    assert streamed(stops, False, list(text))[0] == excluded
    assert streamed(stops, True, list(text))[0] == included


@pytest.mark.parametrize(
    ("early", "late", "excluded"),
    [
        ("ab", "ab", "ab"),
        ("xa", "bx", "x"),
        ("xab", "x", "xabx"),
        ("xab", "cd", "xab"),
        ("", "ab", ""),
    ],
)
@pytest.mark.parametrize("by_character", [False, True])
def test_a_stop_text_that_is_complete_too_early_ends_nothing(
    early: str, late: str, excluded: str, by_character: bool
) -> None:
    matcher = StopTexts(["ab", "cd", "abxy"], include=False)
    text = "".join(matcher.add(each, early=True) for each in (early if by_character else [early]))
    text += "".join(matcher.add(each) for each in (late if by_character else [late]))
    assert text + matcher.add("", final=True) == excluded


def test_what_can_not_be_a_stop_text_leaves_at_once() -> None:
    matcher = StopTexts(["stop"], include=False)
    assert [matcher.add(piece) for piece in ("go", " s", "to", "ne")] == ["go", " ", "", "stone"]


STOPS = st.lists(st.text("ab", max_size=4), max_size=4)


@given(STOPS, st.booleans(), st.text("ab", max_size=20), st.lists(st.integers(0, 20)))
def test_cutting_the_text_changes_nothing(
    stops: list[str], include: bool, text: str, cuts: list[int]
) -> None:
    places = sorted({0, len(text), *(cut for cut in cuts if cut < len(text))})
    pieces = [text[a:b] for a, b in pairwise(places)]
    whole = streamed(stops, include, [text])
    assert streamed(stops, include, pieces) == streamed(stops, include, list(text))
    assert streamed(stops, include, pieces) == whole
    ends = [text.find(stop) + len(stop) for stop in stops if stop and stop in text]
    assert whole[1] == bool(ends)
    if include:
        assert whole[0] == text[: min(ends, default=len(text))]
