"""The messages of a chat, as OpenAI's API has them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import orjson
from pydantic import Field, field_validator, model_validator

from contract.bounds import MAX_TOOLS
from contract.conversation import HistoryError, check_history
from gateway.api.functions import Name
from gateway.api.neutral import Open, wrong
from gateway.generation import Message

_MOST_PARTS = 4096

CallId = Annotated[str, Field(min_length=1, max_length=256)]


class TextPart(Open):
    """A part of a message: text is the only kind that is supported."""

    type: Literal["text"]
    text: str


class CalledFunction(Open):
    """A function with the arguments of one call."""

    name: Name
    arguments: str = "{}"

    @field_validator("arguments")
    @classmethod
    def _is_an_object(cls, arguments: str) -> str:
        try:
            value = orjson.loads(arguments or "{}")
        except orjson.JSONDecodeError:
            value = None
        if not isinstance(value, dict):
            raise ValueError("the arguments are not a JSON object")
        return arguments or "{}"


class ToolCall(Open):
    """A call that the model made."""

    id: CallId
    type: Literal["function"] = "function"
    function: CalledFunction


class ChatMessage(Open):
    """One message of a chat."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: (
        str | Annotated[list[TextPart], Field(min_length=1, max_length=_MOST_PARTS, fail_fast=True)]
    )
    name: str | None = Field(default=None, max_length=64)
    tool_calls: list[ToolCall] | None = Field(
        default=None, max_length=MAX_TOOLS, description="An assistant's."
    )
    tool_call_id: CallId | None = Field(default=None, description="Which call a tool answers.")
    reasoning_content: str | None = Field(
        default=None, description="What an assistant thought; `reasoning` is the same."
    )
    reasoning: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _an_answer_may_be_empty(cls, values: Any) -> Any:
        """An answer of no text comes back as null, as an empty list, or without the field.

        So does a tool's result. Nobody else's message may lack what it says.
        """
        if not isinstance(values, Mapping):
            return values
        role = values.get("role")
        if role == "assistant":
            return values if values.get("content") else {**values, "content": ""}
        if role == "tool" and values.get("content") in (None, []):
            return {**values, "content": ""}
        return values

    @model_validator(mode="after")
    def _has_what_its_role_has(self) -> ChatMessage:
        if self.role != "assistant":
            for name in ("tool_calls", "reasoning_content", "reasoning"):
                if getattr(self, name):
                    raise wrong("{name} is an assistant's", name=name)
        if self.role == "tool" and self.tool_call_id is None:
            raise wrong("{name} is missing: whose result is it?", name="tool_call_id")
        if self.role != "tool" and self.tool_call_id is not None:
            raise wrong("{name} is a tool's", name="tool_call_id")
        return self

    def plain(self) -> Message:
        """The message as every chat template knows it."""
        parts = [self.content] if isinstance(self.content, str) else [p.text for p in self.content]
        message: dict[str, Any] = {
            # OpenAI's newer word for the same; templates know the older.
            "role": "system" if self.role == "developer" else self.role,
            "content": "\n".join(parts),
            "name": self.name,
            "reasoning_content": self.reasoning_content or self.reasoning or None,
            "tool_calls": [call.model_dump() for call in self.tool_calls or ()] or None,
            "tool_call_id": self.tool_call_id,
        }
        return {name: value for name, value in message.items() if value is not None}


def check_calls(messages: Sequence[ChatMessage]) -> None:
    """Look whether calls and results go together.

    Raises:
        PydanticCustomError: They don't.
    """
    if not any(message.tool_calls or message.tool_call_id for message in messages):
        return
    try:
        check_history([message.plain() for message in messages])
    except HistoryError as error:
        raise wrong(
            "{name}: {reason}", name=f"messages.{error.place}", reason=error.reason
        ) from None
