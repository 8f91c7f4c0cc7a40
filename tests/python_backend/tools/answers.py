"""Answers in the manner of families, and what each says."""

from __future__ import annotations

from typing import NamedTuple

ADD, FIND = "add", "find_person"

TYPES = {ADD: {"a": "integer", "b": "integer"}, FIND: {"tags": "array"}}
"""The functions of all these answers, with the types of what isn't text."""


class Answer(NamedTuple):
    """An answer, and what it says.

    Attributes:
        form: The format.
        text: What the model wrote.
        content: The text for the one who asked.
        calls: Names with arguments.
        whole: Whether all the calls are.
    """

    form: str
    text: str
    content: str
    calls: tuple[tuple[str, str], ...] = ()
    whole: bool = True


_A, _B = '{"a": 17, "b": 25}', '{"name": "Rosa \\"R\\" Torres}", "tags": [{"x": []}, "]"]}'
_CALLS = ((ADD, _A), (FIND, _B))
_OBJECT_A = f'{{"name": "add", "arguments": {_A}}}'
_OBJECT_B = f'{{"name": "find_person", "arguments": {_B}}}'
_LLAMA_A = _OBJECT_A.replace("arguments", "parameters")
_LLAMA_B = _OBJECT_B.replace("arguments", "parameters")

