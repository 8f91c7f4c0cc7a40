"""Scanning: what leaves is the same however the text is cut, and nothing leaves too early."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from python_backend.safety.finder import Finder, PatternFinder
from python_backend.safety.pattern import Pattern
from python_backend.safety.personal import COUNTRIES, KINDS, personal_finders
from python_backend.safety.scanner import Action, Rule, RuleSet, Scanned, Scanner, scan_text
from python_backend.safety.secrets import secret_finders
from python_backend.safety.terms import TermFinder

PERSONAL = tuple(personal_finders(KINDS, ["US", "GB"], COUNTRIES))
TERMS = TermFinder("term", ["bad word", "kill", "ba door", "as", "assassin", "猫", "über", "a b c"])
INNER = TermFinder("inner", ["ill", "d w"], whole_words=False)
PATTERNS = [
    PatternFinder("pattern", Pattern(source))
    for source in (
        r"\bfoo(?:bar)?\b",
        r"a(?:b{1,3}c)?",
        r"x.{0,6}?y",
        r"(?i)kil{1,2}(?:ed|er)?$",
        r"(?m)^a{2,4}",
        r"(?:ab|abc|bcd){1,3}d",
        r"[^ a-z]{2,5}",
        r"1(?:23|2)?\B",
    )
]
FINDERS: list[tuple[Finder, ...]] = [
    PERSONAL,
    secret_finders(),
    (TERMS,),
    (INNER,),
    *[(each,) for each in PATTERNS],
]

ACTIONS: list[Action] = ["redact", "replace", "flag", "block"]
POLICIES = st.lists(
    st.tuples(st.sampled_from(FINDERS), st.sampled_from(ACTIONS)), min_size=1, max_size=4
).map(
    lambda rules: RuleSet(
        [Rule(f"r{i}", action, "<{kind}>", finders) for i, (finders, action) in enumerate(rules)],
        "output",
    )
)

FRAGMENTS = st.sampled_from(
    [
        *"a b c d i k l w o r x y 1 2 3 4 é 猫 🐱 . , ; @ + - ( ) _ : / % \n".split(),
        *(
            "foo",
            "bar",
            "kill",
            "ki11",
            "bad",
            "door",
            "ass",
            "über",
            "u\u0308ber",
            "\u200b",
            "\u0301",
        ),
        *(" ", "  ", "\n", "\u00a0", "\t"),
        *("ana.silva", "@acme", ".example", "+44 20 7946 0123", "(202) 555-0143", "1.2.3.4", "::"),
        *(
            "4111 1111",
            "1111 1111",
            "4111",
            "５５５５",
            "DE89 3704 0044",
            "0532 0130 00",
            "12345678Z",
        ),
        *("-----BEGIN RSA PRIVATE KEY-----", "-----END RSA PRIVATE KEY-----", "MIIEpAIBAAKCAQEA"),
        *("AKIA", "IOSFODNN7EXAMPLE", "ghp_", "sk-", "0123456789abcdefghijklmnopqrstuvwxyz"),
        *("fe80", ":1", "078-05-1120", "123-45-6789", "A", "B", "aa"),
    ]
)
TEXTS = st.lists(FRAGMENTS | st.text(max_size=2), max_size=30).map("".join)
CUTS = st.lists(st.integers(0, 200), max_size=20)


def streamed(rules: RuleSet, pieces: Iterable[str]) -> list[Scanned]:
    scanner = Scanner(rules)
    return [*(scanner.add(piece) for piece in pieces), scanner.add("", final=True)]


def together(scans: list[Scanned]) -> tuple[str, list[object], bool]:
    """What came out in all. Flags are told when they are sure, so their order is no matter."""
    verdicts = [verdict for scan in scans for verdict in scan.verdicts]
    return (
        "".join(scan.text for scan in scans),
        sorted(verdicts, key=repr),
        scans[-1].blocked,
    )


def cut(text: str, cuts: list[int]) -> list[str]:
    places = sorted({0, len(text), *(place for place in cuts if place < len(text))})
    return [text[a:b] for a, b in pairwise(places)]


def test_nothing_is_held_back_for_what_is_only_flagged() -> None:
    rules = [
        Rule("long", "flag", "", (PatternFinder("long", Pattern("a{3,9}")),)),
        Rule("short", "redact", "[{kind}]", (PatternFinder("short", Pattern("bb")),)),
    ]
    scanner = Scanner(RuleSet(rules, "output"))
    assert [scanner.add(each).text for each in ("xaaa", "a", "ab", "c")] == ["xaaa", "a", "a", "bc"]


@settings(max_examples=200, deadline=None)
@given(POLICIES, TEXTS, CUTS)
def test_scanning_the_stream_is_scanning_the_whole(
    rules: RuleSet, text: str, cuts: list[int]
) -> None:
    whole = together([scan_text(rules, text)])
    by_pieces = together(streamed(rules, cut(text, cuts)))
    by_characters = together(streamed(rules, text))
    if whole[2]:  # a flag beyond the block may or may not have been told
        assert (by_pieces[0], by_pieces[2]) == (by_characters[0], by_characters[2])
        assert (by_pieces[0], by_pieces[2]) == (whole[0], whole[2])
    else:
        assert by_pieces == by_characters == whole
