"""What a rule finds in arguments is found however JSON spells it, and they stay JSON."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from python_backend.safety.personal import COUNTRIES, KINDS, personal_finders
from python_backend.safety.scanner import Action, Rule, RuleSet
from python_backend.tools.decoded_arguments import DecodedArguments, decoded, escaped

JSON: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
PERSONAL = tuple(personal_finders(KINDS, ["US", "GB"], COUNTRIES))
MAIL = r"rosa.torres\u0040acme.example"
SPELLINGS = [
    MAIL,
    "".join(f"\\u{ord(each):04x}" for each in "rosa.torres@acme.example"),
    MAIL.replace("0040", "0040").replace(".", r"\u002E"),
]


def rules(action: Action) -> RuleSet:
    return RuleSet([Rule("personal", action, "[{kind}]", PERSONAL)], "output")


def checked(pieces: list[str], action: Action = "redact", whole: bool = True) -> tuple[str, Any]:
    arguments = DecodedArguments(rules(action))
    text = "".join(arguments.add(piece) for piece in pieces)
    text += arguments.end() if whole else arguments.cut()
    return text, arguments


@given(JSON, st.booleans(), st.none() | st.integers(0, 3))
def test_arguments_mean_the_same_without_their_escapes(
    value: Any, ascii_only: bool, indent: int | None
) -> None:
    text = json.dumps(value, ensure_ascii=ascii_only, indent=indent)
    assert json.loads(escaped(decoded(text))) == value
    arguments = DecodedArguments(RuleSet([], "output"))
    said = "".join(arguments.add(each) for each in text) + arguments.end()
    assert said == escaped(decoded(text))


@pytest.mark.parametrize("mail", SPELLINGS)
def test_what_is_found_is_taken_out_however_it_is_spelt_or_cut(mail: str) -> None:
    text = f'{{"to": "{mail}", "n": 3}}'
    whole, _ = checked([text])
    assert json.loads(whole) == {"to": "[EMAIL]", "n": 3}
    assert checked(list(text))[0] == whole


@pytest.mark.parametrize("mail", SPELLINGS)
def test_not_even_its_beginning_leaves_where_the_arguments_are_cut(mail: str) -> None:
    text = f'{{"to": "{mail}'
    for end in range(len(text) - len(mail), len(text)):
        said, _ = checked([text[:end]], whole=False)
        assert "rosa.torres@a" not in said


def test_a_rule_that_blocks_ends_the_answer() -> None:
    said, arguments = checked([f'{{"to": "{MAIL}"}}'], "block")
    assert arguments.blocked
    assert "rosa" not in said


@pytest.mark.parametrize(("mail", "count"), [(MAIL, 1), ("rosa@acme.example", 0)])
def test_what_was_found_in_the_answer_is_not_told_twice(mail: str, count: int) -> None:
    """The answer's own text was scanned before, and there only the escapes hide something."""
    _, arguments = checked([f'{{"to": "{mail}"}}'], "flag")
    assert len(arguments.take_verdicts()) == count
    assert not arguments.take_verdicts()


def test_numbers_across_a_line_break_are_seen_as_they_are_read() -> None:
    said, _ = checked(['{"x": "4000\\u00200093\\u00209348\\u00204764"}'])
    assert json.loads(said) == {"x": "[CARD]"}
