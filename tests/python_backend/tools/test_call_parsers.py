"""Calls are found in every format, wherever the text is cut, and nothing of it is lost."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from python_backend.tools.call_parser import MOST_CALLS, CallParser
from python_backend.tools.events import Arguments, CallBegun, Content, Event, joined
from python_backend.tools.formats import FORMATS
from python_backend.tools.tool_functions import Functions
from tests.python_backend.tools.answers import ANSWERS, TYPES, Answer


def parser(form: str) -> CallParser:
    ids = itertools.count()
    return FORMATS[form].parser(Functions(TYPES), lambda: f"id{next(ids)}")


def read(form: str, pieces: Iterable[str]) -> tuple[list[Event], bool]:
    """What the pieces say, and whether there are calls that are whole."""
    reads = parser(form)
    events = [event for piece in pieces for event in reads.add(piece)]
    events += reads.add("", final=True)
    return joined(events), 0 < reads.num_begun == reads.num_whole


def cut(text: str, places: Iterable[int]) -> list[str]:
    ends = [0, *sorted(place % (len(text) + 1) for place in places), len(text)]
    return [text[start:end] for start, end in itertools.pairwise(ends)]


@pytest.mark.parametrize("answer", ANSWERS.values(), ids=ANSWERS)
def test_an_answer_says_its_text_and_its_calls(answer: Answer) -> None:
    events, whole = read(answer.form, [answer.text])
    begun = [event for event in events if isinstance(event, CallBegun)]
    calls = tuple(
        (
            call.name,
            "".join(
                each.text
                for each in events
                if isinstance(each, Arguments) and each.number == call.number
            ),
        )
        for call in begun
    )
    assert calls == answer.calls
    assert [(each.number, each.id) for each in begun] == [(i, f"id{i}") for i in range(len(begun))]
    content = "".join(event.text for event in events if isinstance(event, Content))
    assert content == (answer.content or ("" if calls else answer.text))
    assert whole == answer.whole
    if whole:
        assert all(isinstance(json.loads(arguments), dict) for _, arguments in calls)


@given(st.sampled_from(sorted(ANSWERS)), st.lists(st.integers(0, 400), max_size=12))
def test_it_is_the_same_however_the_text_is_cut(name: str, places: list[int]) -> None:
    answer = ANSWERS[name]
    whole = read(answer.form, [answer.text])
    assert read(answer.form, cut(answer.text, places)) == whole
    assert read(answer.form, answer.text) == whole


@given(
    st.sampled_from(sorted(FORMATS)),
    st.lists(
        st.sampled_from(
            [
                *("<tool_call>", "</tool_call>", "<function=add>", "</function>", "[TOOL_CALLS]"),
                *("<parameter=a>", "</parameter>", "[ARGS]", "<|tool_call|>", "functools["),
                *('{"name": "add", "arguments": ', '"parameters": ', "{", "}", "[", "]", '"', "\\"),
                *("add", "\n", " ", ",", ": ", "1", "```json", "```", "<|python_tag|>", "é"),
            ]
        ),
        max_size=12,
    ),
    st.lists(st.integers(0, 400), max_size=6),
)
def test_so_is_any_text_and_none_fails(form: str, parts: list[str], places: list[int]) -> None:
    text = "".join(parts)
    assert read(form, cut(text, places)) == read(form, [text])


@given(st.sampled_from(sorted(ANSWERS)), st.integers(0, 400))
def test_an_answer_that_ends_early_tells_what_there_is_of_it(name: str, place: int) -> None:
    answer = ANSWERS[name]
    text = answer.text[:place]
    events, whole = read(answer.form, [text])
    begun = sum(isinstance(event, CallBegun) for event in events)
    assert begun <= len(answer.calls)
    for number, (_, arguments) in enumerate(answer.calls[:begun]):
        said = "".join(
            event.text
            for event in events
            if isinstance(event, Arguments) and event.number == number
        )
        complete = whole or number < begun - 1
        assert (
            said == arguments
            if complete
            else answer.form == "qwen_xml" or arguments.startswith(said)
        )
    if not begun:
        assert "".join(e.text for e in events if isinstance(e, Content)) == text


@pytest.mark.parametrize("form", ["hermes", "llama", "mistral", "phi"])
def test_arguments_are_said_as_they_come(form: str) -> None:
    text = next(each.text for each in ANSWERS.values() if each.form == form and each.calls)
    reads = parser(form)
    said = [event for piece in text for event in reads.add(piece) if isinstance(event, Arguments)]
    assert len(said) > 5


def test_text_is_said_as_it_comes_but_for_what_may_begin_a_call() -> None:
    reads = parser("hermes")
    assert reads.add("Hello <to") == [Content("Hello")]
    assert reads.add("ast>") == [Content(" <toast>")]


def test_so_many_calls_and_no_more() -> None:
    one = '<tool_call>{"name": "f", "arguments": {}}</tool_call>'
    events, _ = read("hermes", [one * (MOST_CALLS + 5)])
    assert sum(isinstance(event, CallBegun) for event in events) == MOST_CALLS
    assert Content(one.removesuffix("</tool_call>")) in events or any(
        isinstance(event, Content) for event in events
    )


@pytest.mark.parametrize("form", FORMATS)
def test_ids_are_new_and_as_the_family_wants_them(form: str) -> None:
    first, second = FORMATS[form].new_id(), FORMATS[form].new_id()
    assert first != second
    assert first.isalnum() and len(first) == 9 if form == "mistral" else first[:5] == "call_"