ANSWERS = {
    "hermes, one": Answer("hermes", f"<tool_call>\n{_OBJECT_A}\n</tool_call>", "", _CALLS[:1]),
    "hermes, text and two": Answer(
        "hermes",
        f"Let me see.\n\n<tool_call>\n{_OBJECT_A}\n</tool_call>\n"
        f"<tool_call>{_OBJECT_B}</tool_call>\n",
        "Let me see.",
        _CALLS,
    ),
    "hermes, arguments first": Answer(
        "hermes",
        f'<tool_call>{{"arguments": {_A}, "id": 3, "name": "add"}}</tool_call>',
        "",
        _CALLS[:1],
    ),
    "hermes, a list": Answer(
        "hermes", f"<tool_call>[{_OBJECT_A}, {_OBJECT_B}]</tool_call>", "", _CALLS
    ),
    "hermes, arguments in a text": Answer(
        "hermes",
        '<tool_call>{"name": "add", "arguments": "{\\"a\\": 1}"}</tool_call>',
        "",
        ((ADD, '{"a": 1}'),),
    ),
    "hermes, no arguments": Answer(
        "hermes", '<tool_call>{"name": "now"}</tool_call>', "", (("now", "{}"),)
    ),
    "hermes, null arguments": Answer(
        "hermes", '<tool_call>{"name": "now", "arguments": null}</tool_call>', "", (("now", "{}"),)
    ),
    "hermes, no end": Answer("hermes", f"<tool_call>{_OBJECT_A}", "", _CALLS[:1]),
    "hermes, cut in the end": Answer("hermes", f"<tool_call>{_OBJECT_A}\n</tool_", "", _CALLS[:1]),
    "phi, cut in the end": Answer("phi", f"<|tool_call|>[{_OBJECT_A}]<|/to", "", _CALLS[:1]),
    "hermes, text alone": Answer(
        "hermes", "A <tool and a <tool_cal in the end<tool", "", (), False
    ),
    "hermes, no JSON": Answer("hermes", "See <tool_call>nothing</tool_call> here", "", (), False),
    "hermes, an unnamed object": Answer("hermes", '<tool_call>{"a": 1} {"b"', "", (), False),
    "hermes, cut in the arguments": Answer(
        "hermes",
        '<tool_call>\n{"name": "add", "arguments": {"a": 17, "b": "x\\',
        "",
        ((ADD, '{"a": 17, "b": "x\\'),),
        False,
    ),
    "hermes, cut in the second": Answer(
        "hermes",
        f'<tool_call>{_OBJECT_A}</tool_call><tool_call>{{"name": "add", "arguments": {{',
        "",
        (*_CALLS[:1], (ADD, "{")),
        False,
    ),
    "qwen_xml, two": Answer(
        "qwen_xml",
        "On it.\n<tool_call>\n<function=add>\n<parameter=a>\n17\n</parameter>\n<parameter=b>\n25\n"
        "</parameter>\n</function>\n</tool_call>\n<tool_call>\n<function=find_person>\n"
        '<parameter=name>\nRosa\n"R" </param\n\n</parameter>\n<parameter=tags>\n["x", True]\n'
        "</parameter>\n</function>\n</tool_call>",
        "On it.",
        ((ADD, _A), (FIND, '{"name": "Rosa\\n\\"R\\" </param\\n", "tags": "[\\"x\\", True]"}')),
    ),
    "qwen_xml, no arguments": Answer(
        "qwen_xml", "<tool_call>\n<function=now>\n</function>\n</tool_call>", "", (("now", "{}"),)
    ),
    "qwen_xml, without the outer element": Answer(
        "qwen_xml",
        "<function=find_person>\n<parameter=name>\nRosa\n</parameter>\n</function>",
        "",
        ((FIND, '{"name": "Rosa"}'),),
    ),
    "qwen_xml, cut in a text": Answer(
        "qwen_xml",
        "<tool_call>\n<function=find_person>\n<parameter=name>\nRosa\nTor</para",
        "",
        ((FIND, '{"name": "Rosa\\nTor</para'),),
        False,
    ),
    "qwen_xml, no function": Answer("qwen_xml", "<tool_call>\n<func", "", (), False),
    "llama, one": Answer("llama", f"\n{_LLAMA_A}", "", _CALLS[:1]),
    "llama, two": Answer("llama", f"<|python_tag|>{_LLAMA_A}; {_LLAMA_B}", "", _CALLS),
    "llama, with a type": Answer(
        "llama",
        '{"type": "function", "function": "add", "parameters": {"a": 1}}',
        "",
        ((ADD, '{"a": 1}'),),
    ),
    "llama, text": Answer("llama", "It is {name}.", "", (), False),
    "llama, another object": Answer("llama", '{"name": "Rosa", "parameters": {}}', "", (), False),
    "llama, code": Answer("llama", "So: <|python_tag|>print(1)", "", (), False),
    "mistral, a list": Answer(
        "mistral", f"Well. [TOOL_CALLS] [{_OBJECT_A}, {_OBJECT_B}]", "Well.", _CALLS
    ),
    "mistral, newer": Answer(
        "mistral",
        f"[TOOL_CALLS]add[ARGS]{_A}[TOOL_CALLS]find_person[CALL_ID]abcdefghi[ARGS]{_B}",
        "",
        _CALLS,
    ),
    "mistral, without a mark": Answer("mistral", f"[TOOL_CALLS]add{_A}", "", _CALLS[:1]),
    "mistral, none": Answer("mistral", "[TOOL_CALLS]what is", "", (), False),
    "phi, a list": Answer(
        "phi", f"<|tool_call|>[{_OBJECT_A}, {_OBJECT_B}]<|/tool_call|>", "", _CALLS
    ),
    "phi, older": Answer("phi", f"functools[{_OBJECT_A}]", "", _CALLS[:1]),
    "phi, none": Answer("phi", "functools[1] is", "", (), False),
    "gemma, JSON": Answer("gemma", _LLAMA_A, "", _CALLS[:1]),
    "gemma, JSON in a fence": Answer("gemma", f"```json\n{_LLAMA_A}\n```", "", _CALLS[:1]),
    "gemma, Python": Answer(
        "gemma",
        "[add(a=17, b=25), find_person(name='Ros\u00e1')]",
        "",
        ((ADD, _A), (FIND, '{"name": "Ros\u00e1"}')),
    ),
    "gemma, code": Answer("gemma", "```tool_code\nprint(add(a=17, b=25))\n```", "", _CALLS[:1]),
    "gemma, a list": Answer("gemma", "[1] is a list", "", (), False),
    "gemma, dangerous code": Answer(
        "gemma", "```python\n__import__('os').system('x')\n```", "", (), False
    ),
    "gemma, text": Answer("gemma", "Hello\n", "", (), False),
}
"""By what is special about each; where no call is found and no content said, the text is it."""
