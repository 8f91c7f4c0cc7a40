"""The body of ``/v1/messages``, Anthropic's API, with bounds, and what it asks in no API's words.

What isn't supported is refused by name. Marks for a cache are taken and change nothing: prompts
that begin alike share what was computed of them without being asked to.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import chain, groupby
from typing import Annotated, Any, ClassVar, Literal

import orjson
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator, model_validator

from contract.bounds import MAX_TOOLS
from contract.conversation import HistoryError, check_history
from contract.parameters import INT32_MAX, ParameterKeywords
from contract.tool_choice import ToolChoice
from gateway.api.chat_messages import CallId
from gateway.api.functions import Function, Name, Tool, check_tools, shallow, tool_parameters
from gateway.api.neutral import Open, asking, wrong
from gateway.api.openai_request import check_stop_texts
from gateway.api.structured import Schema, schema_text
from gateway.generation import Chat, Message
from gateway.order import Wish

_MOST_BLOCKS = 4096


class _Block(Open):
    """What may have a mark for a cache."""

    cache_control: Any = Field(default=None, description="Changes nothing here.")


class TextBlock(_Block):
    """A text."""

    type: Literal["text"]
    text: str


class ThinkingBlock(_Block):
    """What the model thought."""

    type: Literal["thinking"]
    thinking: str
    signature: str = ""


class ToolUseBlock(_Block):
    """A call that the model made."""

    type: Literal["tool_use"]
    id: CallId
    name: Name
    input: Annotated[dict[str, Any], AfterValidator(shallow)]


class ToolResultBlock(_Block):
    """What a call came to."""

    type: Literal["tool_result"]
    tool_use_id: CallId
    content: str | Annotated[list[TextBlock], Field(max_length=_MOST_BLOCKS)] | None = None
    is_error: bool | None = None


Block = Annotated[
    TextBlock | ThinkingBlock | ToolUseBlock | ToolResultBlock, Field(discriminator="type")
]
Text = str | Annotated[list[TextBlock], Field(max_length=_MOST_BLOCKS, fail_fast=True)]


class InputMessage(_Block):
    """One message of a conversation."""

    role: Literal["user", "assistant"]
    content: str | Annotated[list[Block], Field(max_length=_MOST_BLOCKS, fail_fast=True)]

    @model_validator(mode="after")
    def _has_what_its_role_has(self) -> InputMessage:
        kinds = {block.type for block in self.content if not isinstance(block, str)}
        if self.role == "user" and kinds & {"thinking", "tool_use"}:
            raise ValueError("thinking and tool_use are an assistant's")
        if self.role == "assistant" and "tool_result" in kinds:
            raise ValueError("tool_result is a user's")
        return self

    def plain(self) -> Iterator[Message]:
        """The message as chat templates know it: results are messages of their own, and first."""
        if isinstance(self.content, str):
            yield {"role": self.role, "content": self.content}
            return
        for block in self.content:
            if isinstance(block, ToolResultBlock):
                yield {
                    "role": "tool",
                    "tool_call_id": block.tool_use_id,
                    "content": _joined(block.content or ""),
                }
        texts = [block.text for block in self.content if isinstance(block, TextBlock)]
        thoughts = [block.thinking for block in self.content if isinstance(block, ThinkingBlock)]
        calls = [
            {
                "id": block.id,
                "type": "function",
                "function": {"name": block.name, "arguments": orjson.dumps(block.input).decode()},
            }
            for block in self.content
            if isinstance(block, ToolUseBlock)
        ]
        if self.role == "assistant" or texts:
            said = {
                "role": self.role,
                "content": "\n".join(texts),
                "reasoning_content": "\n".join(thoughts),
                "tool_calls": calls,
            }
            yield {name: value for name, value in said.items() if value or name == "content"}


class InputTool(_Block):
    """A function that the model may call; those that Anthropic runs itself aren't to be had."""

    type: Literal["custom"] | None = None
    name: Name
    description: str | None = None
    input_schema: Annotated[dict[str, Any], AfterValidator(shallow)]
    strict: bool | None = None

    def tool(self) -> Tool:
        """The same in OpenAI's words."""
        function = Function(
            name=self.name, description=self.description, parameters=self.input_schema
        )
        return Tool(type="function", function=function)


