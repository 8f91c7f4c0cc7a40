"""The body of ``/v1/responses``, OpenAI's newer API, with bounds, and what it asks in no API's
words.

What isn't supported is refused by name: tools that OpenAI runs itself, files, images.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    field_validator,
    model_validator,
)

from contract.bounds import MAX_TOOLS
from contract.conversation import HistoryError, check_history
from contract.parameters import INT32_MAX, MAX_TOP_LOG_PROBS, ParameterKeywords
from contract.tool_choice import ToolChoice
from gateway.api.chat import Effort
from gateway.api.chat_messages import CalledFunction, CallId
from gateway.api.functions import Function, Name, Tool, check_tools, shallow, tool_parameters
from gateway.api.neutral import asking, carrying, unsupported, wrong
from gateway.api.openai_request import CLASSES, ServiceTier
from gateway.api.structured import Schema, schema_text
from gateway.conversations import Follows, Lookup, Said
from gateway.generation import Message
from gateway.order import Wish

_MOST_ITEMS = 4096
_MOST_PARTS = 4096


class _Open(BaseModel):
    """What may have further fields, as long as nothing is in them."""

    model_config = ConfigDict(extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _refuse_unsupported(cls, values: Any) -> Any:
        return carrying(values, cls.model_fields.keys())


class _Item(_Open):
    """What comes back as it was given has an id and a status."""

    id: str | None = Field(default=None, max_length=256)
    status: Literal["in_progress", "completed", "incomplete"] | None = None


class TextContent(_Open):
    """A part of a message: text is the only kind that is supported."""

    type: Literal["input_text", "output_text", "text"]
    text: str
    annotations: list[Any] = Field(default=[], max_length=0)
    logprobs: Any = Field(default=None, description="An answer's own; not read.")


class RefusalContent(_Open):
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


class ThoughtText(_Open):
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


class FunctionTool(_Open):
    """A function that the model may call; those that OpenAI runs itself aren't to be had."""

    type: Literal["function"]
    name: Name
    description: str | None = None
    parameters: Annotated[dict[str, Any] | None, AfterValidator(shallow)] = None
    strict: bool | None = None

    def tool(self) -> Tool:
        """The same as the chat API has it."""
        function = Function(
            name=self.name, description=self.description, parameters=self.parameters
        )
        return Tool(type="function", function=function)


class NamedFunctionTool(_Open):
    """The choice of one function."""

    type: Literal["function"]
    name: Name


class TextFormat(_Open):
    """What an answer keeps to."""

    type: Literal["text", "json_object", "json_schema"]
    name: str | None = Field(default=None, max_length=64)
    description: str | None = None
    schema_: Schema | None = Field(default=None, alias="schema")
    strict: bool | None = None

    @model_validator(mode="before")
    @classmethod
    def _refuse_unsupported(cls, values: Any) -> Any:
        return carrying(values, {"type", "name", "description", "schema", "strict"})

    @model_validator(mode="after")
    def _has_its_schema(self) -> TextFormat:
        if (self.type == "json_schema") != (self.schema_ is not None):
            raise ValueError("type json_schema and schema go together")
        if self.schema_ is not None:
            schema_text(self.schema_)
        return self


class TextConfig(_Open):
    """How the text of an answer is to be."""

    format: TextFormat | None = None
    verbosity: Literal["medium"] | None = None


class Reasoning(_Open):
    """How much the model thinks. What it thought comes as it is, without a summary."""

    effort: Effort | None = None
    summary: Literal["auto", "concise", "detailed"] | None = None
    generate_summary: Literal["auto", "concise", "detailed"] | None = None


class ResponseStreamOptions(_Open):
    """How a stream is sent."""

    include_obfuscation: Literal[False] | None = None


