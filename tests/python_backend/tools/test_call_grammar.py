"""Grammars of calls: what they allow is what the parsers read, and nothing else."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest
from llguidance import LLMatcher, LLTokenizer

from contract.errors import InvalidRequestError
from contract.guides import Guide
from python_backend.tools.call_grammar import Wanted, write, write_answer
from python_backend.tools.formats import FORMATS
from python_backend.tools.thinking import KNOWN_MARKS
from tests.python_backend.text.samples import byte_level

ADD = {
    "type": "function",
    "function": {
        "name": "add",
        "parameters": {
            "type": "object",
            "properties": {"a": {"type": "integer"}, "b": {"$ref": "#/$defs/number"}},
            "required": ["a", "b"],
            "$defs": {"number": {"type": "integer"}},
        },
    },
}
NOW = {"type": "function", "function": {"name": "now"}}
SAY = {
    "type": "function",
    "function": {
        "name": "say",
        "strict": True,
        "parameters": {
            "properties": {"text": {"type": "string"}, "how": {"enum": ["low", "loud"]}},
            "required": ["text"],
        },
    },
}
TOOLS = [ADD, NOW, SAY]
WORDS = byte_level()
WORDS.add_tokens(["<tool_call>", "</tool_call>"])
TOKENIZER = LLTokenizer(WORDS.to_str())
SPECIAL = {each: WORDS.get_vocab()[each] for each in ("<tool_call>", "</tool_call>")}
"""To the library they are, as they look so."""
MARKS = KNOWN_MARKS[0]


def allows(grammar: str, text: str) -> bool:
    """Whether a text may be all of an answer."""
    matcher = LLMatcher(TOKENIZER, grammar, log_level=0)
    assert not matcher.is_error(), matcher.get_error()
    tokens = TOKENIZER.tokenize_str(text)
    if matcher.validate_tokens(tokens) < len(tokens):
        return False
    assert matcher.consume_tokens(tokens)
    return bool(matcher.is_accepting())


def call(form: str, name: str, arguments: Mapping[str, Any]) -> str:
    if form != "qwen_xml":
        key = FORMATS[form].arguments
        return json.dumps({"name": name, key: arguments})
    parts = "".join(
        f"<parameter={key}>\n{value}\n</parameter>\n" for key, value in arguments.items()
    )
    return f"<function={name}>\n{parts}</function>"


def answer(form: str, *calls: str) -> str:
    around = {
        "hermes": ("<tool_call>\n", "\n</tool_call>\n<tool_call>\n", "\n</tool_call>"),
        "qwen_xml": ("<tool_call>\n", "\n</tool_call>\n<tool_call>\n", "\n</tool_call>"),
        "llama": ("", "; ", ""),
        "mistral": ("[TOOL_CALLS][", ", ", "]"),
        "phi": ("<|tool_call|>[", ", ", "]<|/tool_call|>"),
        "gemma": ("", "", ""),
    }
    begin, between, end = around[form]
    return begin + between.join(calls) + end


def forced(form: str, **fields: Any) -> str:
    wanted = Wanted(**{"tools": TOOLS, "forced": True, "many": True, **fields})
    return write(FORMATS[form].shape, wanted, SPECIAL)


@pytest.mark.parametrize("form", FORMATS)
def test_a_forced_call_has_its_arguments_and_no_others(form: str) -> None:
    grammar = forced(form)
    assert allows(grammar, answer(form, call(form, "add", {"a": 1, "b": 25})))
    assert allows(grammar, answer(form, call(form, "now", {})))
    assert allows(grammar, answer(form, call(form, "say", {"text": 'x "</p', "how": "loud"})))
    for name, arguments in (
        ("add", {"a": 1}),
        ("add", {"a": 1, "b": "x"}),
        ("add", {"a": 1, "b": 2, "c": 3}),
        ("now", {"a": 1}),
        ("other", {}),
        ("say", {"text": "x", "how": "high"}),
    ):
        assert not allows(grammar, answer(form, call(form, name, arguments)))
    assert not allows(grammar, "Hello")
    assert not allows(grammar, "")


@pytest.mark.parametrize("form", [each for each in FORMATS if each != "gemma"])
@pytest.mark.parametrize("many", [True, False])
def test_there_may_be_one_or_several(form: str, many: bool) -> None:
    two = [call(form, "now", {}), call(form, "add", {"a": 1, "b": 2})]
    assert allows(forced(form, many=many), answer(form, *two)) == many
    assert allows(forced(form, many=many), answer(form, *two[:1]))


@pytest.mark.parametrize("form", FORMATS)
def test_what_a_model_begins_by_itself_is_held_where_it_is_strict(form: str) -> None:
    grammar = forced(form, forced=False)
    assert allows(grammar, "Hello, < and [x] are no calls.")
    assert allows(grammar, answer(form, call(form, "say", {"text": "x"})))
    assert not allows(grammar, answer(form, call(form, "say", {"txt": "x"})))
    if form != "qwen_xml":
        assert allows(grammar, answer(form, call(form, "add", {"x": [1]})))
    all_held = forced(form, forced=False, all_held=True)
    assert not allows(all_held, answer(form, call(form, "add", {"x": [1]})))


@pytest.mark.parametrize("form", ["hermes", "qwen_xml", "mistral", "phi"])
def test_text_may_go_before_a_call_that_isn_t_forced(form: str) -> None:
    text = "I call.\n" + answer(form, call(form, "now", {}))
    assert allows(forced(form, forced=False, all_held=True), text)
    assert not allows(forced(form), text)


@pytest.mark.parametrize("form", FORMATS)
def test_thinking_may_go_before_a_call(form: str) -> None:
    calls = answer(form, call(form, "now", {}))
    for text in (calls, f"<think>\nHm, <b>\n</think>\n\n{calls}"):
        assert allows(forced(form, marks=MARKS), text)
    grammar = forced(form, marks=MARKS, begun=True)
    assert allows(grammar, f"Hm.\n</think>\n\n{calls}")
    assert not allows(grammar, calls)


def test_an_answer_without_a_call_keeps_to_its_schema() -> None:
    grammar = forced("hermes", forced=False, answer='{"type": "integer"}')
    assert allows(grammar, "17")
    assert allows(grammar, answer("hermes", call("hermes", "now", {})))
    assert not allows(grammar, "Hello")


@pytest.mark.parametrize(
    ("guide", "good", "bad"),
    [
        (Guide("json"), '{"a": 1}', "1"),
        (Guide("json_schema", '{"type": "integer"}'), "17", '"x"'),
        (Guide("regex", "a/b|c\\/d"), "a/b", "x"),
    ],
)
def test_a_guide_holds_behind_the_thinking(guide: Guide, good: str, bad: str) -> None:
    grammar = write_answer(guide, MARKS, False, {})
    assert allows(grammar, good)
    assert allows(grammar, f"<think>\nHm.\n</think>\n\n{good}")
    assert not allows(grammar, f"<think>\nHm.\n</think>\n\n{bad}")
    assert not allows(write_answer(guide, MARKS, True, {}), good)


def test_special_tokens_are_themselves() -> None:
    grammar = write(
        FORMATS["mistral"].shape, Wanted(TOOLS, True, True), {"[TOOL_CALLS]": 5, "<tool_call>": 6}
    )
    assert "<[5]>" in grammar
    assert "[TOOL_CALLS]" not in grammar
    auto = write(FORMATS["mistral"].shape, Wanted(TOOLS, False, True), {"[TOOL_CALLS]": 5})
    assert "TEXT <[5]>" in auto


def test_schemas_that_are_too_large_are_refused_by_name() -> None:
    schema = {"type": "object", "description": "x" * 140_000}
    large = {"type": "function", "function": {"name": "f", "parameters": schema}}
    with pytest.raises(InvalidRequestError, match="tools: the schemas have") as told:
        write(FORMATS["hermes"].shape, Wanted([large], True, True), {})
    assert told.value.param == "tools"


def test_a_schema_asks_nothing_of_the_library_itself() -> None:
    schema = {"type": "object", "x-guidance": {"lenient": True}}
    tool = {"type": "function", "function": {"name": "f", "parameters": schema}}
    assert "lenient" not in write(FORMATS["hermes"].shape, Wanted([tool], True, True), {})
