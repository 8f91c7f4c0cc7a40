"""What a request may say of a chat: its messages, the functions that may be called, the thinking.

Part of the table in `contract.parameters`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, TypedDict

from contract.parameter import Parameter
from contract.tensors import TensorSet, optional

MAX_THINKING_TOKENS = 2**31 - 1


class ChatInputs(TensorSet):
    """What a client may send of a chat beside TensorRT-LLM's inputs."""

    MESSAGES = optional("messages", "STRING")
    TOOLS = optional("tools", "STRING")
    TOOL_CHOICE = optional("tool_choice", "STRING")
    PARALLEL_TOOL_CALLS = optional("parallel_tool_calls", "BOOL")
    REASONING_EFFORT = optional("reasoning_effort", "STRING")
    THINKING_TOKEN_BUDGET = optional("thinking_token_budget", "INT32")
    CHAT_TEMPLATE_KWARGS = optional("chat_template_kwargs", "STRING")
    PARSE_ANSWER = optional("parse_answer", "BOOL")


@dataclass(frozen=True, kw_only=True)
class ChatParameters:
    """Those of `contract.parameters.GenerationParameters` that are a chat's."""

    messages: Annotated[
        Sequence[Mapping[str, Any]],
        Parameter(
            meaning="A chat in place of the prompt, which must be empty then: OpenAI's messages.",
            tensor=ChatInputs.MESSAGES,
            json=True,
            openai="messages",
        ),
    ] = ()
    tools: Annotated[
        Sequence[Mapping[str, Any]],
        Parameter(
            meaning="Functions that the model may call, as OpenAI's chat API has them.",
            tensor=ChatInputs.TOOLS,
            json=True,
            openai="tools",
        ),
    ] = ()
    tool_choice: Annotated[
        str | None,
        Parameter(
            meaning="Whether it calls them: auto (as it likes), none, required (at least one), or "
            "function:NAME (that one).",
            tensor=ChatInputs.TOOL_CHOICE,
            openai="tool_choice",
        ),
    ] = None
    parallel_tool_calls: Annotated[
        bool | None,
        Parameter(
            meaning="Whether an answer may have more than one call; true by default.",
            tensor=ChatInputs.PARALLEL_TOOL_CALLS,
            openai="parallel_tool_calls",
        ),
    ] = None
    reasoning_effort: Annotated[
        str | None,
        Parameter(
            meaning="How much the model thinks before it answers, in its template's words; none is "
            "not at all.",
            tensor=ChatInputs.REASONING_EFFORT,
            openai="reasoning_effort",
        ),
    ] = None
    thinking_token_budget: Annotated[
        int | None,
        Parameter(
            meaning="After so many tokens of thinking its end is forced.",
            tensor=ChatInputs.THINKING_TOKEN_BUDGET,
            openai="thinking_token_budget",
        ),
    ] = None
    chat_template_kwargs: Annotated[
        Mapping[str, Any],
        Parameter(
            meaning="What else the checkpoint's chat template is given.",
            tensor=ChatInputs.CHAT_TEMPLATE_KWARGS,
            json=True,
            openai="chat_template_kwargs",
        ),
    ] = field(default_factory=dict)
    parse_answer: Annotated[
        bool | None,
        Parameter(
            meaning="Whether reasoning and calls of functions come in outputs of their own, and "
            "the text without them.",
            tensor=ChatInputs.PARSE_ANSWER,
        ),
    ] = None


class ChatKeywords(TypedDict, total=False):
    """The fields of `ChatParameters` as keyword arguments, for type checkers."""

    messages: Sequence[Mapping[str, Any]]
    tools: Sequence[Mapping[str, Any]]
    tool_choice: str | None
    parallel_tool_calls: bool | None
    reasoning_effort: str | None
    thinking_token_budget: int | None
    chat_template_kwargs: Mapping[str, Any]
    parse_answer: bool | None
