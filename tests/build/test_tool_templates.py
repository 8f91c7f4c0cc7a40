"""Tools, calls and results become the tokens that transformers makes of them, family by family,
and what a family's template writes of a call is read as that call.
"""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest

pytest.importorskip("transformers")

from tokenizers import AddedToken, Tokenizer
from transformers import PreTrainedTokenizerFast

from contract.model_settings import PreprocessingParameters
from contract.tool_choice import ToolChoice
from python_backend.text.messages import read_messages, read_tools
from python_backend.text.tokenizer import TextTokenizer
from python_backend.tools.chat_options import ChatOptions
from python_backend.tools.events import Arguments, CallBegun, joined
from python_backend.tools.formats import FORMATS
from python_backend.tools.manner import Manner
from python_backend.tools.tool_functions import Functions
from tests.python_backend.text.samples import byte_level
from tests.python_backend.text.templates import TOKENS
from tests.python_backend.text.tool_templates import (
    ADDED_OF,
    FORMATS_OF,
    SPECIAL_OF,
    TOOL_TEMPLATES,
)

pytestmark = pytest.mark.torch

TOOLS: list[dict[str, Any]] = [
    {
        "type": "function",
        "function": {
            "name": "weather",
            "description": 'Says what the weather is <now> & "here", é',
            "parameters": {
                "type": "object",
                "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
                "required": ["city"],
            },
        },
    },
    {"type": "function", "function": {"name": "now", "parameters": {"type": "object"}}},
]
QUESTION = {"role": "user", "content": "How is it?"}
SYSTEM = {"role": "system", "content": "Be <b>brief</b>."}
ARGUMENTS = {"city": 'Sã"o\nPaulo {', "days": 3}


def called(*arguments: dict[str, Any]) -> list[dict[str, Any]]:
    """A call with its result for each."""
    ids = [f"abcdefgh{number}" for number in range(len(arguments))]
    calls = [
        {"id": name, "type": "function", "function": {"name": "weather", "arguments": each}}
        for name, each in zip(ids, arguments, strict=True)
    ]
    results = [
        {"role": "tool", "tool_call_id": name, "content": '{"sky": "é\\u0040 \\n"}'} for name in ids
    ]
    return [{"role": "assistant", "content": "", "tool_calls": calls}, *results]


CHATS = {
    "a question": [SYSTEM, QUESTION],
    "a call": [SYSTEM, QUESTION, *called(ARGUMENTS)],
    "calls": [QUESTION, *called(ARGUMENTS, {"city": "x"}), {"role": "assistant", "content": "3."}],
    "text and a call": [QUESTION, {**called({})[0], "content": "Let me see."}, called({})[1]],
}


def tokenizer_of(family: str) -> Tokenizer:
    tokenizer = byte_level()
    special = [AddedToken(each, normalized=False) for each in SPECIAL_OF[family]]
    tokenizer.add_special_tokens(special)
    tokenizer.add_tokens([AddedToken(each, normalized=False) for each in ADDED_OF.get(family, [])])
    return tokenizer


@pytest.mark.parametrize("family", TOOL_TEMPLATES)
@pytest.mark.parametrize("chat", CHATS.values(), ids=CHATS)
@pytest.mark.parametrize("tools", [None, TOOLS], ids=["no tools", "tools"])
@pytest.mark.parametrize("variables", [{}, {"enable_thinking": False}], ids=["", "no thinking"])
def test_tokens_are_transformers(
    family: str, chat: list[dict[str, Any]], tools: Any, variables: dict[str, Any]
) -> None:
    source, tokenizer = TOOL_TEMPLATES[family], tokenizer_of(family)
    reference = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(tokenizer.to_str()), **TOKENS["byte-level"]
    )
    reference.chat_template = source
    ours = TextTokenizer(tokenizer, TOKENS["byte-level"], source)
    manner = Manner(ours, PreprocessingParameters())
    more = {"xml_tools": tools} if family == "smollm-3" else {}
    if family == "llama-3.1" and chat is CHATS["calls"]:
        pytest.skip("its template takes one call at a time")
    expected = reference.apply_chat_template(
        chat,
        tools=tools,
        tokenize=True,
        return_dict=False,
        add_generation_prompt=True,
        **variables,
        **more,
    )
    messages, given, told = manner.told(
        read_messages(json.dumps(chat)),
        read_tools(json.dumps(tools or [])),
        variables,
        ChatOptions(),
    )
    assert ours.chat_template is not None
    prompt = ours.chat_template.render(messages, given, told)
    assert ours.encode(prompt, add_special_tokens=False).tolist() == list(expected)


@pytest.mark.parametrize("family", TOOL_TEMPLATES)
def test_what_a_template_writes_of_a_call_is_read_as_that_call(family: str) -> None:
    ours = TextTokenizer(tokenizer_of(family), TOKENS["byte-level"], TOOL_TEMPLATES[family])
    form = Manner(ours, PreprocessingParameters()).form
    assert form is not None
    assert form.name == FORMATS_OF[family]
    assert ours.chat_template is not None
    before = [QUESTION]
    chat = read_messages(json.dumps([QUESTION, *called(ARGUMENTS)]))[:2]
    tools = read_tools(json.dumps(TOOLS))
    begun = str(ours.chat_template.render(before, tools, {"xml_tools": tools}))
    whole = str(
        ours.chat_template.render(chat, tools, {"xml_tools": tools, "add_generation_prompt": False})
    )
    answer = whole.removeprefix(begun) if whole.startswith(begun) else whole[len(begun) - 12 :]
    ids = itertools.count()
    reads = FORMATS[form.name].parser(Functions.of(TOOLS), lambda: str(next(ids)))
    events = joined([*reads.add(answer), *reads.add("", final=True)])
    (begins,) = (event for event in events if isinstance(event, CallBegun))
    (arguments,) = (event for event in events if isinstance(event, Arguments))
    assert begins.name == "weather"
    assert json.loads(arguments.text) == ARGUMENTS


@pytest.mark.parametrize("family", TOOL_TEMPLATES)
def test_a_forced_call_is_in_the_family_s_tokens(family: str) -> None:
    ours = TextTokenizer(tokenizer_of(family), TOKENS["byte-level"], TOOL_TEMPLATES[family])
    manner = Manner(ours, PreprocessingParameters())
    options = ChatOptions(parse=True, choice=ToolChoice("required"))
    plan = manner.plan("", TOOLS, options)
    assert plan.guide is not None
    for mark in manner.form.kept if manner.form else ():
        if mark in ours.added_ids and mark in FORMATS[FORMATS_OF[family]].shape.begin:
            looks_so = mark[0] == "<" or mark in ours.special_ids
            assert (f"<[{ours.added_ids[mark]}]>" in plan.guide.text) == looks_so
