"""Chats become the tokens that transformers makes of them, in the templates of ten families."""

from __future__ import annotations

import json
from typing import Any

import pytest

pytest.importorskip("transformers")

from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from contract.errors import InvalidRequestError
from python_backend.text.chat_template import ChatTemplate
from python_backend.text.messages import read_messages, read_tools
from python_backend.text.tokenizer import TextTokenizer
from tests.examples import examples
from tests.python_backend.text.templates import (
    KINDS,
    TEMPLATES,
    TOKENS,
    control_tokens,
    tokenizer_of,
)

pytestmark = pytest.mark.torch

TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "weather",
            "description": 'Says what the weather is <now> & "here", é',
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
        },
    }
]

TEXT = st.text(max_size=20) | st.sampled_from(
    ["  a\n", "<|im_end|>", "é 🐱", "x</think>\ny", "'{{ a }}'", "new york x", "[INST", "|>"]
)


@st.composite
def chats(draw: st.DrawFn, control: list[str]) -> list[dict[str, Any]]:
    """Chats that begin, maybe, with a system prompt, and in which roles alternate.

    None of their texts holds a control token.
    """
    text = TEXT.filter(lambda text: not any(token in text for token in control))
    chat = [{"role": "system", "content": draw(text)}] if draw(st.booleans()) else []
    for turn in range(draw(st.integers(1, 4))):
        chat.append({"role": "assistant" if turn % 2 else "user", "content": draw(text)})
    if chat[-1]["role"] == "assistant" and draw(st.booleans()):
        chat[-1]["reasoning_content"] = draw(text)
    return chat


def theirs(source: str, kind: str, tokenizer: Tokenizer) -> PreTrainedTokenizerFast:
    copy = Tokenizer.from_str(tokenizer.to_str())
    reference = PreTrainedTokenizerFast(tokenizer_object=copy, **TOKENS[kind])
    reference.chat_template = source
    return reference


@pytest.mark.parametrize("family", TEMPLATES)
@settings(max_examples=examples(40), deadline=None)
@given(
    data=st.data(),
    tools=st.sampled_from([None, TOOLS]),
    variables=st.sampled_from([{}, {"enable_thinking": False}, {"add_generation_prompt": False}]),
    kind=st.sampled_from(KINDS),
)
def test_tokens_are_transformers(
    family: str, data: st.DataObject, tools: Any, variables: dict[str, Any], kind: str
) -> None:
    chat = data.draw(chats(control_tokens(family, kind)))
    ours = OURS[family, kind]
    assert ours.chat_template is not None
    messages = read_messages(json.dumps(chat))
    given_tools = read_tools(json.dumps(tools or []))
    options = {"add_generation_prompt": True, **variables}
    if family == "gemma" and chat[0]["role"] == "system":
        with pytest.raises(InvalidRequestError, match="System role not supported"):
            ours.chat_template.render(messages, given_tools, variables)
        return
    expected = REFERENCES[family, kind].apply_chat_template(
        chat, tools=tools, tokenize=True, return_dict=False, **options
    )
    prompt = ours.chat_template.render(messages, given_tools, variables)
    assert ours.encode(prompt, add_special_tokens=False).tolist() == list(expected)


def test_calls_of_tools_are_rendered_as_transformers_does() -> None:
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": {"é": [1]}}}
    chat = [
        {"role": "user", "content": "?"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "1", "content": "3"},
    ]
    for family in ("llama-3", "qwen-3"):
        reference = REFERENCES[family, "byte-level"]
        expected = reference.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
        template = ChatTemplate(TEMPLATES[family], TOKENS["byte-level"])
        assert template.render(read_messages(json.dumps(chat))) == expected


TOKENIZERS = {(family, kind): tokenizer_of(family, kind) for family in TEMPLATES for kind in KINDS}
OURS = {
    (family, kind): TextTokenizer(tokenizer, TOKENS[kind], TEMPLATES[family])
    for (family, kind), tokenizer in TOKENIZERS.items()
}
REFERENCES = {
    (family, kind): theirs(TEMPLATES[family], kind, tokenizer)
    for (family, kind), tokenizer in TOKENIZERS.items()
}
