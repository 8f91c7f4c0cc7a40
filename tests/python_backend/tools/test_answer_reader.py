"""An answer is read as thinking, text and calls, and the policy sees what arguments mean."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from python_backend.safety.personal import COUNTRIES, KINDS, personal_finders
from python_backend.safety.policy import Policy
from python_backend.safety.scanner import Action, Rule, RuleSet
from python_backend.tools.answer_reader import AnswerReader
from python_backend.tools.answer_reading import Reading
from python_backend.tools.events import Arguments, CallBegun, Content, Event, Reasoning, joined
from python_backend.tools.thinking import KNOWN_MARKS
from tests.python_backend.tools.answers import TYPES

PERSONAL = tuple(personal_finders(KINDS, ["US", "GB"], COUNTRIES))
READING = Reading("hermes", TYPES, KNOWN_MARKS[0])
CALL = '<tool_call>\n{"name": "add", "arguments": {"a": 1, "to": "%s"}}\n</tool_call>'
TEXT = f"<think>\nHm.\n</think>\n\nI add.\n{CALL % 'x'}\n{CALL % 'rosa@a.example'}"


def policy(action: Action | None = None) -> Policy:
    rules = [Rule("personal", action, "[{kind}]", PERSONAL)] if action else []
    nothing = RuleSet([], "input")
    return Policy("p", nothing, RuleSet(rules, "output"), ())


def read(
    pieces: Iterable[str], reading: Reading = READING, action: Action | None = None
) -> tuple[list[Event], AnswerReader]:
    ids = itertools.count()
    reads = AnswerReader(reading, policy(action), lambda: f"id{next(ids)}")
    events = [event for piece in pieces for event in reads.add(piece)]
    return joined([*events, *reads.add("", final=True)]), reads


def test_thinking_text_and_calls_come_in_their_order() -> None:
    events, reads = read([TEXT])
    assert events == [
        Reasoning("Hm."),
        Content("I add."),
        CallBegun(0, "id0", "add"),
        Arguments(0, '{"a": 1, "to": "x"}'),
        CallBegun(1, "id1", "add"),
        Arguments(1, '{"a": 1, "to": "rosa@a.example"}'),
    ]
    assert reads.calls_are_whole


@given(st.lists(st.integers(0, len(TEXT)), max_size=8), st.sampled_from([None, "redact"]))
def test_they_are_the_same_however_the_text_is_cut(places: list[int], action: Any) -> None:
    ends = [0, *sorted(places), len(TEXT)]
    pieces = [TEXT[start:end] for start, end in itertools.pairwise(ends)]
    assert read(pieces, action=action)[0] == read([TEXT], action=action)[0]


def test_without_functions_marks_of_calls_are_text() -> None:
    events, reads = read([CALL], Reading())
    assert events == [Content(CALL)]
    assert not reads.calls_are_whole


@pytest.mark.parametrize("mail", ["rosa@a.example", r"rosa\u0040a.example"])
def test_what_the_policy_takes_out_of_arguments_is_taken_out(mail: str) -> None:
    events, reads = read([CALL % mail], action="redact")
    (arguments,) = (event for event in events if isinstance(event, Arguments))
    assert json.loads(arguments.text) == {"a": 1, "to": "[EMAIL]"}
    assert [verdict.kind for verdict in reads.verdicts] == ["email"]


def test_nothing_follows_what_the_policy_blocks() -> None:
    events, reads = read([TEXT.replace("@", r"\u0040"), "more"], action="block")
    assert reads.blocked
    assert events[-1] == Arguments(1, '{"a": 1, "to": "')
    assert Content("more") not in events


def test_a_call_that_is_cut_is_not_whole() -> None:
    events, reads = read([TEXT[:-30]])
    assert not reads.calls_are_whole
    assert events[-1] == Arguments(1, '{"a": 1, "to": "')


def test_what_is_read_is_told_to_postprocessing_and_back() -> None:
    reading = Reading("hermes", TYPES, KNOWN_MARKS[0], True, (5, 7))
    assert Reading.from_json(json.loads(json.dumps(reading.__dict__))) == reading
    assert Reading.from_json(json.loads(json.dumps(Reading().__dict__))) == Reading()