class ResponsesRequest(BaseModel):
    """The body of ``POST /v1/responses``."""

    model_config = ConfigDict(extra="forbid")

    neutral: ClassVar[Mapping[str, tuple[Any, ...]]] = {
        "background": (False,),
        "conversation": (),
        "include": ([],),
        "max_tool_calls": (),
        "metadata": ({},),
        "prompt": (),
        "prompt_cache_retention": ("in_memory", "in-memory"),
        "tools": ([],),
        "truncation": ("disabled",),
        "moderation": (),
        "context_management": (),
    }
    """Values that ask for nothing."""

    model: str = Field(min_length=1, max_length=256, description="A name from /v1/models.")
    input: (
        Annotated[str, Field(min_length=1)]
        | Annotated[list[Item], Field(min_length=1, max_length=_MOST_ITEMS, fail_fast=True)]
    )
    instructions: str | None = None
    previous_response_id: str | None = Field(default=None, min_length=1, max_length=256)
    store: bool = Field(default=True, description="Whether the answer is kept, for a while.")
    stream: bool = False
    stream_options: ResponseStreamOptions | None = None
    max_output_tokens: int | None = Field(default=None, ge=1, le=INT32_MAX)
    temperature: float | None = Field(default=None, ge=0, le=2)
    top_p: float | None = Field(default=None, ge=0, le=1)
    top_logprobs: int | None = Field(default=None, ge=0, le=MAX_TOP_LOG_PROBS)
    include: list[Literal["message.output_text.logprobs", "reasoning.encrypted_content"]] = Field(
        default=[], max_length=8, description="Nothing is encrypted: reasoning comes as it is."
    )
    tools: list[FunctionTool] = Field(default=[], max_length=MAX_TOOLS, fail_fast=True)
    tool_choice: Literal["auto", "none", "required"] | NamedFunctionTool | None = None
    parallel_tool_calls: bool = True
    text: TextConfig | None = None
    reasoning: Reasoning | None = None
    service_tier: ServiceTier | None = None
    metadata: (
        dict[Annotated[str, Field(max_length=64)], Annotated[str, Field(max_length=512)]] | None
    ) = Field(default=None, max_length=16)
    user: str | None = Field(default=None, max_length=512)
    safety_identifier: str | None = Field(default=None, max_length=512)
    prompt_cache_key: str | None = Field(default=None, max_length=512)

    @model_validator(mode="before")
    @classmethod
    def _refuse_unsupported(cls, values: Any) -> Any:
        return asking(values, cls.model_fields.keys(), cls.neutral)

    @model_validator(mode="after")
    def _goes_together(self) -> ResponsesRequest:
        check_tools([each.tool() for each in self.tools], self.choice)
        if self.stream_options is not None and not self.stream:
            raise unsupported("stream_options need stream: true", name="stream_options")
        # Else calls may be there that have results here.
        if self.previous_response_id is None and not self._refers:
            try:
                check_history([*self.said(_nothing)])
            except HistoryError as error:
                raise wrong("{name}: {reason}", name="input", reason=error.reason) from None
        return self

    @property
    def choice(self) -> ToolChoice:
        """Whether functions are called."""
        if isinstance(self.tool_choice, NamedFunctionTool):
            return ToolChoice("named", self.tool_choice.name)
        return ToolChoice(self.tool_choice or "auto")

    @property
    def reports_log_probs(self) -> bool:
        """Whether it is told how likely the tokens of an answer were."""
        return bool(self.top_logprobs) or "message.output_text.logprobs" in self.include

    @property
    def _refers(self) -> bool:
        return any(isinstance(item, ReferenceItem) for item in self.input)

    def said(self, lookup: Lookup) -> Iterator[Message]:
        """The messages, as chat templates know them.

        What an assistant thought, said and called in a row is one message.
        """
        if isinstance(self.input, str):
            yield {"role": "user", "content": self.input}
            return
        answer: dict[str, Any] = {}
        for item in self.input:
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

    def parameters(self) -> ParameterKeywords:
        """How text is to be generated, as far as the body says."""
        tools = [each.tool() for each in self.tools]
        parameters = tool_parameters(tools, self.choice, self.parallel_tool_calls)
        if self.max_output_tokens is not None:
            parameters["max_tokens"] = self.max_output_tokens
        if self.temperature is not None:
            parameters["temperature"] = self.temperature
        if self.top_p is not None:
            parameters["top_p"] = self.top_p
        if self.reports_log_probs:
            parameters["return_log_probs"] = True
            if self.top_logprobs:
                parameters["num_top_log_probs"] = self.top_logprobs
        if self.reasoning is not None and self.reasoning.effort is not None:
            parameters["reasoning_effort"] = self.reasoning.effort
        wanted = None if self.text is None else self.text.format
        if wanted is not None and wanted.type == "json_object":
            parameters["guided_decoding_guide_type"] = "json"
        if wanted is not None and wanted.schema_ is not None:
            parameters["guided_decoding_guide_type"] = "json_schema"
            parameters["guided_decoding_guide"] = schema_text(wanted.schema_)
        return parameters

    def wish(self) -> Wish:
        """What the body asks for."""
        opening = Said()
        if self.instructions:
            opening = Said.of([{"role": "system", "content": self.instructions}])

        def more(lookup: Lookup) -> Said:
            return Said.of(self.said(lookup))

        return Wish(
            model=self.model,
            prompt=Follows(
                self.previous_response_id or "",
                opening,
                more if self._refers else more(_nothing),
            ),
            parameters=self.parameters(),
            stream=self.stream,
            tenant_class=CLASSES.get(self.service_tier or "auto"),
            affinity_key=self.prompt_cache_key or self.user,
            keeps=self.store,
        )


def _nothing(item_id: str) -> Message:
    raise KeyError(item_id)  # nothing refers to anything


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
