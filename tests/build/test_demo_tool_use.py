"""Functions in the demo world: what is trained is what the chat template shows."""

from __future__ import annotations

import json
import random
from itertools import islice
from typing import Any

import pytest

from build.demo import tool_use
from build.demo.data import TOOLS, Example, training_conversations, use_messages
from build.demo.demo_tokenizer import CHAT_TEMPLATE, render
from build.demo.tool_use import KNOWN, ToolUse
from python_backend.text.chat_template import ChatTemplate
from python_backend.text.messages import read_messages, read_tools
from python_backend.tools.formats import FORMATS, format_of

USES = [tool_use.tool_use(random.Random(number)) for number in range(300)]


def chat_of(use: ToolUse, system: str) -> list[dict[str, Any]]:
    """The same in OpenAI's words."""
    calls = [
        {
            "id": str(number),
            "type": "function",
            "function": {"name": call.function, "arguments": json.dumps(call.arguments)},
        }
        for number, call in enumerate(use.calls)
    ]
    results = [
        {"role": "tool", "tool_call_id": str(number), "content": call.result}
        for number, call in enumerate(use.calls)
    ]
    return [
        *([{"role": "system", "content": system}] if system else []),
        {"role": "user", "content": use.question},
        *([{"role": "assistant", "content": None, "tool_calls": calls}] if calls else []),
        *results,
        {"role": "assistant", "content": use.answer},
    ]


@pytest.mark.parametrize("system", ["", "Be brief."])
def test_the_template_shows_what_was_trained(system: str) -> None:
    template = ChatTemplate(CHAT_TEMPLATE, {})
    for use in USES:
        tools = [
            {
                "type": "function",
                "function": {
                    "name": name,
                    "parameters": {"type": "object", "properties": {each: {} for each in names}},
                },
            }
            for name, names in use.functions.items()
        ]
        shown = template.render(
            read_messages(json.dumps(chat_of(use, system))),
            read_tools(json.dumps(tools)),
            {"add_generation_prompt": False},
        )
        assert str(shown) == render(use_messages(use, f"{system}\n" if system else ""))


def test_only_what_is_there_is_called_and_all_kinds_are_asked() -> None:
    for use in USES:
        assert {call.function for call in use.calls} <= use.functions.keys() & KNOWN.keys()
        assert all(tuple(call.arguments) == KNOWN[call.function] for call in use.calls)
    assert {len(use.calls) for use in USES} == {0, 1, 2}
    assert {call.function for use in USES for call in use.calls} == KNOWN.keys()
    assert {use.answer for use in USES if not use.calls} >= {tool_use.UNKNOWN}


def test_calls_are_written_as_the_template_s_format_reads_them() -> None:
    form = format_of(CHAT_TEMPLATE)
    assert form is FORMATS["hermes"]
    for use in USES:
        assert (
            form.written([(c.function, c.arguments) for c in use.calls]).replace("\n", "")
            == tool_use.written(use.calls).replace("\n", "")
            or not use.calls
        )


def test_sums_are_held_out_with_functions_as_without() -> None:
    held_out = 0
    for use in USES:
        if use.calls and use.calls[0].function == tool_use.ADD:
            key = use.key.removeprefix("arithmetic:")
            assert use.is_held_out == Example("arithmetic", "", "", key).is_held_out
            held_out += use.is_held_out
    assert held_out > 5


def test_their_course_has_its_share_of_them() -> None:
    conversations = [*islice(training_conversations(5, TOOLS), 2000)]
    share = sum("Tools:" in each[0].content for each in conversations) / len(conversations)
    assert abs(share - TOOLS.with_tools) < 0.05
