"""The body of ``/v1/responses``, OpenAI's newer API, with bounds, and what it asks in no API's
words.

What isn't supported is refused by name: tools that OpenAI runs itself, files, images.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    model_validator,
)

from contract.bounds import MAX_TOOLS
from contract.conversation import HistoryError, check_history
from contract.parameters import INT32_MAX, MAX_TOP_LOG_PROBS, ParameterKeywords
from contract.tool_choice import ToolChoice
from gateway.api.chat import Effort
from gateway.api.functions import Function, Name, Tool, check_tools, shallow, tool_parameters
from gateway.api.neutral import Open, asking, unsupported, wrong
from gateway.api.openai_request import CLASSES, ServiceTier
from gateway.api.responses_items import Item, ReferenceItem, messages_of
from gateway.api.structured import Schema, schema_text
from gateway.conversations import Follows, Lookup, Said
from gateway.generation import Message
from gateway.order import Wish

_MOST_ITEMS = 4096


class FunctionTool(Open):
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


class NamedFunctionTool(Open):
    """The choice of one function."""

    type: Literal["function"]
    name: Name


class TextFormat(Open):
    """What an answer keeps to."""

    type: Literal["text", "json_object", "json_schema"]
    name: str | None = Field(default=None, max_length=64)
    description: str | None = None
    schema_: Schema | None = Field(default=None, alias="schema")
    strict: bool | None = None

    @model_validator(mode="after")
    def _has_its_schema(self) -> TextFormat:
        if (self.type == "json_schema") != (self.schema_ is not None):
            raise ValueError("type json_schema and schema go together")
        if self.schema_ is not None:
            schema_text(self.schema_)
        return self


class TextConfig(Open):
    """How the text of an answer is to be."""

    format: TextFormat | None = None
    verbosity: Literal["medium"] | None = None


class Reasoning(Open):
    """How much the model thinks. What it thought comes as it is, without a summary."""

    effort: Effort | None = None
    summary: Literal["auto", "concise", "detailed"] | None = None
    generate_summary: Literal["auto", "concise", "detailed"] | None = None


class ResponseStreamOptions(Open):
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
        """The messages, as chat templates know them."""
        if isinstance(self.input, str):
            yield {"role": "user", "content": self.input}
        else:
            yield from messages_of(self.input, lookup)

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
