"""Where a text is cut, no more of a match leaves than a beginning that tells nothing."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from python_backend.safety.finder import Finder, PatternFinder
from python_backend.safety.pattern import Pattern
from python_backend.safety.personal import COUNTRIES, DEFAULT_COUNTRIES, KINDS, personal_finders
from python_backend.safety.scanner import Action, Rule, RuleSet, Scanned, Scanner, scan_text
from python_backend.safety.secrets import secret_finders
from python_backend.safety.terms import TermFinder
from tests.examples import examples
from tests.python_backend.safety.test_scanner import CUTS, POLICIES, TEXTS, cut, together

CORPUS = Path(__file__).with_name("corpus.jsonl")
CASES = [json.loads(line) for line in CORPUS.read_text(encoding="utf-8").splitlines()]
HARD = [case for case in CASES if "redacted" in case]
NEAR_MISSES = [case["text"] for case in CASES if "redacted" not in case]
USUAL = (*personal_finders(KINDS, [], DEFAULT_COUNTRIES), *secret_finders())
EVERYWHERE = tuple(personal_finders(KINDS, ["US", "GB"], COUNTRIES))
PROSE = (
    "In 2026, 4 of the 12 rooms were free; it isn't far - e.g. by bus no. 42 at 12:30 - and costs "
    "3.14 euros (+10 %). Jean-Luc said: ask O'Neil in room B22. Version 2.51.0 in 24.10. Ünal's"
)


def rules(finders: tuple[Finder, ...], action: Action = "redact") -> RuleSet:
    return RuleSet([Rule("all", action, "[{kind}]", finders)], "output")


ONLY: dict[Action, RuleSet] = {
    "redact": rules(USUAL),
    "replace": rules(USUAL, "replace"),
    "block": rules(USUAL, "block"),
    "flag": rules(USUAL, "flag"),
}


def scan_cut(rule_set: RuleSet, text: str, beyond: str = "", unknown: int = 0) -> Scanned:
    return Scanner(rule_set).cut(text, beyond, unknown)


def letters(text: str) -> int:
    return sum(map(str.isalnum, text))


def digits(text: str) -> int:
    return sum(map(str.isdigit, text))


MAY_LEAVE: dict[str, Callable[[str], bool]] = {
    "email": lambda text: (
        "@" not in text and (letters(text) <= 4 or re.search(r"\w[.+%]\w", text) is None)
    ),
    "phone": lambda text: digits(text) <= 4,
    "card": lambda text: digits(text) <= 4,
    "iban": lambda text: letters(text) <= 4 or digits(text) <= 1,
    "national_id": lambda text: letters(text) <= 4 or digits(text) <= 1,
    "ip_address": lambda text: digits(text) <= 4 or text.count(":") + 2 * text.count(".") <= 2,
    "secret": lambda text: (
        re.fullmatch(
            r"[A-Z]{4}\w{0,4}|ghp_\w{0,4}|ghp|gh?|sk?|sk-[\w-]{0,4}|eyJ.{0,4}|e|ey|[A-Z]{1,3}"
            r"|[a-z]{1,8}(:|:/|://\w*:?)?|-{1,5}(B|BE|BEG|BEGI|BEGIN)?|-----BEGIN [A-Z ]*-{0,4}",
            text,
        )
        is not None
    ),
}
"""What of each kind may leave before a cut, told anew."""


def left_of(scanned: Scanned, text: str, start: int) -> str:
    """What of a text left as it was from a place on, found by what was taken out."""
    out = [True] * len(text)
    for span in scanned.taken:
        out[span.start : span.end] = [False] * (span.end - span.start)
    if scanned.blocked:
        at = next(each.start for each in scanned.verdicts if each.action == "block")
        out[at:] = [False] * (len(text) - at)
    return "".join(each for each, leaves in zip(text[start:], out[start:], strict=True) if leaves)


@pytest.mark.parametrize("action", ["redact", "block"])  # what is replaced is redacted otherwise
@pytest.mark.parametrize("case", HARD, ids=lambda case: case["text"][:40])
def test_no_cut_lets_more_of_a_match_leave_than_tells_nothing(
    case: dict[str, str], action: Action
) -> None:
    text = case["text"]
    rule_set = rules(EVERYWHERE, action) if case.get("everywhere") else ONLY[action]
    for found in scan_text(rule_set, text).verdicts:
        step = 1 if found.end - found.start < 30 else 3
        for end in range(found.start + 1, found.end + 1, step):
            scanned = scan_cut(rule_set, text[:end])
            left = left_of(scanned, text[:end], found.start)
            assert not left or MAY_LEAVE[found.kind](left), (text[:end], left)
            assert scanned.text.endswith(left)
            if action == "block":
                assert scanned.blocked == any(each.action == "block" for each in scanned.verdicts)
            # A stop text that begins here and goes on as the text does decides nothing else.
            beyond = scan_cut(rule_set, text[:end], text[end:])
            assert left_of(beyond, text[:end], found.start) == ""


def test_a_match_is_taken_out_whole_where_a_longer_one_may_begin_with_it() -> None:
    scanned = scan_cut(ONLY["redact"], "no 12 4111 1111 1111 1111 35")
    assert scanned.text == "no 12 [CARD]"
    found = scanned.verdicts[0]
    assert (found.kind, found.start, found.end) == ("card", 6, 28)


def test_a_cut_character_does_not_hide_what_it_cuts() -> None:
    text = "４１１１ １１１１ １１\ufffd"
    assert scan_cut(ONLY["redact"], text, unknown=1).text == "[CARD]"
    assert scan_cut(ONLY["redact"], "a cat \ufffd", unknown=1).text == "a cat \ufffd"


def test_what_is_behind_a_stop_text_is_neither_sent_nor_reported() -> None:
    scanned = scan_cut(ONLY["redact"], "write to ", "ana@acme.example")
    assert (scanned.text, scanned.verdicts) == ("write to ", [])
    scanned = scan_cut(ONLY["redact"], "write to a", "na@acme.example")
    assert scanned.text == "write to [EMAIL]"
    assert [(each.start, each.end) for each in scanned.verdicts] == [(9, 10)]


def test_what_is_only_flagged_is_told_where_it_is_whole() -> None:
    scanned = scan_cut(ONLY["flag"], "card 4111 1111 1111 11")
    assert (scanned.text, scanned.verdicts) == ("card 4111 1111 1111 11", [])
    assert len(scan_cut(ONLY["flag"], "card 4111 1111 1111 1111").verdicts) == 1


@pytest.mark.parametrize("action", ["redact", "replace", "block"])
def test_prose_is_left_as_it_is_wherever_it_is_cut(action: Action) -> None:
    for end in range(len(PROSE) + 1):
        scanned = scan_cut(ONLY[action], PROSE[:end])
        assert scanned.text == PROSE[:end]
        assert scanned.verdicts == []


def test_few_cuts_of_near_misses_take_something_out() -> None:
    places = [(text, end) for text in NEAR_MISSES for end in range(1, len(text) + 1)]
    wrong = [text[:end] for text, end in places if scan_cut(ONLY["redact"], text[:end]).verdicts]
    assert len(wrong) < 0.25 * len(places)


@pytest.mark.parametrize(
    ("finder", "text", "left"),
    [
        (PatternFinder("code", Pattern(r"PRJ-[0-9]{4}")), "the PRJ-", "the PRJ-"),
        (PatternFinder("code", Pattern(r"PRJ-[0-9]{4}")), "the PRJ-2", "the [CODE]"),
        (PatternFinder("code", Pattern(r"PRJ-[0-9]{4}")), "the PRJ-x", "the PRJ-x"),
        (TermFinder("term", ["bluebird"]), "a blue", "a blue"),
        (TermFinder("term", ["bluebird"]), "a blueb", "a [TERM]"),
        (TermFinder("term", ["bluebird"]), "a B l u e b", "a [TERM]"),
        (TermFinder("term", ["bluebird"]), "a bluebo", "a bluebo"),
        (TermFinder("term", ["bluebird"]), "a bluebird", "a [TERM]"),
    ],
)
def test_own_rules_take_out_what_is_more_than_half_there(
    finder: Finder, text: str, left: str
) -> None:
    assert scan_cut(rules((finder,)), text).text == left


def test_a_cut_is_the_same_where_a_finder_was_not_asked_before() -> None:
    """Those of a group aren't asked while another one of it still holds the text."""
    rule_set = rules((*EVERYWHERE, PatternFinder("code", Pattern(r"[^ a-z]{2,5}"))))
    text = "+44 20 7946 0123a078-05-1120"
    scanner = Scanner(rule_set)
    scans = [scanner.add(each) for each in text]
    assert together([*scans, scanner.cut("")]) == together([scan_cut(rule_set, text)])


@settings(max_examples=examples(200), deadline=None)
@given(POLICIES, TEXTS, CUTS, st.integers(0, 12), st.integers(0, 2))
def test_a_cut_is_the_same_however_the_text_came(
    rule_set: RuleSet, text: str, cuts: list[int], beyond: int, unknown: int
) -> None:
    kept = max(0, len(text) - beyond)
    # What is not known comes with the cut itself.
    known = kept if beyond else max(0, kept - unknown)

    def by(pieces: list[str]) -> tuple[str, object, bool]:
        scanner = Scanner(rule_set)
        *pieces, last = pieces or [""]
        scans = [scanner.add(piece) for piece in pieces]
        end = scanner.cut(last + text[known:kept], text[kept:], kept - known)
        assert not end.blocked or scanner.add("more") == Scanned(blocked=True)
        out, verdicts, blocked = together([*scans, end])
        return out, None if blocked else verdicts, blocked

    whole = by([text[:known]])
    assert by(cut(text[:known], cuts)) == whole
    assert by(list(text[:known])) == whole
