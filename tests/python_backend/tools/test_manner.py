"""What a checkpoint's template and tokenizer say of calls and thinking, and what comes of it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from contract.errors import InvalidRequestError
from contract.guides import Guide
from contract.model_settings import PreprocessingParameters
from contract.names import TENSORRT_LLM_ADAPTER
from contract.tool_choice import ToolChoice
from python_backend.text.tokenizer import TextTokenizer
from python_backend.tools.chat_options import ChatOptions
from python_backend.tools.manner import Manner
from python_backend.tools.thinking import KNOWN_MARKS
from tests.python_backend.text.templates import TEMPLATES, TOKENS, tokenizer_of
from tests.python_backend.tools.test_call_grammar import ADD, NOW, SAY

QUESTION = {"role": "user", "content": "What is 1 + 2?"}
PARSED = ChatOptions(parse=True)
THINK = KNOWN_MARKS[0]


def manner(family: str, template: str | None = None, **settings: Any) -> Manner:
    """Of a family's template, in a tokenizer of its tokens."""
    known = family if family in TEMPLATES else "chatml"
    tokenizer = TextTokenizer(
        tokenizer_of(known, "byte-level"), TOKENS["byte-level"], template or TEMPLATES[family]
    )
    return Manner(tokenizer, PreprocessingParameters(**settings))


def plan(made: Manner, tools: list[Any] | None = None, prompt: str = "", **fields: Any) -> Any:
    options = ChatOptions(**{"parse": True, **fields})
    made.told([QUESTION], tools, None, options)
    return made.plan(prompt, tools, options)


@pytest.mark.parametrize(
    ("family", "form"),
    [
        ("qwen-3", "hermes"),
        ("llama-3", "llama"),
        ("gemma", "gemma"),
        ("chatml", None),
        ("command-r", None),
        ("zephyr", None),
        ("deepseek", None),
    ],
)
def test_the_format_is_the_template_s(family: str, form: str | None) -> None:
    known = manner(family).form
    assert (known and known.name) == form


@pytest.mark.parametrize(
    ("template", "form"),
    [
        ("{{ tools }}[AVAILABLE_TOOLS] [TOOL_CALLS]", "mistral"),
        ("{{ tools }}<tool_call>\n<function=x>", "qwen_xml"),
        ("{{ xml_tools }}<tool_call>", "hermes"),
        ("{{ tools }}<|tool|><|/tool|>", "phi"),
        ("{{ tools }}<|python_tag|>", "llama"),
        ('{{ tools }}<|start_header_id|>{"name": f, "parameters": {}}', "llama"),
    ],
)
def test_families_are_known_by_their_marks(template: str, form: str) -> None:
    known = manner("", template).form
    assert known is not None
    assert known.name == form


def test_the_settings_say_otherwise() -> None:
    form = manner("chatml", tool_format="hermes").form
    assert form is not None
    assert form.name == "hermes"
    assert manner("qwen-3", tool_format="none").form is None


def test_the_answer_is_read_as_it_is_asked() -> None:
    made = manner("qwen-3")
    reading = plan(made, [ADD, NOW]).reading
    assert (reading.format, reading.marks, reading.begun) == ("hermes", THINK, False)
    assert reading.functions == {"add": {}, "now": {}}
    coder = manner("", "{{ tools }}<tool_call>\n<function=")
    assert plan(coder, [ADD]).reading.functions == {"add": {"a": "integer", "b": "any"}}
    assert plan(made).reading.format == ""
    assert plan(made, [ADD], choice=ToolChoice("none")).reading.format == ""
    assert plan(made, [ADD], parse=False).reading is None
    assert plan(manner("chatml")).reading is None


@pytest.mark.parametrize(
    ("prompt", "thinks", "begun"),
    [
        ("<|im_start|>assistant\n", True, False),
        ("<|im_start|>assistant\n<think>\n", True, True),
        ("<|im_start|>assistant\n<think>\n\n</think>\n\n", False, False),
    ],
)
def test_a_prompt_may_end_within_thinking_or_behind_it(
    prompt: str, thinks: bool, begun: bool
) -> None:
    made = manner("qwen-3")
    found = plan(made, prompt=prompt, budget=5)
    assert (found.reading is not None and found.reading.marks is not None) == thinks
    if thinks:
        assert found.reading.begun == begun
        assert (found.thinking.begin == ()) == begun
        assert len(found.thinking.end) == 1
        assert found.thinking.end[0] in found.thinking.close
    assert (found.thinking is not None) == thinks


def test_only_what_is_forced_or_strict_or_single_is_guided() -> None:
    made = manner("qwen-3")
    assert plan(made, [ADD]).guide is None
    assert "find" not in plan(made, [ADD, NOW], choice=ToolChoice("required")).guide.text
    named = plan(made, [ADD, NOW], choice=ToolChoice("named", "now")).guide
    assert named.type == "calls"
    assert "now" in named.text
    assert '\\"add' not in named.text
    assert plan(made, [ADD, SAY]).guide is not None
    assert plan(made, [ADD], parallel=False).guide is not None
    assert plan(manner("qwen-3", hold_tool_calls=True), [ADD]).guide is not None


def test_a_guide_waits_for_the_end_of_thinking() -> None:
    guide = Guide("json_schema", '{"type": "integer"}')
    made = manner("qwen-3")
    assert plan(made, guide=guide, parse=False).guide is guide
    behind = plan(made, guide=guide).guide
    assert "start: (<[" in behind.text
    assert behind.type == "ebnf_grammar"
    assert plan(made, guide=guide, prompt="<think>\n\n</think>\n\n").guide is guide
    assert plan(manner("chatml"), guide=guide).guide is guide
    beside = plan(made, [ADD], guide=guide).guide
    assert beside.type == "calls"
    assert '"type": "integer"' in beside.text


