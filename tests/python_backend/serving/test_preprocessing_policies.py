"""What preprocessing holds to a policy: texts, and all that a chat says."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from tests.python_backend.serving.preprocessing_model import (
    TOKENIZER,
    answer,
    chat,
    context,
    refusal,
)

from python_backend.serving import chats  # isort: skip
from python_backend.serving.preprocessing import TritonPythonModel  # isort: skip


def test_a_prompt_is_held_to_the_policy_that_the_request_names(
    load: Callable[..., TritonPythonModel],
) -> None:
    model = load()
    text = "a cat of ana@acme.example"
    assert answer(model, text).outputs["INPUT_ID"].tolist() == [TOKENIZER.encode(text).ids]
    response = answer(model, text, policy="strict")
    redacted = TOKENIZER.encode("a cat of [EMAIL]").ids
    assert response.outputs["INPUT_ID"].tolist() == [redacted]
    found = [(each["rule"], each["action"], each["side"]) for each in context(response).verdicts]
    assert found == [("cats", "flag", "input"), ("personal", "redact", "input")]
    message = "content_filter: the policy strict blocks the prompt by its rule dogs"
    assert refusal(model, "a D.O.G", policy="strict") == message
    known = "there are none, strict"
    assert refusal(model, "a", policy="weak") == f"safety_policy is 'weak'; {known}"
    assert refusal(model, "a", policy=["strict"]).startswith("safety_policy is ['strict']")


def test_each_message_of_a_chat_is_held_to_the_policy(
    load: Callable[..., TritonPythonModel],
) -> None:
    messages = [
        {"role": "user", "content": "I am ana@acme.example"},
        {"role": "assistant", "content": None},
        {"role": "user", "content": [{"type": "text", "text": "a cat"}]},
    ]
    model = load("{% for m in messages %}{{ m.content }};{% endfor %}")
    response = answer(model, "", policy="strict", MESSAGES=chat(json.dumps(messages)))
    prompt = "I am [EMAIL];None;a cat;"
    assert response.outputs["INPUT_ID"].tolist() == [TOKENIZER.encode(prompt).ids]
    places = [(each["message"], each["start"], each["end"]) for each in context(response).verdicts]
    assert places == [(0, 5, 21), (2, 2, 5)]


WHOLE = "{{ messages | tojson }}{{ tools | tojson }}{{ place | default('') | tojson }}"
ADDRESS = "ana@acme.example"


def called(name: str, arguments: Any) -> dict[str, Any]:
    return {
        "role": "assistant",
        "tool_calls": [{"function": {"name": name, "arguments": arguments}}],
    }


@pytest.mark.parametrize(
    ("message", "place"),
    [
        ({"role": "user", "content": "q", "name": ADDRESS}, "name"),
        ({"role": "user", "content": "q", "result": [1, {"a": ADDRESS}]}, "result.1.a"),
        ({"role": ADDRESS, "content": "q"}, "role"),
        ({"role": "assistant", "content": "q", "reasoning_content": ADDRESS}, "reasoning_content"),
        (called(ADDRESS, {}), "tool_calls.0.function.name"),
        (called("f", f'{{"to": "{ADDRESS}"}}'), "tool_calls.0.function.arguments.to"),
        (called("f", f"no JSON for {ADDRESS}"), "tool_calls.0.function.arguments"),
        (called("f", {ADDRESS: 1}), "tool_calls.0.function.arguments"),
    ],
)
def test_whatever_else_a_message_says_is_held_to_the_policy(
    load: Callable[..., TritonPythonModel], message: dict[str, Any], place: str
) -> None:
    model = load(WHOLE)
    messages = [{"role": "user", "content": "q"}, message]
    response = answer(model, "", policy="strict", MESSAGES=chat(json.dumps(messages)))
    text = TOKENIZER.decode(response.outputs["INPUT_ID"][0].tolist())
    assert ADDRESS not in text
    assert "[EMAIL]" in text
    [found] = context(response).verdicts
    assert (found["message"], found["field"]) == (1, place)


@pytest.mark.parametrize(
    ("template", "before"),
    [
        ("{{ messages[0].content }}", "My card: 4000 0093"),
        ("<|im start|>{{ messages[0].content }}<|é|>", ""),
        ("{{ messages[0].content }}{% if add_generation_prompt %}:{% endif %}", ""),
    ],
)
def test_an_answer_that_goes_on_with_a_message_is_held_to_the_policy_with_it(
    load: Callable[..., TritonPythonModel], template: str, before: str
) -> None:
    """Of a number that the message begins, the rest is not to come."""
    messages = [{"role": "assistant", "content": "My card: 4000 0093"}]
    inputs = {"MESSAGES": chat(json.dumps(messages)), "STREAM": [[True]]}
    response = answer(load(template), "", policy="strict", **inputs)
    assert context(response).before == before


def test_a_number_is_the_text_that_a_template_writes(
    load: Callable[..., TritonPythonModel],
) -> None:
    messages = [called("pay", {"card": 4000009393484764, "amount": 12.5, "now": True})]
    response = answer(load(WHOLE), "", policy="strict", MESSAGES=chat(json.dumps(messages)))
    text = TOKENIZER.decode(response.outputs["INPUT_ID"][0].tolist())
    assert '{"card": "[CARD]", "amount": 12.5, "now": true}' in text


def test_tools_and_variables_are_held_to_the_policy(load: Callable[..., TritonPythonModel]) -> None:
    model = load(WHOLE)
    tool: Any = {"type": "function", "function": {"name": "f", "description": f"as {ADDRESS}"}}
    more = {
        "TOOLS": [[json.dumps([tool])]],
        "CHAT_TEMPLATE_KWARGS": [[f'{{"place": "{ADDRESS}"}}']],
    }
    response = answer(model, "", policy="strict", MESSAGES=chat(), **more)
    text = TOKENIZER.decode(response.outputs["INPUT_ID"][0].tolist())
    assert (ADDRESS in text, text.count("[EMAIL]")) == (False, 2)
    places = [each.get("field") for each in context(response).verdicts]
    assert places == [None, "tools.0.function.description", "chat_template_kwargs.place"]
    tool["function"]["description"] = "a d.o.g"
    said = refusal(model, "", policy="strict", MESSAGES=chat(), TOOLS=[[json.dumps([tool])]])
    assert said.startswith("content_filter: the policy strict blocks the prompt")


def test_a_chat_of_too_many_names_and_values_is_refused(
    load: Callable[..., TritonPythonModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chats, "MAX_CHAT_TEXTS", 10)
    model = load("{{ messages[0].content }}")
    same = [{"role": "user", "content": "q", "x": ["same"] * 40}]
    assert answer(model, "", MESSAGES=chat(json.dumps(same))).error is None
    others = [{"role": "user", "content": "q", "x": [*range(11)]}]
    assert "have more than 10 names and values" in refusal(
        model, "", MESSAGES=chat(json.dumps(others))
    )
