"""What the input of ``/v1/responses`` is made of, and the messages of a chat that it comes to."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Discriminator, Field, Tag, field_validator

from gateway.api.chat_messages import CalledFunction, CallId
from gateway.api.functions import Name
from gateway.api.neutral import Open
from gateway.conversations import Lookup
from gateway.generation import Message

_MOST_PARTS = 4096


class _Item(Open):
    """What comes back as it was given has an id and a status."""

    id: str | None = Field(default=None, max_length=256)
    status: Literal["in_progress", "completed", "incomplete"] | None = None


class TextContent(Open):
    """A part of a message: text is the only kind that is supported."""

    type: Literal["input_text", "output_text", "text"]
    text: str
    annotations: list[Any] = Field(default=[], max_length=0)
    logprobs: Any = Field(default=None, description="An answer's own; not read.")


class RefusalContent(Open):
    """An answer's refusal, as text."""

    type: Literal["refusal"]
    refusal: str

    @property
    def text(self) -> str:
        """What it says."""
        return self.refusal


Content = Annotated[TextContent | RefusalContent, Field(discriminator="type")]
Contents = str | Annotated[list[Content], Field(max_length=_MOST_PARTS, fail_fast=True)]


class MessageItem(_Item):
    """Something that was said."""

    type: Literal["message"] = "message"
    role: Literal["user", "assistant", "system", "developer"]
    content: Contents
    phase: str | None = Field(default=None, max_length=64)


class CallItem(_Item):
    """A call that the model made."""

    type: Literal["function_call"]
    call_id: CallId
    name: Name
    arguments: str

    @field_validator("arguments")
    @classmethod
    def _is_an_object(cls, arguments: str) -> str:
        return CalledFunction(name="f", arguments=arguments).arguments


class ResultItem(_Item):
    """What a call came to."""

    type: Literal["function_call_output"]
    call_id: CallId
    output: Contents


class ThoughtText(Open):
    """A part of what the model thought."""

    type: Literal["reasoning_text", "summary_text"]
    text: str


class ReasoningItem(_Item):
    """What the model thought."""

    type: Literal["reasoning"]
    summary: list[ThoughtText] = Field(default=[], max_length=_MOST_PARTS)
    content: list[ThoughtText] | None = Field(default=None, max_length=_MOST_PARTS)


class ReferenceItem(_Item):
    """An item of an answer that is kept, by its id."""

    type: Literal["item_reference"]
    id: Annotated[str, Field(min_length=1, max_length=256)]


def _kind(value: Any) -> str:
    """What an item is: one that doesn't say is a message."""
    kind = value.get("type") if isinstance(value, Mapping) else getattr(value, "type", None)
    return str(kind or "message")


Item = Annotated[
    Annotated[MessageItem, Tag("message")]
    | Annotated[CallItem, Tag("function_call")]
    | Annotated[ResultItem, Tag("function_call_output")]
    | Annotated[ReasoningItem, Tag("reasoning")]
    | Annotated[ReferenceItem, Tag("item_reference")],
    Discriminator(_kind),
]


def messages_of(items: Iterable[BaseModel], lookup: Lookup) -> Iterator[Message]:
    """Items as the messages of a chat.

    What an assistant thought, said and called in a row is one message.
    """
    answer: dict[str, Any] = {}
    for item in items:
        known = lookup(item.id) if isinstance(item, ReferenceItem) else _part_of(item)
        if known is None or _begins_anew(answer, known):
            if answer:
                yield {"role": "assistant", "content": "", **answer}
            answer = {}
        if known is None:
            yield _other(item)
        elif "tool_calls" in known:
            answer.setdefault("tool_calls", []).extend(known["tool_calls"])
        else:
            answer.update(known)
    if answer:
        yield {"role": "assistant", "content": "", **answer}


def _part_of(item: BaseModel) -> dict[str, Any] | None:
    """What an item adds to an assistant's message; None where it is none of that."""
    if isinstance(item, ReasoningItem):
        return {"reasoning_content": "\n".join(t.text for t in item.content or item.summary)}
    if isinstance(item, CallItem):
        function = {"name": item.name, "arguments": item.arguments}
        return {"tool_calls": [{"id": item.call_id, "type": "function", "function": function}]}
    if isinstance(item, MessageItem) and item.role == "assistant":
        return {"content": _joined(item.content)}
    return None


def _begins_anew(answer: Mapping[str, Any], known: Mapping[str, Any]) -> bool:
    """Whether something can't belong to the message so far: thinking, text, calls is the order."""
    order = ("reasoning_content", "content", "tool_calls")
    (place,) = (order.index(name) for name in known)
    behind = order[place:] if place < 2 else ()
    return any(name in answer for name in behind)


def _other(item: BaseModel) -> Message:
    if isinstance(item, ResultItem):
        return {"role": "tool", "tool_call_id": item.call_id, "content": _joined(item.output)}
    assert isinstance(item, MessageItem), "all other items are an assistant's"
    role = "system" if item.role == "developer" else item.role
    return {"role": role, "content": _joined(item.content)}


def _joined(content: str | Sequence[TextContent | RefusalContent]) -> str:
    return content if isinstance(content, str) else "\n".join(part.text for part in content)
