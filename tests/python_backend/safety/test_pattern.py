"""Patterns: what is taken, what is refused by name, and that nothing slips through a cut."""

from __future__ import annotations

import re

import pytest
import re2
from hypothesis import given, settings
from hypothesis import strategies as st

from python_backend.safety.pattern import AnyOf, Pattern, PatternError
from tests.examples import examples


@pytest.mark.parametrize(
    ("source", "error"),
    [
        ("(a", "it is no regular expression: missing"),
        ("a*", "it may match more than 4096 characters; give repeats an upper bound"),
        ("a+b", "it may match more than 4096 characters"),
        ("a?", "it matches the empty text"),
        ("(?=a)b", "assert is not regular"),
        (r"(a)\1", "groupref is not regular"),
        ("a{1,2000}", "RE2 counts to 1000"),
        ("(?:a{1,60}){1,60}", "RE2 can't compile it"),
    ],
)
def test_what_can_not_be_served_is_refused_by_name(source: str, error: str) -> None:
    with pytest.raises(PatternError, match=re.escape(error)):
        Pattern(source)


def test_a_pattern_that_backtracks_elsewhere_takes_linear_time() -> None:
    pattern = Pattern(r"(?:a|aa|a?a){1,60}b")
    text = "a" * 200_000
    assert pattern.search(text) is None
    assert pattern.horizon(text) >= len(text) - 120


def test_what_stands_before_counts() -> None:
    pattern = Pattern(r"\bcat\b")
    assert pattern.search("a cat", 2) == (2, 5)
    assert pattern.search("bobcat", 3) is None
    assert pattern.horizon("a cat") == 2
    assert pattern.horizon("a cats") == 6


@pytest.mark.parametrize(
    ("source", "text"),
    [
        (r"(?i)straße", "STRAßE"),
        (r"a.b", "a猫b"),
        (r"(?s)a.b", "a\nb"),
        (r"[^a-c]{2}", "déj"),
        (r"(?:ab|cd){1,3}?x", "abcdx"),
        (r"(?i:a)b", "Ab"),
        (r"(?x) a b # a comment", "ab"),
    ],
)
def test_a_pattern_means_what_it_means_in_python(source: str, text: str) -> None:
    found = re.search(source, text)
    assert found is not None
    assert Pattern(source).search(text) == found.span()


SOURCES = st.recursive(
    st.sampled_from(["a", "b", "[ab]", "[^a]", ".", "é", r"\d", r"\w"]),
    lambda inner: st.one_of(
        st.tuples(inner, inner).map("".join),
        st.tuples(inner, inner).map(lambda pair: f"(?:{pair[0]}|{pair[1]})"),
        st.tuples(inner, st.sampled_from(["?", "{1,3}", "{0,2}", "{2}", "??"])).map(
            lambda pair: f"(?:{pair[0]}){pair[1]}"
        ),
    ),
    max_leaves=6,
)


@given(SOURCES, st.text("ab1é ", max_size=12), st.text("ab1é ", max_size=6))
def test_a_match_that_may_still_change_begins_at_the_horizon_or_later(
    source: str, text: str, more: str
) -> None:
    try:
        pattern = Pattern(source)
    except PatternError:
        return
    horizon = pattern.horizon(text)
    before, after = pattern.search(text), pattern.search(text + more)
    for match in (before, after):
        if match is not None and match[0] < horizon:
            assert before == after


ASSERTIONS = st.sampled_from(["", r"\b", r"\B", "^", "(?m:^)", r"\A", "$", "(?m:$)"])


@settings(max_examples=examples(300))
@given(
    st.tuples(ASSERTIONS, SOURCES, ASSERTIONS, SOURCES, ASSERTIONS).map("".join),
    st.text("ab1é \n", max_size=12),
    st.integers(0, 13),
)
def test_the_horizon_is_the_first_place_where_the_rest_begins_a_match(
    source: str, text: str, start: int
) -> None:
    try:
        pattern = Pattern(source)
    except PatternError:
        return
    begins = re2.compile(pattern.beginning).fullmatch
    places = range(max(start, len(text) - pattern.width), len(text))
    expected = next((place for place in places if begins(text, place)), max(start, len(text)))
    for _ in range(2):  # asked, and remembered
        assert pattern.horizon(text, start) == expected


QUIET = [
    AnyOf(map(Pattern, sources))
    for sources in (
        (r"\bab{1,3}\b", "c d", "(?m)^a"),
        ("b{1,2} {1,3}a", r"d\B", "(?i)CA$"),
        (r"[a-c]{1,3}@[a-d]{1,3}", r"\Ac", "  "),
    )
]


@settings(max_examples=examples(100))
@given(
    st.sampled_from(QUIET),
    st.text("abcd@ \n", max_size=24),
    st.text("abcd@ \n", max_size=6),
    st.data(),
)
def test_no_match_begins_in_words_that_are_skipped(
    any_of: AnyOf, text: str, more: str, data: st.DataObject
) -> None:
    start = data.draw(st.integers(0, len(text)))
    end = any_of.skip_words(text, start)
    assert start <= end <= len(text)
    assert end == start or text[end - 1] == " "
    assert any_of.horizon(text, start) >= end
    assert any_of.search(text + more, start) >= end


def test_words_are_skipped_up_to_one_in_which_a_match_may_begin() -> None:
    any_of = AnyOf([Pattern(r"[a-z]{1,9}@[a-z]{1,9}")])
    for _ in range(2):  # asked, and remembered
        assert any_of.skip_words("write to ana@acme now", 0) == 9
        assert any_of.skip_words("write to an", 0) == 9


def test_many_patterns_are_asked_at_once() -> None:
    patterns = [Pattern("cat"), Pattern("dog{1,2}")]
    together = AnyOf(patterns)
    for text in ("a cat", "do", "dogg", "nothing", "a ca"):
        assert together.horizon(text) == min(each.horizon(text) for each in patterns)
    assert together.search("a dog, a cat") == 2
    assert together.search("a cow") == 5
