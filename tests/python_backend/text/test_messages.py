"""A chat as JSON: what is taken, and what a wrong one is told."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contract.errors import InvalidRequestError
from python_backend.text.messages import read_messages, read_tools, read_variables

CALL = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}
RESULT = {"role": "tool", "content": "42", "tool_call_id": "c1"}


def test_messages_stay_as_they_are() -> None:
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hi", "name": "ana"},
        {"role": "assistant", "content": None, "reasoning_content": "hm", "tool_calls": [CALL]},
        RESULT,
    ]
    read = read_messages(json.dumps(messages))
    assert read.pop(2)["reasoning_content"] == "hm"
    assert read == [*messages[:2], messages[3]]


def test_text_parts_become_one_text() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    (message,) = read_messages(json.dumps([{"role": "user", "content": parts}]))
    assert message["content"] == "a\nb"


def test_arguments_of_a_tool_call_become_an_object() -> None:
    chat = [{"role": "assistant", "content": None, "tool_calls": [CALL]}, RESULT]
    message, _ = read_messages(json.dumps(chat))
    assert message["tool_calls"][0]["function"]["arguments"] == {"a": 1}
    wrong: Any = {"role": "assistant", "tool_calls": [{"function": {"name": "f"}}]}
    wrong["tool_calls"][0]["function"]["arguments"] = "not json"
    (message,) = read_messages(json.dumps([wrong]))
    assert message["tool_calls"][0]["function"]["arguments"] == "not json"


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("", "messages is not JSON"),
        ("[" * 100_000, "messages is not JSON"),
        ("{}", "messages: input should be a valid list"),
        ("[]", "messages: list should have at least 1 item"),
        ("[1]", "messages.0: input should be a valid dictionary"),
        ('[{"content": "a"}]', "messages.0.role: field required"),
        ('[{"role": ""}]', "messages.0.role: string should have at least 1 character"),
        ('[{"role": 1}]', "messages.0.role: input should be a valid string"),
        ('[{"role": "user", "content": 1}]', "messages.0.content: input should be a valid"),
        (
            '[{"role": "user", "content": [{"type": "image_url"}]}]',
            r"messages.0.content: .*|messages.0.content.0.type: input should be 'text'",
        ),
        ('[{"role": "a", "tool_calls": [{}]}]', "messages.0.tool_calls.0.function: field required"),
        ('[{"role": "a", "content": "\\ud800"}]', "messages holds half a character"),
        ('[{"role": "a", "x": NaN}]', "messages is not JSON: NaN is no JSON value"),
    ],
)
def test_another_shape_is_refused_by_its_place(text: str, error: str) -> None:
    with pytest.raises(InvalidRequestError, match=error):
        read_messages(text)


def test_tools_and_variables() -> None:
    tool = {"type": "function", "function": {"name": "now", "parameters": {"type": "object"}}}
    assert read_tools(json.dumps([tool])) == [tool]
    assert read_tools("[]") is None
    assert read_variables('{"enable_thinking": false}') == {"enable_thinking": False}
    with pytest.raises(InvalidRequestError, match=r"tools\.0\.function.name: field required"):
        read_tools('[{"type": "function", "function": {}}]')
    with pytest.raises(InvalidRequestError, match="chat_template_kwargs: input should be a valid"):
        read_variables("[]")


JSON: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.just("role"), inner),
    max_leaves=12,
)


@given(st.text() | JSON.map(json.dumps))
def test_whatever_comes_is_read_or_refused(text: str) -> None:
    for read in (read_messages, read_tools, read_variables):
        try:
            read(text)
        except InvalidRequestError:
            continue


def test_tools_and_variables_are_counted() -> None:
    tool = {"type": "function", "function": {"name": "f"}}
    assert read_tools(json.dumps([tool] * 128))
    with pytest.raises(InvalidRequestError, match="tools has 129 entries; it must have at most 12"):
        read_tools(json.dumps([tool] * 129))
    with pytest.raises(InvalidRequestError, match="chat_template_kwargs has 65 entries"):
        read_variables(json.dumps({str(number): 1 for number in range(65)}))


def deep(depth: int) -> str:
    return f'[{{"role": "a", "x": {"[" * depth}{"]" * depth}}}]'


def test_deep_json_is_read_or_refused() -> None:
    assert read_messages(deep(100))
    for depth in (5_000, 200_000):
        with pytest.raises(InvalidRequestError, match=r"recursion|nested too deeply"):
            read_messages(deep(depth))
