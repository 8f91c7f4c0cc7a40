"""What a chat asks of its answer, on its way through preprocessing to the engine and behind it."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from python_backend.guidance.thinking_budget import ThinkingBudget
from tests.python_backend.serving.preprocessing_model import answer, chat, refusal
from tests.python_backend.serving.test_generation_request import FakeInputs

from python_backend.serving.answer import StreamContext  # isort: skip
from python_backend.serving.chat_inputs import plan_tensors  # isort: skip
from python_backend.serving.engine_stream import EngineStream  # isort: skip
from python_backend.serving.generation_request import Reporting, read_request  # isort: skip
from python_backend.serving.preprocessing import TritonPythonModel  # isort: skip
from python_backend.tools.chat_options import Plan  # isort: skip

TEMPLATE = (
    "{{ tools }}<tool_call>{% if enable_thinking is defined %}<think></think>{% endif %}"
    "{% for m in messages %}<|im start|>{{ m.role }}:{{ m.content }}{% endfor %}{{ opening }}"
)
TOOL = {"type": "function", "function": {"name": "now"}}
PARSED = {"PARSE_ANSWER": [[True]], "EXCLUDE_INPUT_IN_OUTPUT": [[True]]}
TOOLS = [[json.dumps([TOOL]).encode()]]


def texts(*values: str) -> list[list[bytes]]:
    return [[value.encode()] for value in values]


def context(outputs: dict[str, Any]) -> StreamContext:
    return StreamContext.from_bytes(outputs["STREAM_CONTEXT"][0, 0])


def test_a_forced_call_becomes_a_guide_and_a_reading(
    load: Callable[..., TritonPythonModel],
) -> None:
    asked = {"MESSAGES": chat(), "TOOLS": TOOLS, **PARSED}
    model = load(TEMPLATE)
    free = answer(model, "", **asked).outputs
    assert "GUIDE" not in free
    reading = context(free).reading
    assert reading is not None
    assert (reading.format, dict(reading.functions)) == ("hermes", {"now": {}})
    forced = answer(model, "", **asked, TOOL_CHOICE=texts("function:now")).outputs
    assert forced["GUIDE_TYPE"].tolist() == [[b"calls"]]
    assert b"now" in forced["GUIDE"][0, 0]
    none = answer(model, "", **asked, TOOL_CHOICE=texts("none")).outputs
    assert (context(none).reading or reading).format in ("", "hermes")
    assert b"now" not in none["STREAM_CONTEXT"][0, 0]


def test_what_isn_t_asked_for_is_not_told(load: Callable[..., TritonPythonModel]) -> None:
    model = load(TEMPLATE)
    outputs = answer(model, "", MESSAGES=chat(), TOOLS=TOOLS).outputs
    assert context(outputs).reading is None
    outputs = answer(
        model,
        "",
        MESSAGES=chat(),
        TOOLS=TOOLS,
        PARSE_ANSWER=[[True]],
        EXCLUDE_INPUT_IN_OUTPUT=[[False]],
    ).outputs
    assert context(outputs).reading is None  # an answer that begins with its prompt


def test_a_client_s_guide_goes_on_to_the_engine(load: Callable[..., TritonPythonModel]) -> None:
    outputs = answer(
        load(),
        "x",
        GUIDED_DECODING_GUIDE_TYPE=texts("regex"),
        GUIDED_DECODING_GUIDE=texts("a|b"),
    ).outputs
    assert (outputs["GUIDE_TYPE"].item(), outputs["GUIDE"].item()) == (b"regex", b"a|b")


def test_a_thinking_budget_reaches_the_sequence(load: Callable[..., TritonPythonModel]) -> None:
    model = load(TEMPLATE)
    variables = texts('{"opening": "<think>"}')
    outputs = answer(
        model,
        "",
        MESSAGES=chat(),
        **PARSED,
        THINKING_TOKEN_BUDGET=[[7]],
        CHAT_TEMPLATE_KWARGS=variables,
    ).outputs
    assert outputs["THINKING_BUDGET"].tolist() == [[7]]
    assert (outputs["THINKING_BEGIN_IDS"] == -1).all()  # the prompt ends within it
    assert (outputs["THINKING_END_IDS"] >= 0).all()
    reading = context(outputs).reading
    assert reading is not None
    assert reading.begun


def test_the_engine_reads_what_preprocessing_writes() -> None:
    bound = ThinkingBudget(7, (1, 2), (3,), (4, 3, 4))
    tensors = {
        each.name(): each.as_numpy()
        for each in plan_tensors([Plan(), Plan(thinking=bound), Plan(thinking=bound)])
    }
    names = {
        "THINKING_BUDGET": "thinking_token_budget",
        **{
            f"THINKING_{each}_IDS": f"thinking_{each.lower()}_ids"
            for each in ("BEGIN", "END", "CLOSE")
        },
    }
    inputs: Any = FakeInputs(
        input_ids=np.ones((3, 2)),
        input_lengths=[[2]] * 3,
        request_output_len=[[9]] * 3,
        **{names[name]: array for name, array in tensors.items()},
    )
    rows = read_request(inputs, (2,), exclude_input=True).rows
    assert [row.thinking for row in rows] == [None, bound, bound]
    reporting = Reporting(True, False, False, False, False)
    streams = [EngineStream(row, reporting, b"") for row in rows]
    assert [stream.sequence.shapers for stream in streams] == [(), (bound,), (bound,)]


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        ({"TOOL_CHOICE": texts("any")}, "tool_choice is 'any'; it must be auto, none, required"),
        ({"TOOL_CHOICE": texts("x" * 300)}, "tool_choice has 300 bytes; it must have at most 256"),
        ({"TOOL_CHOICE": texts("function:f")}, "tool_choice: there is no tool called f"),
        ({"REASONING_EFFORT": texts("much")}, "reasoning_effort is 'much'; it must be one of"),
        ({"THINKING_TOKEN_BUDGET": [[-3]]}, "thinking_token_budget is -3; it must be 0 or more"),
        (
            {"GUIDED_DECODING_GUIDE_TYPE": texts("poem")},
            "guided_decoding_guide_type is 'poem', which is not known",
        ),
        ({"TOOLS": texts(json.dumps([TOOL, TOOL]))}, "tools.1.function.name: another tool has"),
        ({"TOOLS": texts("[" * 5000)}, "tools is not JSON"),
    ],
)
def test_what_is_wrong_is_refused_by_name(
    load: Callable[..., TritonPythonModel], inputs: dict[str, Any], words: str
) -> None:
    asked = {"MESSAGES": chat(), "TOOLS": TOOLS, "PARSE_ANSWER": [[True]], **inputs}
    assert refusal(load(TEMPLATE), "", **asked).startswith(words)
