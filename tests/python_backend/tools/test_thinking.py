"""Thinking is told apart from the answer, wherever the text is cut."""

from __future__ import annotations

import itertools
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from python_backend.tools.thinking import KNOWN_MARKS, ThinkingReader

THINK, MISTRAL = KNOWN_MARKS

ANSWERS = [
    ("<think>\nSo it is.\n\n</think>\n\nYes.\n", False, "So it is.", "Yes.\n"),
    (" \n<think>a</think>b", False, "a", "b"),
    ("<think>\n\n</think>\n\nYes.", False, "", "Yes."),
    ("So it\n is.\n</think>\n\nYes.", True, "So it\n is.", "Yes."),
    ("\nSo it is", True, "So it is", ""),
    ("So it is\n</thin", True, "So it is\n</thin", ""),
    ("So.</think>", True, "So.", ""),
    ("Yes, <think> is a mark.</think>", False, "", "Yes, <think> is a mark.</think>"),
    ("<thin", False, "", "<thin"),
    ("", False, "", ""),
    ("  \n", False, "", "  \n"),
]


def read(pieces: Iterable[str], begun: bool) -> tuple[str, str]:
    reads = ThinkingReader(THINK, begun)
    said = [*(reads.add(piece) for piece in pieces), reads.add("", final=True)]
    return "".join(t.text for thought, _ in said for t in thought), "".join(r for _, r in said)


@pytest.mark.parametrize(("text", "begun", "thought", "answer"), ANSWERS)
def test_thinking_and_answer_are_told_apart(
    text: str, begun: bool, thought: str, answer: str
) -> None:
    assert read([text], begun) == (thought, answer)
    assert read(text, begun) == (thought, answer)


@given(
    st.lists(st.sampled_from(["<think>", "</think>", "\n", "a", " ", "</", "think>"]), max_size=9),
    st.lists(st.integers(0, 60), max_size=5),
    st.booleans(),
)
def test_it_is_the_same_however_the_text_is_cut(
    parts: list[str], places: list[int], begun: bool
) -> None:
    text = "".join(parts)
    ends = [0, *sorted(place % (len(text) + 1) for place in places), len(text)]
    pieces = [text[start:end] for start, end in itertools.pairwise(ends)]
    assert read(pieces, begun) == read([text], begun)


def test_thinking_is_told_as_it_comes() -> None:
    reads = ThinkingReader(MISTRAL, begun=False)
    assert reads.add("[THINK]One ")[0][0].text == "One "
    assert reads.add("two\n[/TH")[0][0].text == "two"
    assert reads.add("INK]Three") == ([("",)], "Three")