class ToolChoiceParam(_Block):
    """Whether functions are called, and how many."""

    type: Literal["auto", "any", "tool", "none"]
    name: Name | None = None
    disable_parallel_tool_use: bool = False

    @model_validator(mode="after")
    def _names_a_tool(self) -> ToolChoiceParam:
        if (self.type == "tool") != (self.name is not None):
            raise ValueError("type tool and name go together")
        return self

    def choice(self) -> ToolChoice:
        """The same in the contract's words."""
        if self.type == "tool":
            return ToolChoice("named", self.name or "")
        return ToolChoice("required" if self.type == "any" else self.type)


class Thinking(_Block):
    """Whether the model thinks, and for how long."""

    type: Literal["enabled", "disabled", "adaptive"]
    budget_tokens: int | None = Field(default=None, ge=1, le=INT32_MAX)
    display: Literal["summarized", "omitted"] | None = None

    @model_validator(mode="after")
    def _has_a_budget(self) -> Thinking:
        if (self.type == "enabled") != (self.budget_tokens is not None):
            raise ValueError("type enabled and budget_tokens go together")
        return self


class OutputFormat(_Block):
    """What an answer keeps to."""

    type: Literal["json_schema"]
    schema_: Schema = Field(alias="schema")

    @field_validator("schema_")
    @classmethod
    def _is_small(cls, schema: Schema) -> Schema:
        schema_text(schema)
        return schema


class OutputConfig(_Block):
    """How an answer is to be."""

    effort: Literal["low", "medium", "high", "xhigh", "max"] | None = None
    format: OutputFormat | None = None


class MessageMetadata(_Block):
    """Whom it is for."""

    user_id: str | None = Field(default=None, max_length=512)


class _Conversation(BaseModel):
    """What a request for an answer and one for its length have in common."""

    model_config = ConfigDict(extra="forbid")

    neutral: ClassVar[Mapping[str, tuple[Any, ...]]] = {
        "stop_sequences": ([],),
        "tools": ([],),
        "mcp_servers": ([],),
        "container": (),
        "context_management": ({}, {"edits": []}),
        "inference_geo": (),
        "speed": ("standard",),
        "top_k": (0, -1),
    }
    """Values that ask for nothing."""

    model: str = Field(min_length=1, max_length=256, description="A name from /v1/models.")
    messages: list[InputMessage] = Field(min_length=1, max_length=4096, fail_fast=True)
    system: Text | None = None
    tools: list[InputTool] = Field(default=[], max_length=MAX_TOOLS, fail_fast=True)
    tool_choice: ToolChoiceParam | None = None
    thinking: Thinking | None = None
    output_config: OutputConfig | None = None

    @model_validator(mode="before")
    @classmethod
    def _refuse_unsupported(cls, values: Any) -> Any:
        return asking(values, cls.model_fields.keys(), cls.neutral)

    @model_validator(mode="after")
    def _goes_together(self) -> _Conversation:
        check_tools([each.tool() for each in self.tools], self._choice)
        places = [place for place, message in enumerate(self.messages) for _ in message.plain()]
        try:
            check_history([*self._plain()])
        except HistoryError as error:
            number, _, _ = error.place.partition(".")
            name = f"messages.{places[int(number)]}.content"
            raise wrong("{name}: {reason}", name=name, reason=error.reason) from None
        return self

    @property
    def _choice(self) -> ToolChoice:
        return ToolChoice() if self.tool_choice is None else self.tool_choice.choice()

    def _plain(self) -> Iterator[Message]:
        return chain.from_iterable(message.plain() for message in self.messages)

    def conversation(self) -> list[Message]:
        """All that was said, as chat templates know it; turns of one side in a row are one."""
        said: list[Message] = []
        if self.system:
            said.append({"role": "system", "content": _joined(self.system)})
        for (_, is_plain), messages in groupby(self._plain(), _side):
            turn = list(messages)
            if is_plain and len(turn) > 1:
                texts = "\n".join(message["content"] for message in turn)
                turn = [{**turn[0], "content": texts}]
            said += turn
        return said

    def parameters(self) -> ParameterKeywords:
        """How text is to be generated, as far as the body says."""
        parallel = self.tool_choice is None or not self.tool_choice.disable_parallel_tool_use
        tools = [each.tool() for each in self.tools]
        parameters = tool_parameters(tools, self._choice, parallel)
        config, thinking = self.output_config, self.thinking
        if config is not None and config.effort is not None:
            parameters["reasoning_effort"] = "xhigh" if config.effort == "max" else config.effort
        if thinking is not None and thinking.type == "disabled":
            parameters["reasoning_effort"] = "none"
        if thinking is not None and thinking.budget_tokens is not None:
            parameters["thinking_token_budget"] = thinking.budget_tokens
        last = self.messages[-1]
        if last.role == "assistant":  # which is the beginning of the answer
            parameters["chat_template_kwargs"] = {"continue_final_message": True}
        if config is not None and config.format is not None:
            parameters["guided_decoding_guide_type"] = "json_schema"
            parameters["guided_decoding_guide"] = schema_text(config.format.schema_)
        return parameters

    def wish(self) -> Wish:
        """What the body asks for."""
        return Wish(self.model, Chat.of(self.conversation()), self.parameters())