@pytest.mark.parametrize(
    ("family", "tools", "fields", "words"),
    [
        ("qwen-3", [ADD, ADD], {}, "tools.1.function.name: another tool has the same name"),
        ("qwen-3", None, {"choice": ToolChoice("required")}, "tool_choice is required, and there"),
        ("qwen-3", [ADD], {"choice": ToolChoice("named", "f")}, "tool_choice: there is no tool"),
        ("chatml", [ADD], {}, "tools: the checkpoint's chat template has no place"),
        ("chatml", None, {"effort": "low"}, "reasoning_effort is 'low'; this model doesn't think"),
        ("chatml", None, {"effort": "huge"}, "reasoning_effort is 'huge'; it must be one of none"),
        ("qwen-3", None, {"budget": -1}, "thinking_token_budget is -1; it must be 0 or more"),
        (
            "qwen-3",
            [ADD],
            {"guide": Guide("regex", "a")},
            "guided_decoding_guide_type: beside tools it must be json",
        ),
        (
            "qwen-3",
            [ADD],
            {"guide": Guide("json"), "choice": ToolChoice("required")},
            "guided_decoding_guide_type: a forced call leaves no room",
        ),
        (
            "qwen-3",
            [{"type": "function", "function": {"name": "a b"}}],
            {},
            "tools.0.function.name is 'a b'; it must be",
        ),
    ],
)
def test_what_can_t_be_done_is_refused_by_name(
    family: str, tools: Any, fields: dict[str, Any], words: str
) -> None:
    with pytest.raises(InvalidRequestError) as told:
        plan(manner(family), tools, **fields)
    assert told.value.message.startswith(words)
    assert told.value.param == words.split(".")[0].split(" ")[0].rstrip(":")


def test_another_engine_forces_no_calls() -> None:
    made = manner("qwen-3", engine_model=TENSORRT_LLM_ADAPTER)
    assert plan(made, [ADD, SAY]).guide is None
    with pytest.raises(InvalidRequestError, match="tool_choice: this engine can't force"):
        plan(made, [ADD], choice=ToolChoice("required"))


@pytest.mark.parametrize(
    ("template", "effort", "variables"),
    [
        ("{{ enable_thinking }}<think></think>", "none", {"enable_thinking": False}),
        ("{{ enable_thinking }}<think></think>", "high", {"enable_thinking": True}),
        ("{{ reasoning_effort }}", "low", {"reasoning_effort": "low"}),
        ("{{ thinking }}", "none", {"thinking": False}),
        ("<think></think>", "high", {}),
        ("no thinking", "none", {}),
    ],
)
def test_how_much_is_thought_is_told_in_the_template_s_words(
    template: str, effort: str, variables: dict[str, Any]
) -> None:
    made = manner("", template)
    _, _, told = made.told([QUESTION], None, None, ChatOptions(effort=effort))
    assert told == variables
    given = {"enable_thinking": "mine", "reasoning_effort": "mine", "thinking": "mine"}
    assert made.told([QUESTION], None, given, ChatOptions(effort=effort))[2] == given


def test_a_model_that_always_thinks_is_kept_from_it() -> None:
    made = manner("deepseek")
    assert plan(made, effort="none", prompt="x<think>\n").thinking.budget == 0
    assert plan(made, effort="high", prompt="x<think>\n").thinking is None


def test_functions_are_told_in_words_where_the_template_has_no_place() -> None:
    made = manner("gemma")
    call = {"id": "a", "type": "function", "function": {"name": "add", "arguments": {"a": 1}}}
    messages: list[dict[str, Any]] = [
        QUESTION,
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "a", "content": "3"},
        {"role": "user", "content": "And?"},
    ]
    told, tools, _ = made.told(messages, [ADD], None, PARSED)
    assert tools is None
    assert [message["role"] for message in told] == ["user", "assistant", "user"]
    assert json.dumps(ADD["function"]) in told[0]["content"]
    assert told[0]["content"].endswith(QUESTION["content"])
    assert told[1]["content"] == '{"name": "add", "parameters": {"a": 1}}'
    assert told[2]["content"] == "add answered:\n3\n\nAnd?"
    assert messages[0] == QUESTION
    told, tools, _ = made.told(messages, None, None, PARSED)
    assert tools is None
    assert [message["content"] for message in told] == [
        QUESTION["content"],
        '{"name": "add", "parameters": {"a": 1}}',
        "add answered:\n3\n\nAnd?",
    ]
    assert manner("chatml").told(messages, None, None, PARSED)[0] == messages


def test_tools_have_their_older_name_where_a_template_knows_no_other() -> None:
    made = manner("", "{{ xml_tools }}<tool_call>")
    assert made.told([QUESTION], [ADD], None, PARSED)[1:] == ([ADD], {"xml_tools": [ADD]})


def test_mistral_s_ids_are_nine_letters_and_digits() -> None:
    made = manner("", "{{ tools }}[TOOL_CALLS]")
    call = {"id": "call_abc", "function": {"name": "add", "arguments": {}}}
    messages: list[dict[str, Any]] = [
        {"role": "assistant", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_abc", "content": "3"},
        {"role": "tool", "tool_call_id": "a1B2c3D4e", "content": "3"},
    ]
    told, _, _ = made.told(messages, None, None, PARSED)
    name = told[1]["tool_call_id"]
    assert name.isalnum()
    assert len(name) == 9
    assert told[0]["tool_calls"][0]["id"] == name
    assert told[2]["tool_call_id"] == "a1B2c3D4e"
