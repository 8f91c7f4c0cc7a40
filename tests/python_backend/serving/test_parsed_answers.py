"""Answers that are read: thinking, text and calls leave apart, whole and safe."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from tests.python_backend.serving.fake_triton import Request
from tests.python_backend.serving.postprocessing_model import (
    TOKENIZER,
    model,
    piece,
    pieces,
    reasons,
    texts,
    verdicts,
)

from python_backend.serving import postprocessing  # isort: skip
from python_backend.serving.answer import StreamContext  # isort: skip
from python_backend.tools.answer_reading import Reading  # isort: skip
from python_backend.tools.thinking import KNOWN_MARKS  # isort: skip

__all__ = ["model"]  # the fixture

READING = Reading("hermes", {"mail": {}}, KNOWN_MARKS[0])
CONTEXT = StreamContext(reading=READING)
CALL = '<tool_call>\n{"name": "mail", "arguments": {"to": "%s"}}\n</tool_call>'
TEXT = "<think>\nAsk ana@acme.example.\n</think>\n\nI mail her.\n" + CALL % "bob@acme.example"


def told(requests: list[Request], name: str) -> list[Any]:
    """All values of an output, in order."""
    return [
        response.outputs[name].item()
        for request in requests
        for response in request.responses
        if name in response.outputs
    ]


def calls(requests: list[Request]) -> dict[int, tuple[str, str]]:
    """Names and arguments of the calls that were told."""
    found: dict[int, tuple[str, str]] = {}
    for text in told(requests, "tool_calls"):
        for each in json.loads(text):
            name, arguments = found.get(each["index"], ("", ""))
            arguments += each.get("arguments", "")
            found[each["index"]] = each.get("name", name), arguments
    return found


def ran(
    served: postprocessing.TritonPythonModel, text: str, context: StreamContext = CONTEXT
) -> list[Request]:
    requests = pieces(text, context=context)
    for request in requests:
        served.execute([request])
    return requests


@pytest.mark.parametrize("whole", [False, True])
def test_thinking_text_and_calls_leave_apart_and_redacted(
    model: postprocessing.TritonPythonModel, whole: bool
) -> None:
    requests = ran(model, TEXT, replace(CONTEXT, whole=whole))
    assert texts(requests) == "I mail her."
    assert b"".join(told(requests, "reasoning_output")) == b"Ask [EMAIL]."
    assert calls(requests) == {0: ("mail", '{"to": "[EMAIL]"}')}
    assert reasons(requests) == ["tool_calls"]
    assert len(verdicts(requests)) == 2
    assert sum(bool(request.responses) for request in requests) == (1 if whole else 8) or not whole


def test_tokens_of_thinking_are_counted_with_its_marks(
    model: postprocessing.TritonPythonModel,
) -> None:
    requests = ran(model, TEXT)
    thinking = TEXT[: TEXT.index("</think>") + len("</think>")]
    count = len(TOKENIZER.encode(thinking, add_special_tokens=False).ids)
    assert sum(told(requests, "num_reasoning_tokens")) in (count, count + 1)  # one may reach over
    begun = StreamContext(reading=replace(READING, begun=True))
    assert sum(told(ran(model, "no end", begun), "num_reasoning_tokens")) == len(
        TOKENIZER.encode("no end", add_special_tokens=False).ids
    )
    assert sum(told(ran(model, "An answer.", CONTEXT), "num_reasoning_tokens")) == 0


@pytest.mark.parametrize("reading", [None, READING])
def test_without_reading_the_text_is_as_it_was(
    model: postprocessing.TritonPythonModel, reading: Reading | None
) -> None:
    requests = ran(model, "See <b>.", StreamContext(reading=reading))
    assert texts(requests) == "See <b>."
    assert bool(told(requests, "num_reasoning_tokens")) == (reading is not None)
    assert reasons(requests) == ["stop"]


def test_an_escaped_address_is_taken_out_all_the_same(
    model: postprocessing.TritonPythonModel,
) -> None:
    requests = ran(model, CALL % r"bob\u0040acme.example")
    assert calls(requests) == {0: ("mail", '{"to": "[EMAIL]"}')}
    assert [verdict["kind"] for verdict in verdicts(requests)] == ["email"]


def test_a_call_that_is_cut_ends_with_the_word_for_that(
    model: postprocessing.TritonPythonModel,
) -> None:
    ids = TOKENIZER.encode(CALL % "x", add_special_tokens=False).ids
    cut = ids[: len(ids) - 18]
    requests = [piece(cut, 1, context=CONTEXT), piece([], 1, "length")]
    for request in requests:
        model.execute([request])
    assert reasons(requests) == ["length"]
    name, arguments = calls(requests)[0]
    assert name == "mail"
    assert '{"to": "x"}'.startswith(arguments)


def test_a_stop_text_within_a_call_is_no_end_of_the_call(
    model: postprocessing.TritonPythonModel,
) -> None:
    requests = ran(model, CALL % "a stop b", replace(CONTEXT, stops=("stop",), include_stop=False))
    assert reasons(requests) == ["stop"]
    assert calls(requests)[0][1].startswith('{"to": "a')


def test_several_beams_are_texts_as_they_are(model: postprocessing.TritonPythonModel) -> None:
    ids = TOKENIZER.encode(CALL % "x", add_special_tokens=False).ids
    request = piece(ids, 1, "stop", context=CONTEXT)
    del request.tensors["sequence_id"]
    model.execute([request])
    assert texts([request]) == CALL % "x"