class CountRequest(_Conversation):
    """The body of ``POST /v1/messages/count_tokens``."""


class MessagesRequest(_Conversation):
    """The body of ``POST /v1/messages``."""

    max_tokens: int = Field(ge=1, le=INT32_MAX)
    stop_sequences: list[str] = Field(default=[], max_length=16, fail_fast=True)
    stream: bool = False
    temperature: float | None = Field(default=None, ge=0, le=1)
    top_p: float | None = Field(default=None, ge=0, le=1)
    top_k: int | None = Field(default=None, ge=1, le=INT32_MAX)
    metadata: MessageMetadata | None = None
    service_tier: Literal["auto", "standard_only"] | None = None

    @field_validator("stop_sequences")
    @classmethod
    def _are_texts(cls, texts: Sequence[str]) -> Sequence[str]:
        check_stop_texts(texts)
        return texts

    @model_validator(mode="after")
    def _thinks_less_than_it_says(self) -> MessagesRequest:
        budget = None if self.thinking is None else self.thinking.budget_tokens
        if budget is not None and budget >= self.max_tokens:
            raise wrong(
                "{name} must be below max_tokens, which is {most}",
                name="thinking.budget_tokens",
                most=str(self.max_tokens),
            )
        return self

    def parameters(self) -> ParameterKeywords:
        """How text is to be generated, as far as the body says."""
        parameters = super().parameters()
        parameters["max_tokens"] = self.max_tokens
        if self.temperature is not None:
            parameters["temperature"] = self.temperature
        if self.top_p is not None:
            parameters["top_p"] = self.top_p
        if self.top_k is not None:
            parameters["top_k"] = self.top_k
        if self.stop_sequences:
            parameters["stop_words"] = tuple(self.stop_sequences)
        return parameters

    def wish(self) -> Wish:
        """What the body asks for."""
        user = None if self.metadata is None else self.metadata.user_id
        return Wish(
            self.model,
            Chat.of(self.conversation()),
            self.parameters(),
            stream=self.stream,
            tenant_class="standard" if self.service_tier == "standard_only" else None,
            affinity_key=user,
        )


def _side(message: Message) -> tuple[str, bool]:
    """Who says something, and whether it is a text alone."""
    return message["role"], message.keys() == {"role", "content"}


def _joined(text: str | Sequence[TextBlock]) -> str:
    return text if isinstance(text, str) else "\n".join(block.text for block in text)
