"""Functions and calls as plain words, for chat templates that have no place for them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from python_backend.tools.formats import Format

Message = dict[str, Any]

_INTRODUCTION = """You can call these functions:
{functions}

To call one, answer with nothing but:
{example}
Else answer as usual."""


def tell(messages: Sequence[Message], tools: Sequence[Any], form: Format) -> list[Message]:
    """The messages with functions told to the first user, and calls and results as texts.

    Args:
        messages: A conversation.
        tools: What may be called; nothing, where only the history has calls.
        form: How.
    """
    told: list[Message] = []
    names: dict[Any, str] = {}
    for message in messages:
        calls = message.get("tool_calls") or []
        names.update({call.get("id"): call["function"]["name"] for call in calls})
        if message["role"] == "assistant":
            content = (message.get("content") or "").strip()
            written = [form.written([_call(call) for call in calls])] if calls else []
            told.append(
                {"role": "assistant", "content": "\n".join(filter(None, [content, *written]))}
            )
        elif message["role"] == "tool":
            name = names.get(message.get("tool_call_id")) or message.get("name") or "the function"
            _say(told, f"{name} answered:\n{message.get('content') or ''}")
        elif message["role"] == "user":
            _say(told, message.get("content") or "")
        else:
            told.append(message)
    if not tools:
        return told
    functions = "\n".join(json.dumps(tool["function"], ensure_ascii=False) for tool in tools)
    example = form.written([("NAME", {"ARGUMENT": "VALUE"})])
    introduction = _INTRODUCTION.format(functions=functions, example=example)
    for message in told:
        if message["role"] == "user":
            message["content"] = f"{introduction}\n\n{message['content']}"
            return told
    return [{"role": "user", "content": introduction}, *told]


def _say(told: list[Message], text: str) -> None:
    """A user's message; two in a row are one, as some templates want their roles in turns."""
    if told and told[-1]["role"] == "user":
        told[-1]["content"] += f"\n\n{text}"
    else:
        told.append({"role": "user", "content": text})


def _call(call: dict[str, Any]) -> tuple[str, Any]:
    return call["function"]["name"], call["function"].get("arguments") or {}
