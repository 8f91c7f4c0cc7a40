"""Term lists: found however they are written, and not where they are not."""

from __future__ import annotations

import random
import string
import time

import pytest

from python_backend.safety.normal import fold
from python_backend.safety.terms import TermFinder

FINDER = TermFinder("term", ["kill", "bad word", "Schurke", "東京", "c++"])


def found(text: str, finder: TermFinder = FINDER) -> list[str]:
    return [text[span.start : span.end] for span in finder.scan(text, 0, final=True)[0]]


@pytest.mark.parametrize(
    ("text", "terms"),
    [
        ("to kill a bad word", ["kill", "bad word"]),
        ("KILL, Kill!", ["KILL", "Kill"]),
        ("k i l l", ["k i l l"]),
        ("a k.i-l_l b", ["k.i-l_l"]),
        ("b a d w o r d now", ["b a d w o r d"]),
        ("bad   word, bad\nword, bad-word", ["bad   word", "bad\nword", "bad-word"]),
        ("k1ll ki11 k!ll", ["k1ll", "ki11"]),
        ("kíll k\u0131ll ｋｉｌｌ 𝓀𝒾𝓁𝓁", ["kíll", "k\u0131ll", "ｋｉｌｌ", "𝓀𝒾𝓁𝓁"]),
        ("k\u200bi\u00adl\u2060l", ["k\u200bi\u00adl\u2060l"]),
        ("ki\u0301ll", ["ki\u0301ll"]),
        ("bаd wоrd", ["bаd wоrd"]),  # Cyrillic а and о
        ("SCHURKE", ["SCHURKE"]),
        ("in 東京都", ["東京"]),
        ("skill, kills, overkill", []),
        ("the killer whale", []),
        ("ki ll, kil l", []),
        ("Schurken", []),
        ("", []),
    ],
)
def test_what_is_found(text: str, terms: list[str]) -> None:
    assert found(text) == terms


def test_within_words_where_wanted() -> None:
    finder = TermFinder("term", ["kill"], whole_words=False)
    assert found("skills", finder) == ["kill"]


def test_the_leftmost_and_longest_counts() -> None:
    finder = TermFinder("term", ["new york", "york times", "new"])
    assert found("the new york times", finder) == ["new york"]
    assert found("the new times", finder) == ["new"]


def test_thousands_of_terms_are_one_pass() -> None:
    generator = random.Random(0)
    words = ["".join(generator.choices(string.ascii_lowercase, k=9)) for _ in range(20_000)]
    finder = TermFinder("term", words)
    text = " ".join(words[:50])
    assert found(text, finder) == words[:50]


def test_invisible_characters_are_not_held_for_ever() -> None:
    text = "k" + "\u200b" * 10_000
    _, horizon = FINDER.scan(text, 0, final=False)
    assert horizon == len(text)


@pytest.mark.parametrize(
    ("character", "folded"), [("É", "e"), ("ß", "ss"), ("ﬁ", "fi"), ("а", "a"), ("猫", "猫")]
)
def test_characters_are_folded(character: str, folded: str) -> None:
    assert fold(character) == folded


def test_a_long_text_takes_linear_time() -> None:
    def seconds(length: int) -> float:
        """The least of some tries, on the processor's clock: what else runs doesn't count."""
        taken = []
        for _ in range(3):
            start = time.thread_time()
            FINDER.scan("a b c d e f " * length, 0, final=True)
            taken.append(time.thread_time() - start)
        return min(taken)

    assert seconds(4_000) < 40 * seconds(400)
