"""Scanning: what leaves is the same however the text is cut, and nothing leaves too early."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from python_backend.safety.finder import Finder, PatternFinder, Span
from python_backend.safety.pattern import Pattern
from python_backend.safety.personal import COUNTRIES, KINDS, personal_finders
from python_backend.safety.scanner import (
    Action,
    Rule,
    RuleSet,
    Scanned,
    Scanner,
    Verdict,
    scan_text,
)
from python_backend.safety.secrets import secret_finders
from python_backend.safety.terms import TermFinder
from tests.examples import examples

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


def together(scans: list[Scanned]) -> tuple[str, list[Verdict], bool]:
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


def by_hand(rules: RuleSet, text: str) -> Scanned:
    """What should come of a text that is known as a whole: every finder asked, one after another.

    Of matches that overlap all are told; the first, and of those the longest, has its placeholder.
    """
    scanned = Scanned()
    matches = sorted(
        (span.start, -span.end, order, finder.kind)
        for order, rule in enumerate(rules.rules)
        for finder in rule.finders
        for span in finder.scan(text, 0, final=True)[0]
    )
    done = 0
    for start, negative_end, order, kind in matches:
        rule = rules.rules[order]
        end = -negative_end
        scanned.verdicts.append(Verdict(rule.name, kind, rule.action, rules.side, start, end))
        if rule.action == "flag":
            continue
        scanned.text += text[done:start]
        if rule.action == "block":
            scanned.blocked = True
            return scanned
        scanned.taken.append(Span(start, end))
        if start >= done:
            scanned.text += rule.replacement.format(kind=kind.upper())
        done = max(done, end)
    scanned.text += text[done:]
    return scanned


def acted(scanned: Scanned) -> tuple[object, ...]:
    """All that is certain: a flag at a block may or may not have been told."""
    verdicts = [each for each in scanned.verdicts if each.action != "flag" or not scanned.blocked]
    return scanned.text, verdicts, scanned.blocked, scanned.taken


def certain(scans: list[Scanned]) -> tuple[str, list[Verdict], bool]:
    """What came out in all, without flags if the text was blocked: see `acted`."""
    text, verdicts, blocked = together(scans)
    return text, [each for each in verdicts if not (blocked and each.action == "flag")], blocked


def rule(action: Action, pattern: str, name: str = "r") -> Rule:
    return Rule(name, action, "<{kind}>", (PatternFinder(name, Pattern(pattern)),))


@pytest.mark.parametrize(
    ("rules", "text", "left", "found"),
    [
        ([], "abc", "abc", []),
        ([rule("redact", "b")], "", "", []),
        ([rule("redact", "b")], "abcb", "a<R>c<R>", [("r", 1, 2), ("r", 3, 4)]),
        ([rule("replace", "b{1,3}")], "bba", "<R>a", [("r", 0, 2)]),
        ([rule("flag", "b")], "abc", "abc", [("r", 1, 2)]),
        ([rule("block", "b")], "abcb", "a", [("r", 1, 2)]),
        # Of two that begin together the longer has its placeholder, else the first rule's.
        (
            [rule("redact", "ab", "x"), rule("redact", "abc", "y")],
            "abcd",
            "<Y>d",
            [("y", 0, 3), ("x", 0, 2)],
        ),
        (
            [rule("redact", "ab", "y"), rule("redact", "[a]b", "x")],
            "abc",
            "<Y>c",
            [("y", 0, 2), ("x", 0, 2)],
        ),
        # Of two that overlap the first has its placeholder, and both are gone.
        (
            [rule("redact", "bcd", "x"), rule("redact", "ab", "y")],
            "abcde",
            "<Y>e",
            [("y", 0, 2), ("x", 1, 4)],
        ),
        (
            [rule("redact", "bc", "x"), rule("redact", "a.{4}", "y")],
            "abcdef",
            "<Y>f",
            [("y", 0, 5), ("x", 1, 3)],
        ),
        ([rule("redact", "ab", "x"), rule("redact", "cd", "y")], "abcd", "<X><Y>", None),
        # What blocks ends the text though another rule took its place out already.
        (
            [rule("block", "b", "x"), rule("redact", "abc", "y")],
            "zabcz",
            "z<Y>",
            [("y", 1, 4), ("x", 2, 3)],
        ),
        ([rule("block", "b", "x"), rule("flag", "abc", "y")], "abc", "a", None),
    ],
)
def test_what_rules_do_to_a_text(
    rules: list[Rule], text: str, left: str, found: list[tuple[str, int, int]] | None
) -> None:
    actions = {each.name: each.action for each in rules}
    ready = RuleSet(rules, "output")
    blocks = any(actions[name] == "block" for name, _, _ in found or []) or left == "a"
    for scans in ([scan_text(ready, text)], streamed(ready, text)):
        assert together(scans)[0] == left
        assert scans[-1].blocked == blocks
        verdicts = [verdict for scan in scans for verdict in scan.verdicts]
        if found is not None:
            assert verdicts == [
                Verdict(name, name, actions[name], "output", start, end)
                for name, start, end in found
            ]


def test_after_a_block_nothing_leaves() -> None:
    scanner = Scanner(RuleSet([rule("block", "bad"), rule("redact", "x", "x")], "input"))
    first = scanner.add("so bad, x")
    assert (first.text, first.blocked, scanner.decided) == ("so ", True, 3)
    assert [(each.rule, each.side) for each in first.verdicts] == [("r", "input")]
    for final in (False, True):
        assert scanner.add("bad and x", final) == Scanned(blocked=True)


def test_what_is_held_is_counted() -> None:
    scanner = Scanner(RuleSet([rule("redact", "abcd")], "output"))
    seen = []
    for piece in ("xx", "abc", "d", "ab", "y"):  # whether a pattern ends the next character tells
        left = scanner.add(piece)
        seen.append((left.text, left.taken, scanner.decided, scanner.held))
    assert seen == [
        ("xx", [], 2, 0),
        ("", [], 2, 3),
        ("", [], 2, 4),
        ("<R>", [Span(2, 6)], 6, 2),
        ("aby", [], 9, 0),
    ]
    assert scanner.add("abc", final=True).text == "abc"
    assert (scanner.decided, scanner.held) == (12, 0)
    without = Scanner(RuleSet([], "output"))
    assert (without.add("abc").text, without.decided, without.held) == ("abc", 3, 0)


def test_a_set_of_rules_knows_whether_one_may_block() -> None:
    assert not RuleSet([rule("redact", "a"), rule("flag", "b")], "output").blocks
    assert RuleSet([rule("redact", "a"), rule("block", "b")], "output").blocks


def test_a_verdict_for_clients_says_what_is_known() -> None:
    verdict = Verdict("r", "email", "redact", "input", 0, 3)
    known = {"rule": "r", "kind": "email", "action": "redact", "side": "input", "start": 0}
    assert verdict.as_json() == {**known, "end": 3}
    assert verdict._replace(message=0).as_json() == {**known, "end": 3, "message": 0}


class Watching(Finder):
    """Finds every ``!``, and keeps an eye on what it is asked."""

    kind = "mark"
    context = 3

    def __init__(self, whole: str) -> None:
        self.whole = whole
        self.asked: list[int] = []
        self.longest = 0

    def scan(self, text: str, start: int, final: bool, offset: int = 0) -> tuple[list[Span], int]:
        assert text == self.whole[offset : offset + len(text)]
        assert start >= min(3, offset + start)  # the context before the place is there
        self.asked.append(offset + start)
        self.longest = max(self.longest, len(text))
        spans = [Span(i, i + 1) for i in range(start, len(text)) if text[i] == "!"]
        return spans, len(text) if final else max(start, len(text) - 2)


class Slow(Finder):
    """Finds nothing, and has to see six characters more to know it."""

    kind = "slow"

    def scan(self, text: str, start: int, final: bool, offset: int = 0) -> tuple[list[Span], int]:
        return [], len(text) if final else max(start, len(text) - 6)


def test_a_match_waits_for_what_another_may_find_before_it_and_a_flag_does_not() -> None:
    rules = [
        Rule("slow", "redact", "", (Slow(),)),
        rule("redact", "bc", "x"),
        rule("redact", "ef", "y"),
        rule("flag", "cd", "z"),
    ]
    scanner = Scanner(RuleSet(rules, "output"))
    seen = []
    for character in "abcdefghijklm":
        scanned = scanner.add(character)
        seen.append((scanned.text, [each.rule for each in scanned.verdicts]))
    assert seen == [
        *[("", [])] * 4,
        ("", ["z"]),
        ("", []),
        ("a", []),
        ("<X>", ["x"]),
        ("", []),
        ("d", []),
        ("<Y>", ["y"]),
        ("", []),
        ("g", []),
    ]
    assert scanner.add("", final=True).text == "hijklm"


def test_what_only_flags_holds_nothing_back_however_it_finds() -> None:
    rules = [Rule("slow", "flag", "", (Slow(), TERMS)), rule("redact", "xy", "x")]
    scanner = Scanner(RuleSet(rules, "output"))
    assert [scanner.add(each).text for each in "kilx"] == ["k", "i", "l", ""]


@pytest.mark.parametrize("action", ["redact", "flag"])
def test_of_a_long_stream_little_is_kept_and_nothing_is_looked_at_twice(action: Action) -> None:
    whole = "one! two, three!! " * 500
    watching = Watching(whole)
    rules = [
        Rule("w", action, "?", (watching,)),
        rule("redact", r"t\w{2,4}", "p"),
        rule("flag", "ne!", "q"),
    ]
    scans = streamed(RuleSet(rules, "output"), whole)
    expected = "one! <P>, <P>!! " * 500
    assert together(scans)[0] == (expected.replace("!", "?") if action == "redact" else expected)
    assert watching.longest < 20
    assert watching.asked == sorted(watching.asked)
    assert watching.asked[-1] >= len(whole) - 2


@settings(max_examples=examples(100), deadline=None)
@given(POLICIES, TEXTS)
def test_the_whole_is_what_its_rules_say(rules: RuleSet, text: str) -> None:
    assert acted(scan_text(rules, text)) == acted(by_hand(rules, text))


@settings(max_examples=examples(60), deadline=None)
@given(POLICIES, TEXTS)
def test_all_leaves_that_no_finder_waits_for(rules: RuleSet, text: str) -> None:
    scanner = Scanner(rules)
    holding = [finder for each in rules.rules if each.action != "flag" for finder in each.finders]
    for length, character in enumerate(text, 1):
        if scanner.add(character).blocked:
            break
        known = text[:length]
        certain = min((finder.scan(known, 0, False)[1] for finder in holding), default=length)
        assert scanner.decided >= certain
        assert scanner.held == max(0, length - scanner.decided)


def test_nothing_is_held_back_for_what_is_only_flagged() -> None:
    rules = [
        Rule("long", "flag", "", (PatternFinder("long", Pattern("a{3,9}")),)),
        Rule("short", "redact", "[{kind}]", (PatternFinder("short", Pattern("bb")),)),
    ]
    scanner = Scanner(RuleSet(rules, "output"))
    assert [scanner.add(each).text for each in ("xaaa", "a", "ab", "c")] == ["xaaa", "a", "a", "bc"]


@settings(max_examples=examples(200), deadline=None)
@given(POLICIES, TEXTS, CUTS)
def test_scanning_the_stream_is_scanning_the_whole(
    rules: RuleSet, text: str, cuts: list[int]
) -> None:
    whole = certain([scan_text(rules, text)])
    assert certain(streamed(rules, cut(text, cuts))) == whole
    assert certain(streamed(rules, text)) == whole


def following(rules: RuleSet, before: str, pieces: Iterable[str]) -> list[Scanned]:
    scanner = Scanner(rules)
    scanner.follow(before)
    return [*(scanner.add(piece) for piece in pieces), scanner.add("", final=True)]


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("Card: 4000 0093 9348 4764, valid", ", valid"),
        ("to rosa.torres@example.com or so", " or so"),
    ],
)
def test_of_a_match_that_begins_in_what_it_follows_nothing_leaves(text: str, kept: str) -> None:
    """A prompt that ended with a card's first digit had the model tell the fifteen others."""
    rules = RuleSet([Rule("all", "redact", "<{kind}>", PERSONAL)], "output")
    [found] = scan_text(rules, text).verdicts
    for place in range(found.start + 1, found.end):
        for pieces in ([text[place:]], list(text[place:])):
            out, verdicts, _ = together(following(rules, text[:place], pieces))
            assert out == f"<{found.kind.upper()}>{kept}", (place, out)
            assert verdicts == [found._replace(start=0, end=found.end - place)]


@given(POLICIES, TEXTS, TEXTS, CUTS)
def test_what_it_follows_is_no_part_of_it(
    rules: RuleSet, before: str, text: str, cuts: list[int]
) -> None:
    whole = certain(following(rules, before, [text]))
    assert certain(following(rules, before, cut(text, cuts))) == whole
    if not scan_text(rules, before + text).verdicts:
        assert whole == (text, [], False)
    for verdict in whole[1]:
        assert 0 <= verdict.start < verdict.end <= len(text)
